/** What CLIP's encoders read and refuse, besides the cases of tests/fixtures/models/cases/clip_*.py. */
import { type DataType, Tensor, UnsupportedModelError, ValueError, WeightsMismatchError } from "@diffusers-web/core";
import {
  CLIPTextModel,
  CLIPTextModelWithProjection,
  CLIPVisionModel,
  CLIPVisionModelWithProjection,
} from "@diffusers-web/models";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { caseInputs, caseSource, type ModelCase, runCase, type TensorShape } from "./cases.ts";
import { caseOutputs, caseShapes, modelCases } from "./cases_node.ts";

const classes = { CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModel, CLIPVisionModelWithProjection };
type ClassName = keyof typeof classes;
const names = Object.keys(classes) as ClassName[];
const wasm = { device: "wasm" } as const;

function caseNamed(name: string): { one: ModelCase; shapes: readonly TensorShape[] } {
  return { one: modelCases.find((candidate) => candidate.name === name)!, shapes: caseShapes[name]! };
}

/** The error that a call throws, or rejects with. */
async function failure(call: () => unknown): Promise<Error & { details: Record<string, unknown> }> {
  try {
    await call();
  } catch (error) {
    return error as Error & { details: Record<string, unknown> };
  }
  throw new Error("nothing was thrown");
}

/** The tensors of one encoder, as a whole CLIP's file has them. */
function inWhole(key: "text_model" | "vision_model", shapes: readonly TensorShape[]): TensorShape[] {
  return shapes.map(([name, shape, formula]) => {
    const isInside = /^(text_model|vision_model)\.|_projection\./.test(name);
    return [isInside ? name : `${key}.${name}`, shape, formula];
  });
}

describe("files of a whole CLIP, and of older releases", () => {
  let warn: ReturnType<typeof vi.spyOn>;
  beforeEach(() => {
    warn = vi.spyOn(console, "warn").mockImplementation(() => {});
  });
  afterEach(() => warn.mockRestore());

  const strangers: TensorShape[] = [
    ["text_model.embeddings.position_ids", [1, 12], "a"],
    ["vision_model.embeddings.position_ids", [1, 10], "b"],
    ["logit_scale", [], "c"],
  ];
  const ofText: TensorShape[] = [
    ["vision_model.pre_layrnorm.weight", [16], "d"],
    ["visual_projection.weight", [10, 16], "e"],
  ];
  const ofVision: TensorShape[] = [
    ["text_model.final_layer_norm.weight", [16], "f"],
    ["text_projection.weight", [10, 16], "g"],
  ];

  it.each<[string, "text_model" | "vision_model", TensorShape[]]>([
    ["CLIPTextModel/gelu_other_eos", "text_model", [...ofText, ["text_projection.weight", [10, 16], "h"]]],
    ["CLIPTextModelWithProjection/sdxl", "text_model", ofText],
    ["CLIPVisionModel/eps", "vision_model", [...ofVision, ["visual_projection.weight", [10, 16], "i"]]],
    ["CLIPVisionModelWithProjection/openclip", "vision_model", ofVision],
  ])("%s", async (name, key, others) => {
    const { one, shapes } = caseNamed(name);
    const { model_type, ...inner } = one.config;
    const part = key.replace("model", "config");
    // What the other encoder, and the whole, say is not this model's.
    const config = {
      ...{ model_type: "clip", projection_dim: 99, hidden_size: 7, text_config: {}, vision_config: {} },
      [part]: inner,
    };
    const file = [...inWhole(key, shapes), ...others, ...strangers];
    const outputs = await runCase({ ...one, config }, file, wasm);
    for (const [label, output] of Object.entries(outputs)) {
      expectClose(output.data, caseOutputs[`${name}/${label}`]!.data as Float32Array, 2e-5, label);
    }
    expect(warn).not.toHaveBeenCalled();
  });

  it("a tensor of this encoder that it does not know is not passed over", async () => {
    const { one, shapes } = caseNamed("CLIPVisionModel/eps");
    const file: TensorShape[] = [...shapes, ["encoder.layers.2.layer_norm1.bias", [16], "a"]];
    const rejected = await CLIPVisionModel.from_pretrained(caseSource(one, file), wasm).then(
      (model) => model.dispose(),
      (error: Error) => error,
    );
    const told = rejected instanceof Error ? rejected.message : String(warn.mock.calls[0]);
    expect(told).toContain("encoder.layers.2.layer_norm1.bias");
  });

  it("an encoder without the projection that the class is to have", async () => {
    const { one, shapes } = caseNamed("CLIPTextModel/gelu_other_eos");
    const error = await failure(() => CLIPTextModelWithProjection.from_pretrained(caseSource(one, shapes), wasm));
    expect(error).toBeInstanceOf(WeightsMismatchError);
    expect(error.details).toMatchObject({ tensors: ["text_projection.weight"], expected: "[16, 16]" });
  });
});

