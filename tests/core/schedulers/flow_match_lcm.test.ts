import { FlowMatchLCMScheduler, Generator, Tensor, UnsupportedModelError } from "@diffusers-web/core";
import { describe, expect, test } from "vitest";
import { expectClose } from "../../support/allclose.ts";
import { fixtureTensors, fixtureText } from "../../support/fixtures.ts";

const fixture = JSON.parse(fixtureText("schedulers/flow_match_lcm.json")) as {
  scales: { config: object; set?: [number[], string]; shape: number[]; steps: number; last: number[] }[];
  shifted: { times: number[]; t: number[]; stretched: number[]; sigmas: number[] };
};
const tensors = fixtureTensors("schedulers/flow_match_lcm.safetensors");

describe("from scale to scale", () => {
  const rows = fixture.scales.map(
    ({ config, set, shape }, i) => [i, `${JSON.stringify(config)} ${set ?? ""} [${shape}]`] as const,
  );
  test.each(rows)("%i %s", (i) => {
    const { config, set, shape, steps, last } = fixture.scales[i]!;
    const scheduler = new FlowMatchLCMScheduler(config);
    if (set !== undefined) scheduler.set_scale_factors(...set);
    // Twice: the second run starts from the first size again.
    for (let time = 0; time < 2; time++) {
      scheduler.set_timesteps(steps);
      const [generator, noise] = [new Generator().manual_seed(i), new Generator().manual_seed(i + 1000)];
      let sample = generator.randn(shape);
      for (const [step, t] of scheduler.timesteps.entries()) {
        const output = generator.randn(sample.dims);
        sample = scheduler.step(output, t, sample, { generator: noise }).prev_sample;
        const kept = sample.size > 100 ? sample.data.filter((_, at) => at % 7 === 0) : sample.data;
        expectClose(kept, tensors[`scale${i}p${step}`]!.data, 1e-6, `step ${step}`);
      }
      expect(sample.dims).toEqual(last);
    }
  });

  test("samples without spatial dimensions, or with four, cannot be resized", () => {
    for (const shape of [
      [2, 3],
      [1, 1, 2, 2, 2, 2],
    ]) {
      const scheduler = new FlowMatchLCMScheduler({ scale_factors: [2], upscale_mode: "nearest" });
      scheduler.set_timesteps(2);
      const x = Tensor.ones(shape);
      expect(() => scheduler.step(x, scheduler.timesteps[0]!, x)).toThrow(UnsupportedModelError);
    }
  });
});

test("time_shift, stretch_shift_to_terminal and set_shift are those of the Euler class", () => {
  const { times, t, stretched, sigmas } = fixture.shifted;
  const scheduler = new FlowMatchLCMScheduler({ shift: 3, time_shift_type: "linear", shift_terminal: 0.2 });
  expectClose(scheduler.time_shift(0.8, 1, Float64Array.from(times)), t, 1e-15);
  expectClose(scheduler.stretch_shift_to_terminal(Float64Array.from(times)), stretched, 1e-15);
  scheduler.set_shift(1.5);
  expect(scheduler.shift).toBe(1.5);
  scheduler.set_timesteps(5);
  expectClose(scheduler.sigmas, sigmas, 1e-7);
});
