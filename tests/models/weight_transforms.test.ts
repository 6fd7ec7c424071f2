/** The steps between a checkpoint's tensors and the engine's. Casts: bit for bit what torch gives (make_casts.py). */
import { createHash } from "node:crypto";
import { UnsupportedModelError, WeightsMismatchError } from "@diffusers-web/core";
import { describe, expect, test } from "vitest";
import type { WeightType } from "../../packages/models/src/graph/types.ts";
import { cast, chain, type LazyTensor, rows, squeeze, transpose } from "../../packages/models/src/weight_transforms.ts";
import { Weights } from "../../packages/models/src/weights.ts";
import { fixtureText } from "../support/fixtures.ts";
import { memoryFile, safetensors } from "../support/safetensors.ts";

type Cast = { readonly from: WeightType; readonly to: "F32" | "F16" | "I64" };

const fixture = JSON.parse(fixtureText("models/casts.json")) as {
  readonly tables: readonly (Cast & { readonly bits: readonly string[]; readonly expected: readonly string[] })[];
  readonly all: readonly (Cast & { readonly count: number; readonly sha256: string })[];
};
const names = { F32: "float32", F16: "float16", I64: "int64" } as const;
const widths: Partial<Record<WeightType, number>> = { F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4 };
/** Of each type: what bits a NaN has, at least, and the one that make_casts.py writes. */
const nans = { F32: [0x7f800000, 0x7fc00000], F16: [0x7c00, 0x7e00] } as const;

function bytesOf(bits: Iterable<number | bigint>, width: number): Uint8Array {
  const values = [...bits];
  const bytes = new Uint8Array(values.length * width);
  const view = new DataView(bytes.buffer);
  for (const [i, value] of values.entries()) {
    if (width === 8) view.setBigUint64(i * 8, BigInt(value), true);
    else if (width === 4) view.setUint32(i * 4, Number(value), true);
    else view.setUint16(i * 2, Number(value), true);
  }
  return bytes;
}

function bitsOf(bytes: Uint8Array, width: number): (number | bigint)[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: bytes.length / width }, (_, i) => {
    if (width === 8) return view.getBigUint64(i * 8, true);
    return width === 4 ? view.getUint32(i * 4, true) : view.getUint16(i * 2, true);
  });
}

function isNaNOf(type: Cast["to"], bits: number | bigint): boolean {
  if (type === "I64") return false;
  const [infinity] = nans[type];
  return (Number(bits) & (type === "F32" ? 0x7fffffff : 0x7fff)) > infinity;
}

/** The tensor of a file in which `offset` bytes come before it: numbers in a file need not be aligned. */
function inFile(dtype: WeightType, shape: readonly number[], bytes: Uint8Array, offset = 0): Weights {
  const before: Parameters<typeof safetensors>[0] = offset === 0 ? {} : { before: ["U8", [offset], offset] };
  const data = new Uint8Array(offset + bytes.length);
  data.set(bytes, offset);
  return new Weights([memoryFile(safetensors({ ...before, w: [dtype, shape, bytes.length] }, { data }))]);
}

function run({ from, to }: Cast, bits: readonly (number | bigint)[], offset = 0): (number | bigint)[] {
  const weights = inFile(from, [bits.length], bytesOf(bits, widths[from]!), offset);
  return bitsOf(weights.read("w", names[to]), widths[to]!);
}

describe("casts are torch's, bit for bit", () => {
  test.each(fixture.tables)("$from to $to: the edges", ({ bits, expected, ...types }) => {
    for (const offset of [0, 1]) {
      const results = run(
        types,
        bits.map((text) => BigInt(`0x${text}`)),
        offset,
      );
      const shown = results.map((result) =>
        isNaNOf(types.to, result) ? "nan" : result.toString(16).padStart(widths[types.to]! * 2, "0"),
      );
      expect(Object.fromEntries(bits.map((text, i) => [text, shown[i]]))).toEqual(
        Object.fromEntries(bits.map((text, i) => [text, expected[i]])),
      );
    }
  });

  /** Each half, the point between it and the next, and that point's neighbours, as float32; then the negative ones. */
  function aroundHalves(): number[] {
    const value = (half: number): number => {
      const exponent = half >> 10;
      return exponent === 0 ? half * 2 ** -24 : (1 + (half & 1023) / 1024) * 2 ** (exponent - 15);
    };
    const single = new Float32Array(1);
    const asBits = (x: number): number => {
      single[0] = x;
      return new Uint32Array(single.buffer)[0]!;
    };
    const positive = Array.from({ length: 0x7c00 }, (_, half) => {
      const between = asBits((value(half) + value(half + 1)) / 2);
      return [asBits(value(half)), between - 1, between, between + 1];
    }).flat();
    return [...positive, ...positive.map((bits) => (bits | 0x80000000) >>> 0)];
  }

  test.each(fixture.all)("$from to $to: all $count of them", ({ count, sha256, ...types }) => {
    const bits = types.from === "F32" ? aroundHalves() : Array.from({ length: 65536 }, (_, i) => i);
    expect(bits.length).toBe(count);
    const results = run(types, bits).map((result) =>
      isNaNOf(types.to, result) ? nans[types.to as "F32" | "F16"][1] : result,
    );
    const digest = createHash("sha256").update(bytesOf(results, widths[types.to]!));
    expect(digest.digest("hex")).toBe(sha256);
  });

  test.each([
    ["F8_E4M3", "float32"],
    ["I8", "float16"],
    ["F32", "int64"],
  ] as const)("%s cannot become %s: refused before it is read", (from, to) => {
    let reads = 0;
    const read = (): Uint8Array => {
      reads++;
      return new Uint8Array(0);
    };
    const tensor: LazyTensor = { dtype: from, shape: [0], file: "m.safetensors", read };
    expect(() => cast(to)(tensor, "w")).toThrow(UnsupportedModelError);
    expect(() => cast(to)(tensor, "w")).toThrow(`m.safetensors, tensor w: found ${from} weights`);
    expect(reads).toBe(0);
  });
});

