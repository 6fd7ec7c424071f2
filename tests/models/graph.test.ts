import type { UNet2DModel } from "@diffusers-web/models";
import { describe, expect, it } from "vitest";
import { GraphBuilder } from "../../packages/models/src/graph/builder.ts";
import type { BuiltGraph, Target, WeightSource } from "../../packages/models/src/graph/types.ts";
import { architectures } from "./cases_node.ts";
import { onnxNodes } from "./onnx.ts";
import { runners } from "./runners/index.ts";

const fused = { attention: true, groupNorm: true, biasSplitGelu: true, quickGelu: true, skipLayerNorm: true };
const targets = {
  webgpu: { layout: "nhwc", dtype: "float32", fused },
  webgpuHalf: { layout: "nhwc", dtype: "float16", fused },
  wasm: { layout: "nchw", dtype: "float32", fused: { ...fused, groupNorm: false, biasSplitGelu: false } },
} as const satisfies Record<string, Target>;

/** Weights of the given shapes, all zero. @param wasRead takes the names of those that TypeScript itself looks at */
function shapesOnly(shapes: Readonly<Record<string, readonly number[]>>, wasRead: Set<string>): WeightSource {
  return {
    file: "model.safetensors",
    names: () => Object.keys(shapes),
    shape: (name) => shapes[name],
    dtype: () => "F32",
    read: (name) => {
      wasRead.add(name);
      return new Uint8Array(shapes[name]!.reduce((product, dim) => product * dim, 4));
    },
  };
}

/** The graphs that a well-known checkpoint's model is checked with when it is loaded, or its one graph for `dims`. */
function build(
  name: string,
  target: Target,
  dims?: unknown,
): { graphs: BuiltGraph[]; used: Set<string>; wasRead: Set<string>; ms: number } {
  const { className, config, shapes } = architectures[name]!;
  const cls = runners[className]!.model as typeof UNet2DModel;
  const model = cls.from_config(cls.prepare_config(config)) as unknown as {
    check(build: (emit: (g: GraphBuilder) => void) => void): void;
    build(g: GraphBuilder, dims: unknown): void;
  };
  const graphs: BuiltGraph[] = [];
  const used = new Set<string>();
  const wasRead = new Set<string>();
  const weights = shapesOnly(shapes, wasRead);
  const start = performance.now();
  const emitted = (emit: (g: GraphBuilder) => void): void => {
    const g = new GraphBuilder(weights, target);
    emit(g);
    graphs.push(g.build());
    for (const one of g.used) used.add(one);
  };
  if (dims === undefined) model.check(emitted);
  else emitted((g) => model.build(g, dims));
  return { graphs, used, wasRead, ms: performance.now() - start };
}

const sd15 = { sample: [2, 4, 64, 64], time_proj: [2, 320], encoder_hidden_states: [2, 77, 768] };
const emoji = { sample: [2, 4, 16, 16], time_proj: [2, 64], encoder_hidden_states: [2, 24, 128] };

describe("the graphs of well-known checkpoints", () => {
  it.each(Object.keys(architectures))("%s: the weights are exactly its state dict", (name) => {
    const { className, config, shapes } = architectures[name]!;
    const { keys_to_ignore } = runners[className]!.model as typeof UNet2DModel;
    const own = Object.keys(shapes).filter((key) => !keys_to_ignore.some((one) => one.test(key)));
    for (const target of Object.values(targets)) {
      const { graphs, used, wasRead } = build(name, target);
      expect([...used].sort()).toEqual(own.sort());
      const external = graphs.flatMap((graph) => graph.external);
      for (const { name: weight, byteLength } of external) {
        // What TypeScript makes of a tensor has its dims in its name.
        const derived = /~.*\|(.*)$/.exec(weight)?.[1]?.split("x").map(Number);
        const elements = (derived ?? shapes[weight]!).reduce((product, dim) => product * dim, 1);
        // An autoencoder with `force_upcast` is float32 on any device.
        const isHalf = target.dtype === "float16" && config["force_upcast"] !== true;
        expect(byteLength).toBe(elements * (isHalf ? 2 : 4));
      }
      // Every tensor is external data of one graph or another, but for a few that TypeScript computes with.
      expect(new Set([...external.map((one) => one.name.split("~")[0]!), ...wasRead])).toEqual(used);
    }
  });

  it.each([...Object.keys(architectures)])("%s on WebGPU: channels last from end to end", (name) => {
    for (const { bytes, external, inputs, outputs } of build(name, targets.webgpu).graphs) {
      const nodes = onnxNodes(bytes);
      const maps = [...inputs, ...outputs].filter((io) => io.dims.length === 4);
      // A depth estimator's transposed convolutions are linear layers, whose squares are put in order.
      const enlarged = external.filter((one) => one.name.includes("~rows"));
      expect(nodes.filter((node) => node.type === "Transpose").length).toBe(maps.length + enlarged.length);
      // Kernels that are on the GPU and right (shared/webgpu-graph.md); no arithmetic on shapes.
      const known = [
        ...["Transpose", "Conv", "Gemm", "GroupNorm", "SkipGroupNorm", "LayerNormalization", "SkipLayerNormalization"],
        ...["MultiHeadAttention", "BiasSplitGelu", "QuickGelu", "Gelu", "Add", "Concat", "Resize", "Reshape", "Gather"],
        ...[
          "AveragePool",
          "Tanh",
          "Identity",
          "MatMul",
          "MaxPool",
          "Relu",
          "Split",
          "Expand",
          "Mul",
          "Div",
          "Pad",
          "ConvTranspose",
        ],
      ];
      expect([...new Set(nodes.map((node) => node.type))].filter((type) => !known.includes(type))).toEqual([]);
      for (const node of nodes)
        expect(node.domain === "com.ms.internal.nhwc").toBe(
          ["AveragePool", "Conv", "ConvTranspose", "MaxPool"].includes(node.type),
        );
      // A residual addition is part of the normalisation that reads it, wherever one does.
      const sums = new Set(nodes.filter((node) => node.type === "Add").flatMap((node) => node.outputs));
      expect(nodes.filter((node) => node.type.endsWith("Norm") && sums.has(node.inputs[0]!))).toEqual([]);
    }
  });

  it("nodes come after what they read", () => {
    for (const target of Object.values(targets)) {
      const [graph] = build("sd15/unet", target, sd15).graphs;
      const nodes = onnxNodes(graph!.bytes);
      const made = new Set(nodes.flatMap((node) => node.outputs));
      const seen = new Set<string>();
      for (const node of nodes) {
        expect(node.inputs.filter((input) => made.has(input) && !seen.has(input))).toEqual([]);
        for (const output of node.outputs) seen.add(output);
      }
    }
  });
});

describe("the cost of a graph", () => {
  // Loaded machines are several times slower than idle ones: the fastest of a few builds tells.
  const fastest = (name: string, dims: unknown): number =>
    Math.min(...Array.from({ length: 5 }, () => build(name, targets.webgpu, dims).ms));

  it("Stable Diffusion 1.5's UNet: at most 850 nodes, under 300 ms", () => {
    const [graph] = build("sd15/unet", targets.webgpu, sd15).graphs;
    expect(graph!.nodeCount).toBeLessThanOrEqual(850);
    expect(fastest("sd15/unet", sd15)).toBeLessThan(300);
  });

  it("the embedded UNet: under 100 ms", () => {
    expect(fastest("emoji/unet", emoji)).toBeLessThan(100);
  });
});
