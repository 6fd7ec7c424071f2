/** The generator against torch's, bit for bit. Expected values: tests/fixtures/core/make_generator.py. */
import { createHash } from "node:crypto";
import { type DataType, Generator, randn_tensor, Tensor, ValueError } from "@diffusers-web/core";
import { describe, expect, test } from "vitest";
import { fixtureText } from "../support/fixtures.ts";

type Call = ["rand" | "randn", number[]] | ["randint", number, number, number[]];
interface Entry {
  sha256: string;
  first: number[];
}
const fixture = JSON.parse(fixtureText("core/generator.json")) as {
  calls: Call[];
  sequences: Record<string, { results: Entry[]; state: string }>;
  sizes: string;
  long: string[];
  small: string;
  unseeded: Entry;
  states: [number, string][];
  batch: number[];
};

const bytes = (t: Tensor<DataType>): Uint8Array => new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength);
const sha256 = (...tensors: Tensor<DataType>[]): string => {
  const hash = createHash("sha256");
  for (const tensor of tensors) hash.update(bytes(tensor));
  return hash.digest("hex");
};
const first = (t: Tensor<DataType>): number[] => Array.from(t.data.slice(0, 8), Number);

function draw(generator: Generator, call: Call): Tensor | Tensor<"int64"> {
  if (call[0] === "randint") return generator.randint(call[1], call[2], call[3]);
  return generator[call[0]](call[1]);
}

describe("one sequence of mixed calls", () => {
  test.each(Object.entries(fixture.sequences))("seed %s", (seed, { results, state }) => {
    const generator = new Generator().manual_seed(Number(seed));
    expect(generator.initial_seed()).toBe(Number(seed));
    for (const [i, call] of fixture.calls.entries()) {
      const tensor = draw(generator, call);
      expect(tensor.dims).toEqual(call.at(-1));
      expect(first(tensor), JSON.stringify(call)).toEqual(results[i]!.first);
      expect(sha256(tensor), JSON.stringify(call)).toBe(results[i]!.sha256);
    }
    expect(sha256(generator.get_state())).toBe(state);
  });
});

test("every size from 0 to 100", () => {
  const generator = new Generator().manual_seed(7);
  expect(sha256(...Array.from({ length: 101 }, (_, size) => generator.randn([size])))).toBe(fixture.sizes);
});

test("four million values in a row", () => {
  const generator = new Generator().manual_seed(99);
  for (const expected of fixture.long) expect(sha256(generator.randn([1 << 20]))).toBe(expected);
});

test("300,000 values of the double-precision path", () => {
  const generator = new Generator().manual_seed(11);
  expect(sha256(...Array.from({ length: 20000 }, () => generator.randn([15])))).toBe(fixture.small);
});

test("an unseeded generator starts as torch's does", () => {
  const tensor = new Generator().randn([20]);
  expect(first(tensor)).toEqual(fixture.unseeded.first);
  expect(sha256(tensor)).toBe(fixture.unseeded.sha256);
  expect(new Generator("cpu").initial_seed()).toBe(67280421310721);
});

describe("state", () => {
  test.each(fixture.states)("after %i draws its bytes are torch's", (draws, expected) => {
    const generator = new Generator().manual_seed(3);
    generator.rand([draws]);
    if (draws === 300) generator.randn([1]);
    expect(sha256(generator.get_state())).toBe(expected);
  });

  test.each([0, 1, 300, 624])("after %i draws another generator goes on from it", (draws) => {
    const one = new Generator().manual_seed(-3);
    one.rand([draws]);
    one.randn([3]); // leaves a cached value
    const other = new Generator().set_state(one.get_state());
    expect(other.initial_seed()).toBe(-3);
    for (const size of [1, 2, 40]) expect([...other.randn([size]).data]).toEqual([...one.randn([size]).data]);
  });

  test("is refused when it is none", () => {
    const generator = new Generator();
    const state = generator.get_state();
    expect(() => generator.set_state(state.to("float32") as never)).toThrow(TypeError);
    expect(() => generator.set_state(state.slice([0, 100]))).toThrow(ValueError);
    const broken = state.clone();
    broken.data[16] = 77; // `next` and `left` no longer agree
    expect(() => generator.set_state(broken)).toThrow(ValueError);
    expect(generator.randn([1]).item()).toBe(new Generator().randn([1]).item());
  });
});

test("seed() re-seeds from real randomness", () => {
  const generator = new Generator().manual_seed(0);
  const seed = generator.seed();
  expect(Number.isSafeInteger(seed) && seed >= 0).toBe(true);
  expect(generator.initial_seed()).toBe(seed);
  expect([...generator.randn([20]).data]).toEqual([...new Generator().manual_seed(seed).randn([20]).data]);
  expect(generator.seed()).not.toBe(seed);
});

test("manual_seed drops a cached value", () => {
  const generator = new Generator().manual_seed(5);
  const value = generator.randn([1]).item();
  expect(generator.manual_seed(5).randn([1]).item()).toBe(value);
});

describe("refused", () => {
  test.each([1.5, Number.NaN, Number.POSITIVE_INFINITY, "1", null, undefined, true, 1n])("seed %s", (seed) => {
    expect(() => new Generator().manual_seed(seed as number)).toThrow(TypeError);
  });
  test.each([2 ** 53, -(2 ** 53)])("seed %s", (seed) => {
    expect(() => new Generator().manual_seed(seed)).toThrow(ValueError);
  });
  test.each([[[-1]], [[1.5]], [undefined], [3]])("shape %j", (dims) => {
    expect(() => new Generator().randn(dims as number[])).toThrow(TypeError);
  });
  test.each([
    [5, 5, ValueError],
    [6, 5, ValueError],
    [0.5, 3, TypeError],
    [0, Number.POSITIVE_INFINITY, TypeError],
  ])("randint from %d to %d", (low, high, error) => {
    expect(() => new Generator().randint(low, high, [2])).toThrow(error);
  });
  test("another device", () => {
    expect(() => new Generator("cuda" as "cpu")).toThrow(ValueError);
  });
});

describe("randn_tensor", () => {
  const seeded = (...seeds: number[]): Generator[] => seeds.map((seed) => new Generator().manual_seed(seed));

  test("one generator for each item", () => {
    expect([...randn_tensor([2, 3, 4], { generator: seeded(5, 6) }).data]).toEqual(fixture.batch);
  });
  test("a list of one is that one", () => {
    const expected = seeded(5)[0]!.randn([2, 3, 4]);
    expect(randn_tensor([2, 3, 4], { generator: seeded(5) })).toEqual(expected);
    expect(randn_tensor([2, 3, 4], { generator: seeded(5)[0]! })).toEqual(expected);
  });
  test("a longer list gives its first, a shorter one is refused", () => {
    expect([...randn_tensor([2, 3, 4], { generator: seeded(5, 6, 7) }).data]).toEqual(fixture.batch);
    expect(() => randn_tensor([3, 4], { generator: seeded(5, 6) })).toThrow(/2 generators for a batch of 3/);
    expect(() => randn_tensor([3, 4], { generator: [] })).toThrow(ValueError);
  });
  test("no generator: another noise each time", () => {
    expect(randn_tensor([16])).toBeInstanceOf(Tensor);
    expect([...randn_tensor([16]).data]).not.toEqual([...randn_tensor([16], { generator: null }).data]);
  });
});
