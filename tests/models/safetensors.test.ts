import { IntegrityError, openSource, UnsupportedModelError } from "@diffusers-web/core";
import { describe, expect, test } from "vitest";
import { readSafetensors } from "../../packages/models/src/safetensors.ts";
import { parseShardedIndex, Weights } from "../../packages/models/src/weights.ts";
import { fixturePath, fixtureTensors } from "../support/fixtures.ts";
import { memoryFile, safetensors } from "../support/safetensors.ts";

describe("reading", () => {
  const file = "quicktour/ddpm-tiny/diffusion_pytorch_model.safetensors";

  test("every tensor of a file that Diffusers wrote", async () => {
    const source = await openSource(fixturePath("quicktour/ddpm-tiny"));
    const weights = new Weights([(await source.open("diffusion_pytorch_model.safetensors"))!]);
    const expected = fixtureTensors(file);
    expect([...weights.names()].sort()).toEqual(Object.keys(expected).sort());
    for (const [name, { dims, data }] of Object.entries(expected)) {
      expect(weights.shape(name)).toEqual(dims);
      expect(weights.dtype(name)).toBe("F32");
      const bytes = weights.read(name, "float32");
      expect(new Float32Array(bytes.slice().buffer)).toEqual(data);
    }
    weights.close();
    weights.close();
  });

  test("metadata, a scalar, an empty tensor and a padded header", () => {
    const file = memoryFile(
      safetensors(
        { scalar: ["F32", [], 4], empty: ["F32", [0, 3], 0], "": ["U8", [3], 3] },
        { metadata: { format: "pt" }, padding: 5 },
      ),
    );
    const { tensors, metadata } = readSafetensors(file);
    expect(metadata).toEqual({ format: "pt" });
    expect([...tensors].map(([name, { shape, begin, end }]) => [name, shape, end - begin])).toEqual([
      ["scalar", [], 4],
      ["empty", [0, 3], 0],
      ["", [3], 3],
    ]);
  });

  test("weights in memory and of the right type are handed on without a copy", () => {
    const bytes = safetensors({ a: ["F32", [2], 8], b: ["F16", [4], 8] });
    const weights = new Weights([memoryFile(bytes)]);
    for (const [name, as] of [
      ["a", "float32"],
      ["b", "float16"],
    ] as const) {
      const read = weights.read(name, as);
      expect(read.buffer).toBe(bytes.buffer);
      expect(read.byteLength).toBe(8);
    }
  });
});

/** A header as text, with `dataLength` bytes after it. */
function raw(header: string, dataLength: number): Uint8Array {
  const text = new TextEncoder().encode(header);
  const bytes = new Uint8Array(8 + text.length + dataLength);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}

function lying(entry: object, dataLength = 8): Uint8Array {
  return raw(JSON.stringify({ w: entry }), dataLength);
}

const good = { dtype: "F32", shape: [2], data_offsets: [0, 8] };

test("a sound header whose length begins with the byte of `<` is no web page", () => {
  const text = JSON.stringify({ w: good });
  const bytes = raw(text.padEnd(60), 8);
  expect(String.fromCharCode(bytes[0]!)).toBe("<");
  expect([...readSafetensors(memoryFile(bytes)).tensors.keys()]).toEqual(["w"]);
});

