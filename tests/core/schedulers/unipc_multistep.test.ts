import { DDIMScheduler, Generator, UniPCMultistepScheduler } from "@diffusers-web/core";
import { expect, test } from "vitest";

test("a predictor of the caller's own is kept as it is, laid out along, and given its timesteps' samples", () => {
  const solver_p = new DDIMScheduler({ beta_end: 0.01 });
  const scheduler = new UniPCMultistepScheduler({ solver_p, beta_end: 0.01 });
  expect(scheduler.config.solver_p).toBe(solver_p);
  expect(UniPCMultistepScheduler.from_config(scheduler.config).config.solver_p).toBe(solver_p);
  scheduler.set_timesteps(7);
  expect(solver_p.num_inference_steps).toBe(7);

  // Without a step before there is nothing to correct: the first step is the predictor's.
  const random = new Generator().manual_seed(0);
  const [output, sample] = [random.randn([1, 3, 2, 2]), random.randn([1, 3, 2, 2])];
  const t = scheduler.timesteps[0]!;
  expect(scheduler.step(output, t, sample).prev_sample).toEqual(solver_p.step(output, t, sample).prev_sample);
});

test("a config with a predictor is neither printed nor saved, as in Diffusers", async () => {
  const scheduler = new UniPCMultistepScheduler({ solver_p: new DDIMScheduler() });
  expect(() => `${scheduler}`).toThrow(TypeError);
  await expect(scheduler.save_pretrained("nowhere")).rejects.toThrow(/DDIMScheduler/);
  expect(`${new UniPCMultistepScheduler()}`).toContain('"solver_p": null');
});

test("the first sigma of flow matching is kept below 1, where there is no log-SNR", () => {
  const scheduler = new UniPCMultistepScheduler({ use_flow_sigmas: true });
  scheduler.set_timesteps(null, { sigmas: Float64Array.of(1, 0.5) });
  expect(scheduler.sigmas).toEqual(Float32Array.of(1 - 1e-6, 0.5, 0));
  expect(Array.from(scheduler.timesteps)).toEqual([999, 500]);
});
