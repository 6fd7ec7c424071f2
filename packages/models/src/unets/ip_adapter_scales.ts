import { ValueError } from "@diffusers-web/core";
import type { Transformer } from "./cross_attentions.ts";

/** A scale, or one for each masked picture. */
export type IPScale = number | readonly number[];

/** Scales of the parts of a UNet: what is not named gets 0. */
export interface IPScaleConfig {
  /** For all blocks on the way down, or by block: `{ block_2: [0, 1] }` with a scale for each of its transformers. */
  readonly down?: IPBlockScales | undefined;
  readonly mid?: number | readonly IPScale[] | undefined;
  readonly up?: IPBlockScales | undefined;
}

/** A scale for every transformer, a list of one for each, or these by block. */
export type IPBlockScales =
  | number
  | readonly IPScale[]
  | Readonly<Record<`block_${number}`, number | readonly IPScale[]>>;

/** Whose scales are expanded. */
export interface ScaleUser {
  /** For errors. */
  readonly method: string;
  /** The scale of parts that are not named. */
  readonly rest: number;
}

/**
 * The scale of each transformer.
 *
 * @throws ValueError for a part that the UNet does not have, and for a list of another length than the part wants.
 * @see Diffusers `_maybe_expand_lora_scales_for_one_adapter`
 */
export function expandIPScale(
  scale: IPScale | IPScaleConfig,
  transformers: readonly Transformer[],
  { method, rest }: ScaleUser = { method: "set_ip_adapter_scale", rest: 0 },
): IPScale[] {
  const refuse = (part: string, found: string, expected: string): ValueError =>
    new ValueError(`${method}: found ${found}, expected ${expected}.`, {
      className: "UNet2DConditionModel",
      field: `scale.${part}`,
      found,
      expected,
    });
  const checkNumbers = (one: IPScale, part: string): void => {
    const list: readonly unknown[] = Array.isArray(one) ? one : [one];
    if (list.length > 0 && list.every(Number.isFinite)) return;
    throw refuse(part, `${JSON.stringify(one)} for \`${part}\``, "a number, or a list of numbers");
  };
  const spread = (value: number | readonly IPScale[], count: number, part: string): readonly IPScale[] => {
    const list = typeof value === "number" ? [value] : value;
    if (!Array.isArray(list)) throw refuse(part, `${JSON.stringify(value)} for \`${part}\``, "a number or a list");
    for (const one of list) checkNumbers(one, part);
    if (list.length === 1) return new Array<IPScale>(count).fill(list[0]!);
    if (list.length === count) return list;
    throw refuse(part, `${list.length} scales for \`${part}\``, `${count}`);
  };

  if (typeof scale === "number" || Array.isArray(scale)) {
    checkNumbers(scale as IPScale, "scale");
    return transformers.map(() => scale as IPScale);
  }
  const config = scale as IPScaleConfig;
  for (const part of Object.keys(config)) {
    if (!["down", "mid", "up"].includes(part)) throw refuse(part, `a scale for \`${part}\``, "down, mid and up");
  }
  const scales = new Map<string, IPScale>();
  for (const part of ["down", "up"] as const) {
    const given = config[part] ?? rest;
    const blocks = new Map<string, Transformer[]>();
    for (const transformer of transformers) {
      const [, block] = new RegExp(`^${part}_blocks\\.(\\d+)\\.`).exec(transformer.name) ?? [];
      if (block !== undefined) blocks.set(`block_${block}`, [...(blocks.get(`block_${block}`) ?? []), transformer]);
    }
    const isByBlock = typeof given === "object" && !Array.isArray(given);
    if (isByBlock) {
      const known = [...blocks.keys()].join(", ") || "no block";
      for (const name of Object.keys(given)) {
        if (!blocks.has(name)) throw refuse(`${part}.${name}`, `\`${part}.${name}\`, which has no transformers`, known);
      }
    }
    for (const [name, members] of blocks) {
      const value = isByBlock ? ((given as Record<string, number | readonly IPScale[]>)[name] ?? rest) : given;
      const list = spread(value as number | readonly IPScale[], members.length, `${part}.${name}`);
      members.forEach((member, i) => {
        scales.set(member.name, list[i]!);
      });
    }
  }
  const middle = transformers.filter(({ name }) => name.startsWith("mid_block."));
  if (config.mid !== undefined && middle.length === 0) {
    throw refuse("mid", "`mid`, but there is no block in the middle with a transformer", "down and up");
  }
  const [mid] = spread(config.mid ?? rest, 1, "mid");
  for (const { name } of middle) scales.set(name, mid!);
  return transformers.map(({ name }) => scales.get(name)!);
}