describe("files that are not what they say", () => {
  const cases: [string, Uint8Array, RegExp, string[] | undefined][] = [
    ["empty", new Uint8Array(0), /found 0 bytes/, undefined],
    ["a few bytes", new Uint8Array(5), /found 5 bytes/, undefined],
    [
      "a Git LFS pointer",
      new TextEncoder().encode("version https://git-lfs.github.com/spec/v1\n"),
      /a Git LFS pointer/,
      undefined,
    ],
    ["a web page", new TextEncoder().encode("<!doctype html><title>404</title>"), /a web page/, undefined],
    [
      "a header longer than the file",
      raw("{}", 0).fill(200, 0, 1),
      /found a file of 10 bytes, expected at least the 208/,
      undefined,
    ],
    ["a header of impossible length", raw("{}", 0).fill(255, 0, 8), /header length of \d+/, undefined],
    ["no header", raw("", 0), /header length of 0/, undefined],
    ["a header that is not JSON", raw("{nonsense}", 0), /not JSON/, undefined],
    ["a header that is not UTF-8", raw('{"a": 1}', 0).fill(255, 10, 11), /not JSON/, undefined],
    ["a header that is a list", raw("[1]", 0), /no JSON object/, undefined],
    ["metadata that is text", raw('{"__metadata__": "x"}', 0), /__metadata__/, undefined],
    ["an entry that is a number", raw('{"w": 3}', 0), /found 3, expected an object/, ["w"]],
    ["an unknown dtype", lying({ ...good, dtype: "F33" }), /dtype "F33"/, ["w"]],
    ["no dtype", lying({ ...good, dtype: undefined }), /dtype undefined/, ["w"]],
    ["an inherited dtype", lying({ ...good, dtype: "constructor" }), /dtype "constructor"/, ["w"]],
    ["a negative shape", lying({ ...good, shape: [-2] }), /shape \[-2\]/, ["w"]],
    ["a fractional shape", lying({ ...good, shape: [0.5] }), /shape \[0.5\]/, ["w"]],
    ["no shape", lying({ ...good, shape: null }), /shape null/, ["w"]],
    ["one offset", lying({ ...good, data_offsets: [8] }), /data_offsets \[8\]/, ["w"]],
    ["offsets that go back", lying({ ...good, data_offsets: [8, 0] }), /bytes 8 to 0, expected 8 bytes/, ["w"]],
    [
      "a shape larger than the range",
      lying({ ...good, shape: [3] }),
      /bytes 0 to 8, expected 12 bytes for F32 \[3\]/,
      ["w"],
    ],
    ["a shape smaller than the range", lying({ ...good, shape: [1] }), /expected 4 bytes/, ["w"]],
    ["truncated", lying(good, 7), /truncated/, ["w"]],
    ["bytes after the last tensor", lying(good, 9), /where its last tensor ends/, undefined],
    ["a start after zero", lying({ ...good, data_offsets: [8, 16] }, 16), /a start at byte/, ["w"]],
    [
      "overlapping tensors",
      raw(JSON.stringify({ a: good, b: { ...good, data_offsets: [4, 12] } }), 12),
      /tensor b: found a start at byte \d+, inside a/,
      ["b"],
    ],
    [
      "a gap between tensors",
      raw(JSON.stringify({ a: good, b: { ...good, data_offsets: [12, 20] } }), 20),
      /tensor b: found a start at byte/,
      ["b"],
    ],
  ];
  test.each(cases)("%s", (_name, bytes, message, tensors) => {
    let error: unknown;
    try {
      readSafetensors(memoryFile(bytes));
    } catch (caught) {
      error = caught;
    }
    expect(error).toBeInstanceOf(IntegrityError);
    const { message: text, details } = error as IntegrityError;
    expect(text).toMatch(message);
    expect(text).toContain("model.safetensors");
    expect(details).toMatchObject({
      file: "model.safetensors",
      found: expect.any(String),
      expected: expect.any(String),
    });
    expect(details.tensors).toEqual(tensors);
  });

  test("a file that shrinks after its header was read", () => {
    const bytes = safetensors({ w: ["F32", [2], 8] });
    const file = memoryFile(bytes);
    const weights = new Weights([
      { ...file, readSync: (begin, end) => file.readSync(begin, Math.min(end, bytes.length - 1)) },
    ]);
    expect(() => weights.read("w", "float32")).toThrow(/only 7 of 8 bytes could be read/);
  });
});

// The bits that torch makes: `tensor.half()`, `tensor.float()`.
const conversions: [from: string, bits: number[], to: "float32" | "float16", expected: number[]][] = [
  // 1, -2, the largest half, the smallest normal, the smallest and largest subnormal, infinity, zeros
  [
    "F16",
    [0x3c00, 0xc000, 0x7bff, 0x0400, 0x0001, 0x03ff, 0x7c00, 0xfc00, 0x0000, 0x8000],
    "float32",
    [0x3f800000, 0xc0000000, 0x477fe000, 0x38800000, 0x33800000, 0x387fc000, 0x7f800000, 0xff800000, 0, 0x80000000],
  ],
  ["BF16", [0x3f80, 0xc000, 0x7f7f, 0x0001], "float32", [0x3f800000, 0xc0000000, 0x7f7f0000, 0x00010000]],
  // 1, 1 + 2^-7, 65280, 65536 (infinite), 2^-24, 2^-25 (ties to zero), a NaN
  [
    "BF16",
    [0x3f80, 0x3f81, 0x477f, 0x4780, 0x3380, 0x3300, 0x7fc0],
    "float16",
    [0x3c00, 0x3c08, 0x7bf8, 0x7c00, 0x0001, 0x0000, 0x7e00],
  ],
  // 1, 1 + 2^-11 (ties to even: down), 1 + 3 * 2^-11 (up), 65519.996 (down), 65520 (infinite), -1e-7, 2^-25, a bit
  // over 2^-25, 2047.5 * 2^-25 (rounds up into the normal range), -infinity, -0
  [
    "F32",
    [
      0x3f800000, 0x3f801000, 0x3f803000, 0x477fefff, 0x477ff000, 0xb3d6bf95, 0x33000000, 0x33000001, 0x387ff000,
      0xff800000, 0x80000000,
    ],
    "float16",
    [0x3c00, 0x3c00, 0x3c02, 0x7bff, 0x7c00, 0x8002, 0x0000, 0x0001, 0x0400, 0xfc00, 0x8000],
  ],
];

