import { Tensor, ValueError, WeightsMismatchError } from "@diffusers-web/core";
import {
  AutoencoderKL,
  CLIPTextModel,
  type ModelLoadOptions,
  UNet2DConditionModel,
  type UNet2DConditionOptions,
  UNet2DModel,
} from "@diffusers-web/models";
import { describe, expect, it } from "vitest";
import { caseSource, type ModelCase, type TensorShape } from "./cases.ts";
import { caseShapes, modelCases } from "./cases_node.ts";

const wasm: ModelLoadOptions = { device: "wasm" };

function caseNamed(name: string): { one: ModelCase; shapes: readonly TensorShape[] } {
  return { one: modelCases.find((candidate) => candidate.name === name)!, shapes: caseShapes[name]! };
}

function source(name: string): ReturnType<typeof caseSource> {
  const { one, shapes } = caseNamed(name);
  return caseSource(one, shapes);
}

const zeros = (...dims: number[]): Tensor => Tensor.zeros(dims);
const ids = (values: number[][]): Tensor<"int64"> => Tensor.from(values, "int64");

describe("arguments that do not fit", () => {
  const sample = zeros(2, 4, 8, 8);
  const text = zeros(2, 7, 12);
  type Call = [string, [Tensor, number | Tensor, Tensor, UNet2DConditionOptions?], RegExp];

  it.each<[string, ...Call]>([
    ["channels", "head", [zeros(2, 3, 8, 8), 1, text], /\[batch, 4, height, width\], but got \[2,3,8,8\]/],
    ["rank", "head", [zeros(4, 8, 8), 1, text], /`sample` of dims \[batch, 4/],
    ["text's batch", "head", [sample, 1, zeros(1, 7, 12)], /\[2, length, 12\], but got \[1,7,12\]/],
    ["text's channels", "head", [sample, 1, zeros(2, 7, 11)], /but got \[2,7,11\]/],
    ["timesteps", "head", [sample, Tensor.from([1, 2, 3]), text], /`timestep` has dims \[3\], but the batch has 2/],
    ["no class labels", "class_table", [sample, 1, text], /`class_labels` should be provided/],
    [
      "unknown class",
      "class_table",
      [sample, 1, text, { class_labels: Tensor.from([5], "int64") }],
      /no embedding number 5/,
    ],
    [
      "class embedding's dims",
      "class_projection",
      [sample, 1, text, { class_labels: zeros(2, 5) }],
      /\[2,6\] is expected/,
    ],
    ["no added conditions", "sdxl", [sample, 1, text], /`added_cond_kwargs` needs `text_embeds`/],
    [
      "added conditions' dims",
      "sdxl",
      [sample, 1, text, { added_cond_kwargs: { text_embeds: zeros(2, 11), time_ids: zeros(2, 6) } }],
      /`added_cond_kwargs` has dims \[2,59\], but \[2,58\]/,
    ],
    [
      "guidance for a model without",
      "head",
      [sample, 1, text, { timestep_cond: zeros(2, 4) }],
      /has no `time_cond_proj_dim`/,
    ],
    [
      "a middle residual alone",
      "head",
      [sample, 1, text, { mid_block_additional_residual: zeros(2, 16, 4, 4) }],
      /needs `down_block_additional_residuals`/,
    ],
    [
      "too few residuals",
      "head",
      [
        sample,
        1,
        text,
        { down_block_additional_residuals: [sample], mid_block_additional_residual: zeros(2, 16, 4, 4) },
      ],
      /`down_block_additional_residuals` have sizes/,
    ],
  ])("UNet2DConditionModel: %s", async (_, key, args, message) => {
    const name = key === "head" ? "heads_that_do_not_divide" : key;
    const model = await UNet2DConditionModel.from_pretrained(source(`UNet2DConditionModel/${name}`), wasm);
    const call = model(...args);
    await expect(call).rejects.toThrow(ValueError);
    await expect(call).rejects.toThrow(message);
    await model.dispose();
  });

  it("an option that is not known", async () => {
    const model = await UNet2DConditionModel.from_pretrained(source("UNet2DConditionModel/fourier"), wasm);
    const misspelt = { class_label: zeros(2) } as UNet2DConditionOptions;
    await expect(model(sample, 1, text, misspelt)).rejects.toThrow("Did you mean `class_labels`?");
    await model.dispose();
  });

  it("UNet2DModel: a size that does not come back on the way up", async () => {
    const model = await UNet2DModel.from_pretrained(source("UNet2DModel/head_dim"), wasm);
    await expect(model(zeros(1, 3, 7, 8), 1)).rejects.toThrow(
      /does not survive .* 8x8 and 7x8 \(height x width\) meet/,
    );
    await expect(model(zeros(1, 3, 8, 8), 1, { class_labels: ids([[1]]) })).rejects.toThrow(/class conditioning/);
    // The model is usable afterwards.
    expect((await model(zeros(1, 3, 8, 8), 1)).sample.dims).toEqual([1, 3, 8, 8]);
    await model.dispose();
  });

  it("AutoencoderKL", async () => {
    const model = await AutoencoderKL.from_pretrained(source("AutoencoderKL/three_levels"), wasm);
    await expect(model.encode(zeros(1, 4, 16, 16))).rejects.toThrow(/takes a `x` of dims \[batch, 3/);
    await expect(model.encode(zeros(1, 3, 16, 3))).rejects.toThrow(/at least 4x4, but got \[1,3,16,3\]/);
    await expect(model.decode(zeros(1, 3, 4, 4))).rejects.toThrow(/takes a `z` of dims \[batch, 4/);
    await model.dispose();
  });

  it.each<[string, Tensor<"int64">, Tensor | undefined, RegExp]>([
    ["too long", ids([new Array<number>(13).fill(1)]), undefined, /13 tokens is longer than the model's 12/],
    ["not in the vocabulary", ids([[1, 40]]), undefined, /no token 40: its vocabulary has 40/],
    ["negative", ids([[-1]]), undefined, /no token -1/],
    ["one-dimensional", Tensor.from([1, 2], "int64"), undefined, /must be an int64 Tensor \[batch, length\]/],
    ["floats", zeros(1, 3) as unknown as Tensor<"int64">, undefined, /but is float32/],
    ["mask's dims", ids([[1, 2]]), zeros(1, 3), /`attention_mask` has dims \[1,3\], but \[1, 2\]/],
  ])("CLIPTextModel: %s", async (_, input_ids, attention_mask, message) => {
    const model = await CLIPTextModel.from_pretrained(source("CLIPTextModel/gelu_other_eos"), wasm);
    await expect(model(input_ids, { attention_mask })).rejects.toThrow(message);
    await expect(model(input_ids, { attention_mask })).rejects.toThrow(ValueError);
    await model.dispose();
  });
});

describe("weights that do not fit", () => {
  it("names every tensor that is missing or of another shape, when the model is loaded", async () => {
    const { one, shapes } = caseNamed("UNet2DConditionModel/sd15");
    const kept = shapes.filter(
      ([name]) => name !== "conv_in.bias" && !name.includes("down_blocks.0.attentions.0.norm"),
    );
    const wider = { ...one, config: { ...one.config, out_channels: 5 } };
    const load = UNet2DConditionModel.from_pretrained(caseSource(wider, kept), wasm);
    await expect(load).rejects.toThrow(WeightsMismatchError);
    await expect(load).rejects.toMatchObject({
      details: {
        file: "diffusion_pytorch_model.safetensors",
        tensors: [
          "conv_in.bias",
          "down_blocks.0.attentions.0.norm.weight",
          "down_blocks.0.attentions.0.norm.bias",
          "conv_out.weight",
          "conv_out.bias",
        ],
        found: "no such tensor",
        expected: "[8]",
      },
    });
    await expect(load).rejects.toThrow("conv_out.weight: found [4, 8, 3, 3], expected [5, 8, 3, 3]");
  });

  it("a config whose groups do not divide its channels", async () => {
    const { one, shapes } = caseNamed("UNet2DModel/head_dim");
    const changed = { ...one, config: { ...one.config, norm_num_groups: 3 } };
    const load = UNet2DModel.from_pretrained(caseSource(changed, shapes), wasm);
    await expect(load).rejects.toThrow(/8 channels do not divide into `norm_num_groups` 3/);
  });
});

describe("the same model at other sizes", () => {
  it("two sizes one after the other, and the first again", async () => {
    const model = await UNet2DModel.from_pretrained(source("UNet2DModel/head_dim"), wasm);
    const small = Tensor.ones([1, 3, 8, 8]);
    const first = await model(small, 5);
    const other = await model(Tensor.ones([2, 3, 12, 8]), 5);
    const again = await model(small, 5);
    expect(other.sample.dims).toEqual([2, 3, 12, 8]);
    expect(again.sample.data).toEqual(first.sample.data);
    // The timestep is an input: another one is another result.
    expect((await model(small, 6)).sample.data).not.toEqual(first.sample.data);
    await model.dispose();
  });
});
