import { Generator, RePaintScheduler, Tensor } from "@diffusers-web/core";
import { describe, expect, test } from "vitest";
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
  eta?: number;
  image_shape?: number[];
  mask_shape?: number[];
}

const { fixture, tensors } = loadFixture<OwnFixture<Case>>("repaint");

/** The loop of the RePaint pipeline: a timestep above the one before is a jump back. */
function run(
  scheduler: RePaintScheduler,
  spec: Case,
  seed: number,
  visit: (sample: Tensor, pred_original_sample?: Tensor) => void,
): Tensor {
  const shape = spec.shape ?? fixture.shape;
  const [inputs, generator] = generatorsOf(spec, seed, shape);
  let sample = inputs.randn(shape);
  const image = inputs.randn(spec.image_shape ?? shape);
  const mask = inputs.randn(spec.mask_shape ?? shape).clamp(0, 1);
  let last = scheduler.timesteps[0]! + 1;
  for (const t of scheduler.timesteps.slice(0, spec.keep)) {
    if (t < last) {
      const output = mix(1, inputs.randn(shape), 0.1, sample);
      const result = scheduler.step(output, t, sample, image, mask, { generator });
      sample = result.prev_sample;
      visit(sample, result.pred_original_sample);
    } else {
      sample = scheduler.undo_step(sample, last, { generator });
      visit(sample);
    }
    last = t;
  }
  return sample;
}

test.each(fixture.cases.map((spec, i) => [i, JSON.stringify(spec), spec] as const))("run %i %s", (i, _title, spec) => {
  const scheduler = new RePaintScheduler(spec.config);
  scheduler.set_timesteps(spec.n, spec.set);
  if (spec.eta !== undefined) scheduler.eta = spec.eta;
  const timesteps = tensors[`${i}t`]!.data;
  expect(scheduler.timesteps.length).toBe(tensors[`${i}l`]!.data[0]);
  expect([...scheduler.timesteps.slice(-timesteps.length)]).toEqual([...timesteps]);

  const { check, done } = rowChecker(tensors, i);
  let visited = 0;
  run(scheduler, spec, i, (sample, pred_original_sample) => {
    check("p", sample);
    if (visited++ < 3 && pred_original_sample !== undefined) check("x", pred_original_sample);
  });
  done("px");
});

test("two runs agree", () => {
  expectRepeatable(
    () => new RePaintScheduler({ eta: 0.5 }),
    (scheduler, n, keep) => {
      scheduler.set_timesteps(n, { jump_length: 2, jump_n_sample: 2 });
      return run(scheduler, { config: {}, n, ...(keep !== undefined && { keep }) }, 1, () => {});
    },
  );
});

test("a known picture stays, and what is given is not written to", () => {
  const scheduler = new RePaintScheduler({ eta: 1 });
  scheduler.set_timesteps(5);
  const generator = new Generator().manual_seed(0);
  const given = Array.from({ length: 3 }, () => generator.randn([1, 2, 4, 4]));
  const before = given.map(({ data }) => data.slice());
  const [output, sample, image] = given as [Tensor, Tensor, Tensor];
  const mask = Tensor.ones([1, 1, 4, 4]);
  // The last step goes to no noise at all.
  expect(scheduler.step(output, 0, sample, image, mask, { generator }).prev_sample.data).toEqual(image.data);
  scheduler.undo_step(sample, 200, { generator });
  expect(given.map(({ data }) => data)).toEqual(before);
  expect(mask.data).toEqual(Tensor.ones([1, 1, 4, 4]).data);
});

describe("errors", () => testAttempts(RePaintScheduler, fixture.errors));