describe("configs", () => {
  it.each(names)("%s takes its part of a whole CLIP's, and leaves what transformers writes besides", (name) => {
    const cls = classes[name];
    const key = name.startsWith("CLIPText") ? "text_config" : "vision_config";
    const whole = {
      model_type: "clip",
      hidden_size: 4,
      [key]: { hidden_size: 8, num_attention_heads: 2, dropout: 0, torch_dtype: "float16", is_causal: true },
    };
    expect(cls.prepare_config(whole)).toEqual({ hidden_size: 8, num_attention_heads: 2 });
    expect(cls.prepare_config({ architectures: [name], hidden_act: "gelu", [key]: null })).toEqual({
      hidden_act: "gelu",
    });
  });

  it.each<[ClassName, Record<string, unknown>, string]>([
    ...names.flatMap((name): [ClassName, Record<string, unknown>, string][] => [
      [name, { model_type: "chinese_clip" }, "model_type"],
      [name, { model_type: "altclip", text_config: {}, vision_config: {} }, "model_type"],
      [name, { model_type: "siglip" }, "model_type"],
      [name, { model_type: null }, "model_type"],
      [name, { quantization_config: { quant_method: "bitsandbytes" } }, "quantization_config"],
      [name, { hidden_act: "prelu" }, "hidden_act"],
      [name, { hidden_act: "xielu" }, "hidden_act"],
      [name, { hidden_act: "sqrtsoftplus" }, "hidden_act"],
      [name, { hidden_act: "GELU" }, "hidden_act"],
      [name, { hidden_act: null }, "hidden_act"],
    ]),
    ["CLIPTextModel", { model_type: "clip_vision_model" }, "model_type"],
    ["CLIPVisionModel", { model_type: "clip_text_model" }, "model_type"],
    ["CLIPTextModel", { text_config: { is_causal: false } }, "is_causal"],
    ["CLIPTextModelWithProjection", { eos_token_id: [1, 2] }, "eos_token_id"],
    ["CLIPTextModelWithProjection", { eos_token_id: null }, "eos_token_id"],
  ])("%s refuses %j", async (name, config, field) => {
    const { one, shapes } = caseNamed(`${name}/${name.startsWith("CLIPText") ? "no_states" : "base"}`);
    const source = caseSource({ ...one, config: { ...one.config, ...config } }, shapes);
    const error = await failure(() => (classes[name] as typeof CLIPTextModel).from_pretrained(source, wasm));
    expect(error).toBeInstanceOf(UnsupportedModelError);
    expect(error.details).toMatchObject({ className: name, field });
    expect(error.message).toContain(name);
    expect(error.message).toContain(field);
  });

  it.each<[ClassName, Record<string, unknown>, string]>([
    ...names.flatMap((name): [ClassName, Record<string, unknown>, string][] => [
      [name, { num_attention_heads: 7 }, "hidden_size"],
      [name, { num_attention_heads: 0 }, "num_attention_heads"],
      [name, { hidden_size: 8.5 }, "hidden_size"],
      [name, { intermediate_size: null }, "intermediate_size"],
      [name, { num_hidden_layers: -1 }, "num_hidden_layers"],
      [name, { layer_norm_eps: null }, "layer_norm_eps"],
      [name, { layer_norm_eps: "1e-5" }, "layer_norm_eps"],
    ]),
    ["CLIPTextModel", { vocab_size: 0 }, "vocab_size"],
    ["CLIPTextModel", { max_position_embeddings: "77" }, "max_position_embeddings"],
    ["CLIPTextModelWithProjection", { projection_dim: null }, "projection_dim"],
    ["CLIPVisionModelWithProjection", { projection_dim: null }, "projection_dim"],
    ["CLIPVisionModel", { image_size: [224, 224] }, "image_size"],
    ["CLIPVisionModel", { image_size: null }, "image_size"],
    ["CLIPVisionModel", { patch_size: [32, 32] }, "patch_size"],
    ["CLIPVisionModel", { image_size: 14 }, "image_size"],
    ["CLIPVisionModelWithProjection", { num_channels: 0 }, "num_channels"],
  ])("%s: %j is as wrong as in transformers", async (name, config, field) => {
    const cls = classes[name] as unknown as new (config: object) => object;
    const error = await failure(() => new cls(config));
    expect(error).toBeInstanceOf(ValueError);
    expect(error.details).toMatchObject({ className: name, field });
    expect(error.message).toContain(name);
    expect(error.message).toContain(field);
  });

  it("a text encoder that does not project needs no `projection_dim`", () => {
    expect(new CLIPTextModel({ projection_dim: null }).config.projection_dim).toBeNull();
  });
});

