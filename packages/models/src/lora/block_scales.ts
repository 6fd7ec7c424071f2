import { ValueError } from "@diffusers-web/core";
import { type CrossAttentionConfig, transformersOf } from "../unets/cross_attentions.ts";
import { expandIPScale, type IPScaleConfig } from "../unets/ip_adapter_scales.ts";

/** A weight for every transformer, a list of one for each, or these by block. */
export type LoraPartWeights =
  | number
  | readonly number[]
  | Readonly<Record<`block_${number}`, number | readonly number[]>>;

/** Weights of the parts of a UNet: what is not named gets 1. */
export interface LoraBlockWeights {
  /** For all blocks on the way down, or by block: `{ block_2: [0, 1] }` with a weight for each of its transformers. */
  readonly down?: LoraPartWeights | undefined;
  readonly mid?: number | readonly number[] | undefined;
  readonly up?: LoraPartWeights | undefined;
}

/** How much an adapter counts in a model. */
export type LoraWeight = number | LoraBlockWeights;

/**
 * The weight of each layer.
 *
 * @throws ValueError for a block that the model does not have, and for what is no number.
 * @see Diffusers `_maybe_expand_lora_scales`, `set_weights_and_activate_adapters`
 */
export function scaleOfLayers(
  weight: LoraWeight,
  { className, config }: { readonly className: string; readonly config: object },
): (module: string) => number {
  if (typeof weight === "number" && Number.isFinite(weight)) return () => weight;
  const isUNet = "down_block_types" in config;
  if (typeof weight !== "object" || weight === null || Array.isArray(weight) || !isUNet) {
    const found = JSON.stringify(weight) ?? String(weight);
    const expected = isUNet ? "a number, or numbers by block ({ down, mid, up })" : "a number";
    throw new ValueError(
      `set_adapters: the weight of an adapter in the ${className} is ${found}, expected ${expected}.`,
      {
        className,
        field: "adapter_weights",
        found,
        expected,
      },
    );
  }
  const transformers = transformersOf(config as CrossAttentionConfig);
  const scales = expandIPScale(weight as IPScaleConfig, transformers, { method: "set_adapters", rest: 1 });
  const byBlock = new Map(transformers.map(({ name }, i) => [name, scales[i] as number]));
  return (module) => byBlock.get(blockOf(module)) ?? 1;
}

/** The transformer whose weight a layer takes: its own, or as Diffusers has it the one beside a residual block. */
export function blockOf(module: string): string {
  const [, block, index] = /^((?:down|up)_blocks\.\d+)\.\w+\.(\d+)(?:\.|$)/.exec(module) ?? [];
  if (block !== undefined) return `${block}.attentions.${index}`;
  return module.startsWith("mid_block.attentions.0.") ? "mid_block.attentions.0" : "";
}
