/** What a UNet2DConditionModel refuses, in its config and in a call; and what it takes that Python takes. */
import { type DataType, Tensor, UnsupportedModelError, ValueError } from "@diffusers-web/core";
import { type AddedConditions, UNet2DConditionModel, type UNet2DConditionOptions } from "@diffusers-web/models";
import { afterAll, describe, expect, it } from "vitest";
import { caseSource } from "./cases.ts";
import { caseShapes, modelCases } from "./cases_node.ts";

type Config = Record<string, unknown>;
const cross = { down_block_types: ["CrossAttnDownBlock2D"], up_block_types: ["CrossAttnUpBlock2D"] };
const down = { down_block_types: ["DownBlock2D"], up_block_types: ["UpBlock2D"] };
const small = { ...cross, block_out_channels: [32], cross_attention_dim: 12 };
const plain = { ...down, block_out_channels: [32], mid_block_type: "UNetMidBlock2D" };

/** [config, the field that is named, a part of the message] */
const wrong: readonly [Config, string, RegExp][] = [
  [{ down_block_types: [], up_block_types: [], block_out_channels: [] }, "down_block_types", /at least one name/],
  [{ down_block_types: "DownBlock2D" }, "down_block_types", /a list of names/],
  [{ up_block_types: [1, 2, 3, 4] }, "up_block_types", /a list of names/],
  [{ up_block_types: ["UpBlock2D", "UpBlock2D"] }, "up_block_types", /found 2 and 4/],
  [{ block_out_channels: 320 }, "block_out_channels", /a list of positive integers/],
  [{ block_out_channels: [320, 640, 1280, 12.5] }, "block_out_channels", /positive integers/],
  [{ block_out_channels: [320, 640] }, "block_out_channels", /found 2 and 4/],
  [{ in_channels: "4" }, "in_channels", /an integer of at least 1/],
  [{ in_channels: 0 }, "in_channels", /an integer of at least 1/],
  [{ out_channels: null }, "out_channels", /an integer of at least 1/],
  [{ conv_in_kernel: [3, 3] }, "conv_in_kernel", /an integer of at least 1/],
  [{ conv_out_kernel: 0 }, "conv_out_kernel", /an integer of at least 1/],
  [{ downsample_padding: -1 }, "downsample_padding", /at least 0/],
  [{ downsample_padding: null }, "downsample_padding", /at least 0/],
  [{ norm_num_groups: 0 }, "norm_num_groups", /or null/],
  [{ norm_num_groups: 24 }, "norm_num_groups", /a divisor of the 320 in `block_out_channels`/],
  [{ ...small, block_out_channels: [36] }, "norm_num_groups", /a divisor of the 36/],
  [{ norm_eps: "1e-5" }, "norm_eps", /a number/],
  [{ freq_shift: null }, "freq_shift", /a number/],
  [{ mid_block_scale_factor: 0 }, "mid_block_scale_factor", /to divide by/],
  [{ resnet_out_scale_factor: 0 }, "resnet_out_scale_factor", /to divide by/],
  [{ time_embedding_dim: 1.5 }, "time_embedding_dim", /or null/],
  [{ time_cond_proj_dim: 0 }, "time_cond_proj_dim", /or null/],
  [{ num_class_embeds: -1 }, "num_class_embeds", /or null/],
  [{ layers_per_block: [2, 2] }, "layers_per_block", /found 2 and 4/],
  [{ layers_per_block: [2, 2, 2, -1] }, "layers_per_block", /at least 0/],
  [{ layers_per_block: "2" }, "layers_per_block", /at least 0/],
  [{ only_cross_attention: 1 }, "only_cross_attention", /true or false/],
  [{ only_cross_attention: [true, false] }, "only_cross_attention", /found 2 and 4/],
  [{ attention_head_dim: 0 }, "attention_head_dim", /number of heads/],
  [{ attention_head_dim: 321 }, "attention_head_dim", /from 1 to the 320 channels of CrossAttnDownBlock2D/],
  [{ attention_head_dim: [8, 8, null, 8] }, "attention_head_dim", /number of heads/],
  [{ attention_head_dim: [8, 8, 8, null] }, "attention_head_dim", /of UNetMidBlock2DCrossAttn/],
  [{ attention_head_dim: [5, 10, 20] }, "attention_head_dim", /found 3 and 4/],
  [
    { ...plain, down_block_types: ["AttnDownBlock2D"], attention_head_dim: 33 },
    "attention_head_dim",
    /the size of a head from 1 to the 32/,
  ],
  [{ transformer_layers_per_block: [1, 1] }, "transformer_layers_per_block", /a list of at least 4/],
  [{ transformer_layers_per_block: -1 }, "transformer_layers_per_block", /an integer/],
  [{ transformer_layers_per_block: [1, 1, 1.5, 1] }, "transformer_layers_per_block", /an integer or a list/],
  [{ transformer_layers_per_block: [[1, 1], 1, 1, 1] }, "reverse_transformer_layers_per_block", /holds lists/],
  [
    { transformer_layers_per_block: [[1], 1, 1, 1], reverse_transformer_layers_per_block: [1, 1, 1, 1] },
    "transformer_layers_per_block",
    /a list of 2 integers for CrossAttnDownBlock2D/,
  ],
  [
    { transformer_layers_per_block: [1, 1, 1, []], reverse_transformer_layers_per_block: [1, 1, 1, 1] },
    "transformer_layers_per_block",
    /a list of 1 integers for UNetMidBlock2DCrossAttn/,
  ],
  [{ reverse_transformer_layers_per_block: 2 }, "reverse_transformer_layers_per_block", /null, or a list/],
  [{ reverse_transformer_layers_per_block: [1, 1] }, "reverse_transformer_layers_per_block", /at least 4/],
  [
    { reverse_transformer_layers_per_block: [1, 1, 1, [1, 2]] },
    "reverse_transformer_layers_per_block",
    /a list of 3 integers for CrossAttnUpBlock2D/,
  ],
  [{ cross_attention_dim: "768" }, "cross_attention_dim", /positive integers/],
  [{ cross_attention_dim: [768, 768] }, "cross_attention_dim", /found 2 and 4/],
  [{ cross_attention_dim: [768, 768, 768, 1024] }, "cross_attention_dim", /one number for all blocks/],
  [{ cross_attention_dim: [null, 768, 768, 768] }, "cross_attention_dim", /a number for down_block_types\[0\]/],
  [{ encoder_hid_dim_type: "image_proj" }, "encoder_hid_dim", /needs `encoder_hid_dim`/],
  [{ ...small, encoder_hid_dim: 8, cross_attention_dim: [12] }, "cross_attention_dim", /beside `encoder_hid_dim`/],
  [{ ...plain, addition_embed_type: "text", cross_attention_dim: [12] }, "cross_attention_dim", /type` text/],
  [{ ...small, addition_embed_type: "text_image", cross_attention_dim: [12] }, "cross_attention_dim", /text_image/],
  [{ ...small, addition_embed_type: "text" }, "addition_embed_type_num_heads", /a divisor of 12/],
  [{ addition_embed_type: "image" }, "encoder_hid_dim", /needs `encoder_hid_dim`/],
  [{ addition_embed_type: "image_hint", encoder_hid_dim: 8 }, "in_channels", /more than the 4/],
  [
    { ...small, addition_embed_type: "image", encoder_hid_dim: 8, encoder_hid_dim_type: "text_image_proj" },
    "encoder_hid_dim",
    /the same image_embeds/,
  ],
  [
    { addition_embed_type: "text_time", projection_class_embeddings_input_dim: 8 },
    "addition_time_embed_dim",
    /needs `addition_time_embed_dim`/,
  ],
  [{ class_embed_type: "simple_projection" }, "projection_class_embeddings_input_dim", /simple_projection/],
  [{ class_embeddings_concat: true }, "class_embeddings_concat", /a class embedding beside it/],
  [
    { ...small, class_embeddings_concat: true, num_class_embeds: 3, addition_embed_type: "text" },
    "class_embeddings_concat",
    /no `addition_embed_type`/,
  ],
  [{ time_embedding_type: "fourier", time_embedding_dim: 7 }, "time_embedding_dim", /an even number/],
];

const unsupported: readonly [Config, string][] = [
  [{ ...small, down_block_types: ["DownEncoderBlock2D"] }, "down_block_types"],
  [{ ...small, down_block_types: ["SkipDownBlock2D"] }, "down_block_types"],
  [{ ...small, up_block_types: ["UpDecoderBlock2D"] }, "up_block_types"],
  [{ ...small, mid_block_type: "UNetMidBlock2DCrossAttn2" }, "mid_block_type"],
  [{ ...plain, mid_block_type: "UNetMidBlock2DCrossAttn", cross_attention_dim: [null] }, "cross_attention_dim"],
  [{ only_cross_attention: null }, "only_cross_attention"],
  [{ cross_attention_dim: null }, "cross_attention_dim"],
  [{ layers_per_block: null }, "layers_per_block"],
  [{ time_embedding_type: null }, "time_embedding_type"],
  [{ class_embed_type: "class" }, "class_embed_type"],
  [{ norm_num_groups: null }, "norm_num_groups"],
];

function thrownBy(config: Config): unknown {
  try {
    new UNet2DConditionModel(config);
  } catch (error) {
    return error;
  }
  return undefined;
}

describe("configs", () => {
  it.each(wrong)("wrong: %j", (config, field, message) => {
    const error = thrownBy(config) as ValueError;
    expect(error).toBeInstanceOf(ValueError);
    expect(error.message).toMatch(message);
    expect(error.details).toMatchObject({ className: "UNet2DConditionModel", field });
    expect(error.details.found).toBeTypeOf("string");
    expect(error.details.expected).toBeTypeOf("string");
  });

  it.each(unsupported)("not built: %j", (config, field) => {
    const error = thrownBy(config) as UnsupportedModelError;
    expect(error).toBeInstanceOf(UnsupportedModelError);
    expect(error.details).toMatchObject({ className: "UNet2DConditionModel", field });
  });

  it("an `encoder_hid_dim` alone means text_proj, in the config too", () => {
    const model = new UNet2DConditionModel({ ...small, encoder_hid_dim: 8 });
    expect(model.config.encoder_hid_dim_type).toBe("text_proj");
    expect(new UNet2DConditionModel(small).config.encoder_hid_dim_type).toBeNull();
  });
});

const zeros = (...dims: number[]): Tensor => Tensor.zeros(dims);
const models = new Map<string, UNet2DConditionModel>();
async function model(key: string): Promise<UNet2DConditionModel> {
  const name = `UNet2DConditionModel/${key}`;
  const one = modelCases.find((candidate) => candidate.name === name)!;
  const source = caseSource(one, caseShapes[name]!);
  const loaded = models.get(key) ?? (await UNet2DConditionModel.from_pretrained(source, { device: "wasm" }));
  models.set(key, loaded);
  return loaded;
}
afterAll(async () => {
  for (const one of models.values()) await one.dispose();
});

describe("calls", () => {
  const sample = zeros(2, 4, 8, 8);
  const text = zeros(2, 7, 12);
  const added = (added_cond_kwargs: Record<string, unknown>): UNet2DConditionOptions => ({
    added_cond_kwargs: added_cond_kwargs as AddedConditions,
  });
  const labels = (...dims: number[]): UNet2DConditionOptions => ({ class_labels: zeros(...dims) });
  const residuals = (...dims: number[][]): Tensor[] => dims.map((size) => zeros(...size));
  const none = null as unknown as Tensor;
  type Args = [unknown, unknown, unknown, UNet2DConditionOptions?];

  it.each<[string, string, Args, RegExp]>([
    ["no sample", "inpaint", [undefined, 1, text], /`sample`, but got undefined/],
    ["a float16 sample", "mish", [sample.to("float16"), 1, text], /`sample`, but got a float16 Tensor/],
    ["no items", "mish", [zeros(0, 4, 8, 8), 1, zeros(0, 7, 12)], /but got \[0,4,8,8\]/],
    ["no timestep", "mish", [sample, undefined, text], /`timestep` must be a number or a Tensor, but is undefined/],
    ["a list of timesteps", "mish", [sample, [1, 2], text], /`timestep` must be a number or a Tensor/],
    ["a timestep that is NaN", "mish", [sample, Number.NaN, text], /`timestep` has NaN/],
    ["an infinite timestep", "mish", [sample, Tensor.from([1, Infinity]), text], /`timestep` has Infinity/],
    [
      "three timesteps",
      "mish",
      [sample, Tensor.from([1, 2, 3]), text],
      /`timestep` has dims \[3\], but the batch has 2/,
    ],
    ["timesteps in a column", "mish", [sample, zeros(2, 1), text], /`timestep` has dims \[2,1\]/],
    ["one timestep in two dimensions", "mish", [sample, zeros(1, 1), text], /`timestep` has dims \[1,1\]/],
    ["no text", "mish", [sample, 1, null], /`encoder_hidden_states`: null, but expects a Tensor \[2, length, 12\]/],
    ["an int64 text", "mish", [sample, 1, text.to("int64")], /but got a int64 Tensor/],
    ["an empty text", "mish", [sample, 1, zeros(2, 0, 12)], /but got \[2,0,12\]/],
    ["a text before its projection", "encoder_hid_proj", [sample, 1, text], /\[2, length, 10\], but got \[2,7,12\]/],
    ["a text where pixels are read", "no_text_dim_per_block", [sample, 1, text, labels(2, 6)], /but expects null/],
    [
      "a class label in two dimensions",
      "class_table",
      [sample, 1, text, labels(2, 1)],
      /`class_labels` has dims \[2,1\]/,
    ],
    [
      "one class for two, concatenated",
      "class_table_concat",
      [sample, 1, text, labels(1)],
      /one for each of the 2 items/,
    ],
    ["no class", "class_table", [sample, 1, text], /`class_labels` should be provided/],
    ["class -1", "class_table", [sample, 1, text, { class_labels: Tensor.from([0, -1]) }], /no embedding number -1/],
    ["half a class", "class_table", [sample, 1, text, { class_labels: Tensor.from([0, 0.5]) }], /number 0.5/],
    ["class numbers for a projection", "class_projection", [sample, 1, text, labels(2)], /\[2,6\] is expected/],
    ["a class for a model without", "mish", [sample, 1, text, labels(2)], /has no class embeddings/],
    ["guidance of three", "timestep_cond", [sample, 1, text, { timestep_cond: zeros(3, 10) }], /\[2,10\] is expected/],
    ["guidance too narrow", "timestep_cond", [sample, 1, text, { timestep_cond: zeros(2, 9) }], /has dims \[2,9\]/],
    ["no time_ids", "sdxl", [sample, 1, text, added({ text_embeds: zeros(2, 10) })], /needs `time_ids`/],
    [
      "time_ids of one for two",
      "sdxl",
      [sample, 1, text, added({ text_embeds: zeros(2, 10), time_ids: zeros(1, 6) })],
      /has dims \[2,34\], but \[2,58\] is expected \(text_embeds beside 8 columns for each/,
    ],
    [
      "time_ids that cannot be shared out",
      "sdxl",
      [sample, 1, text, added({ text_embeds: zeros(3, 10), time_ids: zeros(5) })],
      /text_embeds and time_ids of dims \[3,10\] and \[5\]/,
    ],
    ["no picture", "added_text_image", [sample, 1, text, added({ text_embeds: zeros(2, 12) })], /needs `image_embeds`/],
    ["no pooled text", "added_text_image", [sample, 1, text, added({ image_embeds: zeros(2, 12) })], /`text_embeds`/],
    ["a picture that is null", "image_proj", [sample, 1, null, added({ image_embeds: null })], /`image_embeds`/],
    ["no added conditions", "image_proj", [sample, 1, null], /"image_proj": `added_cond_kwargs` needs `image_embeds`/],
    ["a wide picture", "image_proj", [sample, 1, null, added({ image_embeds: zeros(2, 11) })], /\[2,10\] is expected/],
    ["two pictures each", "image_proj", [sample, 1, null, added({ image_embeds: zeros(2, 2, 10) })], /\[2,2,10\]/],
    [
      "no hint",
      "added_image_hint",
      [sample, 1, null, added({ image_embeds: zeros(2, 10) })],
      /"image_hint": `added_cond_kwargs` needs `hint`/,
    ],
    [
      "a hint of the sample's size",
      "added_image_hint",
      [sample, 1, null, added({ image_embeds: zeros(2, 10), hint: zeros(2, 3, 8, 8) })],
      /has hint of dims \[2,3,8,8\], but \[2, 3, 64, 64\] is expected/,
    ],
    [
      "one hint for two",
      "added_image_hint",
      [sample, 1, null, added({ image_embeds: zeros(2, 10), hint: zeros(1, 3, 64, 64) })],
      /has hint of dims \[1,3,64,64\]/,
    ],
    [
      "the hint's channels in the sample",
      "added_image_hint",
      [zeros(2, 8, 8, 8), 1, null],
      /\[batch, 4, height, width\]/,
    ],
    ["an even kernel on an even size", "kernels_even", [zeros(1, 4, 8, 8), 1, zeros(1, 7, 12)], /does not survive/],
    ["a wide padding on an even size", "downsample_padding_2_odd_size", [sample, 1, text], /does not survive/],
    ["an odd size for blocks that double", "resampling_blocks_both", [zeros(2, 4, 7, 8), 1, text], /does not survive/],
    [
      "a middle residual alone",
      "mish",
      [sample, 1, text, { mid_block_additional_residual: zeros(2, 16, 4, 4) }],
      /needs `down_block_additional_residuals`/,
    ],
    [
      "residuals of both kinds without a middle one",
      "mish",
      [
        sample,
        1,
        text,
        {
          down_block_additional_residuals: residuals([2, 8, 8, 8]),
          down_intrablock_additional_residuals: residuals([2, 8, 8, 8]),
        },
      ],
      /needs `mid_block_additional_residual`/,
    ],
    [
      "adapter features of another size",
      "t2i_adapter",
      [sample, 1, text, { down_intrablock_additional_residuals: residuals([2, 8, 4, 4]) }],
      /`down_intrablock_additional_residuals` have sizes \[2, 8, 4, 4\], but are added to \[2, 8, 8, 8\]/,
    ],
    [
      "adapter features of another size, to a block without text",
      "t2i_adapter",
      [sample, 1, text, { down_intrablock_additional_residuals: residuals([2, 8, 8, 8], [2, 8, 4, 4]) }],
      /have sizes \[2, 8, 4, 4\], but are added to \[2, 16, 4, 4\]/,
    ],
    [
      "more adapter features than blocks",
      "t2i_adapter",
      [
        sample,
        1,
        text,
        {
          down_intrablock_additional_residuals: residuals([2, 8, 8, 8], [2, 16, 4, 4], [2, 16, 4, 4], [2, 16, 4, 4]),
        },
      ],
      /1 of the `down_intrablock_additional_residuals` is left over/,
    ],
    [
      "an int64 residual",
      "t2i_adapter",
      [
        sample,
        1,
        text,
        { down_intrablock_additional_residuals: [zeros(2, 8, 8, 8).to("int64") as Tensor<DataType>] as Tensor[] },
      ],
      /but got a int64 Tensor/,
    ],
    [
      "a residual of three dimensions",
      "t2i_adapter",
      [sample, 1, text, { down_intrablock_additional_residuals: residuals([8, 8, 8]) }],
      /\[batch, channels, height, width\], but got \[8,8,8\]/,
    ],
  ])("refuses %s", async (_, key, [first, timestep, states, options], message) => {
    const unet = await model(key);
    const call = unet(first as Tensor, timestep as number, states as Tensor, options);
    await expect(call).rejects.toThrow(message);
    await expect(call).rejects.toThrow(ValueError);
  });

  it("refuses a condition that no model has, naming the nearest", async () => {
    const unet = await model("sdxl");
    const misspelt = added({ text_embed: zeros(2, 10), time_ids: zeros(2, 6) });
    await expect(unet(sample, 1, text, misspelt)).rejects.toThrow("Did you mean `text_embeds`?");
  });

  it("takes null for what is not there, as Python's None", async () => {
    const unet = await model("mish");
    const nulls = Object.fromEntries(
      [
        ...["class_labels", "timestep_cond", "added_cond_kwargs", "mid_block_additional_residual"],
        ...["down_block_additional_residuals", "down_intrablock_additional_residuals"],
      ].map((name) => [name, null]),
    );
    const { sample: output } = await unet(sample, 1, text, nulls as unknown as UNet2DConditionOptions);
    expect(output.data).toEqual((await unet(sample, 1, text)).sample.data);
  });

  it("is usable after a refusal, and reads no text that no block looks at", async () => {
    const unet = await model("no_text_read");
    await expect(unet(sample, Number.NaN, none)).rejects.toThrow(ValueError);
    const without = await unet(sample, 1, none);
    expect((await unet(sample, 1, zeros(2, 3, 99))).sample.data).toEqual(without.sample.data);
  });
});
