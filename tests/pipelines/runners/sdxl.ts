import {
  type AnyPipeline,
  AutoencoderKL,
  DiffusionPipeline,
  StableDiffusionXLImg2ImgPipeline,
  UNet2DConditionModel,
} from "@diffusers-web/pipelines";
import type { Place } from "./types.ts";

/** The autoencoder of sdxl-tiny, with statistics of its latents. */
export async function vaeWithStatistics({ device, path }: Place): Promise<AutoencoderKL> {
  const vae = await AutoencoderKL.from_pretrained(path("pipelines/sdxl-tiny/vae"), { device });
  vae.register_to_config({
    latents_mean: [-1.6, 0.2, 1.3, -0.4],
    latents_std: [8.4, 6.5, 7.4, 5.5],
    scaling_factor: 0.5,
  });
  return vae;
}

export async function load(place: Place): Promise<Record<string, AnyPipeline>> {
  const { device, path } = place;
  const xl = path("pipelines/sdxl-tiny");
  const from = (parts: object = {}): Promise<AnyPipeline> =>
    DiffusionPipeline.from_pretrained(xl, { device, ...parts });
  const img2img = async (parts: object = {}): Promise<AnyPipeline> =>
    (await StableDiffusionXLImg2ImgPipeline.from_pretrained(xl, { device, ...parts })) as unknown as AnyPipeline;
  const unet = await UNet2DConditionModel.from_pretrained(`${xl}/unet-lcm`, { device });
  const vae = await vaeWithStatistics(place);
  const base = await from();
  return {
    xl: base,
    lcm: await from({ unet }),
    "no zeros": await from({ force_zeros_for_empty_prompt: false }),
    statistics: await from({ vae }),
    "xl-img2img": await img2img(),
    "statistics-img2img": await img2img({ vae }),
    refiner: await DiffusionPipeline.from_pretrained(path("pipelines/sdxl-refiner-tiny"), {
      ...{ device, text_encoder_2: base.text_encoder_2!, vae: base.vae },
    }),
  };
}
