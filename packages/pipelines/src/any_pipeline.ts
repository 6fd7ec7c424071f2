import type { Generator, Scheduler, Tensor } from "@diffusers-web/core";
import type {
  AutoencoderKL,
  CLIPTextModel,
  CLIPTextModelWithProjection,
  CLIPVisionModelWithProjection,
  DPTForDepthEstimation,
  MultiAdapter,
  StableDiffusionSafetyChecker,
  T2IAdapter,
  UNet2DConditionModel,
  UNet2DModel,
  VQModel,
} from "@diffusers-web/models";
import type { ConsistencyModelOptions } from "./consistency_models/pipeline_consistency_models.ts";
import type { ControlImageInput } from "./controlnet/control_images.ts";
import type { ControlNet } from "./controlnet/control_options.ts";
import type { StableDiffusionControlNetOptions } from "./controlnet/pipeline_controlnet.ts";
import type { StableDiffusionControlNetImg2ImgOptions } from "./controlnet/pipeline_controlnet_img2img.ts";
import type { StableDiffusionControlNetInpaintOptions } from "./controlnet/pipeline_controlnet_inpaint.ts";
import type { StableDiffusionXLControlNetInpaintOptions } from "./controlnet/pipeline_controlnet_inpaint_sd_xl.ts";
import type { StableDiffusionXLControlNetOptions } from "./controlnet/pipeline_controlnet_sd_xl.ts";
import type { StableDiffusionXLControlNetImg2ImgOptions } from "./controlnet/pipeline_controlnet_sd_xl_img2img.ts";
import type { DDIMOptions } from "./ddim/pipeline_ddim.ts";
import type { DDPMOptions } from "./ddpm/pipeline_ddpm.ts";
import type { CLIPImageProcessor } from "./image_processing_clip.ts";
import type { DPTImageProcessor } from "./image_processing_dpt.ts";
import type { LatentConsistencyModelImg2ImgOptions } from "./latent_consistency_models/pipeline_latent_consistency_img2img.ts";
import type { LatentConsistencyModelOptions } from "./latent_consistency_models/pipeline_latent_consistency_text2img.ts";
import type { LDMOptions } from "./latent_diffusion_uncond/pipeline_latent_diffusion_uncond.ts";
import type { LoraLoaderMixin } from "./loaders/lora_base.ts";
import type { TextualInversionLoaderMixin } from "./loaders/textual_inversion.ts";
import type { StableDiffusionPAGOptions } from "./pag/pipeline_pag_sd.ts";
import type { OutputType, PromptPipelineCall } from "./pipeline_output.ts";
import type { DiffusionPipeline } from "./pipeline_utils.ts";
import type { PNDMOptions } from "./pndm/pipeline_pndm.ts";
import type { ScoreSdeVeOptions } from "./score_sde_ve/pipeline_score_sde_ve.ts";
import type { StableDiffusionOptions } from "./stable_diffusion/call_options.ts";
import type { GuidedPipeline } from "./stable_diffusion/guided_pipeline.ts";
import type { IPAdapterMixin } from "./stable_diffusion/ip_adapter_mixin.ts";
import type { StableDiffusionDepth2ImgOptions } from "./stable_diffusion/pipeline_stable_diffusion_depth2img.ts";
import type { StableDiffusionImg2ImgOptions } from "./stable_diffusion/pipeline_stable_diffusion_img2img.ts";
import type { StableDiffusionInpaintOptions } from "./stable_diffusion/pipeline_stable_diffusion_inpaint.ts";
import type { StableDiffusionInstructPix2PixOptions } from "./stable_diffusion/pipeline_stable_diffusion_instruct_pix2pix.ts";
import type { StableDiffusionLatentUpscaleOptions } from "./stable_diffusion/pipeline_stable_diffusion_latent_upscale.ts";
import type { StableDiffusionUpscaleOptions } from "./stable_diffusion/pipeline_stable_diffusion_upscale.ts";
import type { StableDiffusionMixin } from "./stable_diffusion_mixin.ts";
import type { StableDiffusionXLOptions } from "./stable_diffusion_xl/pipeline_stable_diffusion_xl.ts";
import type { StableDiffusionXLImg2ImgOptions } from "./stable_diffusion_xl/pipeline_stable_diffusion_xl_img2img.ts";
import type { StableDiffusionXLInpaintOptions } from "./stable_diffusion_xl/pipeline_stable_diffusion_xl_inpaint.ts";
import type { KarrasVeOptions } from "./stochastic_karras_ve/pipeline_stochastic_karras_ve.ts";
import type { StableDiffusionAdapterOptions } from "./t2i_adapter/pipeline_stable_diffusion_adapter.ts";
import type { StableDiffusionXLAdapterOptions } from "./t2i_adapter/pipeline_stable_diffusion_xl_adapter.ts";
import type { CLIPTokenizer } from "./tokenization_clip.ts";

