import { downsample2D } from "../../layers/conv.ts";
import type { FeatureMap } from "../../layers/layout.ts";
import { resnetBlock2D } from "../../layers/resnet.ts";
import type { DownBlock } from "./types.ts";

/** Residual blocks, then a convolution of stride 2. @see Diffusers `DownBlock2D` */
export const downBlock2D: DownBlock = (g, x, name, { layers, out, temb, resnet, addDownsample, downsamplePadding }) => {
  let hidden = x;
  const kept: FeatureMap[] = [];
  for (let i = 0; i < layers; i++) {
    hidden = resnetBlock2D(g, hidden, temb, `${name}.resnets.${i}`, out, resnet);
    kept.push(hidden);
  }
  if (addDownsample) {
    hidden = downsample2D(g, hidden, `${name}.downsamplers.0`, downsamplePadding);
    kept.push(hidden);
  }
  return { hidden, kept };
};
