import { type Tensor, ValueError } from "@diffusers-web/core";
import type { GraphBuilder } from "../graph/builder.ts";
import { type FeatureMap, mapInput } from "../layers/layout.ts";
import { checkFloats, type Dims } from "./inputs.ts";

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

const fields: Readonly<Record<Kind, keyof AdditionalResiduals>> = {
  down: "down_block_additional_residuals",
  mid: "mid_block_additional_residual",
  intrablock: "down_intrablock_additional_residuals",
};

function checkMap(tensor: Tensor, field: string): void {
  checkFloats(tensor, field, "UNet2DConditionModel");
  if (tensor.dims.length === 4 && tensor.size > 0) return;
  throw new ValueError(`\`${field}\` takes tensors [batch, channels, height, width], but got [${tensor.dims}].`, {
    field,
    found: `[${tensor.dims}]`,
    expected: "[batch, channels, height, width]",
  });
}

/**
 * The graph's inputs for the residuals given.
 *
 * @throws ValueError for a ControlNet's middle residual without the others, and for what is no feature map.
 */
export function residualFeeds(residuals: AdditionalResiduals): Record<string, Tensor> {
  // Python's None is a null here.
  const down = residuals.down_block_additional_residuals ?? undefined;
  const mid = residuals.mid_block_additional_residual ?? undefined;
  const intrablock = residuals.down_intrablock_additional_residuals ?? undefined;
  if (mid !== undefined && down === undefined) {
    throw new ValueError("`mid_block_additional_residual` needs `down_block_additional_residuals` beside it.", {
      field: "down_block_additional_residuals",
      found: "undefined",
      expected: "a list of tensors",
    });
  }
  if (mid === undefined && down !== undefined && intrablock !== undefined) {
    throw new ValueError("`down_block_additional_residuals` needs `mid_block_additional_residual` beside it.", {
      field: "mid_block_additional_residual",
      found: "undefined",
      expected: "a tensor",
    });
  }
  const feeds: Record<string, Tensor> = {};
  const put = (kind: Kind, tensors: readonly Tensor[]): void => {
    tensors.forEach((tensor, i) => {
      checkMap(tensor, fields[kind]);
      feeds[`${kind}_residual_${i}`] = tensor;
    });
  };
  if (mid !== undefined) {
    put("down", down!);
    put("mid", [mid]);
  }
  // As in Diffusers: without a middle one, the others are T2I-Adapter's.
  put("intrablock", intrablock ?? (mid === undefined ? down : undefined) ?? []);
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

/** Whether `a` is of `b`'s size, or broadcasts to it: one for the batch, one value per channel (a globally pooled ControlNet's). */
function fits(a: FeatureMap, b: FeatureMap): boolean {
  const isPooled = a.height === 1 && a.width === 1;
  return isSameSize(
    { ...a, batch: a.batch === 1 ? b.batch : a.batch, ...(isPooled && { height: b.height, width: b.width }) },
    b,
  );
}

/**
 * Checks residuals against what they are added to; they may broadcast.
 *
 * @throws ValueError for other sizes, or another number of them.
 */
export function checkResiduals(residuals: readonly FeatureMap[], maps: readonly FeatureMap[], field: string): void {
  const sizes = (list: readonly FeatureMap[]): string =>
    list.map((map) => `[${map.batch}, ${map.channels}, ${map.height}, ${map.width}]`).join(", ");
  if (residuals.length === maps.length && maps.every((map, i) => fits(residuals[i]!, map))) return;
  throw new ValueError(`\`${field}\` have sizes ${sizes(residuals)}, but are added to ${sizes(maps)}.`, {
    field,
    found: sizes(residuals),
    expected: sizes(maps),
  });
}

/** @throws ValueError for features of a T2I-Adapter that no block took: Diffusers ignores them. */
export function checkNoneLeft(adapters: readonly FeatureMap[]): void {
  if (adapters.length === 0) return;
  const found = adapters.map((map) => `[${map.batch}, ${map.channels}, ${map.height}, ${map.width}]`).join(", ");
  const field = fields.intrablock;
  throw new ValueError(
    `${adapters.length} of the \`${field}\` is left over, of size ${found}: there is one for each block on the way down, and ` +
      "possibly one of the size of the block in the middle.",
    { className: "UNet2DConditionModel", field, found, expected: "one for each block" },
  );
}
