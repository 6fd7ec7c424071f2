import {
  type AnyPipeline,
  DiffusionPipeline,
  LatentConsistencyModelImg2ImgPipeline,
  StableDiffusionImg2ImgPipeline,
  StableDiffusionPipeline,
  StableDiffusionXLImg2ImgPipeline,
  UNet2DConditionModel,
} from "@diffusers-web/pipelines";
import type { FixtureCall, Place } from "./types.ts";

export async function load({ device, path }: Place): Promise<Record<string, AnyPipeline>> {
  const folder = path("pipelines/lcm-tiny");
  const sd = await StableDiffusionPipeline.from_pretrained(path("pipelines/sd1-tiny"), { device });
  const unet = await UNet2DConditionModel.from_pretrained(path("pipelines/img2img-tiny/unet-lcm"), { device });
  const { vae, text_encoder, tokenizer } = sd;
  const parts = { unet, vae, text_encoder, tokenizer };
  const xl = await DiffusionPipeline.from_pretrained(path("pipelines/sdxl-tiny"), { device });
  const pipelines: Record<string, object> = {
    lcm: await DiffusionPipeline.from_pretrained(folder, parts),
    "lcm i2i": await LatentConsistencyModelImg2ImgPipeline.from_pretrained(folder, parts),
    sd,
    "sd i2i": await StableDiffusionImg2ImgPipeline.from_pipe(sd),
    xl,
    "xl i2i": await StableDiffusionXLImg2ImgPipeline.from_pipe(xl),
  };
  return pipelines as Record<string, AnyPipeline>;
}

export const lastOf = ({ checkpoint }: Pick<FixtureCall, "checkpoint">): string =>
  checkpoint!.startsWith("lcm") ? "denoised" : "latents";
