import { addedKVAttention } from "../../layers/added_kv_attention.ts";
import type { FeatureMap } from "../../layers/layout.ts";
import { resnetBlock2D } from "../../layers/resnet.ts";
import { addedKVOptions } from "./added_kv_options.ts";
import type { DownBlock } from "./types.ts";

/**
 * Residual blocks with one attention over text and pixels each, the last of which halves by averaging.
 *
 * @see Diffusers `SimpleCrossAttnDownBlock2D`
 */
export const simpleCrossAttnDownBlock2D: DownBlock = (g, x, name, options) => {
  const { layers, out, temb } = options;
  const resnet = { ...options.resnet, ...options.resampling };
  let hidden = x;
  const kept: FeatureMap[] = [];
  for (let i = 0; i < layers; i++) {
    hidden = resnetBlock2D(g, hidden, temb, `${name}.resnets.${i}`, out, resnet);
    hidden = addedKVAttention(g, hidden, `${name}.attentions.${i}`, addedKVOptions(options));
    kept.push(hidden);
  }
  if (options.addDownsample) {
    hidden = resnetBlock2D(g, hidden, temb, `${name}.downsamplers.0`, out, resnet, "down");
    kept.push(hidden);
  }
  return { hidden, kept };
};
