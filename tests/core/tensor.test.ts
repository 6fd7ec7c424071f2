/** Tensor operations against torch. Expected values: tests/fixtures/core/make_tensor.py. */
import { type DataType, type NestedNumbers, type SliceRange, Tensor, ValueError } from "@diffusers-web/core";
import { describe, expect, expectTypeOf, test } from "vitest";
import { fixtureTensors, fixtureText } from "../support/fixtures.ts";

interface Case {
  operand: string;
  operation: string;
  args: (string | number | null | number[])[];
  type: DataType;
  dims: number[];
}
const { operands, cases } = JSON.parse(fixtureText("core/tensor.json")) as {
  operands: Record<string, DataType>;
  cases: Case[];
};
const stored = fixtureTensors("core/tensor.safetensors");

function load(name: string, type: DataType): Tensor<DataType> {
  const { data, dims } = stored[name]!;
  return new Tensor(type, type === "float16" ? Uint16Array.from(data as Int32Array) : data, dims);
}

function operand(name: unknown): Tensor<DataType> {
  const key = (name as string).replace("$", "");
  return load(key, operands[key]!);
}

function run({ operand: name, operation, args }: Case): Tensor<DataType> {
  const x = operand(name);
  switch (operation) {
    case "to":
      return x.to(args[0] as DataType);
    case "slice":
      return x.slice(...(args as SliceRange[]));
    case "chunk":
      return x.chunk(args[0] as number, args[2] as number)[args[1] as number]!;
    case "cat":
    case "stack":
      return Tensor[operation]([x, ...args.slice(1).map(operand)], args[0] as number);
    default: {
      const given = args.map((arg) => (typeof arg === "string" ? operand(arg) : arg));
      return (x[operation as "add"] as (...args: unknown[]) => Tensor<DataType>).apply(x, given);
    }
  }
}

describe("as torch, to the bit", () => {
  test.each(cases.map((c, i) => [`${c.operand}.${c.operation}(${c.args.join()})`, c, i] as const))("%s", (_, c, i) => {
    const result = run(c);
    const expected = load(String(i), c.type);
    expect([result.type, result.dims]).toEqual([c.type, c.dims]);
    if (["mean", "std", "sqrt"].includes(c.operation)) {
      // torch adds up in float32 (in another order), ours in float64, rounded once; torch's vectorised square root is
      // one unit off now and then, Math.sqrt never.
      const ulp = c.type === "float64" ? 2 ** -52 : c.type === "float16" ? 2 ** -10 : 2 ** -23;
      const actual = [...result.to("float64").data];
      for (const [j, value] of expected.to("float64").data.entries()) {
        const largest = Math.max(1, Math.abs(value));
        if (Number.isFinite(value)) expect(Math.abs(actual[j]! - value)).toBeLessThanOrEqual(ulp * largest);
        else expect(actual[j]).toBe(value);
      }
    } else if (c.type === "float16") {
      // Any NaN is as good as another; the bits are not.
      expect([...result.to("float32").data]).toEqual([...expected.to("float32").data]);
    } else {
      expect([...result.data]).toEqual([...expected.data]);
    }
  });
});

