import { attentionBlock2D } from "../../layers/attention.ts";
import { downsample2D } from "../../layers/conv.ts";
import type { FeatureMap } from "../../layers/layout.ts";
import { resnetBlock2D } from "../../layers/resnet.ts";
import type { DownBlock } from "./types.ts";

/** Residual blocks with self-attention, then a halving. @see Diffusers `AttnDownBlock2D` */
export const attnDownBlock2D: DownBlock = (g, x, name, options) => {
  const { layers, out, temb, resnet } = options;
  const headDim = options.attentionHeadDim ?? out;
  const attention = { headDim, groups: resnet.groups, eps: resnet.eps };
  let hidden = x;
  const kept: FeatureMap[] = [];
  for (let i = 0; i < layers; i++) {
    hidden = resnetBlock2D(g, hidden, temb, `${name}.resnets.${i}`, out, resnet);
    hidden = attentionBlock2D(g, hidden, `${name}.attentions.${i}`, attention);
    kept.push(hidden);
  }
  if (options.addDownsample) {
    const downsampler = `${name}.downsamplers.0`;
    hidden =
      options.downsampleType === "resnet"
        ? resnetBlock2D(g, hidden, temb, downsampler, out, resnet, "down")
        : downsample2D(g, hidden, downsampler, options.downsamplePadding);
    kept.push(hidden);
  }
  return { hidden, kept };
};
