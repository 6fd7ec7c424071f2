import {
  StableDiffusionPAGImg2ImgPipeline,
  StableDiffusionPAGPipeline,
  StableDiffusionXLPAGImg2ImgPipeline,
  StableDiffusionXLPAGPipeline,
  UNet2DConditionModel,
} from "@diffusers-web/pipelines";
import type { FixtureCall, Place } from "./types.ts";

type Pipeline =
  | StableDiffusionPAGPipeline
  | StableDiffusionXLPAGPipeline
  | StableDiffusionPAGImg2ImgPipeline
  | StableDiffusionXLPAGImg2ImgPipeline;

export async function load({ device, path }: Place): Promise<Record<string, Pipeline>> {
  const [sd1, xl1] = [path("pipelines/sd1-tiny"), path("pipelines/sdxl-tiny")];
  const unet = await UNet2DConditionModel.from_pretrained(path("pipelines/img2img-tiny/unet-lcm"), { device });
  const sd = await StableDiffusionPAGPipeline.from_pretrained(sd1, { device });
  const xl = await StableDiffusionXLPAGPipeline.from_pretrained(xl1, { device });
  const { vae, text_encoder_2 } = xl;
  return {
    sd,
    lcm: await StableDiffusionPAGPipeline.from_pretrained(sd1, { device, unet }),
    img2img: await StableDiffusionPAGImg2ImgPipeline.from_pipe(sd),
    xl,
    "xl-img2img": await StableDiffusionXLPAGImg2ImgPipeline.from_pipe(xl),
    refiner: await StableDiffusionXLPAGImg2ImgPipeline.from_pretrained(path("pipelines/sdxl-refiner-tiny"), {
      ...{ device, vae, text_encoder_2 },
    }),
  };
}

export function prepare(pipeline: object, call: FixtureCall): void {
  (pipeline as Pipeline).set_pag_applied_layers((call as unknown as { layers: string | string[] }).layers);
}
