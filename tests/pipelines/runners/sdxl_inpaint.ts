import { StableDiffusionXLInpaintPipeline, UNet2DConditionModel } from "@diffusers-web/pipelines";
import { vaeWithStatistics } from "./sdxl.ts";
import type { Place } from "./types.ts";

export { options } from "./inpaint.ts";

export const pictures = "inpaint";

export async function load(place: Place): Promise<Record<string, StableDiffusionXLInpaintPipeline>> {
  const { device, path } = place;
  const xl = path("pipelines/sdxl-tiny");
  const from = (folder: string, parts: object): Promise<StableDiffusionXLInpaintPipeline> =>
    StableDiffusionXLInpaintPipeline.from_pretrained(folder, { device, ...parts });
  const unet = (folder: string) => UNet2DConditionModel.from_pretrained(folder, { device });
  const base = await from(xl, {});
  const { vae, text_encoder, text_encoder_2 } = base;
  const shared = { vae, text_encoder, text_encoder_2 };
  return {
    xl: base,
    nine: await from(xl, { ...shared, unet: await unet(path("pipelines/sdxl-inpaint-tiny/unet")) }),
    refiner: await from(path("pipelines/sdxl-refiner-tiny"), { vae, text_encoder_2 }),
    statistics: await from(xl, { ...shared, unet: base.unet, vae: await vaeWithStatistics(place) }),
    lcm: await from(xl, { ...shared, unet: await unet(`${xl}/unet-lcm`) }),
  };
}
