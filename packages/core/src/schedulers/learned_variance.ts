import { ValueError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import { checkTensor } from "./checks.ts";

/** Between the smallest and the largest log-variance, as the model says (-1 to 1). @see https://huggingface.co/papers/2102.09672 (15) */
export function learnedRange(predicted: number, min_log: number, max_log: number): number {
  const frac = Math.fround(Math.fround(predicted + 1) / 2);
  return Math.fround(Math.fround(frac * max_log) + Math.fround(Math.fround(1 - frac) * min_log));
}

/** @throws ValueError always: the model's output lacks the second half of channels, which holds the variance. */
export function missingVariance(where: string, variance_type: string, model_output: Tensor, sample: Tensor): never {
  const found = `[${model_output.dims}] for a sample of [${sample.dims}]`;
  throw new ValueError(
    `${where}'s \`variance_type\` is "${variance_type}", so the model's output must have twice the sample's channels, ` +
      `but it is ${found}.`,
    { className: where, field: "variance_type", found, expected: "twice the channels" },
  );
}

/** A model's prediction, and its variance where that is learned; each of the sample's shape. */
export interface SplitOutput {
  readonly prediction: Float32Array;
  readonly variance: Float32Array | undefined;
}

/**
 * Splits the variance off a model's output: the second half of its channels, where it has twice the sample's.
 *
 * @param learns whether the config says that the variance is learned
 * @throws ValueError for an output of another shape.
 */
export function splitVariance(where: string, learns: boolean, model_output: Tensor, sample: Tensor): SplitOutput {
  checkTensor(where, "sample", sample, sample.dims);
  const learned = learns && model_output.dims[1] === 2 * (sample.dims[1] ?? Number.NaN);
  const dims = sample.dims.map((size, axis) => (learned && axis === 1 ? 2 * size : size));
  checkTensor(where, "model_output", model_output, dims);
  const output = model_output.data;
  if (!learned) return { prediction: output, variance: undefined };
  const prediction = new Float32Array(sample.size);
  const variance = new Float32Array(sample.size);
  const count = sample.size / (sample.dims[0] ?? 1);
  for (let i = 0; i < sample.size; i += count) {
    prediction.set(output.subarray(2 * i, 2 * i + count), i);
    variance.set(output.subarray(2 * i + count, 2 * i + 2 * count), i);
  }
  return { prediction, variance };
}
