import { applyFreeU } from "../../layers/freeu.ts";
import { concatChannels } from "../../layers/layout.ts";
import { resnetBlock2D } from "../../layers/resnet.ts";
import { transformer2D } from "../../layers/transformer_2d.ts";
import { upsample2D } from "../../layers/upsampling.ts";
import { transformerOptions } from "./transformer_options.ts";
import type { UpBlock } from "./types.ts";

/** Residual blocks with a transformer each, over what was kept, then an upsampling. @see Diffusers `CrossAttnUpBlock2D` */
export const crossAttnUpBlock2D: UpBlock = (g, x, kept, name, options) => {
  const { layers, out, temb, resnet } = options;
  let hidden = x;
  for (let i = 0; i < layers; i++) {
    hidden = concatChannels(g, ...applyFreeU(g, hidden, kept.pop()!, options.freeU));
    hidden = resnetBlock2D(g, hidden, temb, `${name}.resnets.${i}`, out, resnet);
    hidden = transformer2D(g, hidden, `${name}.attentions.${i}`, transformerOptions(options, i));
  }
  return options.addUpsample ? upsample2D(g, hidden, `${name}.upsamplers.0`, options.upsampleSize) : hidden;
};
