import type { KarrasVeScheduler, LoadOptions, Scheduler, ScoreSdeVeScheduler } from "@diffusers-web/core";
import type {
  Autoencoder,
  CLIPTextModel,
  CLIPTextModelWithProjection,
  CLIPVisionModelWithProjection,
  ControlNetModel,
  DeviceRequest,
  DPTForDepthEstimation,
  DtypeRequest,
  MultiAdapter,
  MultiControlNetModel,
  StableDiffusionSafetyChecker,
  T2IAdapter,
  UNet2DConditionModel,
  UNet2DModel,
  VQModel,
} from "@diffusers-web/models";
import type { CLIPImageProcessor } from "./image_processing_clip.ts";
import type { DPTImageProcessor } from "./image_processing_dpt.ts";
import type { CLIPTokenizer } from "./tokenization_clip.ts";
import type { WorkerChoice } from "./worker/load.ts";

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
  | CLIPVisionModelWithProjection
  | ControlNetModel
  | readonly ControlNetModel[]
  | DPTForDepthEstimation
  | DPTImageProcessor
  | MultiAdapter
  | MultiControlNetModel
  | StableDiffusionSafetyChecker
  | T2IAdapter
  | readonly T2IAdapter[]
  | UNet2DConditionModel
  | UNet2DModel
  | VQModel;

/** The components of any pipeline, by name; null for one that was left out. */
export interface PipelineComponents {
  readonly scheduler?: Scheduler | KarrasVeScheduler | ScoreSdeVeScheduler | null;
  /** What gives the picture its noise, in StableDiffusionUpscalePipeline. */
  readonly low_res_scheduler?: Scheduler | null;
  readonly unet?: UNet2DConditionModel | UNet2DModel | null;
  readonly vae?: Autoencoder | null;
  /** What makes pictures follow others; several as a list, which becomes a `MultiControlNetModel`. */
  readonly controlnet?: ControlNetModel | readonly ControlNetModel[] | MultiControlNetModel | null;
  /** A T2I-Adapter; several as a list, which becomes a `MultiAdapter`. */
  readonly adapter?: T2IAdapter | readonly T2IAdapter[] | MultiAdapter | null;
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
  /** What IP-Adapters see pictures through. */
  readonly image_encoder?: CLIPVisionModelWithProjection | null;
  /** There is no invisible watermark here. */
  readonly watermarker?: null;
}

/** What `DiffusionPipeline.from_pretrained` takes. A component that is passed is not loaded; null leaves it out. */
export interface PipelineLoadOptions extends LoadOptions, PipelineComponents {
  /** Default "auto": WebGPU where there is one. */
  readonly device?: DeviceRequest;
  /** Default "auto": what the device computes fast and right. */
  readonly dtype?: DtypeRequest;
  /**
   * Where the pipeline lives. Default false: where it is loaded. true: in a Web Worker of its own, which ends when the pipeline
   * is disposed; a function that starts such a worker; a worker of yours; a `PipelineWorker`, for several pipelines in one.
   * What is returned is used in the same way; see `PipelineWorker`.
   */
  readonly worker?: WorkerChoice;
  /** Stable Diffusion: whether to warn when there is no safety checker. Default: what model_index.json says. */
  readonly requires_safety_checker?: boolean;
  /**
   * Stable Diffusion XL: whether a call without a negative prompt is guided away from zeros, not from the empty text. Default:
   * what model_index.json says.
   */
  readonly force_zeros_for_empty_prompt?: boolean;
  /** Stable Diffusion XL, image to image and inpainting: whether the UNet is told aesthetic scores. Default: what model_index.json says. */
  readonly requires_aesthetics_score?: boolean;
  /** StableDiffusionXLInstructPix2PixPipeline: whether latents of the picture are scaled, as CosXL Edit knows them. Default false. */
  readonly is_cosxl_edit?: boolean | null;
  /** Stable Diffusion XL: false, the default. There is no invisible watermark here: true is refused. */
  readonly add_watermarker?: boolean | null;
  /** Perturbed-attention guidance: which self-attentions are perturbed. Default "mid". */
  readonly pag_applied_layers?: string | readonly string[];
  /** StableDiffusionUpscalePipeline: the largest `noise_level`. Default: what model_index.json says, else 350. */
  readonly max_noise_level?: number;
}
