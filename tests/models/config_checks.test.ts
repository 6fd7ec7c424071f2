import { UnsupportedModelError, ValueError } from "@diffusers-web/core";
import { AutoencoderKL, CLIPTextModel, UNet2DConditionModel, UNet2DModel } from "@diffusers-web/models";
import { describe, expect, it } from "vitest";
import { changingFields } from "./cases_node.ts";
import { runners } from "./runners/index.ts";

const classes = { UNet2DConditionModel, UNet2DModel, AutoencoderKL, CLIPTextModel };
type ClassName = keyof typeof classes;

describe.each(Object.values(runners).map(({ model, inert }) => [model.name, model, inert] as const))(
  "%s",
  (className, model, inert) => {
    it.each(Object.keys(model.config_defaults).filter((field) => !inert.includes(field)))(
      "%s has a case where it changes the output",
      (field) => expect(changingFields[className]).toContain(field),
    );
  },
);

/** [class, config, the field that is named] */
const unsupported: readonly [ClassName, Record<string, unknown>, string][] = [
  ["UNet2DConditionModel", { down_block_types: ["SimpleCrossAttnDownBlock2D"] }, "down_block_types"],
  ["UNet2DConditionModel", { up_block_types: ["KUpBlock2D"] }, "up_block_types"],
  ["UNet2DConditionModel", { down_block_types: ["toString"] }, "down_block_types"],
  ["UNet2DConditionModel", { mid_block_type: "UNetMidBlock2DSimpleCrossAttn" }, "mid_block_type"],
  ["UNet2DConditionModel", { act_fn: "elu" }, "act_fn"],
  ["UNet2DConditionModel", { act_fn: null }, "act_fn"],
  ["UNet2DConditionModel", { act_fn: "quick_gelu" }, "act_fn"],
  ["UNet2DConditionModel", { time_embedding_act_fn: "elu" }, "time_embedding_act_fn"],
  ["UNet2DConditionModel", { timestep_post_act: "elu" }, "timestep_post_act"],
  ["UNet2DConditionModel", { resnet_time_scale_shift: "ada_group" }, "resnet_time_scale_shift"],
  ["UNet2DConditionModel", { time_embedding_type: "learned" }, "time_embedding_type"],
  ["UNet2DConditionModel", { class_embed_type: "text" }, "class_embed_type"],
  ["UNet2DConditionModel", { encoder_hid_dim_type: "image_proj", encoder_hid_dim: 8 }, "encoder_hid_dim_type"],
  ["UNet2DConditionModel", { addition_embed_type: "text" }, "addition_embed_type"],
  ["UNet2DConditionModel", { addition_embed_type: "image_hint" }, "addition_embed_type"],
  ["UNet2DConditionModel", { attention_type: "gated" }, "attention_type"],
  ["UNet2DConditionModel", { dual_cross_attention: true }, "dual_cross_attention"],
  ["UNet2DConditionModel", { norm_num_groups: null }, "norm_num_groups"],
  ["UNet2DConditionModel", { attention_head_dim: null }, "attention_head_dim"],
  ["UNet2DModel", { down_block_types: ["AttnSkipDownBlock2D"] }, "down_block_types"],
  ["UNet2DModel", { up_block_types: ["SkipUpBlock2D"] }, "up_block_types"],
  ["UNet2DModel", { mid_block_type: "UNetMidBlock2DCrossAttn" }, "mid_block_type"],
  ["UNet2DModel", { act_fn: "elu" }, "act_fn"],
  ["UNet2DModel", { time_embedding_type: "sinus" }, "time_embedding_type"],
  ["UNet2DModel", { downsample_type: "fir" }, "downsample_type"],
  ["UNet2DModel", { upsample_type: "fir" }, "upsample_type"],
  ["UNet2DModel", { resnet_time_scale_shift: "spatial" }, "resnet_time_scale_shift"],
  ["UNet2DModel", { class_embed_type: "projection" }, "class_embed_type"],
  ["AutoencoderKL", { down_block_types: ["DownBlock2D"] }, "down_block_types"],
  ["AutoencoderKL", { up_block_types: ["UpBlock2D"] }, "up_block_types"],
  ["AutoencoderKL", { act_fn: "elu" }, "act_fn"],
  ["CLIPTextModel", { hidden_act: "elu" }, "hidden_act"],
  ["CLIPTextModel", { eos_token_id: null }, "eos_token_id"],
];

/** Configs that Diffusers or transformers refuse as well. */
const wrong: readonly [ClassName, Record<string, unknown>, string][] = [
  ["UNet2DConditionModel", { num_attention_heads: 8 }, "num_attention_heads"],
  ["UNet2DConditionModel", { up_block_types: ["UpBlock2D"] }, "up_block_types"],
  ["UNet2DConditionModel", { block_out_channels: [320] }, "block_out_channels"],
  ["UNet2DConditionModel", { layers_per_block: [1, 2] }, "layers_per_block"],
  ["UNet2DConditionModel", { attention_head_dim: [8] }, "attention_head_dim"],
  ["UNet2DConditionModel", { cross_attention_dim: [768] }, "cross_attention_dim"],
  ["UNet2DConditionModel", { only_cross_attention: [true] }, "only_cross_attention"],
  ["UNet2DConditionModel", { transformer_layers_per_block: [1, [1, 2], 1, 1] }, "reverse_transformer_layers_per_block"],
  ["UNet2DConditionModel", { class_embed_type: "projection" }, "projection_class_embeddings_input_dim"],
  ["UNet2DConditionModel", { encoder_hid_dim_type: "text_proj" }, "encoder_hid_dim"],
  ["UNet2DConditionModel", { addition_embed_type: "text_time" }, "projection_class_embeddings_input_dim"],
  ["UNet2DModel", { up_block_types: ["UpBlock2D"] }, "up_block_types"],
  ["UNet2DModel", { block_out_channels: [224] }, "block_out_channels"],
  ["UNet2DModel", { time_embedding_type: "learned" }, "num_train_timesteps"],
  ["AutoencoderKL", { block_out_channels: [64, 64] }, "block_out_channels"],
  ["CLIPTextModel", { num_attention_heads: 7 }, "hidden_size"],
];

describe.each([
  ["not built", UnsupportedModelError, unsupported],
  ["wrong", ValueError, wrong],
] as const)("a config that is %s is refused by name", (_, ErrorClass, table) => {
  it.each(table)("%s %j", (className, config, field) => {
    const cls = classes[className] as unknown as new (config: object) => object;
    let error: unknown;
    try {
      new cls(config);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(ErrorClass);
    expect((error as UnsupportedModelError).details).toMatchObject({ className, field });
    expect((error as Error).message).toContain(className);
    expect((error as Error).message).toContain(field);
  });
});

it("a config of a whole CLIP gives its text part; what transformers writes besides is not an error", () => {
  const whole = { model_type: "clip", text_config: { hidden_size: 8, num_attention_heads: 2, dropout: 0 } };
  expect(CLIPTextModel.prepare_config(whole)).toEqual({ hidden_size: 8, num_attention_heads: 2 });
  expect(CLIPTextModel.prepare_config({ architectures: ["CLIPTextModel"], hidden_act: "gelu" })).toEqual({
    hidden_act: "gelu",
  });
});
