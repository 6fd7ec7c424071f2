import { DiffusionPipeline as BasePipeline, type PipelineRegistry } from "./pipeline_utils.ts";

/**
 * The pipelines there are: the `_class_name` of a model_index.json, and how its class is loaded. A pipeline is added
 * by a file and a line here.
 */
export const pipelineRegistry: PipelineRegistry = {
  DDIMPipeline: async () => (await import("./ddim/pipeline_ddim.ts")).DDIMPipeline,
  DDPMPipeline: async () => (await import("./ddpm/pipeline_ddpm.ts")).DDPMPipeline,
  StableDiffusionPipeline: async () =>
    (await import("./stable_diffusion/pipeline_stable_diffusion.ts")).StableDiffusionPipeline,
};

function withRegistry(base: typeof BasePipeline): typeof BasePipeline {
  base.registry = pipelineRegistry;
  return base;
}

// The base class comes from here, because it cannot import its subclasses itself.
export const DiffusionPipeline: typeof BasePipeline = /* @__PURE__ */ withRegistry(BasePipeline);
export type DiffusionPipeline = BasePipeline;
