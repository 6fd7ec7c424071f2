import { blurDownsample2D } from "../../layers/blur.ts";
import type { FeatureMap } from "../../layers/layout.ts";
import { kResnet } from "./k_resnet.ts";
import type { DownBlock } from "./types.ts";

/** Residual blocks that the time embedding modulates, then a blur to half the size. @see Diffusers `KDownBlock2D` */
export const kDownBlock2D: DownBlock = (g, x, name, options) => {
  const { layers, out } = options;
  let hidden = x;
  const kept: FeatureMap[] = [];
  for (let i = 0; i < layers; i++) {
    hidden = kResnet(g, hidden, `${name}.resnets.${i}`, options, out, out);
    kept.push(hidden);
  }
  if (options.addDownsample) hidden = blurDownsample2D(g, hidden, "reflect");
  return { hidden, kept };
};
