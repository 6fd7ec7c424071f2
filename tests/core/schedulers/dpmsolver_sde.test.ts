import {
  DPMSolverSDEScheduler,
  Generator,
  type Scheduler,
  schedulerRegistry,
  Tensor,
  ValueError,
} from "@diffusers-web/core";
import { describe, expect, test } from "vitest";
import { compare, expectClose } from "../../support/allclose.ts";
import { fixtureText } from "../../support/fixtures.ts";

const { runs } = JSON.parse(fixtureText("schedulers/brownian.json")) as {
  runs: { name: string; config: object; n: number; seed: number; last: number[]; stride: number }[];
};

/** The last sample of a denoising loop like that of the schedulers' fixtures. */
function run(scheduler: Scheduler, n: number, seed: number): Tensor {
  const generator = new Generator().manual_seed(seed);
  scheduler.set_timesteps(n);
  const options =
    scheduler instanceof DPMSolverSDEScheduler ? {} : { generator: new Generator().manual_seed(seed + 1000) };
  let sample = generator.randn([2, 2, 1, 5]).mul(scheduler.init_noise_sigma);
  for (const t of scheduler.timesteps) {
    const scaled = scheduler.scale_model_input(sample, t);
    const output = generator.randn(sample.dims);
    for (let i = 0; i < output.size; i++) output.data[i]! += Math.fround(Math.fround(0.1) * scaled.data[i]!);
    sample = scheduler.step(output, t, sample, options).prev_sample;
  }
  return sample;
}

test("seeded runs are those of torch as it is", () => {
  const errors = runs.map(({ name, config, n, seed, last, stride }) => {
    const sample = run(new schedulerRegistry[name]!(config as never), n, seed);
    const kept = sample.data.filter((_, i) => i % stride === 0);
    const { error, scale } = compare(kept, last);
    // A step whose end lies one millionth further on the path: sqrt(1e-6) of noise, where the step's is of 0.1 to 10.
    expect(error / scale, `${name} ${JSON.stringify(config)} ${n}`).toBeLessThan(1e-3);
    return error / scale;
  });
  // Most have no such step: 23 of the 30 (of the last samples; on the way an error may be ten times as large).
  expect(errors.filter((error) => error < 1e-5).length).toBeGreaterThanOrEqual(20);
});

/** The samples and models of Diffusers' own scheduler tests. */
function sumOfFullLoop(config: object): number {
  const scheduler = new DPMSolverSDEScheduler({
    num_train_timesteps: 1100,
    beta_start: 0.0001,
    beta_end: 0.02,
    noise_sampler_seed: 0,
    ...config,
  });
  scheduler.set_timesteps(10);
  const [batch, rest] = [4, 3 * 8 * 8];
  const ramp = Float32Array.from({ length: batch * rest }, (_, i) => {
    return ((i % rest) * batch + Math.floor(i / rest)) / (batch * rest);
  });
  let sample = new Tensor("float32", ramp, [4, 3, 8, 8]).mul(scheduler.init_noise_sigma);
  for (const t of scheduler.timesteps) {
    sample = scheduler.scale_model_input(sample, t);
    sample = scheduler.step(sample.mul(t / (t + 1)), t, sample).prev_sample;
  }
  return sample.data.reduce((sum, x) => sum + Math.abs(x), 0);
}

// The sums that Diffusers' tests expect, which allow 1e-2.
test.each([
  [{}, 162.52383422851562],
  [{ prediction_type: "v_prediction" }, 119.8487548828125],
  [{ use_karras_sigmas: true }, 170.3135223388672],
])("a full loop of %o", (config, sum) => {
  expect(Math.abs(sumOfFullLoop(config) - sum)).toBeLessThan(1e-3);
});

describe("noise", () => {
  const SD = { beta_schedule: "scaled_linear", noise_sampler_seed: 0 };
  const sample = new Generator().manual_seed(0).randn([2, 3, 4]);
  const zeros = Tensor.zeros([2, 3, 4]);
  const first = (scheduler: DPMSolverSDEScheduler): Float32Array => {
    scheduler.set_timesteps(5);
    return scheduler.step(zeros, scheduler.timesteps[0]!, sample).prev_sample.data;
  };

  test("follows the seed, which may be set anew", () => {
    const scheduler = new DPMSolverSDEScheduler(SD);
    const zero = first(scheduler);
    scheduler.noise_sampler_seed = 1;
    const one = first(scheduler);
    expect(one).not.toEqual(zero);
    expect(one).toEqual(first(new DPMSolverSDEScheduler({ ...SD, noise_sampler_seed: 1 })));
    scheduler.noise_sampler_seed = null;
    expect(first(scheduler)).not.toEqual(first(scheduler));
  });

  test("of a run that starts midway is that of the whole run there", () => {
    // With a model that always predicts zero noise the sample shrinks, and what is added is noise alone.
    const added = (begin: number): Float32Array => {
      const scheduler = new DPMSolverSDEScheduler(SD);
      scheduler.set_timesteps(6);
      let x = zeros;
      const whole = Array.from(scheduler.timesteps).slice(begin, 8);
      scheduler.set_begin_index(begin);
      for (const t of whole) {
        if (t === scheduler.timesteps[6]) x = zeros;
        x = scheduler.step(zeros, t, x).prev_sample;
      }
      return x.data;
    };
    expect(added(4)).toEqual(added(6));
    expect(added(0)).toEqual(added(6));
  });

  test("is not added with an s_noise of 0", () => {
    const scheduler = new DPMSolverSDEScheduler(SD);
    scheduler.set_timesteps(5);
    const { prev_sample, pred_original_sample } = scheduler.step(zeros, scheduler.timesteps[0]!, sample, {
      s_noise: 0,
    });
    expectClose(prev_sample.data, pred_original_sample!.data, 1e-6);
  });

  test("of another shape than the run's is refused", () => {
    const scheduler = new DPMSolverSDEScheduler(SD);
    first(scheduler);
    const other = Tensor.zeros([1, 3, 4]);
    expect(() => scheduler.step(other, scheduler.timesteps[1]!, other)).toThrow(ValueError);
  });
});

test("the two calls of a step", () => {
  const scheduler = new DPMSolverSDEScheduler({ noise_sampler_seed: 0 });
  scheduler.set_timesteps(3);
  const x = Tensor.ones([1, 4]);
  const states: boolean[] = [];
  for (const t of scheduler.timesteps) {
    states.push(scheduler.state_in_first_order);
    scheduler.step(x, t, x);
  }
  expect(states).toEqual([true, false, true, false, true]);
  expect([scheduler.order, scheduler.timesteps.length, scheduler.sigmas.length]).toEqual([2, 5, 6]);
});
