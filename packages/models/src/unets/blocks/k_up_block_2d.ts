import type { GraphBuilder } from "../../graph/builder.ts";
import { blurUpsample2D } from "../../layers/blur.ts";
import { concatChannels, type FeatureMap } from "../../layers/layout.ts";
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

/** Takes a block's share of what was kept, of which the K-blocks look at the last only. */
export function concatLastKept(g: GraphBuilder, x: FeatureMap, kept: FeatureMap[], layers: number): FeatureMap {
  const share = kept.splice(Math.max(kept.length - layers, 0));
  return concatChannels(g, x, share.at(-1)!);
}
