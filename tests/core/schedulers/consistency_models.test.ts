import { CMStochasticIterativeScheduler, Generator, Tensor, ValueError } from "@diffusers-web/core";
import { afterEach, expect, test, vi } from "vitest";

afterEach(() => vi.restoreAllMocks());

test("no sigma_min makes NaN of the last step, as half of them do in Diffusers", () => {
  for (const sigma_min of [0.002, 0.01, 0.3415731582690329, 0.2010289487279708]) {
    const scheduler = new CMStochasticIterativeScheduler({ sigma_min });
    scheduler.set_timesteps(3);
    const generator = new Generator().manual_seed(0);
    let sample = generator.randn([1, 1, 4, 4]).mul(scheduler.init_noise_sigma);
    for (const t of scheduler.timesteps) {
      const input = scheduler.scale_model_input(sample, t);
      sample = scheduler.step(input, t, sample, { generator }).prev_sample;
    }
    expect(sample.data.every(Number.isFinite), `${sigma_min}`).toBe(true);
  }
});

test("an index is no timestep, in the middle of a run neither", () => {
  const scheduler = new CMStochasticIterativeScheduler();
  scheduler.set_timesteps(3);
  const x = Tensor.ones([1, 1, 2, 2]);
  const t = scheduler.timesteps[0]!;
  scheduler.scale_model_input(x, t);
  expect(() => scheduler.step(x, 0, x)).toThrow(ValueError);
  scheduler.step(x, t, x);
  expect(() => scheduler.step(x, 1, x)).toThrow(/one of `scheduler.timesteps`/);
  expect(scheduler.step_index).toBe(1);
});

test("a timestep reckoned from its sigma is found", () => {
  const scheduler = new CMStochasticIterativeScheduler({ num_train_timesteps: 201 });
  scheduler.set_timesteps(10);
  expect(scheduler.index_for_timestep(scheduler.sigma_to_t(scheduler.config.sigma_max))).toBe(0);
  expect(scheduler.num_inference_steps).toBe(10);
});

test("a step without scale_model_input warns once", () => {
  const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
  const scheduler = new CMStochasticIterativeScheduler();
  scheduler.set_timesteps(2);
  const x = Tensor.ones([1, 1, 2, 2]);
  for (const t of scheduler.timesteps) scheduler.step(x, t, x);
  expect(warn).toHaveBeenCalledExactlyOnceWith(expect.stringContaining("scale_model_input"));
});
