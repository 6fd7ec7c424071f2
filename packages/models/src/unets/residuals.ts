import { type Tensor, ValueError } from "@diffusers-web/core";
import type { GraphBuilder } from "../graph/builder.ts";
import { type FeatureMap, mapInput } from "../layers/layout.ts";
import type { Dims } from "./inputs.ts";

/** Residuals that other models add inside a UNet. */
export interface AdditionalResiduals {
  /** ControlNet's: one for each feature map that is kept on the way down. */
  readonly down_block_additional_residuals?: readonly Tensor[] | undefined;
  /** ControlNet's, for the block in the middle. */
  readonly mid_block_additional_residual?: Tensor | undefined;
  /** T2I-Adapter's: one for each block on the way down, and possibly one for the middle. */
  readonly down_intrablock_additional_residuals?: readonly Tensor[] | undefined;
}

type Kind = "down" | "mid" | "intrablock";

/**
 * The graph's inputs for the residuals given.
 *
 * @throws ValueError for a ControlNet's middle residual without the others.
 */
export function residualFeeds(residuals: AdditionalResiduals): Record<string, Tensor> {
  const { down_block_additional_residuals: down, mid_block_additional_residual: mid } = residuals;
  let intrablock = residuals.down_intrablock_additional_residuals;
  if (mid !== undefined && down === undefined) {
    throw new ValueError("`mid_block_additional_residual` needs `down_block_additional_residuals` beside it.", {
      field: "down_block_additional_residuals",
      found: "undefined",
      expected: "a list of tensors",
    });
  }
  // As in Diffusers: without a middle one, they are T2I-Adapter's.
  if (mid === undefined && down !== undefined) intrablock ??= down;
  const feeds: Record<string, Tensor> = {};
  const put = (kind: Kind, tensors: readonly Tensor[]): void => {
    tensors.forEach((tensor, i) => {
      feeds[`${kind}_residual_${i}`] = tensor;
    });
  };
  if (mid !== undefined) {
    put("down", down!);
    put("mid", [mid]);
  }
  put("intrablock", intrablock ?? []);
  return feeds;
}

/** The residuals of a kind, as inputs of the graph. */
export function residualInputs(g: GraphBuilder, kind: Kind, dims: Dims): FeatureMap[] {
  const names = Object.keys(dims).filter((name) => name.startsWith(`${kind}_residual_`));
  return names.map((name) => mapInput(g, name, dims[name]!));
}

/** Whether two feature maps have the same size. */
export function isSameSize(a: FeatureMap, b: FeatureMap): boolean {
  return a.batch === b.batch && a.channels === b.channels && a.height === b.height && a.width === b.width;
}

/**
 * Checks residuals against what they are added to.
 *
 * @throws ValueError for other sizes, or another number of them.
 */
export function checkResiduals(residuals: readonly FeatureMap[], maps: readonly FeatureMap[], field: string): void {
  const sizes = (list: readonly FeatureMap[]): string =>
    list.map((map) => `[${map.batch}, ${map.channels}, ${map.height}, ${map.width}]`).join(", ");
  if (residuals.length === maps.length && maps.every((map, i) => isSameSize(residuals[i]!, map))) return;
  throw new ValueError(`\`${field}\` have sizes ${sizes(residuals)}, but are added to ${sizes(maps)}.`, {
    field,
    found: sizes(residuals),
    expected: sizes(maps),
  });
}
