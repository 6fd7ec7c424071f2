import type { GraphBuilder } from "../../graph/builder.ts";
import { concatChannels, type FeatureMap } from "../../layers/layout.ts";

/** Takes a block's share of what was kept, of which the K-blocks look at the last only. */
export function concatLastKept(g: GraphBuilder, x: FeatureMap, kept: FeatureMap[], layers: number): FeatureMap {
  const share = kept.splice(Math.max(kept.length - layers, 0));
  return concatChannels(g, x, share.at(-1)!);
}
