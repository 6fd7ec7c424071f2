import { Tensor } from "@diffusers-web/core";
import { float, GraphBuilder, microsoft, type Value } from "../graph/builder.ts";
import type { BuiltGraph, Target, WeightSource } from "../graph/types.ts";
import { convertWeights } from "../weight_conversion.ts";
import * as reference from "./self_check_reference.ts";

/** What the self-check looks at: kernels that were seen to compute wrong on some device, or that one may lack. */
export type CheckedKernel =
  | "attention"
  | "groupNorm"
  | "biasSplitGelu"
  | "quickGelu"
  | "skipLayerNorm"
  | "nhwcConv"
  | "conv"
  | "gemm";

/** All kernels that a graph on WebGPU may use. */
export const checkedKernels: readonly CheckedKernel[] = [
  "attention",
  "groupNorm",
  "biasSplitGelu",
  "quickGelu",
  "skipLayerNorm",
  "nhwcConv",
  "conv",
  "gemm",
];

/** Runs a graph once, on the device to be checked. */
export type RunGraph = (graph: BuiltGraph, feeds: Record<string, Tensor>) => Promise<Record<string, Tensor>>;

interface Case {
  readonly kernel: CheckedKernel;
  /** `[dims, values]` of what the graph is fed. */
  readonly inputs: readonly Operand[];
  /** The same of constant weights, which kernels may prepare in another way than inputs. */
  readonly weights: readonly Operand[];
  readonly expected: readonly Float64Array[];
  emit(g: GraphBuilder, inputs: readonly Value[], weights: readonly Value[]): readonly Value[];
}

type Operand = readonly [dims: readonly number[], values: Float32Array];

// Relative to the largest expected value. Right kernels were seen at 1e-6 (fp32) and 6e-3 (fp16, which also rounds its
// inputs); wrong ones at 0.05 and above.
const tolerances = { float32: 1e-3, float16: 2e-2 };

/**
 * Computes small examples of `kernels` on a device and compares them with the same computed in TypeScript.
 *
 * @param dtype the element type inside the graph
 * @returns what is wrong, in words, by kernel: empty when all is right
 */
export async function selfCheck(
  run: RunGraph,
  dtype: Target["dtype"],
  kernels: readonly CheckedKernel[],
): Promise<Map<CheckedKernel, string>> {
  const chosen = cases().filter(({ kernel }) => kernels.includes(kernel));
  try {
    return await runCases(run, dtype, chosen);
  } catch (error) {
    // One graph for all is quick; if it fails as a whole, each kernel shows for itself whether the device has it.
    if (chosen.length === 1) return new Map([[chosen[0]!.kernel, message(error)]]);
    const wrong = new Map<CheckedKernel, string>();
    for (const single of chosen) {
      const found = await runCases(run, dtype, [single]).catch(
        (cause: unknown) => new Map([[single.kernel, message(cause)]]),
      );
      for (const [kernel, why] of found) if (!wrong.has(kernel)) wrong.set(kernel, why);
    }
    return wrong;
  }
}

function message(error: unknown): string {
  return `fails: ${error instanceof Error ? error.message : String(error)}`;
}

async function runCases(
  run: RunGraph,
  dtype: Target["dtype"],
  chosen: readonly Case[],
): Promise<Map<CheckedKernel, string>> {
  const fused = { attention: true, groupNorm: true, biasSplitGelu: true, quickGelu: true, skipLayerNorm: true };
  const weights = new Map<string, Operand>();
  const g = new GraphBuilder(memoryWeights(weights), { layout: "nhwc", dtype, fused });
  const feeds: Record<string, Tensor> = {};
  const outputs = chosen.flatMap((one, i) => {
    const inputs = one.inputs.map(([dims, values], j) => {
      const name = `case${i}_input${j}`;
      feeds[name] = new Tensor("float32", values, dims);
      return g.input(name, dims);
    });
    const constants = one.weights.map((operand, j) => {
      const name = `case${i}_weight${j}`;
      weights.set(name, operand);
      return g.weight(name, operand[0]);
    });
    return one.emit(g, inputs, constants).map((value, j) => {
      const name = `case${i}_output${j}`;
      g.output(name, value);
      return { name, kernel: one.kernel, expected: one.expected[j]! };
    });
  });
  const results = await run(g.build(), feeds);
  const wrong = new Map<CheckedKernel, string>();
  for (const { name, kernel, expected } of outputs) {
    const error = relativeError(results[name]!.data, expected);
    if (!(error <= tolerances[dtype]))
      wrong.set(kernel, `computes wrong values in ${dtype} (relative error ${error.toPrecision(2)})`);
  }
  return wrong;
}

function relativeError(actual: Float32Array, expected: Float64Array): number {
  let error = 0;
  let scale = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i]! - expected[i]!);
    if (Number.isNaN(difference)) return Number.NaN;
    error = Math.max(error, difference);
    scale = Math.max(scale, Math.abs(expected[i]!));
  }
  return error / scale;
}

function memoryWeights(operands: ReadonlyMap<string, Operand>): WeightSource {
  return {
    file: "self-check",
    names: () => operands.keys(),
    shape: (name) => operands.get(name)?.[0],
    dtype: () => "F32",
    read: (name, as) => convertWeights(new Uint8Array(operands.get(name)![1].buffer), "F32", as)!,
  };
}

