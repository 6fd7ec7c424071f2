import { ValueError } from "../errors.ts";

/** The config fields of dynamic thresholding. */
export interface ThresholdingConfig {
  /** Whether to threshold the predicted sample dynamically; not for latent models. Default false. */
  thresholding: boolean;
  /** The share of values that the threshold lets pass, 0 to 1. Default 0.995. */
  dynamic_thresholding_ratio: number;
  /** The largest threshold. Default 1. */
  sample_max_value: number;
}

/**
 * Clamps to `-range..range`, in place; NaN stays.
 *
 * Magnitudes are compared as whole numbers, which order as the floats do: a comparison of floats is a jump, and one that
 * goes either way by chance costs more than all the rest of the loop.
 */
export function clampSample(sample: Float32Array, range: number): void {
  if (!(range >= 0)) {
    // As torch, which lets the upper bound win.
    for (let i = 0; i < sample.length; i++) sample[i] = Math.min(Math.max(sample[i]!, -range), range);
    return;
  }
  const bits = bitsOf(sample);
  const limit = bitsOf(Float32Array.of(range))[0]!;
  for (let i = 0; i < bits.length; i++) {
    const magnitude = bits[i]! & MAGNITUDE;
    // All ones where the magnitude is above the limit, but no NaN.
    const above = ((limit - magnitude) >> 31) & ~((INFINITY - magnitude) >> 31);
    bits[i] = (bits[i]! & ~MAGNITUDE) | (magnitude & ~above) | (limit & above);
  }
}

const MAGNITUDE = 0x7fffffff;
const INFINITY = 0x7f800000;

function bitsOf(values: Float32Array): Int32Array {
  return new Int32Array(values.buffer, values.byteOffset, values.length);
}

/**
 * Dynamic thresholding, in place: per batch item, values are clamped to a quantile of their magnitudes (at least 1, at
 * most `sample_max_value`) and divided by it.
 *
 * @param sample `batch` items, one after the other
 * @throws ValueError for a ratio outside of 0..1.
 * @see https://huggingface.co/papers/2205.11487 (2.3)
 */
export function thresholdSample(sample: Float32Array, batch: number, config: Readonly<ThresholdingConfig>): void {
  const { dynamic_thresholding_ratio: ratio, sample_max_value } = config;
  if (!(ratio >= 0 && ratio <= 1)) {
    throw new ValueError(`\`dynamic_thresholding_ratio\` is ${ratio}, but must be in the range of 0 to 1.`, {
      field: "dynamic_thresholding_ratio",
      found: String(ratio),
      expected: "0 to 1",
    });
  }
  const max = Math.fround(sample_max_value);
  const count = sample.length / batch;
  for (let b = 0; b < batch; b++) {
    const item = sample.subarray(b * count, (b + 1) * count);
    const s = Math.min(Math.max(magnitudeQuantile(item, ratio), 1), max);
    clampSample(item, s);
    for (let i = 0; i < count; i++) item[i] = item[i]! / s;
  }
}

/** `torch.quantile(abs(values), q)` with linear interpolation; NaN if there is one. */
function magnitudeQuantile(values: Float32Array, q: number): number {
  // Magnitudes, which order as whole numbers do, are counted by their upper bits: only those near the quantile are sorted.
  const bits = bitsOf(values);
  const counts = new Uint32Array((MAGNITUDE >>> 16) + 1);
  let noNaN = 0;
  for (let i = 0; i < bits.length; i++) {
    const magnitude = bits[i]! & MAGNITUDE;
    counts[magnitude >>> 16]!++;
    noNaN |= INFINITY - magnitude;
  }
  if (noNaN < 0) return Number.NaN;
  const rank = Math.fround(Math.fround(q) * Math.fround(values.length - 1));
  const below = smallest(bits, counts, Math.floor(rank));
  const above = smallest(bits, counts, Math.ceil(rank));
  const weight = rank - Math.floor(rank);
  const difference = Math.fround(above - below);
  // torch's lerp goes from the nearer end.
  if (weight < 0.5) return Math.fround(below + Math.fround(weight * difference));
  return Math.fround(above - Math.fround(difference * Math.fround(1 - weight)));
}

/** The number that would be at `index` if the magnitudes, counted by their upper bits, were sorted. */
function smallest(bits: Int32Array, counts: Uint32Array, index: number): number {
  let left = index;
  let upper = 0;
  while (left >= counts[upper]!) left -= counts[upper++]!;
  const near = new Int32Array(counts[upper]!);
  let found = 0;
  for (let i = 0; i < bits.length; i++) {
    const magnitude = bits[i]! & MAGNITUDE;
    if (magnitude >>> 16 === upper) near[found++] = magnitude;
  }
  return new Float32Array(near.sort().buffer)[left]!;
}
