import type { SingleFileConfigs } from "./index.ts";
import { clipL, sd1 } from "./sd1.ts";

const unet = {
  ...sd1.unet,
  addition_embed_type: "text_time",
  addition_time_embed_dim: 256,
  attention_head_dim: [5, 10, 20],
  block_out_channels: [320, 640, 1280],
  cross_attention_dim: 2048,
  down_block_types: ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
  projection_class_embeddings_input_dim: 2816,
  sample_size: 128,
  transformer_layers_per_block: [1, 2, 10],
  up_block_types: ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
  use_linear_projection: true,
};

const vae = { ...sd1.vae, force_upcast: true, sample_size: 1024, scaling_factor: 0.13025 };

/** OpenCLIP ViT-bigG/14. */
const text_encoder_2 = {
  ...clipL,
  hidden_act: "gelu",
  hidden_size: 1280,
  intermediate_size: 5120,
  num_attention_heads: 20,
  num_hidden_layers: 32,
  projection_dim: 1280,
};

const scheduler = {
  _class_name: "EulerDiscreteScheduler",
  beta_end: 0.012,
  beta_schedule: "scaled_linear",
  beta_start: 0.00085,
  // Of a scheduler that this one is exchanged for.
  clip_sample: false,
  interpolation_type: "linear",
  num_train_timesteps: 1000,
  prediction_type: "epsilon",
  sample_max_value: 1,
  set_alpha_to_one: false,
  skip_prk_steps: true,
  steps_offset: 1,
  timestep_spacing: "leading",
  trained_betas: null,
  use_karras_sigmas: false,
};

/** As in stabilityai/stable-diffusion-xl-base-1.0. */
export const sdxl: SingleFileConfigs = { unet, vae, text_encoder: clipL, text_encoder_2, scheduler };

/** As in diffusers/stable-diffusion-xl-1.0-inpainting-0.1. */
export const sdxlInpainting: SingleFileConfigs = { ...sdxl, unet: { ...unet, in_channels: 9 } };

/** As in stabilityai/stable-diffusion-xl-refiner-1.0. */
export const sdxlRefiner: SingleFileConfigs = {
  unet: {
    ...unet,
    attention_head_dim: [6, 12, 24, 24],
    block_out_channels: [384, 768, 1536, 1536],
    cross_attention_dim: 1280,
    down_block_types: ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    projection_class_embeddings_input_dim: 2560,
    transformer_layers_per_block: 4,
    up_block_types: ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
  },
  vae,
  text_encoder_2,
  scheduler,
};
