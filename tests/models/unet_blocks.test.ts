import { Tensor, UnsupportedModelError, ValueError, WeightsMismatchError } from "@diffusers-web/core";
import { type ModelLoadOptions, UNet2DConditionModel, UNet2DModel } from "@diffusers-web/models";
import { describe, expect, it } from "vitest";
import { caseInputs, caseSource, type ModelCase, type TensorShape } from "./cases.ts";
import { caseOutputs, caseShapes, modelCases } from "./cases_node.ts";

const wasm: ModelLoadOptions = { device: "wasm" };
const zeros = (...dims: number[]): Tensor => Tensor.zeros(dims);

function caseNamed(name: string): { one: ModelCase; shapes: readonly TensorShape[] } {
  return { one: modelCases.find((candidate) => candidate.name === name)!, shapes: caseShapes[name]! };
}

async function unet2D(name: string): Promise<UNet2DModel> {
  const { one, shapes } = caseNamed(`UNet2DModel/${name}`);
  return UNet2DModel.from_pretrained(caseSource(one, shapes), wasm);
}

async function conditioned(name: string): Promise<UNet2DConditionModel> {
  const { one, shapes } = caseNamed(`UNet2DConditionModel/${name}`);
  return UNet2DConditionModel.from_pretrained(caseSource(one, shapes), wasm);
}

describe("calls of a UNet2DModel that do not fit", () => {
  it.each<[string, string, Tensor, number | Tensor, Record<string, Tensor> | undefined, RegExp]>([
    ["an odd size", "head_dim", zeros(1, 3, 9, 8), 1, {}, /feature maps of 10x8 and 9x8/],
    ["an odd size, blurred", "skip_blocks", zeros(1, 3, 9, 8), 1, {}, /multiples of the model's downscale factor/],
    ["too small to be blurred", "skip_blocks", zeros(1, 3, 1, 8), 1, {}, /it has shrunk to 1x8/],
    ["too small to be mirrored", "k_blocks", zeros(1, 3, 2, 8), 1, {}, /it has shrunk to 1x4/],
    ["channels", "skip_blocks", zeros(1, 4, 8, 8), 1, {}, /\[batch, 3, height, width\], but got \[1,4,8,8\]/],
    ["timesteps", "head_dim", zeros(2, 3, 8, 8), Tensor.from([1, 2, 3]), {}, /`timestep` has dims \[3\]/],
    ["a timestep without a row", "learned", zeros(1, 3, 8, 8), 20, {}, /no embedding number 20: the model has 20/],
    ["no classes", "class_identity", zeros(2, 3, 8, 8), 1, undefined, /class_labels should be provided/],
    [
      "embeddings of other dims",
      "class_identity",
      zeros(2, 3, 8, 8),
      1,
      { class_labels: zeros(2, 31) },
      /`class_labels` has dims \[2,31\], but \[2,32\] is expected/,
    ],
    [
      "classes of none",
      "head_dim",
      zeros(1, 3, 8, 8),
      1,
      { class_labels: zeros(1) },
      /this UNet2DModel has no classes/,
    ],
  ])("%s", async (_, name, sample, timestep, options, message) => {
    const model = await unet2D(name);
    const call = model(sample, timestep, options);
    await expect(call).rejects.toThrow(ValueError);
    await expect(call).rejects.toThrow(message);
    await model.dispose();
  });
});

describe("calls of a UNet2DConditionModel that do not fit its blocks", () => {
  const residuals = [zeros(2, 8, 8, 8), zeros(2, 16, 4, 4)];
  const mask = Tensor.from([
    [1, 1, 0],
    [1, 0, 1],
  ]);

  it.each<[string, string, object, RegExp]>([
    [
      "T2I-Adapter",
      "simple",
      { down_intrablock_additional_residuals: residuals },
      /do not go with "SimpleCrossAttnDownBlock2D" in `down_block_types`/,
    ],
    [
      "a mask of another text",
      "simple",
      { encoder_attention_mask: mask },
      /`encoder_attention_mask` has 67 tokens, but down_blocks\.0\.attentions\.0 \(with the pixels added to the mask\)/,
    ],
    ["a mask of another text, K", "k_blocks", { encoder_attention_mask: mask }, /attends to 7/],
  ])("%s", async (_, name, options, message) => {
    const model = await conditioned(name);
    const call = model(zeros(2, 4, 8, 8), 1, zeros(2, 7, 12), options);
    await expect(call).rejects.toThrow(ValueError);
    await expect(call).rejects.toThrow(message);
    await model.dispose();
  });
});

describe("configs whose blocks do not go together", () => {
  const skip = caseNamed("UNet2DModel/skip_blocks");

  async function refusal(config: object): Promise<Error> {
    const one = { ...skip.one, config: { ...skip.one.config, ...config } };
    try {
      const model = await UNet2DModel.from_pretrained(caseSource(one, skip.shapes), wasm);
      await model.dispose();
    } catch (error) {
      return error as Error;
    }
    throw new Error("It was taken.");
  }

  it("a picture past blocks that resample", async () => {
    const error = await refusal({
      block_out_channels: [16, 32, 32],
      down_block_types: ["SkipDownBlock2D", "DownBlock2D", "SkipDownBlock2D"],
      up_block_types: ["SkipUpBlock2D", "UpBlock2D", "SkipUpBlock2D"],
      norm_num_groups: 4,
    });
    expect(error).toBeInstanceOf(ValueError);
    expect(error.message).toMatch(/a picture of .* to a feature map of .*: other blocks between skip blocks/);
  });

  it("channels that a skip block's own groups do not divide", async () => {
    const error = await refusal({ block_out_channels: [18, 32] });
    expect(error).toBeInstanceOf(ValueError);
    expect((error as ValueError).details).toMatchObject({ field: "block_out_channels" });
    expect(error.message).toMatch(/18 channels do not divide into the 4 groups that this kind of block makes/);
  });

  it("no groups with blocks that have none of their own", async () => {
    const error = await refusal({ up_block_types: ["SkipUpBlock2D", "UpBlock2D"] });
    expect(error).toBeInstanceOf(UnsupportedModelError);
    expect((error as UnsupportedModelError).details).toMatchObject({
      className: "UNet2DModel",
      field: "norm_num_groups",
    });
  });
});

describe("weights of the score-sde checkpoints", () => {
  const name = "UNet2DModel/skip_blocks";

  it("frequencies that were saved twice", async () => {
    const { one, shapes } = caseNamed(name);
    const twice: TensorShape[] = [...shapes, ["time_proj.W", [16], "time_proj.weight"]];
    const model = await UNet2DModel.from_pretrained(caseSource(one, twice), wasm);
    const { sample, timestep } = caseInputs(one);
    const output = await model(sample!, timestep!);
    const expected = caseOutputs[`${name}/sample`]!.data as Float32Array;
    const off = output.sample.data.map((value, i) => Math.abs(value - expected[i]!));
    expect(Math.max(...off)).toBeLessThan(1e-5);
    await model.dispose();
  });

  it("a convolution of the picture that is missing", async () => {
    const { one, shapes } = caseNamed(name);
    const some = shapes.filter(([tensor]) => !tensor.startsWith("down_blocks.0.skip_conv"));
    const load = UNet2DModel.from_pretrained(caseSource(one, some), wasm);
    await expect(load).rejects.toThrow(WeightsMismatchError);
    await expect(load).rejects.toThrow("down_blocks.0.skip_conv.weight: found no such tensor, expected [16, 3, 1, 1]");
  });
});
