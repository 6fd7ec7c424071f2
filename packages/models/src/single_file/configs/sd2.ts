import type { SingleFileConfigs } from "./index.ts";
import { sd1 } from "./sd1.ts";

const unet = {
  ...sd1.unet,
  attention_head_dim: [5, 10, 20, 20],
  cross_attention_dim: 1024,
  sample_size: 96,
  upcast_attention: true,
  use_linear_projection: true,
};

/** OpenCLIP ViT-H/14 without its last layer. */
const openClipH = {
  ...sd1.text_encoder,
  hidden_act: "gelu",
  hidden_size: 1024,
  intermediate_size: 4096,
  num_attention_heads: 16,
  num_hidden_layers: 23,
  projection_dim: 512,
};

const scheduler = {
  _class_name: "DDIMScheduler",
  beta_end: 0.012,
  beta_schedule: "scaled_linear",
  beta_start: 0.00085,
  clip_sample: false,
  num_train_timesteps: 1000,
  prediction_type: "v_prediction",
  set_alpha_to_one: false,
  skip_prk_steps: true,
  steps_offset: 1,
  trained_betas: null,
};

/** As in stabilityai/stable-diffusion-2-1. The 512 pixel models look the same from outside: they need `config`. */
export const sd2: SingleFileConfigs = {
  unet,
  vae: { ...sd1.vae, sample_size: 768 },
  text_encoder: openClipH,
  scheduler,
};

/** As in stabilityai/stable-diffusion-2-inpainting. */
export const sd2Inpainting: SingleFileConfigs = {
  unet: { ...unet, in_channels: 9, sample_size: 64, upcast_attention: false },
  vae: sd1.vae,
  text_encoder: openClipH,
};
