import { expect, test } from "vitest";
import { LMSDiscreteScheduler } from "../../../packages/core/src/schedulers/scheduling_lms_discrete.ts";
import { expectClose } from "../../support/allclose.ts";

// Over even steps the weights are those of Adams and Bashforth, a step down being negative.
test.each([
  [1, [1]],
  [2, [3 / 2, -1 / 2]],
  [3, [23 / 12, -16 / 12, 5 / 12]],
  [4, [55 / 24, -59 / 24, 37 / 24, -9 / 24]],
  [5, [1901 / 720, -2774 / 720, 2616 / 720, -1274 / 720, 251 / 720]],
])("the weights of order %i over even steps are Adams-Bashforth's", (order, weights) => {
  const scheduler = new LMSDiscreteScheduler();
  scheduler.sigmas = Float32Array.of(3.5, 3, 2.5, 2, 1.5, 1, 0.5, 0);
  const found = weights.map((_, k) => scheduler.get_lms_coefficient(order, 5, k));
  const expected = weights.map((weight) => -0.5 * weight);
  // The integrand is float32.
  expectClose(found, expected, 1e-6);
});

test("the weights of uneven steps are scipy's to the bit", () => {
  const scheduler = new LMSDiscreteScheduler();
  // scheduler.sigmas = torch.tensor([14.5, 9.25, 5.5, 3.125, 1.75, 0.0])
  scheduler.sigmas = Float32Array.of(14.5, 9.25, 5.5, 3.125, 1.75, 0);
  // [scheduler.get_lms_coefficient(4, 3, k) for k in range(4)]
  expect([0, 1, 2, 3].map((k) => scheduler.get_lms_coefficient(4, 3, k))).toEqual([
    -2.119949183729776, 1.0220001350114847, -0.31800309377742614, 0.04095218227239456,
  ]);
  // [scheduler.get_lms_coefficient(2, 4, k) for k in range(2)]
  expect([0, 1].map((k) => scheduler.get_lms_coefficient(2, 4, k))).toEqual([-2.8636363632852655, 1.1136363734612251]);
});
