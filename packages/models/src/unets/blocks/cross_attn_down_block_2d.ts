import { downsample2D } from "../../layers/conv.ts";
import { add, type FeatureMap } from "../../layers/layout.ts";
import { resnetBlock2D } from "../../layers/resnet.ts";
import { transformer2D } from "../../layers/transformer_2d.ts";
import { transformerOptions } from "./transformer_options.ts";
import type { DownBlock } from "./types.ts";

/** Residual blocks with a transformer each, then a convolution of stride 2. @see Diffusers `CrossAttnDownBlock2D` */
export const crossAttnDownBlock2D: DownBlock = (g, x, name, options) => {
  const { layers, out, temb, resnet, additionalResidual } = options;
  let hidden = x;
  const kept: FeatureMap[] = [];
  for (let i = 0; i < layers; i++) {
    hidden = resnetBlock2D(g, hidden, temb, `${name}.resnets.${i}`, out, resnet);
    hidden = transformer2D(g, hidden, `${name}.attentions.${i}`, transformerOptions(options, i));
    if (i === layers - 1 && additionalResidual !== undefined) hidden = add(g, hidden, additionalResidual);
    kept.push(hidden);
  }
  if (options.addDownsample) {
    hidden = downsample2D(g, hidden, `${name}.downsamplers.0`, options.downsamplePadding);
    kept.push(hidden);
  }
  return { hidden, kept };
};
