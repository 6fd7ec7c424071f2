import { UnsupportedModelError, ValueError } from "@diffusers-web/core";
import type { PerturbedLayers } from "../graph/builder.ts";
import type { AttentionOptionsOfCall } from "./attention_conditions.ts";

/** What perturbed-attention guidance tells a UNet2DConditionModel. */
export interface PerturbedAttention {
  /**
   * Which self-attentions: parts of their names, or regular expressions, such as "mid", "down_blocks.1", "up_blocks.0.attentions.0"
   * or "blocks.(1|2)". A number at the end of one is not taken for that of a layer.
   */
  readonly layers: readonly string[];
  /** Of how many parts the batch is: the last one is perturbed, each of its tokens sees itself only. */
  readonly parts: 2 | 3;
}

const className = "UNet2DConditionModel";

/**
 * The self-attentions that are perturbed in a call; null: none.
 *
 * @param names the self-attentions that there are
 * @throws ValueError for a pattern that is none or matches none, and a batch that does not divide; UnsupportedModelError for what
 * does not go with it.
 */
export function perturbedLayers(
  options: AttentionOptionsOfCall & { readonly perturbed_attention?: PerturbedAttention | undefined },
  batch: number,
  names: readonly string[],
): PerturbedLayers | null {
  const { perturbed_attention, attention_mask, cross_attention_kwargs } = options;
  if (perturbed_attention == null) return null;
  const { layers, parts } = perturbed_attention;
  const other = attention_mask != null ? "attention_mask" : cross_attention_kwargs?.gligen != null ? "gligen" : null;
  if (other !== null) {
    throw new UnsupportedModelError(
      `${className}: \`${other}\` does not go with \`perturbed_attention\`: leave one out.`,
      {
        className,
        field: other,
        expected: "undefined",
      },
    );
  }
  if (batch % parts !== 0) {
    throw new ValueError(
      `${className}: \`perturbed_attention\` takes a batch of ${parts} equal parts, but it has ${batch} items.`,
      { className, field: "sample", found: `a batch of ${batch}`, expected: `a multiple of ${parts}` },
    );
  }
  return { names: matchingLayers(layers, names), from: batch - batch / parts };
}

/**
 * The self-attentions that patterns tell.
 *
 * @param names the self-attentions that there are
 * @throws ValueError for a pattern that is no regular expression, or that none matches: it lists what there is.
 * @see Diffusers `PAGMixin._set_pag_attn_processor`
 */
export function matchingLayers(patterns: readonly string[], names: readonly string[]): string[] {
  const found = new Set<string>();
  for (const pattern of patterns) {
    const expression = expressionOf(pattern);
    const matches = names.filter((name) => expression.test(name) && !isSameNumber(pattern, name));
    if (matches.length === 0) throw noMatch(pattern, names);
    for (const name of matches) found.add(name);
  }
  return names.filter((name) => found.has(name));
}

function expressionOf(pattern: string): RegExp {
  try {
    return new RegExp(pattern, "u");
  } catch (cause) {
    throw new ValueError(
      `The layer ${JSON.stringify(pattern)} of perturbed-attention guidance is no regular expression: ${(cause as Error).message}`,
      { className, field: "pag_applied_layers", found: pattern, expected: "a part of a layer's name" },
      { cause },
    );
  }
}

/** As in Diffusers: "blocks.1" does not stand for a layer that is itself named by the number 1. */
function isSameNumber(pattern: string, name: string): boolean {
  const [a, b] = [pattern.split(".").at(-1)!, name.split(".").at(-1)!];
  return a === b && /^\d+$/.test(a);
}

function noMatch(pattern: string, names: readonly string[]): ValueError {
  const places = [...new Set(names.map((name) => name.replace(/\.transformer_blocks\..*/, "")))].join(", ");
  return new ValueError(
    `No self-attention of the UNet is named as the layer ${JSON.stringify(pattern)} of perturbed-attention guidance. ` +
      (places === "" ? "The UNet has none." : `There are some in: ${places}.`),
    { className, field: "pag_applied_layers", found: pattern, expected: places },
  );
}
