import { ValueError } from "@diffusers-web/core";
import type { GraphBuilder } from "../../graph/builder.ts";
import { add, type FeatureMap } from "../../layers/layout.ts";
import { checkOwnGroups, defaultGroups } from "../../layers/norm.ts";
import type { ResnetOptions } from "../../layers/resnet.ts";

/** What a skip block's results are divided by. */
export const skipScale: number = Math.SQRT2;

/**
 * What the residual block `name` of a skip block is like: its groups follow from the channels alone.
 *
 * @param channels its input's
 * @param out the block's
 * @param groups of the first normalisation
 * @throws ValueError for channels that do not divide into them.
 */
export function skipResnet(
  resnet: ResnetOptions,
  name: string,
  channels: number,
  out: number,
  groups: number = defaultGroups(channels),
): ResnetOptions {
  const groupsOut = defaultGroups(out);
  checkOwnGroups(channels, groups, name);
  checkOwnGroups(out, groupsOut, name);
  return { ...resnet, groups, groupsOut, outputScaleFactor: skipScale };
}

/**
 * Adds what goes past the blocks, as a picture.
 *
 * @throws ValueError for other sizes: blocks of another kind in between have resampled the one and not the other.
 */
export function addPicture(g: GraphBuilder, picture: FeatureMap, hidden: FeatureMap): FeatureMap {
  if (picture.height === hidden.height && picture.width === hidden.width) return add(g, picture, hidden);
  const [found, expected] = [picture, hidden].map(({ height, width }) => `${height}x${width}`) as [string, string];
  throw new ValueError(
    `UNet2DModel adds a picture of ${found} (height x width) to a feature map of ${expected}: ` +
      "other blocks between skip blocks in `down_block_types` or `up_block_types` have resampled only one of them.",
    { className: "UNet2DModel", field: "down_block_types", found, expected },
  );
}
