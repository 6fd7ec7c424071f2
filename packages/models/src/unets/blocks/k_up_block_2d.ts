import { blurUpsample2D } from "../../layers/blur.ts";
import { concatLastKept } from "./k_kept.ts";
import { kResnet } from "./k_resnet.ts";
import type { UpBlock } from "./types.ts";

/**
 * Residual blocks that the time embedding modulates, then a blur to twice the size.
 *
 * @see Diffusers `KUpBlock2D`
 */
export const kUpBlock2D: UpBlock = (g, x, kept, name, options) => {
  const layers = options.layers - 1;
  let hidden = concatLastKept(g, x, kept, layers);
  for (let i = 0; i < layers; i++) {
    const out = i === layers - 1 ? options.next : options.out;
    hidden = kResnet(g, hidden, `${name}.resnets.${i}`, options, out, out);
  }
  return options.addUpsample ? blurUpsample2D(g, hidden, "reflect") : hidden;
};
