import {
  type ConfigOf,
  ControlNetModel,
  type DiffusionPipeline,
  MultiControlNetModel,
  StableDiffusionControlNetImg2ImgPipeline,
  StableDiffusionControlNetInpaintPipeline,
  StableDiffusionControlNetPipeline,
  StableDiffusionXLControlNetImg2ImgPipeline,
  StableDiffusionXLControlNetInpaintPipeline,
  StableDiffusionXLControlNetPipeline,
  UNet2DConditionModel,
} from "@diffusers-web/pipelines";
import { vaeWithStatistics } from "./sdxl.ts";
import type { Place } from "./types.ts";

export async function load(place: Place): Promise<Record<string, DiffusionPipeline>> {
  const { device, path } = place;
  const net = (name: string, config: Partial<ConfigOf<ControlNetModel>> = {}) =>
    ControlNetModel.from_pretrained(path(`pipelines/controlnet-tiny/${name}`), { device, ...config });
  const bgr = { controlnet_conditioning_channel_order: "bgr" };
  const one = await net("sd");
  const two = [one, await net("sd", bgr)];
  const small = await net("small");
  const xlNet = await net("xl");
  const lcm = await UNet2DConditionModel.from_pretrained(path("pipelines/img2img-tiny/unet-lcm"), { device });
  const nine = await UNet2DConditionModel.from_pretrained(path("pipelines/inpaint-tiny/unet"), { device });
  const vae = await vaeWithStatistics(place);
  const text = StableDiffusionControlNetPipeline;
  const start = StableDiffusionControlNetImg2ImgPipeline;
  const fill = StableDiffusionControlNetInpaintPipeline;
  const xlText = StableDiffusionXLControlNetPipeline;
  const xlStart = StableDiffusionXLControlNetImg2ImgPipeline;
  // What they share is prepared once.
  const cn = await text.from_pretrained(path("pipelines/sd1-tiny"), { device, controlnet: one });
  const xlCn = await xlText.from_pretrained(path("pipelines/sdxl-tiny"), { device, controlnet: xlNet });
  return {
    cn,
    multi: await text.from_pipe(cn, { controlnet: two }),
    pooled: await text.from_pipe(cn, { controlnet: await net("sd", { global_pool_conditions: true }) }),
    lcm: await text.from_pipe(cn, { controlnet: small, unet: lcm }),
    img2img: await start.from_pipe(cn),
    "multi-img2img": await start.from_pipe(cn, { controlnet: new MultiControlNetModel(two) }),
    "lcm-img2img": await start.from_pipe(cn, { controlnet: small, unet: lcm }),
    inpaint: await fill.from_pipe(cn),
    "multi-inpaint": await fill.from_pipe(cn, { controlnet: two }),
    inpaint9: await fill.from_pipe(cn, { controlnet: small, unet: nine }),
    xl: xlCn,
    "multi-xl": await xlText.from_pipe(xlCn, { controlnet: [xlNet, await net("xl", bgr)] }),
    "xl-img2img": await xlStart.from_pipe(xlCn),
    statistics: await xlStart.from_pipe(xlCn, { vae }),
    "xl-inpaint": await StableDiffusionXLControlNetInpaintPipeline.from_pipe(xlCn),
  };
}
