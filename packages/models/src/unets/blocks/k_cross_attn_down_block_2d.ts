import { blurDownsample2D } from "../../layers/blur.ts";
import { kAttentionBlock } from "../../layers/k_attention_block.ts";
import type { FeatureMap } from "../../layers/layout.ts";
import { kAttentionOptions } from "./k_attention_options.ts";
import { kResnet } from "./k_resnet.ts";
import type { DownBlock } from "./types.ts";

/** {@link kDownBlock2D} with attention after each residual block. @see Diffusers `KCrossAttnDownBlock2D` */
export const kCrossAttnDownBlock2D: DownBlock = (g, x, name, options) => {
  const { layers, out, temb, addDownsample } = options;
  const attention = kAttentionOptions(options, !addDownsample);
  let hidden = x;
  const kept: FeatureMap[] = [];
  for (let i = 0; i < layers; i++) {
    hidden = kResnet(g, hidden, `${name}.resnets.${i}`, options, out, out);
    hidden = kAttentionBlock(g, hidden, temb!, `${name}.attentions.${i}`, attention);
    // The last block keeps nothing: the way up starts with its output.
    kept.push(addDownsample ? hidden : { ...hidden, channels: 0 });
  }
  if (addDownsample) hidden = blurDownsample2D(g, hidden, "reflect");
  return { hidden, kept };
};
