import type { KarrasVeScheduler, LoadOptions, Scheduler, ScoreSdeVeScheduler } from "@diffusers-web/core";
import type {
  Autoencoder,
  CLIPTextModel,
  CLIPTextModelWithProjection,
  DeviceRequest,
  DPTForDepthEstimation,
  DtypeRequest,
  StableDiffusionSafetyChecker,
  UNet2DConditionModel,
  UNet2DModel,
  VQModel,
} from "@diffusers-web/models";
import type { CLIPImageProcessor } from "./image_processing_clip.ts";
import type { DPTImageProcessor } from "./image_processing_dpt.ts";
import type { CLIPTokenizer } from "./tokenization_clip.ts";

/** What a pipeline may be made of. */
export type Component =
  | Scheduler
  | KarrasVeScheduler
  | ScoreSdeVeScheduler
  | Autoencoder
  | CLIPImageProcessor
  | CLIPTextModel
  | CLIPTextModelWithProjection
  | CLIPTokenizer
  | DPTForDepthEstimation
  | DPTImageProcessor
  | StableDiffusionSafetyChecker
  | UNet2DConditionModel
  | UNet2DModel
  | VQModel;

/** The components of any pipeline, by name; null for one that was left out. */
export interface PipelineComponents {
  readonly scheduler?: Scheduler | KarrasVeScheduler | ScoreSdeVeScheduler | null;
  readonly unet?: UNet2DConditionModel | UNet2DModel | null;
  readonly vae?: Autoencoder | null;
  /** Latent diffusion without text. */
  readonly vqvae?: VQModel | null;
  readonly text_encoder?: CLIPTextModel | null;
  /** Stable Diffusion XL. */
  readonly text_encoder_2?: CLIPTextModelWithProjection | null;
  readonly tokenizer?: CLIPTokenizer | null;
  /** Stable Diffusion XL. */
  readonly tokenizer_2?: CLIPTokenizer | null;
  readonly safety_checker?: StableDiffusionSafetyChecker | null;
  readonly feature_extractor?: CLIPImageProcessor | DPTImageProcessor | null;
  /** Depth to image. */
  readonly depth_estimator?: DPTForDepthEstimation | null;
  readonly image_encoder?: null;
}

/** What `DiffusionPipeline.from_pretrained` takes. A component that is passed is not loaded; null leaves it out. */
export interface PipelineLoadOptions extends LoadOptions, PipelineComponents {
  /** Default "auto": WebGPU where there is one. */
  readonly device?: DeviceRequest;
  /** Default "auto": what the device computes fast and right. */
  readonly dtype?: DtypeRequest;
  /** Stable Diffusion: whether to warn when there is no safety checker. Default: what model_index.json says. */
  readonly requires_safety_checker?: boolean;
  /**
   * Stable Diffusion XL: whether a call without a negative prompt is guided away from zeros, not from the empty text. Default:
   * what model_index.json says.
   */
  readonly force_zeros_for_empty_prompt?: boolean;
  /** StableDiffusionXLImg2ImgPipeline: whether the UNet is told aesthetic scores. Default: what model_index.json says. */
  readonly requires_aesthetics_score?: boolean;
  /** Stable Diffusion XL: false, the default. There is no invisible watermark here: true is refused. */
  readonly add_watermarker?: boolean | null;
}
