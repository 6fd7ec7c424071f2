import { AutoencoderTiny, StableDiffusionImg2ImgPipeline, UNet2DConditionModel } from "@diffusers-web/pipelines";
import { emoji } from "./pipelines.ts";
import type { Place } from "./types.ts";

export async function load({ device, path }: Place): Promise<Record<string, StableDiffusionImg2ImgPipeline>> {
  const from = (folder: string, parts: object = {}): Promise<StableDiffusionImg2ImgPipeline> =>
    StableDiffusionImg2ImgPipeline.from_pretrained(path(folder), { device, ...parts });
  const part = (name: string): string => path(`pipelines/img2img-tiny/${name}`);
  const sd1 = "pipelines/sd1-tiny";
  return {
    "sd1-tiny": await from(sd1),
    "sd2-tiny": await from("pipelines/sd2-tiny"),
    lcm: await from(sd1, { unet: await UNet2DConditionModel.from_pretrained(part("unet-lcm"), { device }) }),
    "vae-tiny": await from(sd1, { vae: await AutoencoderTiny.from_pretrained(part("vae-tiny"), { device }) }),
    emoji: await from(emoji),
  };
}
