import { Generator, Tensor, UnsupportedModelError, ValueError } from "@diffusers-web/core";
import { expect, test, vi } from "vitest";
import { expectClose } from "../../support/allclose.ts";
import { type FixtureTensor, fixtureTensors, fixtureText } from "../../support/fixtures.ts";

// For the schedulers whose step has a form of its own. Their fixtures are made by `run` of cases/<stem>.py.

/** What each case may hold; see the case files for what is particular to one. */
export interface OwnCase {
  config: object;
  n: number;
  set?: object;
  shape?: number[];
  generators?: boolean;
  keep?: number;
}

/** A config and calls `[method, arguments..., options]`, and where and with what Python's last one ended. */
interface Attempt {
  config: object;
  calls: [method: string, ...args: unknown[]][];
  error: string | null;
  at: number;
}

export interface OwnFixture<C extends OwnCase> {
  shape: number[];
  cases: C[];
  errors: Attempt[];
}

/** Sums in another order, and torch's square root, exponential and power, which are off by a last bit. */
export const TOLERANCE = 1e-5;

export function loadFixture<F>(stem: string): { fixture: F; tensors: Record<string, FixtureTensor> } {
  const fixture = JSON.parse(fixtureText(`schedulers/${stem}.json`)) as F;
  return { fixture, tensors: fixtureTensors(`schedulers/${stem}.safetensors`) };
}

/** The generators of a case: of its inputs, and of the scheduler's noise. */
export function generatorsOf(
  spec: OwnCase,
  seed: number,
  shape: readonly number[],
): [Generator, Generator | Generator[]] {
  const inputs = new Generator().manual_seed(seed);
  if (!spec.generators) return [inputs, new Generator().manual_seed(seed + 1000)];
  return [inputs, Array.from({ length: shape[0]! }, (_, i) => new Generator().manual_seed(seed + 1000 + i))];
}

/** `a * x + b * y`, rounded as torch does. */
export function mix(a: number, x: Tensor, b: number, y: Tensor): Tensor {
  return x.mul(Math.fround(a)).add(y.mul(Math.fround(b)));
}

/** A function that compares the outputs of a name, one after the other, with the rows of the fixture; and the end of it. */
export function rowChecker(
  tensors: Record<string, FixtureTensor>,
  seed: number,
): { check(key: string, actual: Tensor | undefined): void; done(keys: string): void } {
  const seen: Record<string, number> = {};
  return {
    check(key, actual) {
      const { dims, data } = tensors[`${seed}${key}`]!;
      const row = seen[key] ?? 0;
      seen[key] = row + 1;
      const stride = Math.ceil(actual!.size / dims[1]!);
      const kept = actual!.data.filter((_, i) => i % stride === 0);
      expectClose(kept, data.subarray(row * dims[1]!, (row + 1) * dims[1]!), TOLERANCE, `${key} ${row}`, 1e-30);
    },
    done(keys) {
      for (const key of keys) expect(seen[key] ?? 0, key).toBe(tensors[`${seed}${key}`]?.dims[0] ?? 0);
    },
  };
}

/** Two runs of one object agree, also after one of another length that was left in the middle; and with a fresh object. */
export function expectRepeatable<S>(make: () => S, run: (scheduler: S, steps: number, keep?: number) => Tensor): void {
  const scheduler = make();
  const first = run(scheduler, 6);
  expect(run(scheduler, 6)).toEqual(first);
  run(scheduler, 9, 5);
  expect(run(scheduler, 6)).toEqual(first);
  expect(run(make(), 6)).toEqual(first);
}

/** Python's errors, where Python has them. */
export function testAttempts(cls: new (config: never) => object, attempts: readonly Attempt[]): void {
  const rows = attempts.map((row) => [JSON.stringify([row.config, row.calls]), row] as const);
  test.each(rows)("an error comes where Python raises one: %s", (title, { config, calls, error, at }) => {
    let reached = -1;
    const placed: Record<string, Tensor> = { x: Tensor.ones([1, 3, 2, 2]), y: Tensor.ones([1, 3, 2, 3]) };
    const attempt = (): void => {
      const scheduler = new cls(config as never) as unknown as Record<string, (...args: unknown[]) => unknown>;
      for (const [i, [method, ...args]] of calls.entries()) {
        reached = i;
        scheduler[method]!(...args.map((arg) => placed[arg as string] ?? arg));
      }
    };
    vi.spyOn(console, "warn").mockImplementation(() => {});
    // Fewer than 1 step: some classes of Python's make an empty schedule of it, here it is refused.
    const stricter = calls.some(([method, n]) => method.startsWith("set_") && (n as number) <= 0);
    if (error === null && !stricter) {
      expect(attempt).not.toThrow();
    } else {
      // Python also has a TypeError for a `step` before `set_timesteps`; an unknown field or option is one here too.
      const misuse = title.includes('"nope":') || (error === "TypeError" && at === -1);
      expect(attempt).toThrow(
        misuse ? TypeError : error === "NotImplementedError" ? UnsupportedModelError : ValueError,
      );
      expect(reached).toBe(at);
    }
    vi.restoreAllMocks();
  });
}
