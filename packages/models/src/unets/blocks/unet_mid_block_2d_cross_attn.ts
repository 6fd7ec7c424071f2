import { resnetBlock2D } from "../../layers/resnet.ts";
import { transformer2D } from "../../layers/transformer_2d.ts";
import { transformerOptions } from "./transformer_options.ts";
import type { MidBlock } from "./types.ts";

/** A residual block, a transformer and another residual block. @see Diffusers `UNetMidBlock2DCrossAttn` */
export const unetMidBlock2DCrossAttn: MidBlock = (g, x, name, options) => {
  const { temb, resnet } = options;
  let hidden = resnetBlock2D(g, x, temb, `${name}.resnets.0`, x.channels, resnet);
  // Diffusers does not pass `only_cross_attention` on to this block.
  const transformer = { ...transformerOptions(options, 0), onlyCrossAttention: false };
  hidden = transformer2D(g, hidden, `${name}.attentions.0`, transformer);
  return resnetBlock2D(g, hidden, temb, `${name}.resnets.1`, x.channels, resnet);
};
