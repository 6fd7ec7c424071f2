import { expect, test } from "vitest";
import { HeunDiscreteScheduler } from "../../../packages/core/src/schedulers/scheduling_heun_discrete.ts";
import { KDPM2AncestralDiscreteScheduler } from "../../../packages/core/src/schedulers/scheduling_k_dpm_2_ancestral_discrete.ts";
import { KDPM2DiscreteScheduler } from "../../../packages/core/src/schedulers/scheduling_k_dpm_2_discrete.ts";
import { Tensor } from "../../../packages/core/src/tensor.ts";

const classes = [HeunDiscreteScheduler, KDPM2DiscreteScheduler, KDPM2AncestralDiscreteScheduler];

test.each(classes)("$name takes two calls a step, and set_timesteps puts it back to the first", (cls) => {
  const scheduler = new cls();
  expect(scheduler.order).toBe(2);
  scheduler.set_timesteps(6);
  expect(scheduler.timesteps.length).toBe(11);
  const x = Tensor.ones([1, 1, 2, 2]);
  const states: boolean[] = [];
  for (const t of scheduler.timesteps.slice(0, 4)) {
    states.push(scheduler.state_in_first_order);
    scheduler.step(x, t, x);
  }
  expect(states).toEqual([true, false, true, false]);
  scheduler.step(x, scheduler.timesteps[4]!, x);
  expect(scheduler.state_in_first_order).toBe(false);
  scheduler.set_timesteps(6);
  expect(scheduler.state_in_first_order).toBe(true);
});

test.each(classes)("$name has a whole schedule before set_timesteps, as Diffusers has", (cls) => {
  const scheduler = new cls({ num_train_timesteps: 50 });
  expect(scheduler.num_inference_steps).toBe(50);
  expect(scheduler.timesteps.length).toBe(99);
});

test("a run that starts midway at a timestep that comes twice starts at its second place", () => {
  const scheduler = new HeunDiscreteScheduler();
  scheduler.set_timesteps(6);
  const t = scheduler.timesteps[3]!;
  expect(scheduler.timesteps[4]).toBe(t);
  expect(scheduler.index_for_timestep(t)).toBe(4);
  const x = Tensor.ones([1, 1, 2, 2]);
  scheduler.step(x, t, x);
  expect(scheduler.step_index).toBe(5);
});

test("KDPM2's timesteps of another spacing of sigmas are float64, and are found as such", () => {
  const scheduler = new KDPM2DiscreteScheduler({ use_exponential_sigmas: true });
  scheduler.set_timesteps(6);
  expect(scheduler.timesteps).toBeInstanceOf(Float64Array);
  const t = scheduler.timesteps[2]!;
  expect(scheduler.index_for_timestep(t)).toBe(2);
  expect(() => scheduler.index_for_timestep(Math.fround(t))).toThrow(/none of the timesteps/);
});

test("the levels of an ancestral step: down, up, and the geometric mean", () => {
  const scheduler = new KDPM2AncestralDiscreteScheduler();
  scheduler.set_timesteps(10);
  const { sigmas, sigmas_down, sigmas_up, sigmas_interpol } = scheduler;
  expect([sigmas_down.length, sigmas_up.length, sigmas_interpol.length]).toEqual([22, 22, 22]);
  for (let i = 0; i < 16; i += 2) {
    const next = sigmas[i + 1]!;
    // The last bits of float32 squares.
    expect(Math.hypot(sigmas_down[i]!, sigmas_up[i]!)).toBeCloseTo(next, 5);
    expect(Math.sqrt(sigmas[i]! * sigmas_down[i]!)).toBeCloseTo(sigmas_interpol[i]!, 5);
  }
  expect(sigmas_interpol.subarray(17)).toEqual(new Float32Array(5));
});
