import type { GraphBuilder } from "../../graph/builder.ts";
import type { FeatureMap } from "../../layers/layout.ts";
import { checkOwnGroups } from "../../layers/norm.ts";
import { resnetBlockCondNorm2D } from "../../layers/resnet_cond_norm.ts";
import type { BlockOptions } from "./types.ts";

/**
 * A residual block of the K-blocks, which normalise in groups of 32 channels.
 *
 * @param inner channels between its convolutions
 * @param out output channels
 */
export function kResnet(
  g: GraphBuilder,
  x: FeatureMap,
  name: string,
  options: BlockOptions,
  inner: number,
  out: number,
): FeatureMap {
  const { eps, act } = options.resnet;
  const groups = Math.floor(x.channels / 32);
  // Of the block's channels, also where the layer has others.
  const groupsOut = Math.floor(options.out / 32);
  checkOwnGroups(x.channels, groups, name);
  checkOwnGroups(inner, groupsOut, name);
  return resnetBlockCondNorm2D(g, x, options.temb!, name, out, { groups, groupsOut, eps, act, inner });
}
