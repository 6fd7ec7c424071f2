/** What a large checkpoint costs in memory when it is read, and what is counted as on the device. */
import { ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { openSource } from "@diffusers-web/core";
import { max_memory_allocated, memory_allocated, reset_peak_memory_stats } from "@diffusers-web/models";
import { afterAll, describe, expect, test } from "vitest";
import { GraphBuilder } from "../../packages/models/src/graph/builder.ts";
import { getDevice } from "../../packages/models/src/runtime/device.ts";
import { createSession } from "../../packages/models/src/runtime/session.ts";
import { Weights } from "../../packages/models/src/weights.ts";
import { memoryFile, safetensors } from "../support/safetensors.ts";

const folder = mkdtempSync(join(tmpdir(), "memory-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const MiB = 2 ** 20;
setFlagsFromString("--expose-gc");
const collectOnce = runInNewContext("gc") as () => void;
/** Twice: the buffers that a collection finds are freed beside the program, at the latest when the next one begins. */
const collect = (): void => {
  collectOnce();
  collectOnce();
};

/** Bytes of JavaScript and its buffers, garbage aside. */
function javaScriptBytes(): number {
  collect();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

/** A safetensors file of zeros that takes no room on the disk: only its header is written. */
function sparse(name: string, tensors: readonly { name: string; dtype: "F16" | "BF16" | "F32"; rows: number }[]): void {
  let at = 0;
  const header = Object.fromEntries(
    tensors.map(({ name, dtype, rows }) => {
      const begin = at;
      at += rows * 1024 * (dtype === "F32" ? 4 : 2);
      return [name, { dtype, shape: [rows, 1024], data_offsets: [begin, at] }];
    }),
  );
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const file = openSync(join(folder, name), "w");
  writeSync(file, Buffer.concat([length, text]));
  ftruncateSync(file, 8 + text.length + at);
}

describe("a checkpoint of several GB", () => {
  // 48 tensors of 64 MiB in their file: 3 GiB.
  const tensors = Array.from({ length: 48 }, (_, i) => {
    const dtype: "F16" | "BF16" | "F32" = i % 8 === 0 ? "F16" : i % 8 === 4 ? "BF16" : "F32";
    return { name: `blocks.${i}.weight`, dtype, rows: (64 * MiB) / 1024 / (dtype === "F32" ? 4 : 2) };
  });
  const slice = 64 * MiB;

  test("is opened for its header, and read in the memory of one tensor", async () => {
    sparse("model.safetensors", tensors);
    const source = await openSource(folder);
    const before = javaScriptBytes();
    const file = (await source.open("model.safetensors"))!;
    expect(file.size).toBeGreaterThan(3 * 2 ** 30);
    const weights = new Weights([file]);
    expect(javaScriptBytes() - before).toBeLessThan(MiB);

    /** What there is right after a tensor was read: the slice of the file may not be collected yet. */
    const read = (name: string): { length: number; peak: number } => {
      const { length } = weights.read(name, "float32");
      return { length, peak: process.memoryUsage().arrayBuffers };
    };
    for (const { name, dtype } of tensors.filter((_, i) => i % 4 === 0 || i === tensors.length - 1)) {
      collect();
      const { length, peak } = read(name);
      const result = dtype === "F32" ? slice : 2 * slice;
      expect(length).toBe(result);
      expect(peak - before).toBeLessThan((dtype === "F32" ? 0 : slice) + result + MiB);
    }
    expect(javaScriptBytes() - before).toBeLessThan(MiB);
    weights.close();
  });
});

describe("memory on the device", () => {
  const wasm = { type: "wasm" } as const;
  const file = memoryFile(safetensors({ w: ["F32", [64, 16], 4096], half: ["F16", [16], 32] }));

  /** `y = x @ w.T * half`: 4096 bytes and, as float32, 64 more. */
  async function session(read?: () => never): ReturnType<typeof createSession> {
    const { target } = await getDevice("wasm");
    const weights = new Weights([
      read === undefined ? file : { ...file, readSync: (a, b) => (a > 200 ? read() : file.readSync(a, b)) },
    ]);
    const g = new GraphBuilder(weights, target);
    const y = g.op("Gemm", [g.input("x", [1, 16]), g.weight("w", [64, 16])], [1, 64], { transB: 1 });
    const z = g.op("Mul", [g.reshape(y, [4, 16]), g.weight("half", [16])], [4, 16]);
    g.output("z", z);
    return createSession(g.build(), wasm);
  }

  test("is what live sessions hold, in the element type of the device", async () => {
    reset_peak_memory_stats();
    expect([memory_allocated(), max_memory_allocated()]).toEqual([0, 0]);
    const [a, b] = await Promise.all([session(), session()]);
    expect([memory_allocated(), max_memory_allocated()]).toEqual([8320, 8320]);
    await Promise.all([a.dispose(), a.dispose()]);
    expect([memory_allocated(), max_memory_allocated()]).toEqual([4160, 8320]);
    reset_peak_memory_stats();
    expect(max_memory_allocated()).toBe(4160);
    await b.dispose();
    expect(memory_allocated()).toBe(0);
  });

  test("a session that could not be created holds nothing", async () => {
    const failing = session(() => {
      throw new Error("the disk is gone");
    });
    await expect(failing).rejects.toThrow("the disk is gone");
    expect(memory_allocated()).toBe(0);
  });
});
