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
  LatentConsistencyModelImg2ImgPipeline: async () =>
    (await import("./latent_consistency_models/pipeline_latent_consistency_img2img.ts"))
      .LatentConsistencyModelImg2ImgPipeline,
  LatentConsistencyModelPipeline: async () =>
    (await import("./latent_consistency_models/pipeline_latent_consistency_text2img.ts"))
      .LatentConsistencyModelPipeline,
  PNDMPipeline: async () => (await import("./pndm/pipeline_pndm.ts")).PNDMPipeline,
  ScoreSdeVePipeline: async () => (await import("./score_sde_ve/pipeline_score_sde_ve.ts")).ScoreSdeVePipeline,
  StableDiffusionAdapterPipeline: async () =>
    (await import("./t2i_adapter/pipeline_stable_diffusion_adapter.ts")).StableDiffusionAdapterPipeline,
  StableDiffusionControlNetImg2ImgPipeline: async () =>
    (await import("./controlnet/pipeline_controlnet_img2img.ts")).StableDiffusionControlNetImg2ImgPipeline,
  StableDiffusionControlNetInpaintPipeline: async () =>
    (await import("./controlnet/pipeline_controlnet_inpaint.ts")).StableDiffusionControlNetInpaintPipeline,
  StableDiffusionControlNetPipeline: async () =>
    (await import("./controlnet/pipeline_controlnet.ts")).StableDiffusionControlNetPipeline,
  StableDiffusionDepth2ImgPipeline: async () =>
    (await import("./stable_diffusion/pipeline_stable_diffusion_depth2img.ts")).StableDiffusionDepth2ImgPipeline,
  StableDiffusionImageVariationPipeline: async () =>
    (await import("./stable_diffusion/pipeline_stable_diffusion_image_variation.ts"))
      .StableDiffusionImageVariationPipeline,
  StableDiffusionImg2ImgPipeline: async () =>
    (await import("./stable_diffusion/pipeline_stable_diffusion_img2img.ts")).StableDiffusionImg2ImgPipeline,
  StableDiffusionInpaintPipeline: async () =>
    (await import("./stable_diffusion/pipeline_stable_diffusion_inpaint.ts")).StableDiffusionInpaintPipeline,
  StableDiffusionLatentUpscalePipeline: async () =>
    (await import("./stable_diffusion/pipeline_stable_diffusion_latent_upscale.ts"))
      .StableDiffusionLatentUpscalePipeline,
  StableDiffusionPAGImg2ImgPipeline: async () =>
    (await import("./pag/pipeline_pag_sd_img2img.ts")).StableDiffusionPAGImg2ImgPipeline,
  StableDiffusionPAGPipeline: async () => (await import("./pag/pipeline_pag_sd.ts")).StableDiffusionPAGPipeline,
  StableDiffusionInstructPix2PixPipeline: async () =>
    (await import("./stable_diffusion/pipeline_stable_diffusion_instruct_pix2pix.ts"))
      .StableDiffusionInstructPix2PixPipeline,
  StableDiffusionPipeline: async () =>
    (await import("./stable_diffusion/pipeline_stable_diffusion.ts")).StableDiffusionPipeline,
  StableDiffusionUpscalePipeline: async () =>
    (await import("./stable_diffusion/pipeline_stable_diffusion_upscale.ts")).StableDiffusionUpscalePipeline,
  StableDiffusionXLAdapterPipeline: async () =>
    (await import("./t2i_adapter/pipeline_stable_diffusion_xl_adapter.ts")).StableDiffusionXLAdapterPipeline,
  StableDiffusionXLControlNetImg2ImgPipeline: async () =>
    (await import("./controlnet/pipeline_controlnet_sd_xl_img2img.ts")).StableDiffusionXLControlNetImg2ImgPipeline,
  StableDiffusionXLControlNetInpaintPipeline: async () =>
    (await import("./controlnet/pipeline_controlnet_inpaint_sd_xl.ts")).StableDiffusionXLControlNetInpaintPipeline,
  StableDiffusionXLControlNetPipeline: async () =>
    (await import("./controlnet/pipeline_controlnet_sd_xl.ts")).StableDiffusionXLControlNetPipeline,
  StableDiffusionXLImg2ImgPipeline: async () =>
    (await import("./stable_diffusion_xl/pipeline_stable_diffusion_xl_img2img.ts")).StableDiffusionXLImg2ImgPipeline,
  StableDiffusionXLInpaintPipeline: async () =>
    (await import("./stable_diffusion_xl/pipeline_stable_diffusion_xl_inpaint.ts")).StableDiffusionXLInpaintPipeline,
  StableDiffusionXLPAGImg2ImgPipeline: async () =>
    (await import("./pag/pipeline_pag_sd_xl_img2img.ts")).StableDiffusionXLPAGImg2ImgPipeline,
  StableDiffusionXLPAGPipeline: async () => (await import("./pag/pipeline_pag_sd_xl.ts")).StableDiffusionXLPAGPipeline,
  StableDiffusionXLInstructPix2PixPipeline: async () =>
    (await import("./stable_diffusion_xl/pipeline_stable_diffusion_xl_instruct_pix2pix.ts"))
      .StableDiffusionXLInstructPix2PixPipeline,
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
