import { CosineDPMSolverMultistepScheduler, Generator, Tensor, ValueError } from "@diffusers-web/core";
import { expect, test } from "vitest";
import { expectClose } from "../../support/allclose.ts";

const x = new Generator().manual_seed(0).randn([2, 8]);

function firstSample(generator?: Generator | readonly Generator[]): Float32Array {
  const scheduler = new CosineDPMSolverMultistepScheduler();
  scheduler.set_timesteps(5);
  return scheduler.step(x, scheduler.timesteps[0]!, x, generator && { generator }).prev_sample.data;
}

test("a generator gives its seed, and is left as it was", () => {
  const generator = new Generator().manual_seed(5);
  generator.randn([100]);
  const state = generator.get_state();
  expect(firstSample(generator)).toEqual(firstSample(new Generator().manual_seed(5)));
  expect(generator.get_state().data).toEqual(state.data);
  expect(firstSample(new Generator().manual_seed(6))).not.toEqual(firstSample(generator));
});

test("without a generator noise is another one in each run", () => {
  expect(firstSample()).not.toEqual(firstSample());
});

test("a negative seed is that of torch, 2^64 more", () => {
  // scheduler.step(x, t, x, generator=torch.Generator().manual_seed(-1)).prev_sample[0, :3]
  const expected = [9.829536437988281, 61.734092712402344, -7.617877006530762];
  expectClose(firstSample(new Generator().manual_seed(-1)).slice(0, 3), expected, 1e-6);
});

test("generators of another number than the batch's are refused", () => {
  expect(() => firstSample([new Generator()])).toThrow(/1 seeds for a batch of 2/);
});

test("EDM's factors: inputs and outputs of unit variance", () => {
  const scheduler = new CosineDPMSolverMultistepScheduler({ sigma_data: 0.5 });
  expectClose(scheduler.precondition_noise([0, 1, 1e9]), [0, 0.5, 1], 1e-7);
  expect([...scheduler.precondition_noise(1)]).toEqual([0.5]);
  const c_in = 1 / Math.sqrt(9 + 0.25);
  expectClose(
    scheduler.precondition_inputs(x, 3).data,
    x.data.map((value) => value * c_in),
    1e-6,
  );
  // c_skip * sample - sigma * sigma_data * c_in * output, of v-prediction.
  const factor = 0.25 / 9.25 - 1.5 * c_in;
  expectClose(
    scheduler.precondition_outputs(x, x, 3).data,
    x.data.map((value) => value * factor),
    1e-6,
  );
  expect(() => scheduler.precondition_outputs(x, Tensor.zeros([2, 7]), 3)).toThrow(ValueError);
});

test("the last step, from the least sigma to 0, goes to the denoised sample without noise", () => {
  const scheduler = new CosineDPMSolverMultistepScheduler();
  scheduler.set_timesteps(3);
  scheduler.set_begin_index(2);
  const { prev_sample } = scheduler.step(x, scheduler.timesteps[2]!, x);
  expect(prev_sample.data).toEqual(scheduler.precondition_outputs(x, x, scheduler.sigmas[2]!).data);
});
