import { DPMSolverMultistepInverseScheduler } from "@diffusers-web/core";
import { expect, test } from "vitest";

// scheduler = DPMSolverMultistepInverseScheduler(**config); scheduler.set_timesteps(n)
// scheduler.noisiest_timestep, scheduler.timesteps, len(scheduler.sigmas)
test.each([
  [{}, 5, 999, [0, 200, 400, 599, 799], 6],
  [{ lambda_min_clipped: -2 }, 5, 628, [0, 126, 251, 377, 502], 6],
  // Each timestep once, although there are sigmas for all the steps that were asked for.
  [{ num_train_timesteps: 7 }, 20, 6, [0, 1, 2, 3, 4, 5, 6], 21],
])("the timesteps of %j in %i steps", (config, steps, noisiest, timesteps, sigmas) => {
  const scheduler = new DPMSolverMultistepInverseScheduler(config);
  expect(scheduler.noisiest_timestep).toBeNull();
  scheduler.set_timesteps(steps);
  expect(scheduler.noisiest_timestep).toBe(noisiest);
  expect(Array.from(scheduler.timesteps)).toEqual(timesteps);
  expect(scheduler.num_inference_steps).toBe(timesteps.length);
  expect(scheduler.sigmas).toHaveLength(sigmas);
});
