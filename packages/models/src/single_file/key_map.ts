import { type LazyTensor, rows, type WeightTransform } from "../weight_transforms.ts";
import type { LazyTensors } from "../weights.ts";

/** Where a tensor of the original layout goes. */
export interface Target {
  /** Its name in Diffusers. */
  readonly name: string;
  /** What is done to it as it is read. */
  readonly as?: WeightTransform;
}

/**
 * What becomes of a tensor: where it goes, none where it is known to be of no use, undefined where it is not known. Names
 * are without the component's prefix.
 */
export type KeyMap = (name: string) => readonly Target[] | undefined;

/** A pattern of whole names, and the name in Diffusers: `$1` and so on, or a function of the groups. */
export type Rule = readonly [pattern: RegExp, name: string | ((...groups: string[]) => string), as?: WeightTransform];

/** The first rule that fits decides. */
export function byRules(rules: readonly Rule[]): KeyMap {
  return (name) => {
    for (const [pattern, target, as] of rules) {
      const match = pattern.exec(name);
      if (match === null) continue;
      const renamed = typeof target === "string" ? name.replace(pattern, target) : target(...match.slice(1));
      return [as === undefined ? { name: renamed } : { name: renamed, as }];
    }
    return undefined;
  };
}

/** One of the three layers that are kept as one: 0 to 2. */
export function third(which: number): WeightTransform {
  return (tensor, name) => {
    const each = Math.floor((tensor.shape[0] ?? 0) / 3);
    return rows(which * each, (which + 1) * each)(tensor, name);
  };
}

/**
 * The tensors below `prefix` under their names in Diffusers; none is read. One that is not known keeps its name, so that
 * the model says that it does not use it.
 */
export function mapTensors(tensors: LazyTensors, prefix: string, map: KeyMap): LazyTensors {
  const mapped = new Map<string, LazyTensor>();
  for (const [name, tensor] of tensors) {
    if (!name.startsWith(prefix)) continue;
    const targets = map(name.slice(prefix.length));
    if (targets === undefined) mapped.set(name, tensor);
    else for (const { name: target, as } of targets) mapped.set(target, as?.(tensor, name) ?? tensor);
  }
  return mapped;
}
