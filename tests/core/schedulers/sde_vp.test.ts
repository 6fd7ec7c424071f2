import { ScoreSdeVpScheduler, type Tensor, ValueError } from "@diffusers-web/core";
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

interface Case extends OwnCase {
  per_item?: boolean;
}

const { fixture, tensors } = loadFixture<OwnFixture<Case>>("sde_vp");

function run(
  scheduler: ScoreSdeVpScheduler,
  spec: Case,
  seed: number,
  visit: (key: "p" | "m", tensor: Tensor) => void,
): Tensor {
  scheduler.set_timesteps(spec.n);
  const shape = spec.shape ?? fixture.shape;
  const [inputs, generator] = generatorsOf(spec, seed, shape);
  let sample = inputs.randn(shape);
  for (const t of scheduler.timesteps.slice(0, spec.keep)) {
    const times = spec.per_item ? Array.from({ length: shape[0]! }, (_, i) => (i === 0 ? t : 0.5 * t)) : t;
    const output = mix(0.5, inputs.randn(shape), 0.1, sample);
    const result = scheduler.step_pred(output, sample, times, { generator });
    sample = result.prev_sample;
    visit("p", sample);
    visit("m", result.prev_sample_mean);
  }
  return sample;
}

test.each(fixture.cases.map((spec, i) => [i, JSON.stringify(spec), spec] as const))("run %i %s", (i, _title, spec) => {
  const scheduler = new ScoreSdeVpScheduler(spec.config);
  const { check, done } = rowChecker(tensors, i);
  run(scheduler, spec, i, check);
  done("pm");
  expect(scheduler.timesteps.length).toBe(spec.n);
  expectClose(scheduler.timesteps.slice(0, spec.keep), tensors[`${i}t`]!.data, 1e-7);
});

test("two runs agree, and what is given is not written to", () => {
  const spec = { config: {}, n: 6 };
  expectRepeatable(
    () => new ScoreSdeVpScheduler(),
    (scheduler, n, keep) => run(scheduler, { ...spec, n, ...(keep !== undefined && { keep }) }, 1, () => {}),
  );
  const scheduler = new ScoreSdeVpScheduler();
  scheduler.set_timesteps(5);
  const [inputs, generator] = generatorsOf(spec, 3, fixture.shape);
  const [score, sample] = [inputs.randn(fixture.shape), inputs.randn(fixture.shape)];
  const before = [score.data.slice(), sample.data.slice()];
  scheduler.step_pred(score, sample, [1, 0.5], { generator });
  expect([score.data, sample.data]).toEqual(before);
  expect(() => scheduler.step_pred(score, sample, [1, 0.5, 0.1])).toThrow(ValueError);
});

describe("errors", () => testAttempts(ScoreSdeVpScheduler, fixture.errors));
