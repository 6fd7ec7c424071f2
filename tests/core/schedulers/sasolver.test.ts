import { Generator, SASolverScheduler, type SASolverSchedulerConfig, Tensor } from "@diffusers-web/core";
import { describe, expect, test } from "vitest";
import { expectClose } from "../../support/allclose.ts";

const dims = [2, 3, 2, 2];

/** The samples of a run; `model` says what the model gives for a sample at a step. */
function samplesOf(
  config: Partial<SASolverSchedulerConfig>,
  model: (random: Generator, sample: Tensor, scheduler: SASolverScheduler, step: number) => Tensor,
): number[] {
  const scheduler = new SASolverScheduler(config);
  scheduler.set_timesteps(5);
  const random = new Generator().manual_seed(0);
  const generator = new Generator().manual_seed(1);
  let sample = random.randn(dims);
  return Array.from(scheduler.timesteps).flatMap((t, step) => {
    sample = scheduler.step(model(random, sample, scheduler, step), t, sample, { generator }).prev_sample;
    return Array.from(sample.data);
  });
}

const noise = (random: Generator): Tensor => random.randn(dims);

describe("what fails in Diffusers, which draws noise for the variance too, or looks up a timestep that is not passed", () => {
  test.each(["learned", "learned_range"])("a %s variance is dropped", (variance_type) => {
    const withVariance = samplesOf({ variance_type }, (random) => {
      const mean = random.randn(dims);
      return Tensor.cat([mean, Tensor.ones(dims)], 1);
    });
    expect(withVariance).toEqual(samplesOf({}, noise));
  });

  test("thresholding acts on the data prediction of a noise prediction", () => {
    const algorithm_type = "noise_prediction";
    const thresholding = { thresholding: true, dynamic_thresholding_ratio: 0.6, sample_max_value: 1.3 };
    const thresholded = samplesOf({ algorithm_type, ...thresholding }, noise);
    // The same, with the data prediction made and thresholded outside, per item of the batch.
    const outside = samplesOf({ algorithm_type, prediction_type: "sample" }, (random, sample, scheduler, step) => {
      const sigma = scheduler.sigmas[step]!;
      const alpha = 1 / Math.sqrt(sigma ** 2 + 1);
      const x0 = sample.sub(random.randn(dims).mul(sigma * alpha)).div(alpha);
      const count = x0.size / dims[0]!;
      for (let b = 0; b < dims[0]!; b++) {
        const item = x0.data.subarray(b * count, (b + 1) * count);
        const sorted = item.map(Math.abs).sort();
        // The quantile of 12 values at 0.6 lies 0.6 of the way from the seventh to the eighth.
        const quantile = sorted[6]! + 0.6 * (sorted[7]! - sorted[6]!);
        const s = Math.min(Math.max(quantile, 1), 1.3);
        for (let i = 0; i < count; i++) item[i] = Math.min(Math.max(item[i]!, -s), s) / s;
      }
      return x0;
    });
    expectClose(thresholded, outside, 1e-5);
    expect(thresholded).not.toEqual(samplesOf({ algorithm_type }, noise));
  });
});

test("tau is that of the timestep that a step is given: by default 1 from 200 to 800, else 0", () => {
  const seen: number[] = [];
  const spy = (t: number): number => {
    seen.push(t);
    return t >= 200 && t <= 800 ? 1 : 0;
  };
  expect(samplesOf({ tau_func: spy }, noise)).toEqual(samplesOf({}, noise));
  const scheduler = new SASolverScheduler();
  scheduler.set_timesteps(5);
  expect(seen).toEqual(Array.from(scheduler.timesteps));
  expect([199, 200, 800, 801].map(scheduler.tau_func)).toEqual([0, 1, 1, 0]);
  expect(samplesOf({ tau_func: () => 0 }, noise)).not.toEqual(samplesOf({}, noise));
});

test("a config with a function goes to another object, but is neither printed nor saved, as in Diffusers", () => {
  const tau_func = (): number => 0.5;
  const scheduler = new SASolverScheduler({ tau_func });
  expect(SASolverScheduler.from_config(scheduler.config).tau_func).toBe(tau_func);
  expect(() => `${scheduler}`).toThrow(TypeError);
  expect(() => scheduler.to_json_string()).toThrow(/function/);
  expect(`${new SASolverScheduler()}`).toContain('"tau_func": null');
});
