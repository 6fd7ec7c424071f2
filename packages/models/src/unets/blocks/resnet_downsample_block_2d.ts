import type { FeatureMap } from "../../layers/layout.ts";
import { resnetBlock2D } from "../../layers/resnet.ts";
import type { DownBlock } from "./types.ts";

/** Residual blocks, the last of which halves by averaging. @see Diffusers `ResnetDownsampleBlock2D` */
export const resnetDownsampleBlock2D: DownBlock = (g, x, name, options) => {
  const { layers, out, temb } = options;
  const resnet = { ...options.resnet, ...options.resampling };
  let hidden = x;
  const kept: FeatureMap[] = [];
  for (let i = 0; i < layers; i++) {
    hidden = resnetBlock2D(g, hidden, temb, `${name}.resnets.${i}`, out, resnet);
    kept.push(hidden);
  }
  if (options.addDownsample) {
    hidden = resnetBlock2D(g, hidden, temb, `${name}.downsamplers.0`, out, resnet, "down");
    kept.push(hidden);
  }
  return { hidden, kept };
};
