import { attentionBlock2D } from "../../layers/attention.ts";
import { downsample2D } from "../../layers/conv.ts";
import { resnetBlock2D } from "../../layers/resnet.ts";
import type { EncoderBlock } from "./types.ts";

/** Residual blocks with self-attention of one head, then a halving. @see Diffusers `AttnDownEncoderBlock2D` */
export const attnDownEncoderBlock2D: EncoderBlock = (g, x, name, { layers, out, resnet, resample }) => {
  const attention = { headDim: out, groups: resnet.groups, eps: resnet.eps };
  let hidden = x;
  for (let i = 0; i < layers; i++) {
    hidden = resnetBlock2D(g, hidden, null, `${name}.resnets.${i}`, out, resnet);
    hidden = attentionBlock2D(g, hidden, `${name}.attentions.${i}`, attention);
  }
  return resample ? downsample2D(g, hidden, `${name}.downsamplers.0`, 0) : hidden;
};
