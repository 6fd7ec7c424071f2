import { attentionBlock2D } from "../../layers/attention.ts";
import { resnetBlock2D } from "../../layers/resnet.ts";
import type { MidBlock } from "./types.ts";

/**
 * A residual block, then (with `layers` 1) self-attention and another residual block.
 *
 * @see Diffusers `UNetMidBlock2D`
 */
export const unetMidBlock2D: MidBlock = (g, x, name, options) => {
  const { layers, temb, resnet } = options;
  let hidden = resnetBlock2D(g, x, temb, `${name}.resnets.0`, x.channels, resnet);
  for (let i = 0; i < layers; i++) {
    if (options.addAttention) {
      hidden = attentionBlock2D(g, hidden, `${name}.attentions.${i}`, {
        headDim: options.attentionHeadDim ?? x.channels,
        groups: options.attentionGroups,
        eps: resnet.eps,
        spatial: resnet.spatial,
        outputScaleFactor: resnet.outputScaleFactor ?? 1,
      });
    }
    hidden = resnetBlock2D(g, hidden, temb, `${name}.resnets.${i + 1}`, x.channels, resnet);
  }
  return hidden;
};
