import { ValueError } from "@diffusers-web/core";
import { describe, expect, test } from "vitest";
import { BrownianInterval, BrownianTreeNoiseSampler } from "../../../packages/core/src/schedulers/brownian_tree.ts";
import { SeedSequence } from "../../../packages/core/src/seed_sequence.ts";
import { expectClose } from "../../support/allclose.ts";
import { fixtureText } from "../../support/fixtures.ts";

type Pair = [from: number, to: number];

const fixture = JSON.parse(fixtureText("schedulers/brownian.json")) as {
  seeds: { entropy: string; spawn_key: number[]; pool_size: number; state: number[] }[];
  paths: {
    t0: number;
    t1: number;
    dims: number[];
    entropy: string;
    times: Pair[];
    increments: (number[] | null)[];
  }[];
  samplers: {
    dims: number[];
    low: number;
    high: number;
    seed: string | string[];
    levels: number[];
    noise: number[][];
  }[];
};

describe("SeedSequence", () => {
  test.each(fixture.seeds)("of $entropy, spawn key $spawn_key", ({ entropy, spawn_key, pool_size, state }) => {
    const words = new SeedSequence(BigInt(entropy), { spawn_key, pool_size }).generate_state(state.length);
    expect([...words]).toEqual(state);
  });

  test("takes numbers and bigints alike", () => {
    for (const seed of [0, 2 ** 32, Number.MAX_SAFE_INTEGER]) {
      expect(new SeedSequence(seed).generate_state(4)).toEqual(new SeedSequence(BigInt(seed)).generate_state(4));
    }
  });

  test.each([-1, 0.5, 2 ** 53, Number.NaN, -1n])("refuses %s", (seed) => {
    expect(() => new SeedSequence(seed)).toThrow(ValueError);
  });
});

describe("BrownianInterval", () => {
  const rows = fixture.paths.map((row) => [`of ${row.entropy}, [${row.dims}]`, row] as const);
  const make = ({ t0, t1, dims, entropy }: (typeof fixture.paths)[0]): BrownianInterval =>
    new BrownianInterval(t0, t1, dims, BigInt(entropy));

  test.each(rows)("%s is torchsde's bit for bit", (_title, row) => {
    const path = make(row);
    for (const [i, [ta, tb]] of row.times.entries()) {
      // null: both times round to one.
      const size = row.dims.reduce((a, b) => a * b, 1);
      const expected = Float32Array.from(row.increments[i] ?? new Float32Array(size));
      expect(path.increment(ta, tb), `${ta} to ${tb}`).toEqual(expected);
    }
  });

  test.each(rows)("%s does not depend on the order of queries", (_title, row) => {
    const path = make(row);
    for (const [i, [ta, tb]] of [...row.times.entries()].reverse()) {
      const expected = row.increments[i];
      if (expected !== null) expect([...path.increment(ta, tb)]).toEqual(expected);
    }
  });

  test("increments add up", () => {
    const path = new BrownianInterval(0, 10, [64], 3);
    const parts = [0, 2.5, 2.6, 7, 10].map((t, i, all) => path.increment(all[i - 1] ?? 0, t));
    const sum = path.increment(0, 10).map((_, i) => parts.reduce((total, part) => total + part[i]!, 0));
    expectClose(sum, path.increment(0, 10), 1e-6);
  });

  test("increments have the variance of their time", () => {
    const path = new BrownianInterval(0, 8, [20000], 1);
    for (const [ta, tb] of [
      [0, 8],
      [1.1, 1.3],
      [3.9, 4.2],
    ] as const) {
      const mean = path.increment(ta, tb).reduce((sum, w) => sum + w * w, 0) / 20000;
      expect(Math.abs(mean / (tb - ta) - 1)).toBeLessThan(0.05);
    }
  });

  test("times that leave no room for a path are refused", () => {
    expect(() => new BrownianInterval(1, Number.POSITIVE_INFINITY, [4], 0).increment(1, 2)).toThrow(ValueError);
  });
});

describe("BrownianTreeNoiseSampler", () => {
  test.each(fixture.samplers)("of $dims, seed $seed", ({ dims, low, high, seed, levels, noise }) => {
    const seeds = typeof seed === "string" ? BigInt(seed) : seed.map(BigInt);
    const sampler = new BrownianTreeNoiseSampler(dims, low, high, seeds);
    for (const [i, expected] of noise.entries()) {
      // The root that increments are divided by may be a last bit off in torch, and the quotient then two.
      expectClose(sampler.noise(levels[i]!, levels[i + 1]!), expected, 2.4e-7, `to ${levels[i + 1]}`);
    }
  });

  test("between equal levels it is NaN", () => {
    const sampler = new BrownianTreeNoiseSampler([2], 0.1, 10, 0);
    expect([...sampler.noise(5, 5)]).toEqual([Number.NaN, Number.NaN]);
  });

  test("an item's noise does not depend on its batch", () => {
    const two = new BrownianTreeNoiseSampler([2, 20], 0.1, 10, [3, 4]).noise(5, 2);
    const one = new BrownianTreeNoiseSampler([1, 20], 0.1, 10, [4]).noise(5, 2);
    expect(two.slice(20)).toEqual(one);
  });

  test("without a seed each has noise of its own", () => {
    const [a, b] = [1, 2].map(() => new BrownianTreeNoiseSampler([20], 0.1, 10).noise(5, 2));
    expect(a).not.toEqual(b);
  });

  test("seeds that do not fit the batch are refused", () => {
    expect(() => new BrownianTreeNoiseSampler([2, 3], 0.1, 10, [1])).toThrow(/1 seeds for a batch of 2/);
  });
});