describe("arguments that do not fit", () => {
  const ids = (values: number[][]): Tensor<"int64"> => Tensor.from(values, "int64");

  it.each<[string, Record<string, unknown>, string, RegExp]>([
    ["too many places", { position_ids: ids([[1, 2, 3]]) }, "position_ids", /has int64 \[1,3\], but int64 \[1, 2\]/],
    ["a place that there is not", { position_ids: ids([[0, 12]]) }, "position_ids", /has 12, but .* of 0 to 11/],
    ["floats for places", { position_ids: Tensor.zeros([1, 2]) }, "position_ids", /has float32 \[1,2\]/],
    ["a mask of another length", { attention_mask: Tensor.ones([1, 3]) }, "attention_mask", /dims \[1,3\]/],
    ["a mask that is ready", { attention_mask: Tensor.ones([1, 1, 2, 2]) }, "attention_mask", /dims \[1,1,2,2\]/],
  ])("CLIPTextModelWithProjection: %s", async (_, options, field, message) => {
    const { one, shapes } = caseNamed("CLIPTextModelWithProjection/base");
    await using model = await CLIPTextModelWithProjection.from_pretrained(caseSource(one, shapes), wasm);
    const error = await failure(() => model(ids([[1, 2]]), options));
    expect(error).toBeInstanceOf(ValueError);
    expect(error.details).toMatchObject({ className: "CLIPTextModelWithProjection", field });
    expect(error.message).toMatch(message);
    await expect(model(ids([[1, 2]]), { output_attentions: true } as object)).rejects.toThrow(TypeError);
  });

  it.each<[string, number[], boolean, RegExp]>([
    ["another size", [1, 3, 12, 16], false, /pictures of 12x12 .* has 12x16.* interpolate_pos_encoding: true/],
    ["less than a patch", [1, 3, 3, 12], true, /at least 4x4 .* has 3x12/],
    ["channels", [1, 1, 12, 12], false, /\[batch, 3, height, width\], but got \[1,1,12,12\]/],
    ["no batch", [3, 12, 12], false, /but got \[3,12,12\]/],
  ])("CLIPVisionModelWithProjection: %s", async (_, dims, interpolate_pos_encoding, message) => {
    const { one, shapes } = caseNamed("CLIPVisionModelWithProjection/base");
    await using model = await CLIPVisionModelWithProjection.from_pretrained(caseSource(one, shapes), wasm);
    const error = await failure(() => model(Tensor.zeros(dims), { interpolate_pos_encoding }));
    expect(error).toBeInstanceOf(ValueError);
    expect(error.details).toMatchObject({ className: "CLIPVisionModelWithProjection", field: "pixel_values" });
    expect(error.message).toMatch(message);
  });

  it("a model without weights says so, whatever it is called with", async () => {
    const model = new CLIPVisionModel({ image_size: 32 });
    for (const [size, options] of [
      [32, {}],
      [64, { interpolate_pos_encoding: true }],
    ] as const) {
      await expect(model(Tensor.zeros([1, 3, size, size]), options)).rejects.toThrow(/has no weights/);
    }
  });

  it("a disposed model says so", async () => {
    const { one, shapes } = caseNamed("CLIPVisionModel/larger");
    const model = await CLIPVisionModel.from_pretrained(caseSource(one, shapes), wasm);
    await model.dispose();
    const { pixel_values } = caseInputs(one) as { pixel_values: Tensor };
    await expect(model(pixel_values, { interpolate_pos_encoding: true })).rejects.toThrow(/disposed/);
  });
});

it("pictures of several sizes and masks, one after the other", async () => {
  const { one, shapes } = caseNamed("CLIPVisionModel/larger");
  await using model = await CLIPVisionModel.from_pretrained(caseSource(one, shapes), wasm);
  const own = Tensor.ones([1, 3, 12, 12]);
  const first = await model(own);
  const resized = await model(Tensor.ones([1, 3, 20, 12]), { interpolate_pos_encoding: true });
  expect(resized.last_hidden_state.dims).toEqual([1, 16, 16]);
  const again = await model(own, { interpolate_pos_encoding: true, output_hidden_states: false });
  expect(again.hidden_states).toEqual([]);
  expect(again.pooler_output.data).toEqual(first.pooler_output.data);

  const text = caseNamed("CLIPTextModel/padded_left");
  await using encoder = await CLIPTextModel.from_pretrained(caseSource(text.one, text.shapes), wasm);
  const inputs = caseInputs(text.one) as unknown as { input_ids: Tensor<"int64">; attention_mask: Tensor<DataType> };
  const { input_ids, attention_mask } = inputs;
  const masked = await encoder(input_ids, { attention_mask });
  const ones = Tensor.ones(attention_mask.dims);
  const seen = await encoder(input_ids, { attention_mask: ones });
  const plain = await encoder(input_ids);
  expectClose(seen.pooler_output.data, plain.pooler_output.data, 1e-6, "all seen");
  expect(masked.pooler_output.data).not.toEqual(plain.pooler_output.data);
  // The last text has no padding.
  expectClose(masked.pooler_output.data.subarray(-16), plain.pooler_output.data.subarray(-16), 1e-6, "no padding");
});
