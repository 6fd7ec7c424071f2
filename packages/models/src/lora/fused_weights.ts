import { ValueError } from "@diffusers-web/core";
import { candidates } from "../graph/weight_names.ts";
import { cast, type LazyTensor } from "../weight_transforms.ts";
import type { Weights } from "../weights.ts";
import type { LoraAdapter } from "./lora_adapter.ts";
import type { LoraHost } from "./lora_host.ts";

/** What is added to the weight of a layer: `factor * B A`. */
export interface FusedLora {
  readonly adapter: LoraAdapter;
  /** The adapter's. */
  readonly name: string;
  /** alpha / rank, times the weight that the adapter had. */
  readonly factor: number;
}

/**
 * A model's weights with LoRAs added to them as they are read, in float32 as PEFT does on the processor: nothing is kept.
 *
 * @param fused what is added, by layer, in order
 * @param keepTypes whether the tensors keep the type of the file (float16 ones are rounded once more), for saving
 */
export function fusedWeights(
  weights: Weights,
  fused: ReadonlyMap<string, readonly FusedLora[]>,
  keepTypes = false,
): Weights {
  return weights.view((tensors) => {
    const result = new Map(tensors);
    const put = (name: string, tensor: LazyTensor, change: (values: Float32Array) => void): void => {
      const read = (): Uint8Array => {
        const values = new Float32Array(cast("float32")(tensor, name).read().slice().buffer);
        change(values);
        return new Uint8Array(values.buffer);
      };
      const sum: LazyTensor = { ...tensor, dtype: "F32", read };
      result.set(name, keepTypes && tensor.dtype === "F16" ? cast("float16")(sum, name) : sum);
    };
    for (const [module, parts] of fused) {
      const weight = tensorOf(weights, module, "weight");
      if (weight !== undefined) {
        put(weight, tensors.get(weight)!, (values) => {
          for (const { adapter, factor } of parts) addProduct(values, adapter, module, factor);
        });
      }
      const biases = parts.filter(({ adapter }) => adapter.modules.get(module)!.bias !== null);
      const bias = biases.length === 0 ? undefined : tensorOf(weights, module, "bias");
      if (bias !== undefined) {
        put(bias, tensors.get(bias)!, (values) => {
          for (const { adapter, factor } of biases) {
            const added = floats(adapter, `${module}.lora_B.bias`);
            for (let i = 0; i < values.length; i++) values[i]! += Math.fround(added[i]! * factor);
          }
        });
      }
    }
    return result;
  });
}

/** @throws ValueError for a bias that the layer has no place for. */
export function checkBias({ className, weights }: LoraHost, module: string, parts: readonly FusedLora[]): void {
  const biased = parts.find(({ adapter }) => adapter.modules.get(module)!.bias !== null);
  if (biased === undefined || tensorOf(weights(), module, "bias") !== undefined) return;
  throw new ValueError(
    `${biased.name} cannot be fused: it has a bias for ${module} of the ${className}, which has none. Use it unfused.`,
    { className, field: module, found: "a bias in the LoRA", expected: "a layer with a bias" },
  );
}

/** @throws ValueError for a layer whose sum is no number somewhere. */
export function checkNumbers({ className, weights }: LoraHost, module: string, parts: readonly FusedLora[]): void {
  const base = weights();
  const sums = fusedWeights(base, new Map([[module, parts]]));
  for (const part of ["weight", "bias"] as const) {
    const tensor = tensorOf(base, module, part);
    if (tensor === undefined) continue;
    const values = new Float32Array(sums.read(tensor, "float32").slice().buffer);
    if (values.every(Number.isFinite)) continue;
    const names = parts.map(({ name }) => name).join(", ");
    throw new ValueError(
      `fuse_lora: ${module} of the ${className} would have weights that are no numbers. ${names} seems to be broken.`,
      { className, field: module, found: "NaN or infinity", expected: "numbers" },
    );
  }
}

/** The name in the file of a layer's weight or bias: an older one perhaps, or below `text_model.`; undefined: it has none. */
function tensorOf(weights: Weights, module: string, part: "weight" | "bias"): string | undefined {
  return ["", "text_model."]
    .flatMap((prefix) => candidates(`${prefix}${module}.${part}`))
    .find((name) => weights.shape(name) !== undefined);
}

/** `weight += factor * (B A)`, a convolution's kernel as one long row for each output. */
function addProduct(weight: Float32Array, adapter: LoraAdapter, module: string, factor: number): void {
  const down = floats(adapter, `${module}.lora_A.weight`);
  const up = floats(adapter, `${module}.lora_B.weight`);
  const [rank = 0] = adapter.weights.shape(`${module}.lora_A.weight`)!;
  const columns = down.length / rank;
  const row = new Float32Array(columns);
  for (let out = 0; out < up.length / rank; out++) {
    row.fill(0);
    for (let k = 0; k < rank; k++) {
      const by = up[out * rank + k]!;
      const begin = k * columns;
      for (let i = 0; i < columns; i++) row[i]! += by * down[begin + i]!;
    }
    const begin = out * columns;
    for (let i = 0; i < columns; i++) weight[begin + i]! += Math.fround(row[i]! * factor);
  }
}

function floats(adapter: LoraAdapter, name: string): Float32Array {
  return new Float32Array(adapter.weights.read(name, "float32").slice().buffer);
}
