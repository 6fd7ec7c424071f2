import { expect } from "vitest";

/** The bound for whole pipelines: at most 0.5 % of a picture's values off by more than 2 of 255. */
export function expectSamePicture(actual: ArrayLike<number>, expected: ArrayLike<number | bigint>): void {
  expect(actual.length).toBe(expected.length);
  let off = 0;
  for (let i = 0; i < actual.length; i++) if (Math.abs(actual[i]! - Number(expected[i])) > 2) off++;
  expect(off / actual.length, `${off} of ${actual.length} values are off by more than 2 of 255`).toBeLessThanOrEqual(
    0.005,
  );
}
