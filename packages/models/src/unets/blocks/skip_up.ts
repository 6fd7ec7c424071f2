import { attentionBlock2D } from "../../layers/attention.ts";
import { blurUpsample2D } from "../../layers/blur.ts";
import { conv2d } from "../../layers/conv.ts";
import { concatChannels } from "../../layers/layout.ts";
import { defaultGroups, groupNorm } from "../../layers/norm.ts";
import { resnetBlock2D } from "../../layers/resnet.ts";
import { addPicture, skipResnet, skipScale } from "./skip_resnet.ts";
import type { SkipUpBlock } from "./types.ts";

/** Residual blocks over what was kept, which also draw a part of the picture; then a blur to twice the size. */
export function skipUp(hasAttention: boolean): SkipUpBlock {
  return (g, x, kept, skip, name, options) => {
    const { layers, out, temb } = options;
    const { eps } = options.resnet;
    let hidden = x;
    for (let i = 0; i < layers; i++) {
      const layer = `${name}.resnets.${i}`;
      const own = hidden.channels;
      const share = kept.pop()!;
      hidden = concatChannels(g, hidden, share);
      // The one with attention divides only the second term by four.
      const groups = hasAttention ? Math.min(own + Math.floor(share.channels / 4), 32) : undefined;
      const resnet = skipResnet(options.resnet, layer, hidden.channels, out, groups);
      hidden = resnetBlock2D(g, hidden, temb, layer, out, resnet);
    }
    if (hasAttention) {
      const attention = { headDim: options.attentionHeadDim ?? out, groups: 32, eps, outputScaleFactor: skipScale };
      hidden = attentionBlock2D(g, hidden, `${name}.attentions.0`, attention);
    }
    const larger = skip === null ? null : blurUpsample2D(g, skip, "zero");
    if (!options.addUpsample) return { hidden, skip: larger };
    const normed = groupNorm(g, hidden, `${name}.skip_norm`, { groups: defaultGroups(out), eps, activation: "silu" });
    const drawn = conv2d(g, normed, `${name}.skip_conv`, 3);
    const resnet = { ...skipResnet(options.resnet, name, out, out), convShortcut: true };
    hidden = resnetBlock2D(g, hidden, temb, `${name}.resnet_up`, out, resnet, "fir_up");
    return { hidden, skip: larger === null ? drawn : addPicture(g, larger, drawn) };
  };
}
