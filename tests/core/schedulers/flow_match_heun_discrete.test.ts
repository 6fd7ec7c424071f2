import { FlowMatchHeunDiscreteScheduler, Tensor, ValueError } from "@diffusers-web/core";
import { expect, test } from "vitest";
import { expectClose } from "../../support/allclose.ts";
import { fixtureTensors, fixtureText } from "../../support/fixtures.ts";

const { indices } = JSON.parse(fixtureText("schedulers/flow_match_heun_discrete.json")) as { indices: number[] };
const tensors = fixtureTensors("schedulers/flow_match_heun_discrete.safetensors");

const tensor = (name: string): Tensor => {
  const { dims, data } = tensors[name]!;
  return new Tensor("float32", data as Float32Array, dims);
};

test("the first scale_noise says where the run begins, whatever timesteps come later", () => {
  const scheduler = new FlowMatchHeunDiscreteScheduler({ shift: 3 });
  scheduler.set_timesteps(5);
  const [x, noise] = [tensor("x"), tensor("noise")];
  const reached: (number | null)[] = [];
  for (const [i, pick] of [3, 0].entries()) {
    const scaled = scheduler.scale_noise(x, [scheduler.timesteps[pick]!], noise);
    expectClose(scaled.data, tensors[`scaled${i}`]!.data, 1e-6);
    reached.push(scheduler.step_index);
  }
  for (let i = 0; i < 3; i++) {
    expect(scheduler.state_in_first_order).toBe(i % 2 === 0);
    const { prev_sample } = scheduler.step(noise, scheduler.timesteps[0]!, x);
    expectClose(prev_sample.data, tensors[`step${i}`]!.data, 1e-6);
    reached.push(scheduler.step_index);
  }
  expect(reached).toEqual(indices);
  const [, t1, t2] = scheduler.timesteps;
  expectClose(scheduler.scale_noise(x, [t1!, t2!], noise).data, tensors["later"]!.data, 1e-6);
});

test("scale_noise of a run that has not begun takes one timestep", () => {
  const scheduler = new FlowMatchHeunDiscreteScheduler();
  scheduler.set_timesteps(5);
  const x = Tensor.ones([2, 1, 2, 2]);
  const [t0, t1] = scheduler.timesteps;
  expect(() => scheduler.scale_noise(x, [t0!, t1!], x)).toThrow(ValueError);
  expect(() => scheduler.scale_noise(x, [12.5], x)).toThrow(ValueError);
});

test("the sample that a step started from is kept as it was", () => {
  const [kept, written] = [new FlowMatchHeunDiscreteScheduler(), new FlowMatchHeunDiscreteScheduler()];
  const results = [kept, written].map((scheduler) => {
    scheduler.set_timesteps(3);
    const [x, v] = [tensor("x").clone(), tensor("noise").clone()];
    const { prev_sample } = scheduler.step(v, scheduler.timesteps[0]!, x);
    if (scheduler === written) for (const { data } of [x, v]) data.fill(9);
    return scheduler.step(tensor("noise"), scheduler.timesteps[1]!, prev_sample).prev_sample.data;
  });
  expect(results[1]).toEqual(results[0]);
});
