import { type Source, type SourceFile, Tensor } from "@diffusers-web/core";
import { type DeviceInfo, getDevice, UNet2DModel } from "@diffusers-web/models";
import { GraphBuilder, type Value } from "../../../packages/models/src/graph/builder.ts";
import type { BuiltGraph } from "../../../packages/models/src/graph/types.ts";
import type { Device } from "../../../packages/models/src/runtime/device.ts";
import { createSession } from "../../../packages/models/src/runtime/session.ts";
import { InventingBuilder, layerCases } from "./layer_cases.ts";

/** What the spec may ask of the page or of its worker. Arguments and results are plain data. */
export const tasks = {
  async deviceInfo([device, dtype]: Parameters<typeof getDevice>): Promise<DeviceInfo> {
    return (await getDevice(device, dtype)).info;
  },

  /** The largest error of a layer on WebGPU relative to the same layer lowered for the processor. */
  async layer(name: string): Promise<number> {
    const outputs: Float32Array[] = [];
    for (const type of ["wasm", "webgpu"] as const) {
      const device = await getDevice(type, "fp32");
      const g = new InventingBuilder(device.target);
      const feeds = layerCases[name]!(g);
      outputs.push((await runOnce(g.build(), device, feeds))["out"]!.data);
    }
    return relativeError(outputs[1]!, outputs[0]!);
  },

  /** Calls a UNet2DModel whose weights are read from Blobs as the engine asks for them. Workers only. */
  async modelFromBlobs({ folder, dims, timestep }: BlobModelCall): Promise<BlobModelResult> {
    const source = new BlobSource(new URL(`/${folder}/`, location.href).href);
    await using model = await UNet2DModel.from_pretrained(source, { device: "webgpu", dtype: "fp32" });
    const { sample } = await model(Tensor.ones(dims), timestep);
    return { device: model.device, data: [...sample.data], ...source.counts };
  },

  /** The error of creating a session that may not leave the GPU with an operator that has no kernel there. */
  async leavesGpu(): Promise<string> {
    const device = await getDevice("webgpu", "fp32");
    const g = new GraphBuilder(new InventingBuilder(device.target).weights, device.target);
    const x = g.input("x", [2, 8]);
    const index = g.op("ArgMax", [x], [2], { axis: -1, keepdims: 0 }, { type: "int64" });
    g.output("out", g.cast(index, "float32"));
    const graph = g.build();
    await (await createSession(graph, device)).dispose();
    return messageOf(createSession(graph, device, { forbidCpuNodes: true }));
  },

  /** Sessions created, run and disposed of all at once. */
  async overlapping(): Promise<number[]> {
    const device = await getDevice("webgpu", "fp32");
    const sessions = await Promise.all([1, 2, 3].map((factor) => createSession(scaled(factor, device), device)));
    const x = new Tensor("float32", [1, 2], [1, 2]);
    const runs = sessions.flatMap((session) => [session.run({ x }), session.run({ x })]);
    const disposals = sessions.map((session) => session.dispose());
    const last = createSession(scaled(4, device), device);
    const outputs = await Promise.all(runs);
    await Promise.all([...disposals, (await last).dispose()]);
    return outputs.map((output) => output["out"]!.data[1]!);
  },

  /** What runs say during which and after which the GPU is lost, and what the next device computes. */
  async lostGpu(): Promise<{ during: string; after: string; next: number; isNew: boolean }> {
    const device = await getDevice("webgpu", "fp32");
    const x = new Tensor("float32", [1, 2], [1, 2]);
    const session = await createSession(scaled(5, device), device);
    await session.run({ x });
    const running = messageOf(session.run({ x }));
    await Promise.resolve();
    device.gpu!.device.destroy();
    const during = await running;
    const after = await messageOf(session.run({ x }));
    await session.dispose();
    const other = await getDevice("webgpu", "fp32");
    const output = await runOnce(scaled(5, other), other, { x });
    return { during, after, next: output["out"]!.data[1]!, isNew: other.gpu !== device.gpu };
  },

  /** What a graph with a weight larger than any buffer says. */
  async tooLarge(): Promise<string> {
    const device = await getDevice("webgpu", "fp32");
    const graph = scaled(1, device);
    const byteLength = device.info.limits["maxBufferSize"]! + 4;
    const external = [{ name: "conv_in.weight", byteLength, read: () => new Uint8Array() }];
    return messageOf(async () => createSession({ ...graph, external }, device));
  },
};

export type TaskName = keyof typeof tasks;

export interface BlobModelCall {
  /** Below the server's root. */
  readonly folder: string;
  /** Of the sample, which is all ones. */
  readonly dims: readonly number[];
  readonly timestep: number;
}

export interface BlobModelResult {
  readonly device: string;
  readonly data: readonly number[];
  readonly reads: number;
  readonly readBytes: number;
  readonly largestRead: number;
}

/** Files as Blobs, as a browser's storage gives them: nothing but what is asked for comes into memory. */
class BlobSource implements Source {
  readonly counts: { reads: number; readBytes: number; largestRead: number } = {
    reads: 0,
    readBytes: 0,
    largestRead: 0,
  };

  constructor(readonly name: string) {}

  async open(path: string): Promise<SourceFile | undefined> {
    const response = await fetch(this.name + path);
    if (!response.ok || response.headers.get("content-type")?.startsWith("text/html") === true) return undefined;
    const blob = await response.blob();
    const { counts } = this;
    return {
      path,
      size: blob.size,
      readSync(begin, end) {
        counts.reads++;
        counts.readBytes += end - begin;
        counts.largestRead = Math.max(counts.largestRead, end - begin);
        return new Uint8Array(new FileReaderSync().readAsArrayBuffer(blob.slice(begin, end)));
      },
      close() {},
    };
  }
}

/** `out = x * factor`, with the factor as a weight. */
function scaled(factor: number, { target }: Device): BuiltGraph {
  const g = new InventingBuilder(target, (name) => (name === "factor" ? Float32Array.of(factor, factor) : undefined));
  const x: Value = g.input("x", [1, 2]);
  g.output("out", g.op("Mul", [x, g.weight("factor", [2])], [1, 2]));
  return g.build();
}

async function runOnce(
  graph: BuiltGraph,
  device: Device,
  feeds: Record<string, Tensor>,
): Promise<Record<string, Tensor>> {
  const session = await createSession(graph, device);
  try {
    return await session.run(feeds);
  } finally {
    await session.dispose();
  }
}

async function messageOf(failing: Promise<unknown> | (() => Promise<unknown>)): Promise<string> {
  try {
    await (typeof failing === "function" ? failing() : failing);
  } catch (error) {
    return String(error);
  }
  return "no error";
}

function relativeError(actual: Float32Array, expected: Float32Array): number {
  let error = 0;
  let scale = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i]! - expected[i]!);
    error = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : Math.max(error, difference);
    scale = Math.max(scale, Math.abs(expected[i]!));
  }
  return error / scale;
}
