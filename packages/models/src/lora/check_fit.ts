import { WeightsMismatchError } from "@diffusers-web/core";
import { plainName } from "./attach.ts";
import type { LoraAdapter } from "./lora_adapter.ts";
import type { LoraHost } from "./lora_host.ts";

const advice = "The LoRA is for another model (such as Stable Diffusion 1.x, 2.x or XL), or for another component.";

/**
 * Emits a model with an adapter, to see whether it fits.
 *
 * @throws WeightsMismatchError naming the first tensor, as the file calls it, that is of another shape or belongs to no layer.
 */
export function checkFit(adapter: LoraAdapter, { className, tryOut }: LoraHost): void {
  const { file } = adapter.weights;
  const seen = new Set<string>();
  try {
    tryOut((g) => {
      g.layerAdapters = (layer) => {
        const module = plainName(layer);
        if (!adapter.modules.has(module)) return [];
        seen.add(module);
        const scale = g.constant([1], [1]);
        return [{ weights: adapter.weights, module, prefix: adapter.prefix, rank: adapter.rank(module), scale }];
      };
    });
  } catch (error) {
    if (!(error instanceof WeightsMismatchError) || error.details.file !== file) throw error;
    const { tensors = [], found, expected } = error.details;
    const names = tensors.map((name) => adapter.nameInFile(name));
    throw new WeightsMismatchError(
      `${file} does not fit the ${className}: ${names[0]} is ${found}, expected ${expected}. ${advice}`,
      { className, file, tensors: names, found: found!, expected: expected! },
    );
  }
  const strangers = [...adapter.modules].filter(([module]) => !seen.has(module)).map(([, { down }]) => down);
  if (strangers.length === 0) return;
  throw new WeightsMismatchError(
    `${file} does not fit the ${className}, which has no layer for ${strangers[0]}` +
      `${strangers.length > 1 ? ` (and ${strangers.length - 1} more)` : ""}. ${advice}`,
    { className, file, tensors: strangers, found: strangers[0]!, expected: `layers of the ${className}` },
  );
}
