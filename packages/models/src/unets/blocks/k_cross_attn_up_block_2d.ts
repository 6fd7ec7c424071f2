import { blurUpsample2D } from "../../layers/blur.ts";
import { kAttentionBlock } from "../../layers/k_attention_block.ts";
import { kAttentionOptions } from "./k_attention_options.ts";
import { concatLastKept } from "./k_kept.ts";
import { kResnet } from "./k_resnet.ts";
import type { UpBlock } from "./types.ts";

/** {@link kUpBlock2D} with attention after each residual block. @see Diffusers `KCrossAttnUpBlock2D` */
export const kCrossAttnUpBlock2D: UpBlock = (g, x, kept, name, options) => {
  const { out, next, temb } = options;
  const layers = options.layers - 1;
  // How Diffusers tells the block after the middle, which alone has self-attention.
  const isFirst = next === out && temb!.dims[1] === out;
  const attention = kAttentionOptions(options, isFirst);
  let hidden = concatLastKept(g, x, kept, layers);
  for (let i = 0; i < layers; i++) {
    hidden = kResnet(g, hidden, `${name}.resnets.${i}`, options, out, i === layers - 1 ? next : out);
    hidden = kAttentionBlock(g, hidden, temb!, `${name}.attentions.${i}`, attention);
  }
  return options.addUpsample ? blurUpsample2D(g, hidden, "reflect") : hidden;
};
