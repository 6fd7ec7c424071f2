import type { T2IAdapter } from "./adapters/adapter.ts";
import type { MultiAdapter } from "./adapters/multi_adapter.ts";
import type { AsymmetricAutoencoderKL } from "./autoencoders/autoencoder_asym_kl.ts";
import type { AutoencoderKL } from "./autoencoders/autoencoder_kl.ts";
import type { AutoencoderTiny } from "./autoencoders/autoencoder_tiny.ts";
import type { ConsistencyDecoderVAE } from "./autoencoders/consistency_decoder_vae.ts";
import type { VQModel } from "./autoencoders/vq_model.ts";
import type { ControlNetModel } from "./controlnets/controlnet.ts";
import type { MultiControlNetModel } from "./controlnets/multicontrolnet.ts";
import type { ORTTextEncoder } from "./onnx/ort_text_encoder.ts";
import type { ORTUnet } from "./onnx/ort_unet.ts";
import type { ORTVae } from "./onnx/ort_vae.ts";
import type { StableDiffusionSafetyChecker } from "./safety_checker.ts";
import type { CLIPTextModel, CLIPTextModelWithProjection } from "./transformers/modeling_clip_text.ts";
import type { CLIPVisionModel, CLIPVisionModelWithProjection } from "./transformers/modeling_clip_vision.ts";
import type { DPTForDepthEstimation } from "./transformers/modeling_dpt.ts";
import type { UNet2DModel } from "./unets/unet_2d.ts";
import type { UNet2DConditionModel } from "./unets/unet_2d_condition.ts";

/**
 * The model classes that a checkpoint may name, each loaded when one does: what a page does not use it does not pay for.
 * Those of ONNX exports have Optimum's names.
 */
export const lazyModels: {
  readonly AsymmetricAutoencoderKL: () => Promise<typeof AsymmetricAutoencoderKL>;
  readonly AutoencoderKL: () => Promise<typeof AutoencoderKL>;
  readonly AutoencoderTiny: () => Promise<typeof AutoencoderTiny>;
  readonly CLIPTextModel: () => Promise<typeof CLIPTextModel>;
  readonly CLIPTextModelWithProjection: () => Promise<typeof CLIPTextModelWithProjection>;
  readonly CLIPVisionModel: () => Promise<typeof CLIPVisionModel>;
  readonly CLIPVisionModelWithProjection: () => Promise<typeof CLIPVisionModelWithProjection>;
  readonly ConsistencyDecoderVAE: () => Promise<typeof ConsistencyDecoderVAE>;
  readonly ControlNetModel: () => Promise<typeof ControlNetModel>;
  readonly DPTForDepthEstimation: () => Promise<typeof DPTForDepthEstimation>;
  readonly MultiAdapter: () => Promise<typeof MultiAdapter>;
  readonly MultiControlNetModel: () => Promise<typeof MultiControlNetModel>;
  readonly ORTTextEncoder: () => Promise<typeof ORTTextEncoder>;
  readonly ORTUnet: () => Promise<typeof ORTUnet>;
  readonly ORTVae: () => Promise<typeof ORTVae>;
  readonly StableDiffusionSafetyChecker: () => Promise<typeof StableDiffusionSafetyChecker>;
  readonly T2IAdapter: () => Promise<typeof T2IAdapter>;
  readonly UNet2DConditionModel: () => Promise<typeof UNet2DConditionModel>;
  readonly UNet2DModel: () => Promise<typeof UNet2DModel>;
  readonly VQModel: () => Promise<typeof VQModel>;
} = {
  AsymmetricAutoencoderKL: async () => (await import("./autoencoders/autoencoder_asym_kl.ts")).AsymmetricAutoencoderKL,
  AutoencoderKL: async () => (await import("./autoencoders/autoencoder_kl.ts")).AutoencoderKL,
  AutoencoderTiny: async () => (await import("./autoencoders/autoencoder_tiny.ts")).AutoencoderTiny,
  CLIPTextModel: async () => (await import("./transformers/modeling_clip_text.ts")).CLIPTextModel,
  CLIPTextModelWithProjection: async () =>
    (await import("./transformers/modeling_clip_text.ts")).CLIPTextModelWithProjection,
  CLIPVisionModel: async () => (await import("./transformers/modeling_clip_vision.ts")).CLIPVisionModel,
  CLIPVisionModelWithProjection: async () =>
    (await import("./transformers/modeling_clip_vision.ts")).CLIPVisionModelWithProjection,
  ConsistencyDecoderVAE: async () => (await import("./autoencoders/consistency_decoder_vae.ts")).ConsistencyDecoderVAE,
  ControlNetModel: async () => (await import("./controlnets/controlnet.ts")).ControlNetModel,
  DPTForDepthEstimation: async () => (await import("./transformers/modeling_dpt.ts")).DPTForDepthEstimation,
  MultiAdapter: async () => (await import("./adapters/multi_adapter.ts")).MultiAdapter,
  MultiControlNetModel: async () => (await import("./controlnets/multicontrolnet.ts")).MultiControlNetModel,
  ORTTextEncoder: async () => (await import("./onnx/ort_text_encoder.ts")).ORTTextEncoder,
  ORTUnet: async () => (await import("./onnx/ort_unet.ts")).ORTUnet,
  ORTVae: async () => (await import("./onnx/ort_vae.ts")).ORTVae,
  StableDiffusionSafetyChecker: async () => (await import("./safety_checker.ts")).StableDiffusionSafetyChecker,
  T2IAdapter: async () => (await import("./adapters/adapter.ts")).T2IAdapter,
  UNet2DConditionModel: async () => (await import("./unets/unet_2d_condition.ts")).UNet2DConditionModel,
  UNet2DModel: async () => (await import("./unets/unet_2d.ts")).UNet2DModel,
  VQModel: async () => (await import("./autoencoders/vq_model.ts")).VQModel,
};
