export * from "@diffusers-web/core";
export * from "@diffusers-web/models";
export type { AnyPipeline, AnyPipelineOptions } from "./any_pipeline.ts";
export {
  AutoPipelineForImage2Image,
  AutoPipelineForInpainting,
  AutoPipelineForText2Image,
  type AutoPipelineFromPipeOptions,
  type AutoPipelineLoadOptions,
} from "./auto_pipeline.ts";
export type { RunOptions } from "./calls.ts";
export {
  type ConsistencyModelOptions,
  ConsistencyModelPipeline,
} from "./consistency_models/pipeline_consistency_models.ts";
export type { ControlNetInput } from "./controlnet/control_component.ts";
export type { ControlImageInput } from "./controlnet/control_images.ts";
export type { ControlNet, ControlOptions } from "./controlnet/control_options.ts";
export * from "./controlnet/pipeline_controlnet.ts";
export * from "./controlnet/pipeline_controlnet_img2img.ts";
export * from "./controlnet/pipeline_controlnet_inpaint.ts";
export * from "./controlnet/pipeline_controlnet_inpaint_sd_xl.ts";
export * from "./controlnet/pipeline_controlnet_sd_xl.ts";
export * from "./controlnet/pipeline_controlnet_sd_xl_img2img.ts";
export { type DDIMOptions, DDIMPipeline } from "./ddim/pipeline_ddim.ts";
export { type DDPMOptions, DDPMPipeline } from "./ddpm/pipeline_ddpm.ts";
export type { FromPipeOptions } from "./from_pipe.ts";
export { rescale_noise_cfg } from "./guidance.ts";
export type { CropRegion, ResizeMode } from "./image_crops.ts";
export * from "./image_processing_clip.ts";
export * from "./image_processing_dpt.ts";
export type { ImageProcessorConfig, ImageProcessorOptions, ImageProcessorOutput } from "./image_processing_utils.ts";
export * from "./image_processor.ts";
export type { SizeDict } from "./image_transforms.ts";
export type { LCMCallbackTensors, LCMPromptedOptions } from "./latent_consistency_models/call_options.ts";
export * from "./latent_consistency_models/pipeline_latent_consistency_img2img.ts";
export * from "./latent_consistency_models/pipeline_latent_consistency_text2img.ts";
export { type LDMOptions, LDMPipeline } from "./latent_diffusion_uncond/pipeline_latent_diffusion_uncond.ts";
export type { AdapterSource } from "./loaders/adapter_file.ts";
export type { IPAdapterLoadOptions } from "./loaders/ip_adapter.ts";
export type { AdapterWeights, FuseLoraOptions, LoraComponent, LoraComponentWeights } from "./loaders/lora_base.ts";
export type { LoadLoraOptions } from "./loaders/lora_pipeline.ts";
export type { SingleFilePipelineOptions } from "./loaders/single_file.ts";
export type { TextualInversionOptions, TextualInversionSource } from "./loaders/textual_inversion.ts";
export type { PAGLayers, PAGOptions, PAGParts } from "./pag/pag_utils.ts";
export * from "./pag/pipeline_pag_sd.ts";
export * from "./pag/pipeline_pag_sd_img2img.ts";
export * from "./pag/pipeline_pag_sd_xl.ts";
export * from "./pag/pipeline_pag_sd_xl_img2img.ts";
export type { Component, PipelineComponents, PipelineLoadOptions } from "./pipeline_components.ts";
export * from "./pipeline_output.ts";
export type { PipelineClass } from "./pipeline_utils.ts";
export { type PNDMOptions, PNDMPipeline } from "./pndm/pipeline_pndm.ts";
export type { EncodePromptOptions, Prompt, PromptEmbeddings } from "./prompt.ts";
export type { PromptSyntax } from "./prompt_syntax.ts";
export { parse_prompt_attention, type WeightedPiece } from "./prompt_weighting.ts";
export { DiffusionPipeline, pipelineRegistry } from "./registry.ts";
export type { RunProgress } from "./run_progress.ts";
export type { SavePipelineOptions } from "./saving.ts";
export { type ScoreSdeVeOptions, ScoreSdeVePipeline } from "./score_sde_ve/pipeline_score_sde_ve.ts";
export type { CallbackTensors, PromptedOptions, StableDiffusionOptions } from "./stable_diffusion/call_options.ts";
export type { ImageInput } from "./stable_diffusion/image_latents.ts";
export type {
  ImageEmbeddings,
  ImageEncodingOptions,
  IPAdapterCallOptions,
  IPAdapterImage,
  PrepareImageEmbedsOptions,
} from "./stable_diffusion/ip_adapter_mixin.ts";
export * from "./stable_diffusion/pipeline_stable_diffusion.ts";
export * from "./stable_diffusion/pipeline_stable_diffusion_depth2img.ts";
export * from "./stable_diffusion/pipeline_stable_diffusion_image_variation.ts";
export * from "./stable_diffusion/pipeline_stable_diffusion_img2img.ts";
export * from "./stable_diffusion/pipeline_stable_diffusion_inpaint.ts";
export * from "./stable_diffusion/pipeline_stable_diffusion_instruct_pix2pix.ts";
export * from "./stable_diffusion/pipeline_stable_diffusion_latent_upscale.ts";
export * from "./stable_diffusion/pipeline_stable_diffusion_upscale.ts";
export type { UpscaleOptions } from "./stable_diffusion/upscale_options.ts";
export type { ScoredConditioning } from "./stable_diffusion_xl/aesthetic_scores.ts";
export type { XLCallbackTensors, XLPromptedOptions } from "./stable_diffusion_xl/call_options.ts";
export type { EncodePromptXLOptions, PromptXLEmbeddings } from "./stable_diffusion_xl/encode_prompt.ts";
export type { MicroConditioning, Pair } from "./stable_diffusion_xl/micro_conditioning.ts";
export * from "./stable_diffusion_xl/pipeline_stable_diffusion_xl.ts";
export * from "./stable_diffusion_xl/pipeline_stable_diffusion_xl_img2img.ts";
export * from "./stable_diffusion_xl/pipeline_stable_diffusion_xl_inpaint.ts";
export * from "./stable_diffusion_xl/pipeline_stable_diffusion_xl_instruct_pix2pix.ts";
export type { StepCallbackOptions } from "./step_callback.ts";
export { type KarrasVeOptions, KarrasVePipeline } from "./stochastic_karras_ve/pipeline_stochastic_karras_ve.ts";
export type { AdapterImageInput, AdapterOptions } from "./t2i_adapter/adapter_images.ts";
export * from "./t2i_adapter/pipeline_stable_diffusion_adapter.ts";
export * from "./t2i_adapter/pipeline_stable_diffusion_xl_adapter.ts";
export { type CustomTimesteps, retrieve_timesteps } from "./timesteps.ts";
export * from "./tokenization_clip.ts";
export { serveWorker } from "./worker/host.ts";
export type { WorkerChoice } from "./worker/load.ts";
export { PipelineWorker, type WorkerLike } from "./worker/pipeline_worker.ts";