describe("making one", () => {
  test("a typed array is used as it is, other numbers are converted", () => {
    const data = new Float32Array([1, 2, 3, 4]);
    expect(new Tensor("float32", data, [2, 2]).data).toBe(data);
    expect([...new Tensor("float32", [0.1, 2], [2]).data]).toEqual([Math.fround(0.1), 2]);
    expect([...new Tensor("int64", [1, 2.9, -2.9], [3]).data]).toEqual([1n, 2n, -2n]);
    expect([...new Tensor("int64", [1n, 2n ** 60n], [2]).data]).toEqual([1n, 2n ** 60n]);
    expect([...new Tensor("float16", new Uint16Array([0x3c00]), [1]).to("float32").data]).toEqual([1]);
    expect([...new Tensor("float16", [1, 0.1], [2]).data]).toEqual([0x3c00, 0x2e66]);
    expect([...new Tensor("bool", [true, false, 3], [3]).data]).toEqual([1, 0, 1]);
    expect([...new Tensor("float32", new Uint8ClampedArray([255, 3]), [2]).data]).toEqual([255, 3]);
  });

  test("a Float16Array (where there are some) is its bits", () => {
    class Float16Array extends Uint16Array {}
    Object.assign(globalThis, { Float16Array });
    try {
      expect([...new Tensor("float16", new Float16Array([0x3c00, 0x2e66]), [2]).data]).toEqual([0x3c00, 0x2e66]);
    } finally {
      Reflect.deleteProperty(globalThis, "Float16Array");
    }
  });

  test.each<[string, Tensor<DataType>, DataType, NestedNumbers]>([
    [
      "zeros",
      Tensor.zeros([2, 2]),
      "float32",
      [
        [0, 0],
        [0, 0],
      ],
    ],
    ["ones", Tensor.ones([3], "int64"), "int64", [1, 1, 1]],
    ["full", Tensor.full([1, 2], 0.5), "float32", [[0.5, 0.5]]],
    ["full of float16", Tensor.full([2], 0.5, "float16"), "float16", [0.5, 0.5]],
    ["full of int64", Tensor.full([2], -7, "int64"), "int64", [-7, -7]],
    [
      "from lists",
      Tensor.from([
        [1, 2],
        [3, 4],
        [5, 6],
      ]),
      "float32",
      [
        [1, 2],
        [3, 4],
        [5, 6],
      ],
    ],
    ["from a number", Tensor.from(3), "float32", 3],
    ["from ids", Tensor.from([[49406, 320, 49407]], "int64"), "int64", [[49406, 320, 49407]]],
    [
      "from typed arrays",
      Tensor.from([new Float32Array([1, 2]), new Float32Array([3, 4])]),
      "float32",
      [
        [1, 2],
        [3, 4],
      ],
    ],
    ["from bigints", Tensor.from([1n, 2n], "int64"), "int64", [1, 2]],
    ["from nothing", Tensor.from([[], []]), "float32", [[], []]],
    ["of rank 0", new Tensor("float32", [2], []), "float32", 2],
    ["with an empty dimension", Tensor.zeros([2, 0, 3]), "float32", [[], []]],
  ])("%s", (_, tensor, type, list) => {
    expect([tensor.type, tensor.tolist()]).toEqual([type, list]);
  });

  test.each<[string, () => unknown, new (...args: never[]) => Error, RegExp]>([
    ["an unknown type", () => new Tensor("float" as "float32", [1], [1]), TypeError, /Did you mean "float32"\?/],
    ["too few values", () => new Tensor("float32", [1, 2], [3]), ValueError, /2 values .* \[3\]/],
    ["a negative size", () => new Tensor("float32", [], [-1]), TypeError, /\[-1\]/],
    ["no shape", () => Tensor.zeros(3 as never), TypeError, /\[1, 4, 64, 64\]/],
    ["ragged lists", () => Tensor.from([[1, 2], [3]]), ValueError, /depth 1, a list of 1/],
    ["lists of two depths", () => Tensor.from([[1, 2], 3]), ValueError, /depth 1, 3/],
    ["lists deeper than the first", () => Tensor.from([1, [2]]), ValueError, /depth 1, a list of 1/],
  ])("refuses %s", (_, make, error, message) => {
    expect(make).toThrow(error);
    expect(make).toThrow(message);
  });
});

describe("data is shared where torch's views share it", () => {
  const x = Tensor.from([
    [1, 2, 3],
    [4, 5, 6],
  ]);
  test.each<[string, Tensor, boolean]>([
    ["reshape", x.reshape(3, 2), true],
    ["view", x.view(-1), true],
    ["unsqueeze", x.unsqueeze(0), true],
    ["squeeze", x.squeeze(), true],
    ["a leading slice", x.slice(1), true],
    ["chunks of the batch", x.chunk(2)[1]!, true],
    ["to its own type", x.to("float32"), true],
    ["permute", x.permute(1, 0), false],
    ["an inner slice", x.slice(null, [0, 2]), false],
    ["clone", x.clone(), false],
    ["add", x.add(0), false],
    ["cat", Tensor.cat([x]), false],
  ])("%s", (_, result, shared) => {
    expect(result.data.buffer === x.data.buffer).toBe(shared);
  });
});

describe("numbers out", () => {
  test("item", () => {
    expect(Tensor.from([[3.5]]).item()).toBe(3.5);
    expect(new Tensor("int64", [7n], []).item()).toBe(7);
    expect(() => Tensor.from([1, 2]).item()).toThrow(/shape \[2\]/);
  });
  test("sizes", () => {
    expect([Tensor.zeros([2, 3]).size, Tensor.zeros([]).size, Tensor.zeros([0, 3]).size]).toEqual([6, 1, 0]);
  });
});

