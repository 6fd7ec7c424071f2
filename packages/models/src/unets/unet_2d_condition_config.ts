import { configDefaults, float, ValueError } from "@diffusers-web/core";
import { checkValue } from "../config_checks.ts";
import { checkActivation } from "../layers/activations.ts";
import { checkBlockNeeds, checkTextNorm } from "./block_checks.ts";
import { checkBlocks, downBlocks, upBlocks } from "./blocks/index.ts";
import { checkDependencies, checkLists, checkTypes } from "./unet_2d_condition_checks.ts";

/** The config of a {@link UNet2DConditionModel}: the arguments of Diffusers' `__init__`, under their names. */
export interface UNet2DConditionModelConfig {
  /** Height and width of the latents the model was trained on; pipelines' default. */
  sample_size: number | readonly number[] | null;
  in_channels: number;
  out_channels: number;
  /** Whether samples are mapped from 0..1 to -1..1 first. */
  center_input_sample: boolean;
  /** Whether the timestep's cosines stand before its sines. */
  flip_sin_to_cos: boolean;
  freq_shift: number;
  /** DownBlock2D, CrossAttnDownBlock2D, AttnDownBlock2D, ResnetDownsampleBlock2D, SimpleCrossAttnDownBlock2D, KDownBlock2D or KCrossAttnDownBlock2D each. */
  down_block_types: readonly string[];
  /** UNetMidBlock2DCrossAttn, UNetMidBlock2DSimpleCrossAttn, UNetMidBlock2D (one residual block), or null for none. */
  mid_block_type: string | null;
  /** UpBlock2D, CrossAttnUpBlock2D, AttnUpBlock2D, ResnetUpsampleBlock2D, SimpleCrossAttnUpBlock2D, KUpBlock2D or KCrossAttnUpBlock2D each. */
  up_block_types: readonly string[];
  /** Whether transformers look at the text in both attentions; one value or one per block. */
  only_cross_attention: boolean | readonly boolean[];
  block_out_channels: readonly number[];
  layers_per_block: number | readonly number[];
  /** 0 pads the right and the bottom only. */
  downsample_padding: number;
  mid_block_scale_factor: number;
  /** Training only. */
  dropout: number;
  /** silu, swish, mish, gelu or relu. */
  act_fn: string;
  /** null: only with K-blocks, which have groups of their own. */
  norm_num_groups: number | null;
  norm_eps: number;
  /** Channels of the text's tokens; one value or one per block. */
  cross_attention_dim: number | readonly number[];
  /** Transformer blocks per transformer; one value, one per block, or lists of one per layer. */
  transformer_layers_per_block: number | readonly (number | readonly number[])[];
  /** The same for the way up, where it is not the reverse. */
  reverse_transformer_layers_per_block: readonly (number | readonly number[])[] | null;
  /** Channels of the text, or with image_proj of the image, where they are projected to `cross_attention_dim`. */
  encoder_hid_dim: number | null;
  /**
   * null, text_proj (a linear layer over the text; the default where there is an `encoder_hid_dim`), text_image_proj (an
   * image's embedding becomes tokens before the text's) or image_proj (in place of them).
   */
  encoder_hid_dim_type: string | null;
  /** The NUMBER of heads (a misnomer that checkpoints keep); one value or one per block. */
  attention_head_dim: number | readonly number[];
  /** Must be null, as in Diffusers. */
  num_attention_heads: number | readonly number[] | null;
  dual_cross_attention: boolean;
  /** How the transformers' projections were saved; both are read. */
  use_linear_projection: boolean;
  /** null, timestep, identity, projection or simple_projection. */
  class_embed_type: string | null;
  /** What is added to the time embedding: null, text, text_time (Stable Diffusion XL), text_image, image or image_hint (Kandinsky). */
  addition_embed_type: string | null;
  addition_time_embed_dim: number | null;
  num_class_embeds: number | null;
  /** Whether attention is computed in float32 on a float16 device. */
  upcast_attention: boolean;
  /** default or scale_shift. */
  resnet_time_scale_shift: string;
  resnet_skip_time_act: boolean;
  resnet_out_scale_factor: number;
  /** positional or fourier. */
  time_embedding_type: string;
  time_embedding_dim: number | null;
  time_embedding_act_fn: string | null;
  timestep_post_act: string | null;
  /** Channels of `timestep_cond` (latent consistency models). */
  time_cond_proj_dim: number | null;
  conv_in_kernel: number;
  conv_out_kernel: number;
  projection_class_embeddings_input_dim: number | null;
  /** "default", or "gated" and "gated-text-image" for pictures grounded on boxes (GLIGEN). */
  attention_type: string;
  /** Whether class embeddings stand beside the time embedding instead of being added. */
  class_embeddings_concat: boolean;
  /** Whether UNetMidBlock2DSimpleCrossAttn looks at the text only; null: as `only_cross_attention`, where that is one value. */
  mid_block_only_cross_attention: boolean | null;
  /** How SimpleCrossAttn blocks normalise the text: null, layer_norm or group_norm. */
  cross_attention_norm: string | null;
  /** Heads of `addition_embed_type` text, which pools the text with an attention. */
  addition_embed_type_num_heads: number;
}

