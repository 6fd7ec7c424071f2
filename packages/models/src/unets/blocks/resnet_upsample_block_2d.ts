import { concatChannels } from "../../layers/layout.ts";
import { resnetBlock2D } from "../../layers/resnet.ts";
import type { UpBlock } from "./types.ts";

/** Residual blocks over what was kept, the last of which doubles. @see Diffusers `ResnetUpsampleBlock2D` */
export const resnetUpsampleBlock2D: UpBlock = (g, x, kept, name, options) => {
  const { layers, out, temb } = options;
  const resnet = { ...options.resnet, ...options.resampling };
  let hidden = x;
  for (let i = 0; i < layers; i++) {
    hidden = concatChannels(g, hidden, kept.pop()!);
    hidden = resnetBlock2D(g, hidden, temb, `${name}.resnets.${i}`, out, resnet);
  }
  if (!options.addUpsample) return hidden;
  return resnetBlock2D(g, hidden, temb, `${name}.upsamplers.0`, out, resnet, "up");
};
