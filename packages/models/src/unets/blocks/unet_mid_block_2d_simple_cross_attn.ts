import { addedKVAttention } from "../../layers/added_kv_attention.ts";
import { resnetBlock2D } from "../../layers/resnet.ts";
import { addedKVOptions } from "./added_kv_options.ts";
import type { MidBlock } from "./types.ts";

/**
 * A residual block, one attention over text and pixels, and another residual block.
 *
 * @see Diffusers `UNetMidBlock2DSimpleCrossAttn`
 */
export const unetMidBlock2DSimpleCrossAttn: MidBlock = (g, x, name, options) => {
  const { temb } = options;
  const resnet = { ...options.resnet, skipTimeAct: options.resampling?.skipTimeAct ?? false };
  let hidden = resnetBlock2D(g, x, temb, `${name}.resnets.0`, x.channels, resnet);
  hidden = addedKVAttention(g, hidden, `${name}.attentions.0`, addedKVOptions(options));
  return resnetBlock2D(g, hidden, temb, `${name}.resnets.1`, x.channels, resnet);
};
