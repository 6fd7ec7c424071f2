import { attentionBlock2D } from "../../layers/attention.ts";
import { resnetBlock2D } from "../../layers/resnet.ts";
import { upsample2D } from "../../layers/upsampling.ts";
import type { EncoderBlock } from "./types.ts";

/** Residual blocks with self-attention of one head, then an upsampling. @see Diffusers `AttnUpDecoderBlock2D` */
export const attnUpDecoderBlock2D: EncoderBlock = (g, x, name, { layers, out, resnet, resample }) => {
  const attention = { headDim: out, groups: resnet.groups, eps: resnet.eps, spatial: resnet.spatial };
  let hidden = x;
  for (let i = 0; i < layers; i++) {
    hidden = resnetBlock2D(g, hidden, null, `${name}.resnets.${i}`, out, resnet);
    hidden = attentionBlock2D(g, hidden, `${name}.attentions.${i}`, attention);
  }
  return resample ? upsample2D(g, hidden, `${name}.upsamplers.0`) : hidden;
};
