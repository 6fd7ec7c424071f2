import { ValueError } from "@diffusers-web/core";
import type { AttentionSlice, PerturbedLayers } from "../graph/builder.ts";
import type { FreeU } from "../layers/freeu.ts";
import { attentionHeads, type CrossAttentionConfig } from "./cross_attentions.ts";

/** The factors of `enable_freeu`. */
export interface FreeUFactors {
  readonly s1: number;
  readonly s2: number;
  readonly b1: number;
  readonly b2: number;
}

/** What the graph of a UNet depends on beside its inputs and its config. */
export interface BuildOptions {
  readonly freeu: FreeUFactors | null;
  readonly attentionSlice: AttentionSlice | null;
  readonly perturbed: PerturbedLayers | null;
}

/** Neither FreeU nor slices, and nothing perturbed. */
export const plainBuild: BuildOptions = { freeu: null, attentionSlice: null, perturbed: null };

const className = "UNet2DConditionModel";

/** @throws ValueError for a factor that is no number. */
export function checkFreeU(factors: FreeUFactors): FreeUFactors {
  for (const [field, value] of Object.entries(factors)) {
    if (Number.isFinite(value)) continue;
    throw new ValueError(
      `${className}.enable_freeu takes four numbers s1, s2, b1 and b2, but \`${field}\` is ${value}.`,
      {
        className,
        field,
        found: String(value),
        expected: "a number",
      },
    );
  }
  return factors;
}

/** FreeU in a block on the way up. As in Diffusers, a factor of 0 switches it off as a whole. */
export function freeUOf(factors: FreeUFactors | null, block: number): FreeU | undefined {
  if (factors === null || Object.values(factors).includes(0)) return undefined;
  const { s1, s2, b1, b2 } = factors;
  if (block === 0) return { skip: s1, backbone: b1 };
  return block === 1 ? { skip: s2, backbone: b2 } : undefined;
}

/** @throws ValueError for another value, or for a number above the heads of an attention. */
export function checkAttentionSlice(
  slice: AttentionSlice | null,
  config: Readonly<CrossAttentionConfig>,
  className = "UNet2DConditionModel",
): AttentionSlice | null {
  if (slice === null || slice === "auto" || slice === "max") return slice;
  const fewest = Math.min(...attentionHeads(config));
  if (Number.isInteger(slice) && slice >= 1 && slice <= fewest) return slice;
  const expected = `"auto", "max", null or a whole number from 1 to ${fewest}, the fewest heads of an attention`;
  throw new ValueError(`${className}.set_attention_slice: found ${JSON.stringify(slice)}, expected ${expected}.`, {
    className,
    field: "slice_size",
    found: JSON.stringify(slice),
    expected,
  });
}
