import {
  AutoencoderTiny,
  StableDiffusionInstructPix2PixPipeline,
  StableDiffusionXLInstructPix2PixPipeline,
  UNet2DConditionModel,
} from "@diffusers-web/pipelines";
import { vaeWithStatistics } from "./sdxl.ts";
import type { Place } from "./types.ts";

export { options } from "./inpaint.ts";

export const pictures = "inpaint";

type Pipeline = StableDiffusionInstructPix2PixPipeline | StableDiffusionXLInstructPix2PixPipeline;

export async function load(place: Place): Promise<Record<string, Pipeline>> {
  const { device } = place;
  const path = (name: string): string => place.path(`pipelines/${name}`);
  const unet = (name: string) => UNet2DConditionModel.from_pretrained(path(`pix2pix-tiny/${name}`), { device });
  const tiny = await AutoencoderTiny.from_pretrained(path("img2img-tiny/vae-tiny"), { device });
  const sd = await StableDiffusionInstructPix2PixPipeline.from_pretrained(path("sd1-tiny"), {
    ...{ device, unet: await unet("unet") },
  });
  const xl = await StableDiffusionXLInstructPix2PixPipeline.from_pretrained(path("sdxl-tiny"), {
    ...{ device, unet: await unet("unet-xl") },
  });
  const vae = await vaeWithStatistics(place);
  return {
    sd,
    "vae-tiny": await StableDiffusionInstructPix2PixPipeline.from_pipe(sd, { vae: tiny }),
    xl,
    cosxl: await StableDiffusionXLInstructPix2PixPipeline.from_pipe(xl, { is_cosxl_edit: true }),
    statistics: await StableDiffusionXLInstructPix2PixPipeline.from_pipe(xl, { vae }),
  };
}
