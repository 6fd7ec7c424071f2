import { downsample2D } from "../../layers/conv.ts";
import { resnetBlock2D } from "../../layers/resnet.ts";
import type { EncoderBlock } from "./types.ts";

/** Residual blocks, then a convolution of stride 2. @see Diffusers `DownEncoderBlock2D` */
export const downEncoderBlock2D: EncoderBlock = (g, x, name, { layers, out, resnet, resample }) => {
  let hidden = x;
  for (let i = 0; i < layers; i++) hidden = resnetBlock2D(g, hidden, null, `${name}.resnets.${i}`, out, resnet);
  return resample ? downsample2D(g, hidden, `${name}.downsamplers.0`, 0) : hidden;
};
