import { addedKVAttention } from "../../layers/added_kv_attention.ts";
import { concatChannels } from "../../layers/layout.ts";
import { resnetBlock2D } from "../../layers/resnet.ts";
import { addedKVOptions } from "./added_kv_options.ts";
import type { UpBlock } from "./types.ts";

/**
 * Residual blocks with one attention over text and pixels each, over what was kept; the last doubles.
 *
 * @see Diffusers `SimpleCrossAttnUpBlock2D`
 */
export const simpleCrossAttnUpBlock2D: UpBlock = (g, x, kept, name, options) => {
  const { layers, out, temb } = options;
  const resnet = { ...options.resnet, ...options.resampling };
  let hidden = x;
  for (let i = 0; i < layers; i++) {
    hidden = concatChannels(g, hidden, kept.pop()!);
    hidden = resnetBlock2D(g, hidden, temb, `${name}.resnets.${i}`, out, resnet);
    hidden = addedKVAttention(g, hidden, `${name}.attentions.${i}`, addedKVOptions(options));
  }
  // This block takes no size to reach: it doubles.
  return options.addUpsample ? resnetBlock2D(g, hidden, temb, `${name}.upsamplers.0`, out, resnet, "up") : hidden;
};
