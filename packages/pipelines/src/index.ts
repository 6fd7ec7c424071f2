export * from "@diffusers-web/core";
export * from "@diffusers-web/models";
export type { AnyPipeline, AnyPipelineOptions } from "./any_pipeline.ts";
export type { RunOptions } from "./calls.ts";
export { type DDIMOptions, DDIMPipeline } from "./ddim/pipeline_ddim.ts";
export { type DDPMOptions, DDPMPipeline } from "./ddpm/pipeline_ddpm.ts";
export { rescale_noise_cfg } from "./guidance.ts";
export * from "./image_processing_clip.ts";
export * from "./image_processing_dpt.ts";
export type { ImageProcessorConfig, ImageProcessorOptions, ImageProcessorOutput } from "./image_processing_utils.ts";
export * from "./image_processor.ts";
export type { SizeDict } from "./image_transforms.ts";
export type { SingleFilePipelineOptions } from "./loaders/single_file.ts";
export * from "./pipeline_output.ts";
export type {
  Component,
  PipelineClass,
  PipelineComponents,
  PipelineLoadOptions,
} from "./pipeline_utils.ts";
export type { EncodePromptOptions, Prompt, PromptEmbeddings } from "./prompt.ts";
export { DiffusionPipeline, pipelineRegistry } from "./registry.ts";
export type { CallbackTensors, StableDiffusionOptions } from "./stable_diffusion/call_options.ts";
export * from "./stable_diffusion/pipeline_stable_diffusion.ts";
export { type CustomTimesteps, retrieve_timesteps } from "./timesteps.ts";
export * from "./tokenization_clip.ts";
