/** Activations where they saturate, which the small numbers of the model cases do not reach. */
import { Tensor } from "@diffusers-web/core";
import { expect, it } from "vitest";
import { GraphBuilder } from "../../packages/models/src/graph/builder.ts";
import type { FusedKernels, WeightSource } from "../../packages/models/src/graph/types.ts";
import { activation, checkActivation } from "../../packages/models/src/layers/activations.ts";
import { getDevice } from "../../packages/models/src/runtime/device.ts";
import { createSession } from "../../packages/models/src/runtime/session.ts";
import { compare } from "../support/allclose.ts";

const wasm = await getDevice("wasm");
const weights: WeightSource = {
  file: "none",
  names: () => [],
  shape: () => undefined,
  dtype: () => "F32",
  read: () => new Uint8Array(),
};
const x = [-40, -4, -0.5, 0.5, 7, 40];

// transformers: ACT2FN[name](torch.tensor(x))
const expected: Record<string, number[]> = {
  gelu: [0, -0.0001264811, -0.1542688, 0.3457312, 7, 40],
  gelu_10: [0, -0.0001264811, -0.1542688, 0.3457312, 7, 10],
  gelu_fast: [0, -7.021427e-5, -0.154286, 0.345714, 7, 40],
  gelu_new: [0, -7.021427e-5, -0.154286, 0.345714, 7, 40],
  gelu_python: [0, -0.0001267195, -0.1542688, 0.3457312, 7, 40],
  gelu_pytorch_tanh: [0, -7.021427e-5, -0.154286, 0.345714, 7, 40],
  gelu_python_tanh: [0, -7.021427e-5, -0.154286, 0.345714, 7, 40],
  gelu_accurate: [0, -7.021427e-5, -0.154286, 0.345714, 7, 40],
  hardswish: [0, 0, -0.2083333, 0.2916667, 7, 40],
  laplace: [0, 0, 9.387732e-6, 0.2314211, 1, 1],
  leaky_relu: [-0.4, -0.04, -0.005, 0.5, 7, 40],
  linear: [-40, -4, -0.5, 0.5, 7, 40],
  mish: [0, -0.07259175, -0.2207438, 0.3752452, 6.999989, 40],
  quick_gelu: [0, -0.004414724, -0.1496116, 0.3503884, 6.999953, 40],
  relu: [0, 0, 0, 0.5, 7, 40],
  relu2: [0, 0, 0, 0.25, 49, 1600],
  relu6: [0, 0, 0, 0.5, 6, 6],
  sigmoid: [0, 0.01798621, 0.3775407, 0.6224594, 0.999089, 1],
  silu: [0, -0.07194484, -0.1887703, 0.3112297, 6.993623, 40],
  swish: [0, -0.07194484, -0.1887703, 0.3112297, 6.993623, 40],
  tanh: [-1, -0.9993293, -0.4621172, 0.4621172, 0.9999983, 1],
};

it.each(Object.keys(expected))("%s", async (name) => {
  checkActivation(name, "CLIPTextModel", "hidden_act", "transformers");
  const fused = { ...wasm.target.fused };
  const plain = Object.fromEntries(Object.keys(fused).map((kernel) => [kernel, false])) as unknown as FusedKernels;
  for (const [dtype, kernels, tolerance] of [
    ["float32", fused, 1e-6],
    ["float32", plain, 1e-6],
    ["float16", plain, 2e-3],
  ] as const) {
    const g = new GraphBuilder(weights, { ...wasm.target, dtype, fused: kernels });
    g.output("y", activation(g, g.input("x", [x.length]), name));
    const session = await createSession(g.build(), wasm);
    const { y } = await session.run({ x: new Tensor("float32", x, [x.length]) });
    await session.dispose();
    expect(compare(y!.data, Float32Array.from(expected[name]!)).error).toBeLessThanOrEqual(
      tolerance * Math.max(1, ...expected[name]!),
    );
  }
});
