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
    const s = Math.min(Math.max(quantile32(item.map(Math.abs), ratio), 1), max);
    for (let i = 0; i < count; i++) item[i] = Math.min(Math.max(item[i]!, -s), s) / s;
  }
}

/** `torch.quantile` with linear interpolation, which sorts `values` in place; NaN if there is one. */
function quantile32(values: Float32Array, q: number): number {
  // Typed arrays sort NaN last.
  values.sort();
  const last = values.length - 1;
  if (Number.isNaN(values[last])) return Number.NaN;
  const rank = Math.fround(Math.fround(q) * Math.fround(last));
  const below = values[Math.floor(rank)]!;
  const above = values[Math.ceil(rank)]!;
  const weight = rank - Math.floor(rank);
  const difference = Math.fround(above - below);
  // torch's lerp goes from the nearer end.
  if (weight < 0.5) return Math.fround(below + Math.fround(weight * difference));
  return Math.fround(above - Math.fround(difference * Math.fround(1 - weight)));
}
