import { attentionBlock2D } from "../../layers/attention.ts";
import { blurDownsample2D } from "../../layers/blur.ts";
import { conv2d } from "../../layers/conv.ts";
import type { FeatureMap } from "../../layers/layout.ts";
import { resnetBlock2D } from "../../layers/resnet.ts";
import { addPicture, skipResnet, skipScale } from "./skip_resnet.ts";
import type { SkipDownBlock } from "./types.ts";

/** Residual blocks, then a blur to half the size; the picture itself comes in again, as small. */
export function skipDown(hasAttention: boolean): SkipDownBlock {
  return (g, x, skip, name, options) => {
    const { layers, out, temb } = options;
    const headDim = options.attentionHeadDim ?? out;
    const attention = { headDim, groups: 32, eps: options.resnet.eps, outputScaleFactor: skipScale };
    let hidden = x;
    const kept: FeatureMap[] = [];
    for (let i = 0; i < layers; i++) {
      const layer = `${name}.resnets.${i}`;
      hidden = resnetBlock2D(g, hidden, temb, layer, out, skipResnet(options.resnet, layer, hidden.channels, out));
      if (hasAttention) hidden = attentionBlock2D(g, hidden, `${name}.attentions.${i}`, attention);
      kept.push(hidden);
    }
    if (!options.addDownsample) return { hidden, kept, skip };
    const resnet = { ...skipResnet(options.resnet, name, out, out), convShortcut: true };
    hidden = resnetBlock2D(g, hidden, temb, `${name}.resnet_down`, out, resnet, "fir_down");
    const smaller = blurDownsample2D(g, skip, "zero");
    hidden = addPicture(g, conv2d(g, smaller, `${name}.skip_conv`, out, { kernel: 1 }), hidden);
    kept.push(hidden);
    return { hidden, kept, skip: smaller };
  };
}
