import { UnsupportedModelError, ValueError } from "@diffusers-web/core";
import { CLIPTextModel } from "@diffusers-web/models";
import { describe, expect, it } from "vitest";
import { changingFields, modelCases } from "./cases_node.ts";
import { runners } from "./runners/index.ts";

describe.each(Object.values(runners).map(({ model, inert }) => [model.name, model, inert] as const))(
  "%s",
  (className, model, inert) => {
    it.each(Object.keys(model.config_defaults).filter((field) => !inert.includes(field)))(
      "%s has a case where it changes the output",
      (field) => expect(changingFields[className]).toContain(field),
    );
  },
);

const skip = {
  down_block_types: ["SkipDownBlock2D", "AttnSkipDownBlock2D"],
  up_block_types: ["AttnSkipUpBlock2D", "SkipUpBlock2D"],
  block_out_channels: [32, 64],
};
const kBlocks = {
  down_block_types: ["KDownBlock2D", "KDownBlock2D"],
  up_block_types: ["KUpBlock2D", "KUpBlock2D"],
  block_out_channels: [32, 64],
};
const simple = { mid_block_type: "UNetMidBlock2DSimpleCrossAttn", cross_attention_dim: 1000 };

/** [class, config, the field that is named] */
const unsupported: readonly [string, Record<string, unknown>, string][] = [
  ["UNet2DConditionModel", { down_block_types: ["AttnSkipDownBlock2D"] }, "down_block_types"],
  ["UNet2DConditionModel", { up_block_types: ["SkipUpBlock2D"] }, "up_block_types"],
  ["UNet2DConditionModel", { cross_attention_norm: "instance_norm" }, "cross_attention_norm"],
  ["UNet2DConditionModel", { down_block_types: ["toString"] }, "down_block_types"],
  ["UNet2DConditionModel", { mid_block_type: "UNetMidBlock3DCrossAttn" }, "mid_block_type"],
  ["UNet2DConditionModel", { act_fn: "elu" }, "act_fn"],
  ["UNet2DConditionModel", { act_fn: null }, "act_fn"],
  ["UNet2DConditionModel", { act_fn: "quick_gelu" }, "act_fn"],
  ["UNet2DConditionModel", { time_embedding_act_fn: "elu" }, "time_embedding_act_fn"],
  ["UNet2DConditionModel", { timestep_post_act: "elu" }, "timestep_post_act"],
  ["UNet2DConditionModel", { resnet_time_scale_shift: "ada_group" }, "resnet_time_scale_shift"],
  ["UNet2DConditionModel", { time_embedding_type: "learned" }, "time_embedding_type"],
  ["UNet2DConditionModel", { class_embed_type: "text" }, "class_embed_type"],
  ["UNet2DConditionModel", { encoder_hid_dim_type: "audio_proj", encoder_hid_dim: 8 }, "encoder_hid_dim_type"],
  ["UNet2DConditionModel", { addition_embed_type: "audio" }, "addition_embed_type"],
  ["UNet2DConditionModel", { attention_type: "gated-image" }, "attention_type"],
  ["UNet2DConditionModel", { dual_cross_attention: true }, "dual_cross_attention"],
  ["UNet2DConditionModel", { norm_num_groups: null }, "norm_num_groups"],
  ["UNet2DConditionModel", { attention_head_dim: null }, "attention_head_dim"],
  ["UNet2DModel", { down_block_types: ["CrossAttnDownBlock2D"] }, "down_block_types"],
  ["UNet2DModel", { down_block_types: ["SimpleCrossAttnDownBlock2D"] }, "down_block_types"],
  ["UNet2DModel", { down_block_types: ["DownEncoderBlock2D"] }, "down_block_types"],
  ["UNet2DModel", { up_block_types: ["UpDecoderBlock2D"] }, "up_block_types"],
  ["UNet2DModel", { up_block_types: ["__proto__"] }, "up_block_types"],
  ["UNet2DModel", { norm_num_groups: null }, "norm_num_groups"],
  ["UNet2DModel", { resnet_time_scale_shift: "ada_group" }, "resnet_time_scale_shift"],
  ["UNet2DModel", { ...skip, in_channels: 4 }, "in_channels"],
  ["UNet2DModel", { ...skip, out_channels: 6 }, "out_channels"],
  ["UNet2DModel", { mid_block_type: "UNetMidBlock2DCrossAttn" }, "mid_block_type"],
  ["UNet2DModel", { act_fn: "elu" }, "act_fn"],
  ["UNet2DModel", { time_embedding_type: "sinus" }, "time_embedding_type"],
  ["UNet2DModel", { downsample_type: "fir" }, "downsample_type"],
  ["UNet2DModel", { upsample_type: "fir" }, "upsample_type"],
  ["UNet2DModel", { resnet_time_scale_shift: "spatial" }, "resnet_time_scale_shift"],
  ["UNet2DModel", { class_embed_type: "projection" }, "class_embed_type"],
  ["AutoencoderTiny", { act_fn: "elu" }, "act_fn"],
  ["AutoencoderTiny", { upsample_fn: "bilinear" }, "upsample_fn"],
  ["VQModel", { norm_type: "layer" }, "norm_type"],
  ["VQModel", { down_block_types: ["DownBlock2D"] }, "down_block_types"],
  ["VQModel", { act_fn: "elu" }, "act_fn"],
  ["AutoencoderKL", { down_block_types: ["DownBlock2D"] }, "down_block_types"],
  ["AutoencoderKL", { up_block_types: ["UpBlock2D"] }, "up_block_types"],
  ["AutoencoderKL", { act_fn: "elu" }, "act_fn"],
  ["AutoencoderKL", { act_fn: "quick_gelu" }, "act_fn"],
  ["AutoencoderKL", { norm_num_groups: null }, "norm_num_groups"],
  ["AutoencoderKL", { down_block_types: ["UpDecoderBlock2D"] }, "down_block_types"],
  ["AsymmetricAutoencoderKL", { down_block_types: ["DownBlock2D"] }, "down_block_types"],
  ["AsymmetricAutoencoderKL", { up_block_types: ["DownEncoderBlock2D"] }, "up_block_types"],
  ["AsymmetricAutoencoderKL", { act_fn: "elu" }, "act_fn"],
  ["ConsistencyDecoderVAE", { encoder_act_fn: "elu" }, "encoder_act_fn"],
  ["ConsistencyDecoderVAE", { encoder_down_block_types: new Array(4).fill("K") }, "encoder_down_block_types"],
  ["ConsistencyDecoderVAE", { latent_channels: 16 }, "latent_channels"],
  ["ConsistencyDecoderVAE", { decoder_in_channels: 6 }, "decoder_in_channels"],
  ["ConsistencyDecoderVAE", { decoder_down_block_types: new Array(4).fill("K") }, "decoder_down_block_types"],
  ["ConsistencyDecoderVAE", { decoder_time_embedding_type: "sinus" }, "decoder_time_embedding_type"],
  ["CLIPTextModel", { hidden_act: "elu" }, "hidden_act"],
  ["CLIPTextModel", { eos_token_id: null }, "eos_token_id"],
];

