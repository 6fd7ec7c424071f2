import {
  AutoencoderKL,
  MultiAdapter,
  StableDiffusionAdapterPipeline,
  StableDiffusionXLAdapterPipeline,
  T2IAdapter,
  UNet2DConditionModel,
} from "@diffusers-web/pipelines";
import type { Place } from "./types.ts";

type Pipeline = StableDiffusionAdapterPipeline | StableDiffusionXLAdapterPipeline;

export async function load({ device, path }: Place): Promise<Record<string, Pipeline>> {
  const part = (name: string): string => path(`pipelines/t2i-adapter-tiny/${name}`);
  const [sd, xl] = [path("pipelines/sd1-tiny"), path("pipelines/sdxl-tiny")];
  const adapter = (name: string) => T2IAdapter.from_pretrained(part(name), { device });
  const [color, gray, one] = [await adapter("adapter"), await adapter("adapter_1"), await adapter("adapter-xl")];
  const unet = await UNet2DConditionModel.from_pretrained(part("unet-xl"), { device });
  const vae = await AutoencoderKL.from_pretrained(`${xl}/vae`, { device });
  vae.register_to_config({ latents_mean: [-1.6, 0.2, 1.3, -0.4], latents_std: [8.4, 6.5, 7.4, 5.5] });
  const of = (given: T2IAdapter | T2IAdapter[]) =>
    StableDiffusionAdapterPipeline.from_pretrained(sd, { device, adapter: given });
  const ofXL = (parts: object) => StableDiffusionXLAdapterPipeline.from_pretrained(xl, { device, unet, ...parts });
  return {
    sd: await of(color),
    gray: await of(gray),
    multi: await of([color, gray]),
    xl: await ofXL({ adapter: one }),
    "xl-multi": await ofXL({ adapter: await MultiAdapter.from_pretrained(part("adapter-xl"), { device }) }),
    "xl-statistics": await ofXL({ adapter: one, vae }),
  };
}
