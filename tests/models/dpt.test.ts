/** What of DPTForDepthEstimation is no plain case: refused configs and pictures, tensors left over, and ONNX exports. */
import {
  type DiffusersWebError,
  Generator,
  ModelNotFoundError,
  type Source,
  Tensor,
  UnsupportedModelError,
  ValueError,
  WeightsMismatchError,
} from "@diffusers-web/core";
import { DPTForDepthEstimation } from "@diffusers-web/models";
import { afterEach, describe, expect, test, vi } from "vitest";
import { GraphBuilder } from "../../packages/models/src/graph/builder.ts";
import { encodeModel, type Model } from "../../packages/models/src/graph/protobuf.ts";
import { resizeBilinear, resizeBilinearRows } from "../../packages/models/src/layers/bilinear.ts";
import { mapInput, mapOutput } from "../../packages/models/src/layers/layout.ts";
import { getDevice } from "../../packages/models/src/runtime/device.ts";
import { createSession } from "../../packages/models/src/runtime/session.ts";
import { expectClose } from "../support/allclose.ts";
import { failure } from "../support/onnx_exports.ts";
import { caseSource, memorySource, type TensorShape } from "./cases.ts";
import { caseShapes, modelCases } from "./cases_node.ts";

const caseOf = (name: string) => modelCases.find((one) => one.name === `DPTForDepthEstimation/${name}`)!;
const shapesOf = (name: string): readonly TensorShape[] => caseShapes[`DPTForDepthEstimation/${name}`]!;
const configOf = (name: string) => DPTForDepthEstimation.prepare_config(caseOf(name).config);
const bases = { plain: {}, hybrid: configOf("hybrid_midas"), bit: configOf("hybrid_midas") };

afterEach(() => vi.restoreAllMocks());

/** `bit` changes the hybrid's backbone_config. */
type Refusal = readonly [base: keyof typeof bases, change: object, field: string];

/** Python refuses these as well, when the model is made or when it is called. */
const wrong: readonly Refusal[] = [
  ["plain", { hidden_size: 0 }, "hidden_size"],
  ["plain", { hidden_size: 100 }, "hidden_size"],
  ["plain", { num_hidden_layers: null }, "num_hidden_layers"],
  ["plain", { layer_norm_eps: null }, "layer_norm_eps"],
  ["plain", { readout_type: "mean" }, "readout_type"],
  ["plain", { patch_size: [16, 16] }, "patch_size"],
  ["plain", { image_size: [32, 48] }, "image_size"],
  ["plain", { image_size: 8 }, "image_size"],
  ["plain", { image_size: [32, 32, 32] }, "image_size"],
  ["plain", { backbone_out_indices: [2, 5, 8] }, "backbone_out_indices"],
  ["plain", { backbone_out_indices: [2, 5, 8, 8] }, "backbone_out_indices"],
  ["plain", { backbone_out_indices: [2, 5, 8, -1] }, "backbone_out_indices"],
  ["plain", { backbone_out_indices: null }, "backbone_out_indices"],
  ["plain", { reassemble_factors: [4, 2, 1] }, "reassemble_factors"],
  ["plain", { reassemble_factors: [4, 2, 1, 1.5] }, "reassemble_factors"],
  ["plain", { reassemble_factors: [4, 2, 1, 0] }, "reassemble_factors"],
  ["plain", { neck_hidden_sizes: [] }, "neck_hidden_sizes"],
  ["plain", { head_in_index: 4 }, "head_in_index"],
  ["plain", { head_in_index: -5 }, "head_in_index"],
  ["plain", { add_projection: true, fusion_hidden_size: 128 }, "fusion_hidden_size"],
  ["hybrid", { readout_type: "add" }, "readout_type"],
  ["hybrid", { num_channels: 4 }, "num_channels"],
  ["hybrid", { backbone_featmap_shape: [1, 31, 2, 2] }, "backbone_featmap_shape"],
  ["hybrid", { backbone_featmap_shape: null }, "backbone_featmap_shape"],
  ["hybrid", { neck_hidden_sizes: [16, 25, 16, 16] }, "neck_hidden_sizes"],
  ["hybrid", { neck_ignore_stages: [0] }, "neck_ignore_stages"],
  ["hybrid", { neck_ignore_stages: [0, 1, 2] }, "neck_ignore_stages"],
  ["bit", { layer_type: "basic" }, "backbone_config.layer_type"],
  ["bit", { global_padding: "full" }, "backbone_config.global_padding"],
  ["bit", { out_features: ["stage1", "stage2"], out_indices: null }, "backbone_config.out_features"],
  ["bit", { out_features: ["stage2", "stage1", "stage3"], out_indices: null }, "backbone_config.out_features"],
  ["bit", { out_features: null, out_indices: [1, 2, 9] }, "backbone_config.out_indices"],
  ["bit", { out_features: ["stem", "stage1", "stage2"], out_indices: [1, 2, 3] }, "backbone_config.out_indices"],
  ["bit", { num_groups: 3 }, "backbone_config.num_groups"],
  ["bit", { hidden_sizes: [16, 24] }, "backbone_config.hidden_sizes"],
  ["bit", { depths: 3 }, "backbone_config.depths"],
  ["bit", { layer_type: "preactivation", width_factor: 2 }, "backbone_config.hidden_sizes"],
  ["bit", { output_stride: 0 }, "backbone_config.output_stride"],
];

