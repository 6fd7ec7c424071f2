import type { Generator, Scheduler, Tensor } from "@diffusers-web/core";
import type {
  AutoencoderKL,
  CLIPTextModel,
  CLIPTextModelWithProjection,
  DPTForDepthEstimation,
  StableDiffusionSafetyChecker,
  UNet2DConditionModel,
  UNet2DModel,
  VQModel,
} from "@diffusers-web/models";
import type { ConsistencyModelOptions } from "./consistency_models/pipeline_consistency_models.ts";
import type { DDIMOptions } from "./ddim/pipeline_ddim.ts";
import type { DDPMOptions } from "./ddpm/pipeline_ddpm.ts";
import type { CLIPImageProcessor } from "./image_processing_clip.ts";
import type { DPTImageProcessor } from "./image_processing_dpt.ts";
import type { LDMOptions } from "./latent_diffusion_uncond/pipeline_latent_diffusion_uncond.ts";
import type { OutputType, PromptPipelineCall } from "./pipeline_output.ts";
import type { DiffusionPipeline } from "./pipeline_utils.ts";
import type { PNDMOptions } from "./pndm/pipeline_pndm.ts";
import type { ScoreSdeVeOptions } from "./score_sde_ve/pipeline_score_sde_ve.ts";
import type { StableDiffusionOptions } from "./stable_diffusion/call_options.ts";
import type { StableDiffusionDepth2ImgOptions } from "./stable_diffusion/pipeline_stable_diffusion_depth2img.ts";
import type { StableDiffusionImg2ImgOptions } from "./stable_diffusion/pipeline_stable_diffusion_img2img.ts";
import type { StableDiffusionInpaintOptions } from "./stable_diffusion/pipeline_stable_diffusion_inpaint.ts";
import type { StableDiffusionMixin } from "./stable_diffusion_mixin.ts";
import type { StableDiffusionXLOptions } from "./stable_diffusion_xl/pipeline_stable_diffusion_xl.ts";
import type { StableDiffusionXLImg2ImgOptions } from "./stable_diffusion_xl/pipeline_stable_diffusion_xl_img2img.ts";
import type { KarrasVeOptions } from "./stochastic_karras_ve/pipeline_stochastic_karras_ve.ts";
import type { CLIPTokenizer } from "./tokenization_clip.ts";

type Shared = "callback_on_step_end" | "callback_on_step_end_tensor_inputs" | "output_type" | "generator";

/** The options of all pipelines together. One that the pipeline at hand does not take is a TypeError when it is called. */
export interface AnyPipelineOptions
  extends Omit<StableDiffusionOptions, Shared>,
    Omit<StableDiffusionImg2ImgOptions, Shared>,
    Omit<StableDiffusionDepth2ImgOptions, Shared>,
    Omit<StableDiffusionInpaintOptions, Shared>,
    Omit<StableDiffusionXLOptions, Shared>,
    Omit<StableDiffusionXLImg2ImgOptions, Shared>,
    Omit<DDPMOptions, Shared>,
    Omit<DDIMOptions, Shared>,
    Omit<PNDMOptions, Shared>,
    Omit<LDMOptions, Shared>,
    Omit<ScoreSdeVeOptions, Shared>,
    Omit<KarrasVeOptions, Shared>,
    Omit<ConsistencyModelOptions, Shared | "num_inference_steps" | "timesteps"> {
  /** One for all, or one for each picture. Default: seeded at random. */
  readonly generator?: Generator | readonly Generator[] | null;
  /** Default "image". */
  readonly output_type?: OutputType;
  /** Called after each step, and awaited; it may return tensors to go on with. */
  readonly callback_on_step_end?:
    | ((pipe: AnyPipeline, step: number, timestep: number, tensors: Readonly<Record<string, Tensor>>) => unknown)
    | null;
  /** Which tensors the callback is shown. Default `["latents"]`. */
  readonly callback_on_step_end_tensor_inputs?: readonly string[];
}

type Switch =
  | ("enable_vae_slicing" | "disable_vae_slicing" | "enable_vae_tiling" | "disable_vae_tiling")
  | ("enable_attention_slicing" | "disable_attention_slicing" | "enable_freeu" | "disable_freeu");

/**
 * A pipeline of whatever class model_index.json named. Which of the components there are depends on that class
 * (and with the autoencoder, `enable_vae_tiling` and the like): `pipeline instanceof StableDiffusionPipeline` tells.
 */
export interface AnyPipeline
  extends DiffusionPipeline,
    Pick<StableDiffusionMixin, Switch>,
    PromptPipelineCall<AnyPipelineOptions> {
  scheduler: Scheduler;
  unet: UNet2DConditionModel | UNet2DModel;
  vae: AutoencoderKL;
  vqvae?: VQModel;
  text_encoder: CLIPTextModel;
  /** Stable Diffusion XL. */
  text_encoder_2?: CLIPTextModelWithProjection;
  tokenizer: CLIPTokenizer;
  /** Stable Diffusion XL. */
  tokenizer_2?: CLIPTokenizer;
  safety_checker: StableDiffusionSafetyChecker | null;
  feature_extractor: CLIPImageProcessor | DPTImageProcessor | null;
  depth_estimator: DPTForDepthEstimation;
}
