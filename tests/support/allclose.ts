import { expect } from "vitest";

type Numbers = ArrayLike<number> | ArrayLike<bigint>;

/** The largest absolute difference, and the largest absolute value of `expected` (the scale). */
export function compare(actual: Numbers, expected: Numbers): { error: number; scale: number; at: number } {
  expect(actual.length).toBe(expected.length);
  let error = 0;
  let scale = 0;
  let at = -1;
  for (let i = 0; i < expected.length; i++) {
    const a = Number(actual[i]);
    const e = Number(expected[i]);
    if (Number.isFinite(e)) scale = Math.max(scale, Math.abs(e));
    // NaN or an infinity on one side only is as wrong as can be.
    const difference = Object.is(a, e) ? 0 : Math.abs(a - e);
    if (!(difference <= error)) {
      error = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
      at = i;
    }
  }
  return { error, scale, at };
}

/** Elementwise within `tolerance` of the expected values' scale (at least `minScale`). */
export function expectClose(actual: Numbers, expected: Numbers, tolerance: number, what = "", minScale = 1e-3): void {
  const { error, scale, at } = compare(actual, expected);
  const allowed = tolerance * Math.max(scale, minScale);
  expect(
    error,
    `${what} off by ${error} at ${at} (actual ${at < 0 ? "" : actual[at]}, expected ${at < 0 ? "" : expected[at]}), scale ${scale}`,
  ).toBeLessThanOrEqual(allowed);
}