/** As the official checkpoints with other backbones have them. */
const nulls = { num_hidden_layers: null, image_size: null, patch_size: null, backbone_out_indices: null };
const unsupported: readonly Refusal[] = [
  ["plain", { hidden_act: "elu" }, "hidden_act"],
  ...["dinov2", "swinv2", "beit", "bit"].map(
    (model_type): Refusal => ["plain", { backbone_config: { model_type }, ...nulls }, "backbone_config"],
  ),
  ["bit", { model_type: "swin" }, "backbone_config"],
  ["bit", { hidden_act: "elu" }, "backbone_config.hidden_act"],
  ["bit", { global_padding: "valid" }, "backbone_config.global_padding"],
];

describe.each([
  ["wrong", ValueError, wrong],
  ["not built", UnsupportedModelError, unsupported],
] as const)("a config that is %s is refused by name", (_, ErrorClass, table) => {
  test.each(table)("%s %j", (base, change, field) => {
    const own =
      base === "bit" ? { backbone_config: { ...(bases.bit["backbone_config"] as object), ...change } } : change;
    const config = { ...bases[base], ...own };
    let error: unknown;
    try {
      new DPTForDepthEstimation(config);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(ErrorClass);
    const { details, message } = error as DiffusersWebError;
    expect(details).toMatchObject({ className: "DPTForDepthEstimation", field });
    expect(details.found).toBeTruthy();
    expect(details.expected).toBeTruthy();
    expect(message).toContain(field);
  });
});

describe("the file's config", () => {
  test("a backbone that is only named is refused", () => {
    const config = { backbone: "vit_base_resnet50_384", backbone_config: null };
    expect(() => DPTForDepthEstimation.prepare_config(config)).toThrow(UnsupportedModelError);
    expect(() => DPTForDepthEstimation.prepare_config(config)).toThrow(/vit_base_resnet50_384/);
  });

  test("what transformers writes into every config, and old names, are no errors", () => {
    const file = {
      ...{ architectures: ["DPTForDepthEstimation"], model_type: "dpt", torch_dtype: "float32", backbone: null },
      ...{ embedding_type: "hybrid", num_labels: 150, id2label: { 0: "LABEL_0" }, hidden_size: 64, qkv_bias: true },
    };
    expect(DPTForDepthEstimation.prepare_config(file)).toEqual({ hidden_size: 64, qkv_bias: true });
  });

  test("a hybrid without a backbone_config has that of dpt-hybrid-midas", () => {
    const config = { is_hybrid: true, neck_hidden_sizes: [256, 512, 768, 768] };
    expect(() => new DPTForDepthEstimation(config)).not.toThrow();
    expect(() => new DPTForDepthEstimation({ ...config, backbone_featmap_shape: [1, 512, 1, 1] })).toThrow(/1024/);
  });
});

test("a patch size that is not the backbone's is named when the model is loaded", async () => {
  const one = { ...caseOf("hybrid_midas"), config: { ...caseOf("hybrid_midas").config, patch_size: 8 } };
  const error = await failure(
    DPTForDepthEstimation.from_pretrained(caseSource(one, shapesOf("hybrid_midas")), { device: "wasm" }),
  );
  expect(error).toBeInstanceOf(ValueError);
  expect(error.details).toMatchObject({ className: "DPTForDepthEstimation", field: "patch_size" });
  expect(error.message).toMatch(/4x4 patches.*makes 2x2/);
});

describe("pictures", () => {
  test.each<[string, string, readonly number[], RegExp]>([
    ["dpt_large", "channels", [1, 4, 32, 32], /\[batch, 3, height, width\], but is float32 \[1,4,32,32\]/],
    ["dpt_large", "rank", [3, 32, 32], /float32 \[3,32,32\]/],
    ["dpt_large", "patches", [1, 3, 32, 48], /6 patches of 16x16.*square/],
    ["dpt_large", "too small", [1, 3, 15, 32], /0 patches/],
    ["hybrid_midas", "another size", [1, 3, 48, 48], /`image_size` only, 32x32.*got 48x48/],
  ])("%s: %s", async (name, _, dims, message) => {
    await using model = await DPTForDepthEstimation.from_pretrained(caseSource(caseOf(name), shapesOf(name)), {
      device: "wasm",
    });
    const error = await failure(model(Tensor.zeros(dims)));
    expect(error).toBeInstanceOf(ValueError);
    expect(error.message).toMatch(message);
    expect(error.details).toMatchObject({ className: "DPTForDepthEstimation", field: "pixel_values" });
  });

  test("another size than the last one's", async () => {
    await using model = await DPTForDepthEstimation.from_pretrained(
      caseSource(caseOf("dpt_large"), shapesOf("dpt_large")),
      { device: "wasm" },
    );
    const sizes = await Promise.all(
      [32, 48, 32].map(async (size) => (await model(Tensor.ones([1, 3, size, size]))).predicted_depth),
    );
    expect(sizes.map(({ dims }) => dims)).toEqual([
      [1, 32, 32],
      [1, 64, 64],
      [1, 32, 32],
    ]);
    expect(sizes[2]!.data).toEqual(sizes[0]!.data);
  });
});

describe("tensors", () => {
  test("those that the depth is not made of are no one else's", async () => {
    const warn = vi.spyOn(console, "warn");
    for (const name of ["few_layers", "no_bias", "hybrid_stem", "hybrid_preactivation", "readout_ignore_batch_norm"]) {
      const source = caseSource(caseOf(name), shapesOf(name));
      await using _ = await DPTForDepthEstimation.from_pretrained(source, { device: "wasm" });
    }
    expect(warn).not.toHaveBeenCalled();
  });

  test("a layer too many is refused", async () => {
    const extra: TensorShape = ["dpt.encoder.layer.8.output.dense.bias", [16], "extra.bias"];
    const source = caseSource(caseOf("dpt_large"), [...shapesOf("dpt_large"), extra]);
    const error = await failure(DPTForDepthEstimation.from_pretrained(source, { device: "wasm" }));
    expect(error).toBeInstanceOf(WeightsMismatchError);
    expect(error.message).toContain("dpt.encoder.layer.8.output.dense.bias");
  });

  test("a missing one is named, with its shape", async () => {
    const name = "dpt.embeddings.backbone.bit.encoder.stages.1.layers.0.conv2.weight";
    const shapes = shapesOf("hybrid_midas").filter(([tensor]) => tensor !== name);
    const source = caseSource(caseOf("hybrid_midas"), shapes);
    const error = await failure(DPTForDepthEstimation.from_pretrained(source, { device: "wasm" }));
    expect(error).toBeInstanceOf(WeightsMismatchError);
    expect(error.message).toContain(`${name}: found no such tensor, expected [8, 8, 3, 3]`);
  });
});

describe("an ONNX export, where there are no safetensors", () => {
  const type = "float32" as const;
  /** Twice the first channel: what a depth estimator's graph looks like from the outside. */
  const graph = (factor: number, output = "predicted_depth"): Model => ({
    nodes: [
      {
        type: "ReduceSum",
        domain: "",
        inputs: ["pixel_values", "axes"],
        outputs: ["sum"],
        attributes: { keepdims: 0 },
      },
      { type: "Mul", domain: "", inputs: ["sum", "factor"], outputs: [output], attributes: {} },
    ],
    initializers: [
      { name: "axes", type: "int64", dims: [1], bytes: new Uint8Array(BigInt64Array.of(1n).buffer) },
      { name: "factor", type, dims: [1], bytes: new Uint8Array(Float32Array.of(factor).buffer) },
    ],
    inputs: [{ name: "pixel_values", type, dims: [1, 3, 4, 4] }],
    outputs: [{ name: output, type, dims: [1, 4, 4] }],
  });
  const json = (config: object): Uint8Array => new TextEncoder().encode(JSON.stringify(config));
  const sourceOf = (files: Record<string, Uint8Array>, isListed = true): Source => ({
    ...memorySource("export", files),
    ...(isListed && { list: async () => Object.entries(files).map(([path, { length: size }]) => ({ path, size })) }),
  });
  const picture = Tensor.ones([1, 3, 4, 4]);
  const { config } = caseOf("dpt_large");
  const layouts: readonly [string, string, boolean][] = [
    ["as transformers.js has it", "onnx/model.onnx", true],
    ["as Optimum has it", "model.onnx", true],
    ["as transformers.js has it, at a plain address", "onnx/model.onnx", false],
    ["as Optimum has it, at a plain address", "model.onnx", false],
  ];

  test.each(layouts)("%s", async (_, file, isListed) => {
    const source = sourceOf({ "config.json": json(config), [file]: encodeModel(graph(2)) }, isListed);
    const phases: string[] = [];
    const model = await DPTForDepthEstimation.from_pretrained(source, {
      device: "wasm",
      progress_callback: ({ phase }) => phases.push(phase),
    });
    expect(model).toBeInstanceOf(DPTForDepthEstimation);
    const rooms: string[] = [];
    model.before_run = async () => {
      rooms.push("made");
    };
    const { predicted_depth } = await model(picture);
    expect([predicted_depth.dims, predicted_depth.data[0]]).toEqual([[1, 4, 4], 6]);
    expect(rooms).toEqual(["made"]);
    expect([model.device, model.dtype, model.device_info.type]).toEqual(["wasm", "float32", "wasm"]);
    expect(model.config).toMatchObject({ num_hidden_layers: 8, _name_or_path: "export" });
    expect(phases).toContain("build");
    await model.to("wasm");
    await model.offload();
    expect((await model(picture)).predicted_depth.data[0]).toBe(6);
    await model.dispose();
    await expect(model(picture)).rejects.toThrow(/disposed/);
  });

  test("safetensors come first", async () => {
    const files = { "config.json": json(config), "onnx/model.onnx": encodeModel(graph(2)) };
    const weights = await caseSource(caseOf("dpt_large"), shapesOf("dpt_large")).open("model.safetensors");
    const source = sourceOf({ ...files, "model.safetensors": weights!.readSync(0, weights!.size) });
    await using model = await DPTForDepthEstimation.from_pretrained(source, { device: "wasm" });
    expect((await model(Tensor.ones([1, 3, 32, 32]))).predicted_depth.dims).toEqual([1, 32, 32]);
  });

  test("of another variant as well", async () => {
    const files = { "config.json": json(config), "onnx/model.onnx": encodeModel(graph(2)) };
    const half = sourceOf({ ...files, "model.fp16.safetensors": new Uint8Array() });
    const error = await failure(DPTForDepthEstimation.from_pretrained(half, { device: "wasm" }));
    expect(error.message).toMatch(/pass \{ variant: "fp16" \}/);
    const only = await failure(
      DPTForDepthEstimation.from_pretrained(sourceOf(files), { device: "wasm", variant: "fp16" }),
    );
    expect(only.message).toMatch(/ONNX export, which comes without variants/);
  });

  test("of a model whose graph is not built", async () => {
    const other = { ...config, backbone_config: { model_type: "dinov2" }, backbone_out_indices: null };
    const source = sourceOf({ "config.json": json(other), "onnx/model.onnx": encodeModel(graph(3)) });
    await using model = await DPTForDepthEstimation.from_pretrained(source, { device: "wasm" });
    expect((await model(picture)).predicted_depth.data[0]).toBe(9);
    expect(model.config.backbone_config).toEqual({ model_type: "dinov2" });
    const unlisted = sourceOf({ "config.json": json(other), "model.safetensors": new Uint8Array() });
    expect(await failure(DPTForDepthEstimation.from_pretrained(unlisted))).toBeInstanceOf(UnsupportedModelError);
  });

  test("the precision that is asked for", async () => {
    const files = { "onnx/model_fp16.onnx": encodeModel(graph(2)), "onnx/model_q4.onnx": encodeModel(graph(3)) };
    const source = sourceOf({ "config.json": json(config), ...files });
    const error = await failure(DPTForDepthEstimation.from_pretrained(source, { device: "wasm", dtype: "fp32" }));
    expect(error).toBeInstanceOf(ModelNotFoundError);
    expect(error.message).toMatch(/no onnx\/model\.onnx.*onnx\/model_fp16\.onnx, onnx\/model_q4\.onnx/);
    await using model = await DPTForDepthEstimation.from_pretrained(source, { device: "wasm" });
    expect((await model(picture)).predicted_depth.data[0]).toBe(6);
  });

  test("of another model, and none at all", async () => {
    const strange = sourceOf({ "config.json": json(config), "model.onnx": encodeModel(graph(2, "logits")) });
    const error = await failure(DPTForDepthEstimation.from_pretrained(strange, { device: "wasm" }));
    expect(error).toBeInstanceOf(UnsupportedModelError);
    expect(error.message).toMatch(/model\.onnx.*logits/);
    for (const isListed of [true, false]) {
      const empty = sourceOf({ "config.json": json(config) }, isListed);
      const missing = await failure(DPTForDepthEstimation.from_pretrained(empty, { device: "wasm" }));
      expect(missing).toBeInstanceOf(ModelNotFoundError);
      expect(missing.message).toContain("model.safetensors");
    }
  });

  test("a picture of another size than it was exported for", async () => {
    const source = sourceOf({ "config.json": json(config), "model.onnx": encodeModel(graph(2)) });
    await using model = await DPTForDepthEstimation.from_pretrained(source, { device: "wasm" });
    await expect(model(Tensor.ones([1, 3, 5, 5]))).rejects.toThrow(/pixel_values.*\[1,3,5,5\].*\[1, 3, 4, 4\]/);
  });
});

describe("bilinear interpolation", () => {
  const fused = { attention: true, groupNorm: false, biasSplitGelu: false, quickGelu: true, skipLayerNorm: true };
  const x = new Generator().manual_seed(0).randn([2, 3, 5, 4]);

  // On WebGPU it is not the engine's operator: the graph for channels last is run here, where both can be.
  test.each([
    [10, 8, true],
    [10, 8, false],
    [6, 5, false],
    [3, 2, false],
    [1, 1, false],
    [1, 4, true],
    [5, 9, false],
  ] as const)("to %i x %i, aligned corners: %s", async (height, width, alignCorners) => {
    const device = await getDevice("wasm", "fp32");
    const outputs: Tensor[] = [];
    for (const layout of ["nchw", "nhwc"] as const) {
      const weights = { file: "", names: () => [], shape: () => undefined, dtype: () => "F32" as const };
      const read = (): Uint8Array => new Uint8Array();
      const g = new GraphBuilder({ ...weights, read }, { layout, dtype: "float32", fused });
      mapOutput(g, "y", resizeBilinear(g, mapInput(g, "x", x.dims), { height, width }, alignCorners));
      const session = await createSession(g.build(), device);
      outputs.push((await session.run({ x }))["y"]!);
      await session.dispose();
    }
    expect(outputs[1]!.dims).toEqual([2, 3, height, width]);
    expectClose(outputs[1]!.data, outputs[0]!.data, 1e-6, "channels last");
  });
});

test("positions of another size are mixed as torch's bilinear interpolation mixes them", () => {
  const from = { height: 2, width: 2 };
  const mixed = resizeBilinearRows(Float32Array.of(0, 1, 10, 11), from, { height: 1, width: 4 }, 1);
  expect([...mixed]).toEqual([5, 5.25, 5.75, 6]);
  const values = Float32Array.of(1, 2, 3, 4);
  expect(resizeBilinearRows(values, from, from, 1)).toBe(values);
});
