import { resnetBlock2D } from "../../layers/resnet.ts";
import { upsample2D } from "../../layers/upsampling.ts";
import type { EncoderBlock } from "./types.ts";

/** Residual blocks, then an upsampling. @see Diffusers `UpDecoderBlock2D` */
export const upDecoderBlock2D: EncoderBlock = (g, x, name, { layers, out, resnet, resample }) => {
  let hidden = x;
  for (let i = 0; i < layers; i++) hidden = resnetBlock2D(g, hidden, null, `${name}.resnets.${i}`, out, resnet);
  return resample ? upsample2D(g, hidden, `${name}.upsamplers.0`) : hidden;
};
