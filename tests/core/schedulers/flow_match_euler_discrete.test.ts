import { FlowMatchEulerDiscreteScheduler, Generator, Tensor, ValueError } from "@diffusers-web/core";
import { describe, expect, test, vi } from "vitest";
import { expectClose } from "../../support/allclose.ts";
import { fixtureTensors, fixtureText } from "../../support/fixtures.ts";

const fixture = JSON.parse(fixtureText("schedulers/flow_match_euler_discrete.json")) as {
  tokens: { config: object; step_index: number }[];
  times: number[];
  shifts: { type: string; mu: number; sigma: number; t: number[]; single: number[] }[];
  stretched: number[];
  set_shift: number[];
};
const tensors = fixtureTensors("schedulers/flow_match_euler_discrete.safetensors");

const tensor = (name: string): Tensor => {
  const { dims, data } = tensors[name]!;
  return new Tensor("float32", data as Float32Array, dims);
};

describe("a step in which each token has a timestep of its own", () => {
  const rows = fixture.tokens.map((row, i) => {
    const key = `token${i}`;
    return [
      `${JSON.stringify(row.config)} [${tensors[`${key}t`]!.dims}] of [${tensors[`${key}x`]!.dims}]`,
      key,
      row,
    ] as const;
  });
  test.each(rows)("%s", (_title, key, { config, step_index }) => {
    const scheduler = new FlowMatchEulerDiscreteScheduler(config);
    scheduler.set_timesteps(6);
    const { prev_sample } = scheduler.step(tensor(`${key}v`), scheduler.timesteps[0]!, tensor(`${key}x`), {
      per_token_timesteps: tensor(`${key}t`),
      generator: new Generator().manual_seed(5),
    });
    expect(prev_sample.dims).toEqual(tensors[`${key}p`]!.dims);
    expectClose(prev_sample.data, tensors[`${key}p`]!.data, 1e-6);
    expect(scheduler.step_index).toBe(step_index);
  });

  test.each([
    [
      [2, 5, 4],
      [2, 4],
    ],
    [
      [2, 5, 4],
      [3, 5],
    ],
    [
      [2, 5, 4],
      [2, 5, 4],
    ],
    [[5, 4], [5]],
  ])("a sample of [%s] does not go with timesteps of [%s]", (dims, tokens) => {
    const scheduler = new FlowMatchEulerDiscreteScheduler();
    scheduler.set_timesteps(6);
    const x = Tensor.zeros(dims);
    const step = (per_token_timesteps: Tensor): unknown =>
      scheduler.step(x, scheduler.timesteps[0]!, x, { per_token_timesteps });
    expect(() => step(Tensor.ones(tokens))).toThrow(ValueError);
    expect(() => step(Tensor.ones(tokens, "float64") as unknown as Tensor)).toThrow(TypeError);
  });
});

test.each(fixture.shifts)("time_shift by $type, $mu and $sigma", ({ type, mu, sigma, t, single }) => {
  const scheduler = new FlowMatchEulerDiscreteScheduler({ time_shift_type: type });
  expectClose(scheduler.time_shift(mu, sigma, Float64Array.from(fixture.times)), t, 1e-15);
  // Float32 stays float32, rounded after each operation.
  const shifted = scheduler.time_shift(mu, sigma, Float32Array.from(fixture.times));
  expect(shifted).toBeInstanceOf(Float32Array);
  expectClose(shifted, single, sigma === 1 ? 0 : 1.2e-7);
});

test("stretch_shift_to_terminal ends at shift_terminal", () => {
  const scheduler = new FlowMatchEulerDiscreteScheduler({ shift_terminal: 0.2 });
  expectClose(scheduler.stretch_shift_to_terminal(Float64Array.from(fixture.times)), fixture.stretched, 1e-15);
});

test("set_shift takes the place of the config's shift", () => {
  const scheduler = new FlowMatchEulerDiscreteScheduler({ shift: 3 });
  expect(scheduler.shift).toBe(3);
  scheduler.set_shift(1.5);
  expect(scheduler.shift).toBe(1.5);
  scheduler.set_timesteps(5);
  expectClose(scheduler.sigmas, fixture.set_shift, 1e-7);
  expect(`${scheduler}`).toContain('"shift": 3');
});

test("timesteps without sigmas are warned of, and a step's number is no timestep", () => {
  const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
  const scheduler = new FlowMatchEulerDiscreteScheduler();
  scheduler.set_timesteps(null, { sigmas: [1, 0.5], timesteps: [1000, 500] });
  expect(warn).not.toHaveBeenCalled();
  scheduler.set_timesteps(null, { timesteps: [1000, 500] });
  expect(warn).toHaveBeenCalledOnce();
  vi.restoreAllMocks();

  const x = Tensor.ones([1, 1, 2, 2]);
  scheduler.set_begin_index(0);
  expect(() => scheduler.step(x, 0, x)).toThrow(ValueError);
  scheduler.step(x, 1000, x);
  expect(() => scheduler.step(x, 1, x)).toThrow(/1 is none of the timesteps/);
  scheduler.step(x, 500, x);
});
