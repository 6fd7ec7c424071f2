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
export { type LDMOptions, LDMPipeline } from "./latent_diffusion_uncond/pipeline_latent_diffusion_uncond.ts";
export type { SingleFilePipelineOptions } from "./loaders/single_file.ts";
export type { Component, PipelineComponents, PipelineLoadOptions } from "./pipeline_components.ts";
export * from "./pipeline_output.ts";
export type { PipelineClass } from "./pipeline_utils.ts";
export { type PNDMOptions, PNDMPipeline } from "./pndm/pipeline_pndm.ts";
export type { EncodePromptOptions, Prompt, PromptEmbeddings } from "./prompt.ts";
export { DiffusionPipeline, pipelineRegistry } from "./registry.ts";
export type { SavePipelineOptions } from "./saving.ts";
export { type ScoreSdeVeOptions, ScoreSdeVePipeline } from "./score_sde_ve/pipeline_score_sde_ve.ts";
export type { CallbackTensors, PromptedOptions, StableDiffusionOptions } from "./stable_diffusion/call_options.ts";
export type { ImageInput } from "./stable_diffusion/image_latents.ts";
export * from "./stable_diffusion/pipeline_stable_diffusion.ts";
export * from "./stable_diffusion/pipeline_stable_diffusion_depth2img.ts";
export * from "./stable_diffusion/pipeline_stable_diffusion_img2img.ts";
export * from "./stable_diffusion/pipeline_stable_diffusion_inpaint.ts";
export type { XLCallbackTensors, XLPromptedOptions } from "./stable_diffusion_xl/call_options.ts";
export type { EncodePromptXLOptions, PromptXLEmbeddings } from "./stable_diffusion_xl/encode_prompt.ts";
export type { MicroConditioning, Pair } from "./stable_diffusion_xl/micro_conditioning.ts";
export * from "./stable_diffusion_xl/pipeline_stable_diffusion_xl.ts";
export * from "./stable_diffusion_xl/pipeline_stable_diffusion_xl_img2img.ts";
export { type KarrasVeOptions, KarrasVePipeline } from "./stochastic_karras_ve/pipeline_stochastic_karras_ve.ts";
export { type CustomTimesteps, retrieve_timesteps } from "./timesteps.ts";
export * from "./tokenization_clip.ts";
