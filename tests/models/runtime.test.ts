import { DeviceError, Tensor } from "@diffusers-web/core";
import { describe, expect, test } from "vitest";
import { GraphBuilder } from "../../packages/models/src/graph/builder.ts";
import type { BuiltGraph, WeightSource } from "../../packages/models/src/graph/types.ts";
import { type Device, getDevice } from "../../packages/models/src/runtime/device.ts";
import { selfCheck } from "../../packages/models/src/runtime/self_check.ts";
import { createSession } from "../../packages/models/src/runtime/session.ts";

const wasm = await getDevice("wasm");
let reads: string[] = [];

/** A graph `y = x @ weight.T + bias` whose weights say when they are read. */
function linear(rows: number, factor = 1): BuiltGraph {
  const values: Record<string, { dims: number[]; data: Float32Array }> = {
    "fc.weight": { dims: [2, 3], data: Float32Array.of(1, 2, 3, 4, 5, 6).map((x) => x * factor) },
    "fc.bias": { dims: [2], data: Float32Array.of(0.5, -0.5) },
  };
  const weights: WeightSource = {
    file: "fc.safetensors",
    names: () => Object.keys(values),
    shape: (name) => values[name]?.dims,
    dtype: () => "F32",
    read: (name) => {
      reads.push(name);
      return new Uint8Array(values[name]!.data.buffer);
    },
  };
  const g = new GraphBuilder(weights, wasm.target);
  const x = g.input("x", [rows, 3]);
  const w = g.weight("fc.weight", [2, 3]);
  const b = g.weight("fc.bias", [2]);
  g.output("y", g.op("Gemm", [x, w, b], [rows, 2], { transB: 1 }));
  return g.build();
}

const x = new Tensor("float32", [1, 0, -1], [1, 3]);

describe("sessions", () => {
  test("run a graph; weights are read when the session is created", async () => {
    reads = [];
    const graph = linear(1);
    expect(reads).toEqual([]);
    const progress: string[] = [];
    const session = await createSession(graph, wasm, {
      name: "fc",
      progress_callback: ({ phase, file, loaded, total }) => progress.push(`${phase} ${file} ${loaded}/${total}`),
    });
    const readAtCreation = reads.length;
    expect(new Set(reads)).toEqual(new Set(["fc.weight", "fc.bias"]));
    const { y } = await session.run({ x });
    expect(y).toBeInstanceOf(Tensor);
    expect([...y!.data]).toEqual([-1.5, -2.5]);
    expect(y!.dims).toEqual([1, 2]);
    await session.run({ x });
    expect(reads.length).toBe(readAtCreation);
    expect(progress.slice(-2)).toEqual(["upload fc 32/32", "compile fc 0/0"]);
    await session.dispose();
    await session.dispose();
    await expect(session.run({ x })).rejects.toThrow(DeviceError);
  });

  test("creating, running and disposing of several at once", async () => {
    const sessions = await Promise.all([1, 2, 3].map((factor) => createSession(linear(1, factor), wasm)));
    const runs = sessions.flatMap((session) => [session.run({ x }), session.run({ x })]);
    const disposals = sessions.map((session) => session.dispose());
    const more = createSession(linear(1, 4), wasm);
    const outputs = await Promise.all(runs);
    expect(outputs.map(({ y }) => y!.data[0])).toEqual([-1.5, -1.5, -3.5, -3.5, -5.5, -5.5]);
    await Promise.all(disposals);
    await (await more).dispose();
  });

  test("a failed call does not stop the next one", async () => {
    const broken = { ...linear(1), bytes: new Uint8Array([1, 2, 3]) };
    const failing = createSession(broken, wasm);
    const session = createSession(linear(1), wasm);
    await expect(failing).rejects.toThrow(/could not prepare the model/);
    await expect(failing).rejects.toBeInstanceOf(DeviceError);
    await (await session).dispose();
  });

  test("a weight that cannot be read is its own error", async () => {
    const graph = linear(1);
    const external = graph.external.map((weight) => ({
      ...weight,
      read: () => {
        throw new DeviceError("gone");
      },
    }));
    await expect(createSession({ ...graph, external }, wasm)).rejects.toThrow("gone");
  });

  const wrongFeeds: [string, Record<string, Tensor | Tensor<"int64">>, string][] = [
    ["none", {}, "x is float32 [1,3], but got nothing"],
    ["dims", { x: new Tensor("float32", [1, 2, 3], [3, 1]) }, "x is float32 [1,3], but got float32 [3,1]"],
    ["type", { x: new Tensor("int64", [1n, 2n, 3n], [1, 3]) }, "x is float32 [1,3], but got int64 [1,3]"],
  ];
  test.each(wrongFeeds)("feeds that do not fit: %s", async (_name, feeds, message) => {
    const session = await createSession(linear(1), wasm);
    expect(() => session.run(feeds)).toThrow(message);
    await session.dispose();
  });

  test("cancelling before the engine starts", async () => {
    reads = [];
    const signal = AbortSignal.abort();
    await expect(createSession(linear(1), wasm, { signal })).rejects.toThrow(
      expect.objectContaining({ name: "AbortError" }),
    );
    expect(reads).toEqual([]);
  });
});

describe("devices in Node", () => {
  test("auto is WASM, and says why", async () => {
    const device: Device = await getDevice();
    expect(device.type).toBe("wasm");
    expect(device.target.dtype).toBe("float32");
    expect(device.info.reason).toContain("There is no WebGPU here");
  });

  test.each([
    ["webgpu", "auto", "There is no WebGPU here"],
    ["wasm", "fp16", "computes in fp32 only"],
    ["auto", "float16", "There is no WebGPU here"],
  ] as const)("device %s with dtype %s is refused", async (device, dtype, message) => {
    const refused = getDevice(device, dtype);
    await expect(refused).rejects.toThrow(message);
    await expect(refused).rejects.toBeInstanceOf(DeviceError);
  });

  test.each([
    ["webgl", "auto", 'Unknown device "webgl". Did you mean "webgpu"?'],
    ["cuda", "auto", 'Unknown device "cuda". Known: auto, webgpu, wasm.'],
    ["wasm", "fp61", 'Unknown dtype "fp61". Did you mean "fp16"?'],
  ])("unknown names: %s %s", async (device, dtype, message) => {
    await expect(getDevice(device as "auto", dtype as "auto")).rejects.toThrow(new TypeError(message));
  });
});

test("the self-check's numbers are the processor's", async () => {
  // The kernels that both have; the others are compared in the browser test.
  const kernels = ["attention", "quickGelu", "skipLayerNorm", "conv", "gemm"] as const;
  const wrong = await selfCheck(
    async (graph, feeds) => {
      const session = await createSession(graph, wasm);
      try {
        return await session.run(feeds);
      } finally {
        await session.dispose();
      }
    },
    "float32",
    kernels,
  );
  expect([...wrong]).toEqual([]);
});
