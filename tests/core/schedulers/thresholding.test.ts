import { Generator, ValueError } from "@diffusers-web/core";
import { describe, expect, test } from "vitest";
import { clampSample, thresholdSample } from "../../../packages/core/src/schedulers/thresholding.ts";

const config = { thresholding: true, dynamic_thresholding_ratio: 0.995, sample_max_value: 1e6 };

/** What torch does, spelled out: a sort, and the nearer neighbour's lerp. */
function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const rank = Math.fround(Math.fround(q) * (sorted.length - 1));
  const [below, above] = [sorted[Math.floor(rank)]!, sorted[Math.ceil(rank)]!];
  const weight = rank - Math.floor(rank);
  const difference = Math.fround(above - below);
  return weight < 0.5
    ? Math.fround(below + Math.fround(weight * difference))
    : Math.fround(above - Math.fround(difference * Math.fround(1 - weight)));
}

describe("clampSample", () => {
  const values = [-3, -1.5, -1.4999999, -1e-40, -0, 0, 1e-40, 0.7, 1.5, 1.5000001, 9];
  test.each([0, 1e-40, 0.5, 1.5, 3, Number.POSITIVE_INFINITY])("to %f", (range) => {
    const special = [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY, Number.NaN];
    const sample = Float32Array.from([...values, ...special]);
    const limit = Math.fround(range);
    const expected = sample.map((x) => Math.min(Math.max(x, -limit), limit));
    clampSample(sample, range);
    expect(sample).toEqual(expected);
  });

  test("to a negative range every value becomes its upper bound", () => {
    const sample = Float32Array.of(-3, 0, 3);
    clampSample(sample, -0.5);
    expect(sample).toEqual(Float32Array.of(-0.5, -0.5, -0.5));
  });

  test("a part of an array leaves the rest", () => {
    const sample = Float32Array.of(5, 5, 5, 5);
    clampSample(sample.subarray(1, 3), 2);
    expect(sample).toEqual(Float32Array.of(5, 2, 2, 5));
  });
});

describe("thresholdSample", () => {
  const generator = new Generator().manual_seed(3);
  const samples = {
    "many values": generator.randn([3000]).data.map((x) => 4 * x),
    "values of one magnitude": Float32Array.from({ length: 64 }, (_, i) => (i % 2 === 0 ? 2.5 : -2.5)),
    "values near each other": Float32Array.from({ length: 1000 }, (_, i) => 2 + ((i * 7919) % 1000) * 2 ** -20),
    "two values": Float32Array.of(-3, 7),
    "one value": Float32Array.of(-3),
  };
  for (const [title, values] of Object.entries(samples)) {
    test.each([0, 0.25, 0.5, 0.6, 0.9, 0.995, 1])(`divides ${title} by their quantile of %f`, (ratio) => {
      const sample = values.slice();
      thresholdSample(sample, 1, { ...config, dynamic_thresholding_ratio: ratio });
      const s = Math.max(quantile(Array.from(values, Math.abs), ratio), 1);
      expect(sample).toEqual(values.map((x) => Math.min(Math.max(x, -s), s) / s));
    });
  }

  test("each batch item has a quantile of its own, and NaN spreads over its item", () => {
    const sample = Float32Array.of(1, 2, 3, 4, 10, 20, 30, 40, 1, Number.NaN, 3, 4);
    thresholdSample(sample, 3, { ...config, dynamic_thresholding_ratio: 1 });
    expect(sample.subarray(0, 4)).toEqual(Float32Array.of(0.25, 0.5, 0.75, 1));
    expect(sample.subarray(4, 8)).toEqual(Float32Array.of(0.25, 0.5, 0.75, 1));
    expect(sample.subarray(8).every(Number.isNaN)).toBe(true);
  });

  test("a ratio outside of 0 to 1 is refused", () => {
    for (const ratio of [-0.1, 1.1, Number.NaN]) {
      const threshold = (): void =>
        thresholdSample(new Float32Array(4), 1, { ...config, dynamic_thresholding_ratio: ratio });
      expect(threshold).toThrow(ValueError);
    }
  });
});
