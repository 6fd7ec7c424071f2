import { DiffusionPipeline as BasePipeline, type PipelineRegistry } from "./pipeline_utils.ts";

/**
 * The pipelines there are: the `_class_name` of a model_index.json, and how its class is loaded. A pipeline is added
 * by a file and a line here.
 */
export const pipelineRegistry: PipelineRegistry = {
  ConsistencyModelPipeline: async () =>
    (await import("./consistency_models/pipeline_consistency_models.ts")).ConsistencyModelPipeline,
  DDIMPipeline: async () => (await import("./ddim/pipeline_ddim.ts")).DDIMPipeline,
  DDPMPipeline: async () => (await import("./ddpm/pipeline_ddpm.ts")).DDPMPipeline,
  KarrasVePipeline: async () =>
    (await import("./stochastic_karras_ve/pipeline_stochastic_karras_ve.ts")).KarrasVePipeline,
  LDMPipeline: async () => (await import("./latent_diffusion_uncond/pipeline_latent_diffusion_uncond.ts")).LDMPipeline,
  PNDMPipeline: async () => (await import("./pndm/pipeline_pndm.ts")).PNDMPipeline,
  ScoreSdeVePipeline: async () => (await import("./score_sde_ve/pipeline_score_sde_ve.ts")).ScoreSdeVePipeline,
  StableDiffusionDepth2ImgPipeline: async () =>
    (await import("./stable_diffusion/pipeline_stable_diffusion_depth2img.ts")).StableDiffusionDepth2ImgPipeline,
  StableDiffusionImg2ImgPipeline: async () =>
    (await import("./stable_diffusion/pipeline_stable_diffusion_img2img.ts")).StableDiffusionImg2ImgPipeline,
  StableDiffusionInpaintPipeline: async () =>
    (await import("./stable_diffusion/pipeline_stable_diffusion_inpaint.ts")).StableDiffusionInpaintPipeline,
  StableDiffusionPipeline: async () =>
    (await import("./stable_diffusion/pipeline_stable_diffusion.ts")).StableDiffusionPipeline,
  StableDiffusionXLImg2ImgPipeline: async () =>
    (await import("./stable_diffusion_xl/pipeline_stable_diffusion_xl_img2img.ts")).StableDiffusionXLImg2ImgPipeline,
  StableDiffusionXLPipeline: async () =>
    (await import("./stable_diffusion_xl/pipeline_stable_diffusion_xl.ts")).StableDiffusionXLPipeline,
};

function withRegistry(base: typeof BasePipeline): typeof BasePipeline {
  base.registry = pipelineRegistry;
  return base;
}

// The base class comes from here, because it cannot import its subclasses itself.
export const DiffusionPipeline: typeof BasePipeline = /* @__PURE__ */ withRegistry(BasePipeline);
export type DiffusionPipeline = BasePipeline;