describe("conversions", () => {
  test.each(conversions)("%s %j to %s", (from, bits, to, expected) => {
    const source = from === "F32" ? Uint32Array.from(bits) : Uint16Array.from(bits);
    // One byte more before the tensor: its numbers are not aligned in the file.
    const file = safetensors(
      { odd: ["U8", [1], 1], w: [from, [bits.length], source.byteLength] },
      { data: [0, ...new Uint8Array(source.buffer)] },
    );
    const read = new Weights([memoryFile(file)]).read("w", to).slice().buffer;
    expect([...(to === "float32" ? new Uint32Array(read) : new Uint16Array(read))]).toEqual(expected);
  });

  test("NaN stays NaN", () => {
    const data = [...new Uint8Array(Uint16Array.of(0x7e01, 0xfc01).buffer)];
    const weights = new Weights([memoryFile(safetensors({ w: ["F16", [2], 4] }, { data }))]);
    expect([...new Float32Array(weights.read("w", "float32").slice().buffer)]).toEqual([Number.NaN, Number.NaN]);
  });

  test("every half there and back", () => {
    const halves = Uint16Array.from({ length: 65536 }, (_, i) => i).filter((h) => (h & 0x7c00) !== 0x7c00);
    const file = safetensors(
      { w: ["F16", [halves.length], halves.byteLength] },
      { data: new Uint8Array(halves.buffer) },
    );
    const singles = new Weights([memoryFile(file)]).read("w", "float32");
    const back = safetensors({ w: ["F32", [halves.length], singles.length] }, { data: singles });
    const read = new Weights([memoryFile(back)]).read("w", "float16");
    expect(new Uint16Array(read.slice().buffer)).toEqual(halves);
  });

  test("doubles, and whole numbers", () => {
    const doubles = [...new Uint8Array(Float64Array.of(0.1, -1e300).buffer)];
    const ints = [...new Uint8Array(Int32Array.of(-7).buffer)];
    const file = safetensors({ d: ["F64", [2], 16], i: ["I32", [1], 4] }, { data: [...doubles, ...ints] });
    const weights = new Weights([memoryFile(file)]);
    const single = new Float32Array(weights.read("d", "float32").slice().buffer);
    expect([...single]).toEqual([Math.fround(0.1), Number.NEGATIVE_INFINITY]);
    expect([...new Uint16Array(weights.read("d", "float16").slice().buffer)]).toEqual([0x2e66, 0xfc00]);
    expect([...new BigInt64Array(weights.read("i", "int64").slice().buffer)]).toEqual([-7n]);
  });

  test("quantised weights are refused by name", () => {
    const weights = new Weights([memoryFile(safetensors({ w: ["F8_E4M3", [4], 4] }))]);
    expect(() => weights.read("w", "float32")).toThrow(UnsupportedModelError);
    expect(() => weights.read("w", "float32")).toThrow(/tensor w: found F8_E4M3 weights/);
  });
});

describe("several files", () => {
  test("a tensor that two files have", () => {
    const bytes = safetensors({ w: ["F32", [2], 8] });
    expect(() => new Weights([memoryFile(bytes, "a.safetensors"), memoryFile(bytes, "b.safetensors")])).toThrow(
      /b.safetensors has the tensor w, which a.safetensors has as well/,
    );
  });

  test("an index names its files once, in order", () => {
    const weight_map = {
      b: "m-00002-of-00002.safetensors",
      a: "m-00001-of-00002.safetensors",
      c: "m-00002-of-00002.safetensors",
    };
    expect(parseShardedIndex(JSON.stringify({ metadata: { total_size: 1 }, weight_map }), "i.json").files).toEqual([
      "m-00001-of-00002.safetensors",
      "m-00002-of-00002.safetensors",
    ]);
  });

  test.each([
    ["not JSON", "{", /not JSON/],
    ["null", "null", /no weight_map/],
    ["no map", "{}", /no weight_map/],
    ["an empty map", '{"weight_map": {}}', /empty weight_map/],
    ["a number for a file", '{"weight_map": {"w": 1}}', /1 for w/],
    ["a path out of the folder", '{"weight_map": {"w": "../w.safetensors"}}', /"..\/w.safetensors" for w/],
    ["a pickle", '{"weight_map": {"w": "w.bin"}}', /"w.bin" for w/],
  ])("an index that is %s", (_name, text, message) => {
    expect(() => parseShardedIndex(text, "model.safetensors.index.json")).toThrow(message);
    expect(() => parseShardedIndex(text, "model.safetensors.index.json")).toThrow(IntegrityError);
  });
});
