import type { Generator, Scheduler, Tensor } from "@diffusers-web/core";
import type {
  AutoencoderKL,
  CLIPTextModel,
  StableDiffusionSafetyChecker,
  UNet2DConditionModel,
  UNet2DModel,
} from "@diffusers-web/models";
import type { DDIMOptions } from "./ddim/pipeline_ddim.ts";
import type { DDPMOptions } from "./ddpm/pipeline_ddpm.ts";
import type { CLIPImageProcessor } from "./image_processing_clip.ts";
import type { OutputType, PromptPipelineCall } from "./pipeline_output.ts";
import type { DiffusionPipeline } from "./pipeline_utils.ts";
import type { StableDiffusionOptions } from "./stable_diffusion/call_options.ts";
import type { StableDiffusionMixin } from "./stable_diffusion_mixin.ts";
import type { CLIPTokenizer } from "./tokenization_clip.ts";

type Shared = "callback_on_step_end" | "output_type" | "generator";

/** The options of all pipelines together. One that the pipeline at hand does not take is a TypeError when it is called. */
export interface AnyPipelineOptions
  extends Omit<StableDiffusionOptions, Shared>,
    Omit<DDPMOptions, Shared>,
    Omit<DDIMOptions, Shared> {
  /** One for all, or one for each picture. Default: seeded at random. */
  readonly generator?: Generator | readonly Generator[] | null;
  /** Default "image". */
  readonly output_type?: OutputType;
  /** Called after each step, and awaited; it may return tensors to go on with. */
  readonly callback_on_step_end?:
    | ((pipe: AnyPipeline, step: number, timestep: number, tensors: Readonly<Record<string, Tensor>>) => unknown)
    | null;
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
  text_encoder: CLIPTextModel;
  tokenizer: CLIPTokenizer;
  safety_checker: StableDiffusionSafetyChecker | null;
  feature_extractor: CLIPImageProcessor | null;
}
