import { applyFreeU } from "../../layers/freeu.ts";
import { concatChannels } from "../../layers/layout.ts";
import { resnetBlock2D } from "../../layers/resnet.ts";
import { upsample2D } from "../../layers/upsampling.ts";
import type { UpBlock } from "./types.ts";

/** Residual blocks over what was kept on the way down, then an upsampling. @see Diffusers `UpBlock2D` */
export const upBlock2D: UpBlock = (g, x, kept, name, options) => {
  const { layers, out, temb, resnet, addUpsample, upsampleSize } = options;
  let hidden = x;
  for (let i = 0; i < layers; i++) {
    hidden = concatChannels(g, ...applyFreeU(g, hidden, kept.pop()!, options.freeU));
    hidden = resnetBlock2D(g, hidden, temb, `${name}.resnets.${i}`, out, resnet);
  }
  return addUpsample ? upsample2D(g, hidden, `${name}.upsamplers.0`, upsampleSize) : hidden;
};