describe("misuse names shapes", () => {
  const x = Tensor.zeros([2, 3, 4]);
  test.each<[string, () => unknown, new (...args: never[]) => Error, RegExp]>([
    ["add", () => x.add(Tensor.zeros([3, 3])), ValueError, /\[2, 3, 4\] and \[3, 3\] do not broadcast/],
    ["add of a list", () => x.add([1] as never), TypeError, /add takes a tensor or a number, got object/],
    ["mul of nothing", () => x.mul(undefined as never), TypeError, /got undefined/],
    ["div by null", () => x.div(null as never), TypeError, /got null/],
    ["sub of bools", () => Tensor.ones([1], "bool").sub(Tensor.ones([1], "bool")), TypeError, /bool/],
    ["neg of bools", () => Tensor.ones([1], "bool").neg(), TypeError, /bool/],
    ["reshape", () => x.reshape(5, -1), ValueError, /\[2, 3, 4\] cannot be reshaped to \[5, -1\]/],
    ["reshape with two open sizes", () => x.reshape(-1, -1), ValueError, /\[-1, -1\]/],
    ["reshape of nothing with an open size", () => Tensor.zeros([0]).reshape(-1, 0), ValueError, /\[0\]/],
    ["permute of too few", () => x.permute(0, 1), ValueError, /permute\(0, 1\)/],
    ["permute of one twice", () => x.permute(0, 1, 1), ValueError, /permute\(0, 1, 1\)/],
    ["permute out of range", () => x.permute(0, 1, 3), ValueError, /Dimension 3 is out of range .* \[2, 3, 4\]/],
    ["unsqueeze out of range", () => x.unsqueeze(5), ValueError, /Dimension 5/],
    ["squeeze out of range", () => x.squeeze(-4), ValueError, /Dimension -4/],
    ["slice beyond", () => x.slice(2), ValueError, /Index 2 is out of range for dimension 0 .* \[2, 3, 4\]/],
    ["slice of too many", () => x.slice(0, 0, 0, 0), ValueError, /4 ranges/],
    ["slice at a fraction", () => x.slice([0, 1.5]), TypeError, /1.5/],
    ["chunk into none", () => x.chunk(0), ValueError, /got 0/],
    ["cat of none", () => Tensor.cat([]), ValueError, /at least one/],
    ["cat of other shapes", () => Tensor.cat([x, Tensor.zeros([2, 2, 4])]), ValueError, /\[2, 3, 4\] and \[2, 2, 4\]/],
    ["cat of other ranks", () => Tensor.cat([x, Tensor.zeros([2, 3])]), ValueError, /\[2, 3\]/],
    ["stack of other shapes", () => Tensor.stack([x, Tensor.zeros([2, 3])]), ValueError, /cannot be joined/],
    ["expand", () => x.expand(2, 3, 5), ValueError, /\[2, 3, 4\] cannot be expanded to \[2, 3, 5\]/],
    ["expand to fewer", () => x.expand(3, 4), ValueError, /\[3, 4\]/],
    ["repeat_interleave", () => x.repeat_interleave(-1, 0), ValueError, /got -1/],
    ["clamp without bounds", () => x.clamp(), ValueError, /minimum or a maximum/],
    ["min of nothing", () => Tensor.zeros([0, 2]).min(), ValueError, /\[0, 2\]/],
    ["mean of integers", () => Tensor.ones([2], "int64").mean(), TypeError, /int64/],
    ["to an unknown type", () => x.to("half" as "float16"), TypeError, /half/],
  ])("%s", (_, call, error, message) => {
    expect(call).toThrow(error);
    expect(call).toThrow(message);
  });
});

test("types follow the operation", () => {
  const x = Tensor.zeros([1]);
  const ids = Tensor.zeros([1], "int64");
  expectTypeOf(x.add(1)).toEqualTypeOf<Tensor>();
  expectTypeOf(x.mul(ids)).toEqualTypeOf<Tensor>();
  expectTypeOf(x.sub(x as Tensor | number)).toEqualTypeOf<Tensor>();
  expectTypeOf(ids.add(ids)).toEqualTypeOf<Tensor<"int64">>();
  expectTypeOf(ids.div(2)).toEqualTypeOf<Tensor>();
  expectTypeOf(ids.to("float16").data).toEqualTypeOf<Uint16Array>();
  expectTypeOf(ids.data).toEqualTypeOf<BigInt64Array>();
});