/** Configs that Diffusers or transformers refuse as well. */
const wrong: readonly [string, Record<string, unknown>, string][] = [
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
  ["UNet2DModel", { layers_per_block: [1, 2] }, "layers_per_block"],
  ["UNet2DModel", { layers_per_block: -1 }, "layers_per_block"],
  ["UNet2DModel", { attention_head_dim: [8, 8] }, "attention_head_dim"],
  ["UNet2DModel", { attention_head_dim: 900 }, "attention_head_dim"],
  ["UNet2DModel", { attn_norm_num_groups: 5 }, "attn_norm_num_groups"],
  ["UNet2DModel", { in_channels: "3" }, "in_channels"],
  ["UNet2DModel", { norm_num_groups: 0 }, "norm_num_groups"],
  ["UNet2DModel", { norm_eps: null }, "norm_eps"],
  ["UNet2DModel", { down_block_types: [] }, "down_block_types"],
  ["UNet2DModel", { down_block_types: "DownBlock2D" }, "down_block_types"],
  ["UNet2DModel", { block_out_channels: 224 }, "block_out_channels"],
  ["UNet2DModel", { ...skip, block_out_channels: [32, 48] }, "block_out_channels"],
  ["UNet2DModel", { ...kBlocks, block_out_channels: [16, 32] }, "block_out_channels"],
  ["UNet2DModel", { ...kBlocks, up_block_types: ["UpBlock2D", "UpBlock2D"] }, "up_block_types"],
  ["UNet2DConditionModel", { ...kBlocks, block_out_channels: [64, 80, 65] }, "block_out_channels"],
  ["UNet2DConditionModel", { ...kBlocks, up_block_types: ["UpBlock2D", "UpBlock2D"] }, "up_block_types"],
  ["UNet2DConditionModel", { ...kBlocks, up_block_types: ["KUpBlock2D", "UpBlock2D"] }, "up_block_types"],
  ["UNet2DConditionModel", { ...simple, cross_attention_norm: "group_norm" }, "cross_attention_dim"],
  ["UNet2DConditionModel", { ...simple, cross_attention_norm: "layer_norm" }, "cross_attention_dim"],
  ["AutoencoderTiny", { num_encoder_blocks: [1, 3] }, "encoder_block_out_channels"],
  ["AutoencoderTiny", { decoder_block_out_channels: [64, 64, 32, 64] }, "decoder_block_out_channels"],
  ["VQModel", { norm_type: "spatial", vq_embed_dim: 5 }, "vq_embed_dim"],
  ["VQModel", { norm_type: "spatial", block_out_channels: [48], norm_num_groups: 8 }, "block_out_channels"],
  ["VQModel", { num_vq_embeddings: 0 }, "num_vq_embeddings"],
  ["AutoencoderKL", { block_out_channels: [64, 64] }, "block_out_channels"],
  ["AutoencoderKL", { up_block_types: ["UpDecoderBlock2D", "UpDecoderBlock2D"] }, "up_block_types"],
  ["AutoencoderKL", { block_out_channels: [48] }, "norm_num_groups"],
  ["AutoencoderKL", { norm_num_groups: 0 }, "norm_num_groups"],
  ["AutoencoderKL", { layers_per_block: [1] }, "layers_per_block"],
  ["AutoencoderKL", { latent_channels: 0 }, "latent_channels"],
  ["AutoencoderKL", { in_channels: "3" }, "in_channels"],
  ["AutoencoderKL", { sample_size: null }, "sample_size"],
  ["AsymmetricAutoencoderKL", { down_block_out_channels: [64, 64] }, "down_block_out_channels"],
  ["AsymmetricAutoencoderKL", { up_block_out_channels: [64, 64] }, "up_block_out_channels"],
  ["AsymmetricAutoencoderKL", { up_block_out_channels: [65] }, "norm_num_groups"],
  ["AsymmetricAutoencoderKL", { layers_per_up_block: 1.5 }, "layers_per_up_block"],
  ["ConsistencyDecoderVAE", { encoder_block_out_channels: [128] }, "encoder_block_out_channels"],
  ["ConsistencyDecoderVAE", { encoder_norm_num_groups: 33 }, "encoder_norm_num_groups"],
  ["ConsistencyDecoderVAE", { encoder_norm_num_groups: -1 }, "encoder_norm_num_groups"],
  ["ConsistencyDecoderVAE", { decoder_up_block_types: ["ResnetUpsampleBlock2D"] }, "decoder_up_block_types"],
  ["ConsistencyDecoderVAE", { sample_size: [] }, "sample_size"],
  ["CLIPTextModel", { num_attention_heads: 7 }, "hidden_size"],
];

describe.each([
  ["not built", UnsupportedModelError, unsupported],
  ["wrong", ValueError, wrong],
] as const)("a config that is %s is refused by name", (_, ErrorClass, table) => {
  it.each(table)("%s %j", (className, config, field) => {
    const cls = runners[className]!.model as unknown as new (config: object) => object;
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

it("no two cases have the same name, whatever file they are in", () => {
  const names = modelCases.map(({ name }) => name);
  expect(names.filter((name, i) => names.indexOf(name) !== i)).toEqual([]);
});

it("a config of a whole CLIP gives its text part; what transformers writes besides is not an error", () => {
  const whole = { model_type: "clip", text_config: { hidden_size: 8, num_attention_heads: 2, dropout: 0 } };
  expect(CLIPTextModel.prepare_config(whole)).toEqual({ hidden_size: 8, num_attention_heads: 2 });
  expect(CLIPTextModel.prepare_config({ architectures: ["CLIPTextModel"], hidden_act: "gelu" })).toEqual({
    hidden_act: "gelu",
  });
});