export const unet2DConditionDefaults: UNet2DConditionModelConfig = configDefaults<UNet2DConditionModelConfig>({
  sample_size: null,
  in_channels: 4,
  out_channels: 4,
  center_input_sample: false,
  flip_sin_to_cos: true,
  freq_shift: 0,
  down_block_types: ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
  mid_block_type: "UNetMidBlock2DCrossAttn",
  up_block_types: ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
  only_cross_attention: false,
  block_out_channels: [320, 640, 1280, 1280],
  layers_per_block: 2,
  downsample_padding: 1,
  mid_block_scale_factor: 1,
  dropout: float(0),
  act_fn: "silu",
  norm_num_groups: 32,
  norm_eps: 1e-5,
  cross_attention_dim: 1280,
  transformer_layers_per_block: 1,
  reverse_transformer_layers_per_block: null,
  encoder_hid_dim: null,
  encoder_hid_dim_type: null,
  attention_head_dim: 8,
  num_attention_heads: null,
  dual_cross_attention: false,
  use_linear_projection: false,
  class_embed_type: null,
  addition_embed_type: null,
  addition_time_embed_dim: null,
  num_class_embeds: null,
  upcast_attention: false,
  resnet_time_scale_shift: "default",
  resnet_skip_time_act: false,
  resnet_out_scale_factor: float(1),
  time_embedding_type: "positional",
  time_embedding_dim: null,
  time_embedding_act_fn: null,
  timestep_post_act: null,
  time_cond_proj_dim: null,
  conv_in_kernel: 3,
  conv_out_kernel: 3,
  projection_class_embeddings_input_dim: null,
  attention_type: "default",
  class_embeddings_concat: false,
  mid_block_only_cross_attention: null,
  cross_attention_norm: null,
  addition_embed_type_num_heads: 64,
});

const name = "UNet2DConditionModel";
const midBlockNames = ["UNetMidBlock2DCrossAttn", "UNetMidBlock2DSimpleCrossAttn", "UNetMidBlock2D", null];

/**
 * Checks a config before anything is built from it.
 *
 * @throws UnsupportedModelError naming the field whose value is not built.
 * @throws ValueError for a config that Diffusers refuses as well.
 */
export function checkUNet2DConditionConfig(config: Readonly<UNet2DConditionModelConfig>): void {
  if (config.num_attention_heads !== null) {
    throw new ValueError(
      `${name} has \`num_attention_heads\` in its config, which Diffusers does not allow: ` +
        "the number of heads is in `attention_head_dim`.",
      { className: name, field: "num_attention_heads", found: String(config.num_attention_heads), expected: "null" },
    );
  }
  checkTypes(config);
  checkBlocks(config.down_block_types, Object.keys(downBlocks), name, "down_block_types");
  checkBlocks(config.up_block_types, Object.keys(upBlocks), name, "up_block_types");
  checkValue(name, "mid_block_type", config.mid_block_type, midBlockNames);
  checkLists(config);

  checkActivation(config.act_fn, name, "act_fn");
  for (const field of ["time_embedding_act_fn", "timestep_post_act"] as const) {
    const value = config[field];
    if (value !== null) checkActivation(value, name, field);
  }
  checkBlockNeeds(name, config, timeEmbeddingDim(config));
  checkTextNorm(name, config);
  checkValue(name, "time_embedding_type", config.time_embedding_type, ["positional", "fourier"]);
  checkValue(name, "class_embed_type", config.class_embed_type, [
    null,
    "timestep",
    "identity",
    "projection",
    "simple_projection",
  ]);
  checkValue(name, "encoder_hid_dim_type", config.encoder_hid_dim_type, [
    null,
    "text_proj",
    "text_image_proj",
    "image_proj",
  ]);
  checkValue(name, "addition_embed_type", config.addition_embed_type, [
    null,
    "text",
    "text_image",
    "text_time",
    "image",
    "image_hint",
  ]);
  checkValue(name, "attention_type", config.attention_type, ["default", null, "gated", "gated-text-image"]);
  // Diffusers' own model of it fails when it is called.
  checkValue(name, "dual_cross_attention", config.dual_cross_attention, [false, null]);
  checkDependencies(config);
}

/** Channels of the time embedding that blocks get. */
function timeEmbeddingDim(config: Readonly<UNet2DConditionModelConfig>): number {
  const { time_embedding_dim, time_embedding_type, block_out_channels, class_embeddings_concat } = config;
  // As in Diffusers, 0 means the default too.
  const dim = time_embedding_dim || block_out_channels[0]! * (time_embedding_type === "fourier" ? 2 : 4);
  return class_embeddings_concat ? 2 * dim : dim;
}