describe("steps", () => {
  const bytes = bytesOf([1, 2, 3, 4, 5, 6], 4);
  const matrix: LazyTensor = { dtype: "F32", shape: [2, 3], file: "m.safetensors", read: () => bytes };

  test("transpose, for elements of any size and at any place", () => {
    for (const [dtype, width] of [
      ["F64", 8],
      ["F32", 4],
      ["BF16", 2],
    ] as const) {
      for (const offset of [0, 1]) {
        inFile(dtype, [2, 3], bytesOf([1, 2, 3, 4, 5, 6], width), offset).view((tensors) => {
          const turned = transpose(tensors.get("w")!, "w");
          expect([turned.dtype, turned.shape]).toEqual([dtype, [3, 2]]);
          expect(bitsOf(turned.read(), width).map(Number)).toEqual([1, 4, 2, 5, 3, 6]);
          return tensors;
        });
      }
    }
    expect(() => transpose({ ...matrix, shape: [6] }, "w")).toThrow(WeightsMismatchError);
  });

  test("squeeze drops trailing ones only, and copies nothing", () => {
    for (const [shape, expected] of [
      [
        [3, 2, 1, 1],
        [3, 2],
      ],
      [
        [1, 6, 1],
        [1, 6],
      ],
      [[6], [6]],
      [[1, 1], []],
    ] as const) {
      const squeezed = squeeze({ ...matrix, shape }, "w");
      expect(squeezed.shape).toEqual(expected);
      expect(squeezed.read()).toBe(bytes);
    }
  });

  test("rows are a view of their bytes", () => {
    const second = rows(1, 2)(matrix, "w");
    expect(second.shape).toEqual([1, 3]);
    expect(bitsOf(second.read(), 4)).toEqual([4, 5, 6]);
    expect(second.read().buffer).toBe(bytes.buffer);
    expect(() => rows(1, 3)(matrix, "w")).toThrow("tensor w: found [2, 3], expected at least 3 rows");
  });

  test("a chain applies its steps in order, and reads once", () => {
    let reads = 0;
    const tensor: LazyTensor = {
      ...matrix,
      dtype: "BF16",
      shape: [2, 2, 1, 1],
      read: () => {
        reads++;
        return bytesOf([0x3f80, 0x4000, 0x4040, 0x4080], 2);
      },
    };
    const result = chain(squeeze, rows(0, 2), transpose, cast("float32"))(tensor, "w");
    expect([result.dtype, result.shape]).toEqual(["F32", [2, 2]]);
    expect(reads).toBe(0);
    expect([...new Float32Array(result.read().buffer)]).toEqual([1, 3, 2, 4]);
    expect(reads).toBe(1);
    expect(chain()(tensor, "w")).toBe(tensor);
  });
});

describe("a view of weights", () => {
  test("renames, splits and casts without reading, and closes the files", () => {
    let closed = 0;
    let reads = 0;
    const file = memoryFile(safetensors({ qkv: ["F32", [3, 2], 24] }, { data: bytesOf([1, 2, 3, 4, 5, 6], 4) }));
    const weights = new Weights([
      {
        ...file,
        readSync: (begin, end) => {
          reads++;
          return file.readSync(begin, end);
        },
        close: () => {
          closed++;
        },
      },
    ]);
    const headerReads = reads;
    const seen = weights.view((tensors) => {
      const qkv = tensors.get("qkv")!;
      return new Map(["to_q", "to_k", "to_v"].map((name, i) => [name, rows(i, i + 1)(qkv, name)]));
    });
    expect([...seen.names()]).toEqual(["to_q", "to_k", "to_v"]);
    expect(seen.shape("qkv")).toBeUndefined();
    expect(seen.file).toBe(weights.file);
    expect(reads).toBe(headerReads);
    expect(bitsOf(seen.read("to_v", "float32"), 4)).toEqual([5, 6]);
    // What it was made of is as it was.
    expect([...weights.names()]).toEqual(["qkv"]);
    seen.close();
    expect(closed).toBe(1);
  });
});