/** Values between -amplitude and amplitude, the same each time. */
function sample(dims: readonly number[], seed: number, amplitude = 1): Operand {
  const values = new Float32Array(dims.reduce((product, dim) => product * dim, 1));
  let state = seed;
  for (let i = 0; i < values.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[i] = (state / 2 ** 31 - 1) * amplitude;
  }
  return [dims, values];
}

/** Small, but on the paths that pictures take: over 32 queries, more keys than one tile, several groups and tiles. */
function cases(): readonly Case[] {
  const query = sample([1, 64, 80], 1, 2);
  const key = sample([1, 77, 80], 2, 2);
  const value = sample([1, 77, 80], 3);

  // Squares of these overflow float16: a kernel has to sum in float32.
  const map = sample([2, 8, 8, 32], 4, 300);
  const shift = sample([2, 32], 5, 300);
  const residual = sample([2, 8, 8, 32], 19, 300);
  const summedMap = reference.add(map[1], residual[1]);
  const scale = sample([32], 6);
  const offset = sample([32], 7);
  const norm = { groups: 8, epsilon: float(1e-5), activation: 1, channels_last: 1 };

  const gated = sample([1, 16, 512], 8, 3);
  const gateBias = sample([512], 9);
  const rows = sample([24, 48], 10);
  const skip = sample([24, 48], 11);
  const summedRows = reference.add(rows[1], skip[1]);
  const rowScale = sample([48], 12);
  const rowOffset = sample([48], 13);
  const matrix = sample([40, 48], 14);
  const matrixBias = sample([40], 15);

  const picture = sample([1, 9, 9, 16], 16);
  const kernel = sample([24, 16, 3, 3], 17);
  const kernelBias = sample([24], 18);
  const conv = { kernel_shape: [3, 3], strides: [2, 2], pads: [0, 0, 1, 1], dilations: [1, 1], group: 1 };
  const convolved = reference.conv2d(picture, kernel, kernelBias[1]);
  const channelsFirst: Operand = [[1, 16, 9, 9], reference.channelsFirst(picture)];

  return [
    {
      kernel: "attention",
      inputs: [query, key, value],
      weights: [],
      emit: (g, [q, k, v]) => [g.op("MultiHeadAttention", [q!, k!, v!], [1, 64, 80], { num_heads: 2 }, microsoft)],
      expected: [reference.attention(query, key, value, 2)],
    },
    {
      kernel: "groupNorm",
      inputs: [map, shift, residual],
      weights: [scale, offset],
      emit: (g, [x, s, r], [gamma, beta]) => {
        // The builder's pass makes one SkipGroupNorm with two outputs of the addition and what reads it.
        const sum = g.op("Add", [x!, r!], map[0]);
        return [
          g.op("GroupNorm", [x!, gamma!, beta!], map[0], norm, microsoft),
          g.op("SkipGroupNorm", [x!, gamma!, beta!, s!], map[0], norm, microsoft),
          g.op("GroupNorm", [sum, gamma!, beta!], map[0], norm, microsoft),
          sum,
        ];
      },
      expected: [map[1], reference.addPerChannel(map, shift), summedMap]
        .map((x) => reference.groupNormSilu(x, map[0], scale[1], offset[1], 8))
        .concat(summedMap),
    },
    {
      kernel: "biasSplitGelu",
      inputs: [gated],
      weights: [gateBias],
      emit: (g, [x], [bias]) => [g.op("BiasSplitGelu", [x!, bias!], [1, 16, 256], {}, microsoft)],
      expected: [reference.biasSplitGelu(gated[1], gateBias[1])],
    },
    {
      kernel: "quickGelu",
      inputs: [rows],
      weights: [],
      emit: (g, [x]) => [g.op("QuickGelu", [x!], [24, 48], { alpha: float(1) }, microsoft)],
      expected: [Float64Array.from(rows[1], reference.silu)],
    },
    {
      kernel: "skipLayerNorm",
      inputs: [rows, skip],
      weights: [rowScale, rowOffset],
      emit: (g, [x, s], [gamma, beta]) => {
        const sum = g.op("Add", [g.reshape(x!, [1, 24, 48]), g.reshape(s!, [1, 24, 48])], [1, 24, 48]);
        const attributes = { axis: -1, epsilon: float(1e-5) };
        return [g.op("LayerNormalization", [sum, gamma!, beta!], [1, 24, 48], attributes), sum];
      },
      expected: [reference.layerNorm(summedRows, rowScale[1], rowOffset[1]), summedRows],
    },
    {
      kernel: "nhwcConv",
      inputs: [picture],
      weights: [kernel, kernelBias],
      emit: (g, [x], [w, b]) => [g.op("Conv", [x!, w!, b!], [1, 4, 4, 24], conv, { domain: "com.ms.internal.nhwc" })],
      expected: [convolved.channelsLast],
    },
    {
      kernel: "conv",
      inputs: [channelsFirst],
      weights: [kernel, kernelBias],
      emit: (g, [x], [w, b]) => [g.op("Conv", [x!, w!, b!], [1, 24, 4, 4], conv)],
      expected: [convolved.channelsFirst],
    },
    {
      kernel: "gemm",
      inputs: [rows],
      weights: [matrix, matrixBias],
      emit: (g, [x], [w, b]) => [g.op("Gemm", [x!, w!, b!], [24, 40], { transB: 1 })],
      expected: [reference.gemm(rows, matrix, matrixBias[1])],
    },
  ];
}
