import { type Scheduler, Tensor, ValueError } from "@diffusers-web/core";
import { expect, test } from "vitest";
import { expectClose } from "../../support/allclose.ts";
import { generatorsOf, loadFixture, TOLERANCE } from "./own_form.ts";

/** One call of batch_step_no_noise, as `batch_steps` of cases/common.py describes it. */
interface Row {
  config: object;
  n: number | null;
  t: number[];
  options?: object;
  shape?: number[];
  double?: boolean;
  error: string | null;
}

interface Parallel extends Pick<Scheduler, "set_timesteps" | "step" | "timesteps"> {
  batch_step_no_noise(model_output: Tensor, timesteps: ArrayLike<number>, sample: Tensor, options?: object): Tensor;
}

/** What DDIM and DDPM for parallel sampling have besides the step, which the tests of all schedulers are run on. */
export function testBatchSteps(stem: string, cls: new (config: never) => Parallel): void {
  const { fixture, tensors } = loadFixture<{ batch: Row[] }>(stem);
  test.each(fixture.batch.map((row, i) => [i, JSON.stringify(row), row] as const))("batch %i %s", (i, _title, row) => {
    const scheduler = new cls(row.config as never);
    if (row.n !== null) scheduler.set_timesteps(row.n);
    const shape = row.shape ?? [row.t.length, 2, 2, 2];
    const [inputs] = generatorsOf({ config: {}, n: 1 }, i, shape);
    const sample = inputs.randn(shape);
    const output = inputs.randn(shape.map((size, axis) => (row.double && axis === 1 ? 2 * size : size)));
    const before = [sample.data.slice(), output.data.slice()];
    const call = (): Tensor => scheduler.batch_step_no_noise(output, row.t, sample, row.options);
    if (row.error !== null) {
      expect(call).toThrow(row.options !== undefined && "nope" in row.options ? TypeError : ValueError);
      return;
    }
    const prev = call();
    expect(prev.dims).toEqual(shape);
    expectClose(prev.data, tensors[`batch${i}`]!.data, TOLERANCE);
    expect([sample.data, output.data]).toEqual(before);
  });

  test("an error names the class", () => {
    const scheduler = new cls({} as never);
    scheduler.set_timesteps(5);
    const x = Tensor.ones([1, 2, 2, 2]);
    expect(() => scheduler.set_timesteps(1001)).toThrow(cls.name);
    expect(() => scheduler.step(x, scheduler.timesteps[0]!, Tensor.ones([1, 2, 2, 3]))).toThrow(cls.name);
    expect(() => scheduler.batch_step_no_noise(x, [1, 2], x)).toThrow(cls.name);
  });
}
