import { KarrasVeScheduler, Tensor } from "@diffusers-web/core";
import { describe, expect, test } from "vitest";
import { expectClose } from "../../support/allclose.ts";
import {
  expectRepeatable,
  generatorsOf,
  loadFixture,
  mix,
  type OwnCase,
  type OwnFixture,
  rowChecker,
  testAttempts,
} from "./own_form.ts";

const { fixture, tensors } = loadFixture<OwnFixture<OwnCase>>("karras_ve");

/** The loop of the Karras-VE pipeline. Keys are those of the case file. */
function run(
  scheduler: KarrasVeScheduler,
  spec: OwnCase,
  seed: number,
  visit: (key: string, tensor: Tensor) => void,
): Tensor {
  scheduler.set_timesteps(spec.n);
  const shape = spec.shape ?? fixture.shape;
  const [inputs, generator] = generatorsOf(spec, seed, shape);
  let sample = inputs.randn(shape).mul(scheduler.init_noise_sigma);
  const output = (x: Tensor, sigma: number): Tensor => mix(-0.9 / sigma, x, 0.3, inputs.randn(shape));
  const schedule = scheduler.schedule!;
  for (const t of scheduler.timesteps.slice(0, spec.keep)) {
    const sigma = schedule[t]!;
    const sigma_prev = t > 0 ? schedule[t - 1]! : 0;
    const { sample_hat, sigma_hat } = scheduler.add_noise_to_input(sample, sigma, { generator });
    visit("h", sample_hat);
    visit("g", Tensor.from([sigma_hat]));
    const euler = scheduler.step(output(sample_hat, sigma_hat), sigma_hat, sigma_prev, sample_hat);
    const { derivative } = euler;
    sample = euler.prev_sample;
    visit("p", sample);
    visit("d", derivative);
    visit("x", euler.pred_original_sample);
    if (sigma_prev !== 0) {
      const second = output(sample, sigma_prev);
      const heun = scheduler.step_correct(second, sigma_hat, sigma_prev, sample_hat, sample, derivative);
      sample = heun.prev_sample;
      visit("q", sample);
      visit("y", heun.pred_original_sample);
      expect(heun.derivative).toBe(derivative);
    }
  }
  return sample;
}

test.each(fixture.cases.map((spec, i) => [i, JSON.stringify(spec), spec] as const))("run %i %s", (i, _title, spec) => {
  const scheduler = new KarrasVeScheduler(spec.config);
  const { check, done } = rowChecker(tensors, i);
  run(scheduler, spec, i, check);
  done("hgpdxqy");
  const [timesteps, schedule] = [tensors[`${i}t`]!.data, tensors[`${i}s`]!.data as Float32Array];
  expect([...scheduler.timesteps.slice(-50)]).toEqual([...timesteps]);
  expect(scheduler.schedule!.length).toBe(spec.n);
  for (const [k, sigma] of scheduler.schedule!.slice(-50).entries()) {
    expectClose([sigma], [schedule[k]!], 2e-7, "schedule", 1e-30);
  }
});

test("a config without num_train_timesteps has no length", () => {
  const scheduler = new KarrasVeScheduler();
  expect(scheduler.length).toBeNaN();
  expect([scheduler.init_noise_sigma, scheduler.order, scheduler.schedule]).toEqual([100, 2, null]);
});

test("two runs agree, and what is given is not written to", () => {
  const spec = { config: {}, n: 6 };
  expectRepeatable(
    () => new KarrasVeScheduler(),
    (scheduler, n, keep) => run(scheduler, { ...spec, n, ...(keep !== undefined && { keep }) }, 1, () => {}),
  );
  const scheduler = new KarrasVeScheduler();
  scheduler.set_timesteps(5);
  const [inputs, generator] = generatorsOf(spec, 3, fixture.shape);
  const given = Array.from({ length: 4 }, () => inputs.randn(fixture.shape));
  const before = given.map(({ data }) => data.slice());
  const [output, hat, previous, derivative] = given as [Tensor, Tensor, Tensor, Tensor];
  scheduler.add_noise_to_input(hat, 1, { generator });
  scheduler.step(output, 1, 0.5, hat);
  scheduler.step_correct(output, 1, 0.5, hat, previous, derivative);
  expect(given.map(({ data }) => data)).toEqual(before);
});

describe("errors", () => testAttempts(KarrasVeScheduler, fixture.errors));