type Shared = "callback_on_step_end" | "callback_on_step_end_tensor_inputs" | "output_type" | "generator" | "image";

/** The options of all pipelines together. One that the pipeline at hand does not take is a TypeError when it is called. */
export interface AnyPipelineOptions
  extends Omit<StableDiffusionOptions, Shared>,
    Omit<StableDiffusionImg2ImgOptions, Shared>,
    Omit<StableDiffusionDepth2ImgOptions, Shared>,
    Omit<StableDiffusionInpaintOptions, Shared>,
    Omit<StableDiffusionInstructPix2PixOptions, Shared>,
    Omit<StableDiffusionControlNetOptions, Shared>,
    Omit<StableDiffusionControlNetImg2ImgOptions, Shared>,
    Omit<StableDiffusionControlNetInpaintOptions, Shared>,
    Omit<StableDiffusionXLControlNetOptions, Shared>,
    Omit<StableDiffusionXLControlNetImg2ImgOptions, Shared>,
    Omit<StableDiffusionXLControlNetInpaintOptions, Shared>,
    Omit<StableDiffusionAdapterOptions, Shared>,
    Omit<StableDiffusionXLAdapterOptions, Shared>,
    Omit<StableDiffusionPAGOptions, Shared>,
    Omit<StableDiffusionUpscaleOptions, Shared>,
    Omit<StableDiffusionLatentUpscaleOptions, Shared>,
    Omit<LatentConsistencyModelOptions, Shared>,
    Omit<LatentConsistencyModelImg2ImgOptions, Shared>,
    Omit<StableDiffusionXLOptions, Shared>,
    Omit<StableDiffusionXLImg2ImgOptions, Shared>,
    Omit<StableDiffusionXLInpaintOptions, Shared>,
    Omit<DDPMOptions, Shared>,
    Omit<DDIMOptions, Shared>,
    Omit<PNDMOptions, Shared>,
    Omit<LDMOptions, Shared>,
    Omit<ScoreSdeVeOptions, Shared>,
    Omit<KarrasVeOptions, Shared>,
    Omit<ConsistencyModelOptions, Shared | "num_inference_steps" | "timesteps"> {
  /** One for all, or one for each picture. Default: seeded at random. */
  readonly generator?: Generator | readonly Generator[] | null;
  /** What to start from, or what a net or an adapter follows; for several of these a list with an entry for each. */
  readonly image?: ControlImageInput | null;
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
  | ("enable_unet_slicing" | "disable_unet_slicing")
  | ("enable_attention_slicing" | "disable_attention_slicing" | "enable_freeu" | "disable_freeu");

type ForAdapters =
  | ("load_ip_adapter" | "set_ip_adapter_scale" | "unload_ip_adapter")
  | ("encode_image" | "prepare_ip_adapter_image_embeds");

type ForLoras =
  | ("load_lora_weights" | "unload_lora_weights" | "set_adapters" | "delete_adapters" | "enable_lora" | "disable_lora")
  | ("get_active_adapters" | "get_list_adapters" | "fuse_lora" | "unfuse_lora" | "fused_loras" | "num_fused_loras");

type ForWords = "load_textual_inversion" | "unload_textual_inversion" | "maybe_convert_prompt";

/**
 * A pipeline of whatever class model_index.json named. Which of the components there are depends on that class
 * (and with the autoencoder, `enable_vae_tiling` and the like): `pipeline instanceof StableDiffusionPipeline` tells.
 */
export interface AnyPipeline
  extends DiffusionPipeline,
    Pick<StableDiffusionMixin, Switch>,
    Pick<GuidedPipeline, "decode_preview" | "preview_decoder">,
    Pick<IPAdapterMixin, ForAdapters>,
    Pick<LoraLoaderMixin, ForLoras>,
    Pick<TextualInversionLoaderMixin, ForWords>,
    PromptPipelineCall<AnyPipelineOptions> {
  scheduler: Scheduler;
  /** StableDiffusionUpscalePipeline. */
  low_res_scheduler?: Scheduler;
  unet: UNet2DConditionModel | UNet2DModel;
  vae: AutoencoderKL;
  /** Pipelines with a ControlNet. */
  controlnet?: ControlNet;
  /** Pipelines with a T2I-Adapter. */
  adapter?: T2IAdapter | MultiAdapter;
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
  /** What IP-Adapters see pictures through. */
  image_encoder?: CLIPVisionModelWithProjection | null;
}
