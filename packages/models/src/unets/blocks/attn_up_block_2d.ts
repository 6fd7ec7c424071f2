import { attentionBlock2D } from "../../layers/attention.ts";
import { concatChannels } from "../../layers/layout.ts";
import { resnetBlock2D } from "../../layers/resnet.ts";
import { upsample2D } from "../../layers/upsampling.ts";
import type { UpBlock } from "./types.ts";

/** Residual blocks with self-attention over what was kept, then a doubling. @see Diffusers `AttnUpBlock2D` */
export const attnUpBlock2D: UpBlock = (g, x, kept, name, options) => {
  const { layers, out, temb, resnet } = options;
  const attention = { headDim: options.attentionHeadDim ?? out, groups: resnet.groups, eps: resnet.eps };
  let hidden = x;
  for (let i = 0; i < layers; i++) {
    hidden = concatChannels(g, hidden, kept.pop()!);
    hidden = resnetBlock2D(g, hidden, temb, `${name}.resnets.${i}`, out, resnet);
    hidden = attentionBlock2D(g, hidden, `${name}.attentions.${i}`, attention);
  }
  if (!options.addUpsample) return hidden;
  const upsampler = `${name}.upsamplers.0`;
  // This block takes no size to reach: it doubles.
  return options.upsampleType === "resnet"
    ? resnetBlock2D(g, hidden, temb, upsampler, out, resnet, "up")
    : upsample2D(g, hidden, upsampler);
};
