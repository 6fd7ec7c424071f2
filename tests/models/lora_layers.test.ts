/** A LoRA on every layer there is, elementwise against PEFT: tests/fixtures/models/make_lora_layers.py. */
import type { LoraLayer, ModelMixin } from "@diffusers-web/models";
import { describe, expect, test } from "vitest";
import { GraphBuilder } from "../../packages/models/src/graph/builder.ts";
import type { FusedKernels, Target } from "../../packages/models/src/graph/types.ts";
import { Weights } from "../../packages/models/src/weights.ts";
import { expectClose } from "../support/allclose.ts";
import { fixtureTensors, fixtureText } from "../support/fixtures.ts";
import { memoryFile } from "../support/safetensors.ts";
import { caseInputs, caseSource, safetensorsBytes, type TensorShape } from "./cases.ts";
import { caseShapes, modelCases } from "./cases_node.ts";
import { onnxNodes } from "./onnx.ts";
import { runners } from "./runners/index.ts";

interface LoraCase {
  readonly name: string;
  readonly rank: number;
  readonly alpha: number;
  /** Matrices that are no layer's. */
  readonly others: readonly string[];
}

const cases = JSON.parse(fixtureText("models/lora_layers.json")) as LoraCase[];
const expected = fixtureTensors("models/lora_layers.safetensors");

/** The LoRA of a case: its file, and what the file's tensors are. */
function loraOf({ name, rank, alpha, others }: LoraCase): { weights: Weights; layers: Map<string, LoraLayer> } {
  const shapes: TensorShape[] = [];
  const layers = new Map<string, LoraLayer>();
  for (const [, shape, weight] of caseShapes[name]!) {
    if (!weight.endsWith(".weight") || shape.length < 2 || others.includes(weight)) continue;
    const layer = weight.slice(0, -".weight".length);
    const [out, inputs, ...kernel] = shape as [number, number, ...number[]];
    const [down, up] = ["lora_A", "lora_B"].map((part) => `${layer}.${part}.weight`) as [string, string];
    shapes.push([down, [rank, inputs, ...kernel], `${name}/${down}`]);
    shapes.push([up, [out, rank, ...kernel.map(() => 1)], `${name}/${up}`]);
    // The model finds its layers under their names without this.
    layers.set(layer.replace(/^text_model\./, ""), { down, up, alpha, bias: null });
  }
  return { weights: new Weights([memoryFile(safetensorsBytes(shapes), "lora.safetensors")]), layers };
}

async function withLora(
  one: LoraCase,
  use: (model: ModelMixin<object>, run: () => Promise<void>) => Promise<void>,
  tolerance: number,
) {
  const modelCase = modelCases.find(({ name }) => name === one.name)!;
  const { model: cls, run } = runners[modelCase.className]!;
  const model = await cls.from_pretrained(caseSource(modelCase, caseShapes[one.name]!), { device: "wasm" });
  try {
    const add = await model.prepare_lora_adapter("x", { ...loraOf(one), close: () => undefined });
    add();
    await use(model, async () => {
      const outputs = await run(model, caseInputs(modelCase));
      for (const [label, output] of Object.entries(outputs)) {
        const { data, dims } = expected[`${one.name}/${label}`]!;
        expect(output.dims).toEqual(dims);
        expectClose(output.data, data, tolerance, label);
      }
    });
  } finally {
    await model.dispose();
  }
}

// fp32 on both sides, in another order of summing; make_models.py's cases without a LoRA are within 2e-5.
const tolerance = 5e-5;

test.each(cases.map((one) => [one.name, one] as const))("%s: beside the layers, and fused", async (_, one) => {
  await withLora(
    one,
    async (model, run) => {
      await run();
      model.lora!.fuse_lora(1, true, undefined);
      await run();
      expect(model.lora!.fused_loras).toEqual(["x"]);
    },
    tolerance,
  );
});

const fused: FusedKernels = {
  attention: true,
  groupNorm: true,
  biasSplitGelu: true,
  quickGelu: true,
  skipLayerNorm: true,
};
const onProcessor: FusedKernels = { ...fused, groupNorm: false, biasSplitGelu: false };

/** Makes a model's device a pretended one: no real one has this target. */
function setTarget(model: ModelMixin<object>, target: Target): void {
  const { loaded } = model as unknown as { loaded: { device: { target: Target } } };
  loaded.device = { ...loaded.device, target };
}

describe("lowered otherwise", () => {
  const some = ["UNet2DConditionModel/random_35", "CLIPTextModel/odd_head_size"].map(
    (name) => cases.find((one) => one.name === name)!,
  );

  test.each(some.map((one) => [one.name, one] as const))("%s in half precision", async (_, one) => {
    // Half precision has 11 bits, and a network has dozens of roundings.
    await withLora(
      one,
      async (model, run) => {
        setTarget(model, { layout: "nchw", dtype: "float16", fused: onProcessor });
        await run();
        model.lora!.fuse_lora(1, false, undefined);
        await run();
      },
      2e-2,
    );
  });

  test("channels last, on WebGPU: every layer's change is there, in operators that are right there", async () => {
    await withLora(
      some[0]!,
      async (model) => {
        const { lora } = model as { lora: NonNullable<ModelMixin<object>["lora"]> };
        const internals = model as unknown as {
          loaded: { weights: Weights };
          check(build: (emit: (g: GraphBuilder) => void) => void): void;
        };
        const build = (
          target: Target,
          withAdapters: boolean,
        ): { nodes: ReturnType<typeof onnxNodes>; bytes: number } => {
          let result: { nodes: ReturnType<typeof onnxNodes>; bytes: number } | undefined;
          internals.check((emit) => {
            const g = new GraphBuilder(internals.loaded.weights, target);
            if (withAdapters) lora.graph(1).attach(g);
            emit(g);
            const { bytes, external } = g.build();
            const ofLora = external.filter(({ name }) => name.startsWith("lora_"));
            result = { nodes: onnxNodes(bytes), bytes: ofLora.reduce((sum, { byteLength }) => sum + byteLength, 0) };
          });
          return result!;
        };
        for (const dtype of ["float32", "float16"] as const) {
          const target: Target = { layout: "nhwc", dtype, fused };
          const [plain, changed] = [build(target, false), build(target, true)];
          const count = (nodes: ReturnType<typeof onnxNodes>, type: string): number =>
            nodes.filter((node) => node.type === type).length;
          const { layers, weights } = loraOf(some[0]!);
          const more = (type: string): number => count(changed.nodes, type) - count(plain.nodes, type);
          expect(more("Conv") + more("Gemm")).toBe(2 * layers.size);
          const numbers = [...weights.names()].map((name) => weights.shape(name)!.reduce((a, b) => a * b, 1));
          const total = numbers.reduce((sum, one) => sum + one, 0);
          expect(changed.bytes).toBe(total * (dtype === "float16" ? 2 : 4));
          expect(plain.bytes).toBe(0);
          for (const node of changed.nodes) {
            expect(node.domain === "com.ms.internal.nhwc").toBe(["AveragePool", "Conv"].includes(node.type));
          }
          const types = new Set(changed.nodes.map(({ type }) => type));
          for (const type of plain.nodes.map((node) => node.type)) types.delete(type);
          // One input's entries by slices; what scales and adds.
          expect([...types].filter((type) => !["Slice", "Mul", "Add", "Cast", "Pad"].includes(type))).toEqual([]);
        }
      },
      tolerance,
    );
  });
});
