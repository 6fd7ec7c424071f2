import {
  AsymmetricAutoencoderKL,
  AutoencoderTiny,
  StableDiffusionInpaintPipeline,
  UNet2DConditionModel,
} from "@diffusers-web/pipelines";
import {
  type PictureCall,
  type PictureCallOptions,
  pictureOptions,
  picturesOf,
} from "../../support/picture_options.ts";
import { emoji } from "./pipelines.ts";
import type { FixtureCall, Given, Place } from "./types.ts";

export async function load({ device, path }: Place): Promise<Record<string, StableDiffusionInpaintPipeline>> {
  const from = (folder: string, parts: object = {}): Promise<StableDiffusionInpaintPipeline> =>
    StableDiffusionInpaintPipeline.from_pretrained(path(folder), { device, ...parts });
  const at = (name: string): string => path(`pipelines/${name}`);
  const unet = (name: string) => UNet2DConditionModel.from_pretrained(at(name), { device });
  const sd1 = "pipelines/sd1-tiny";
  return {
    "sd1-tiny": await from(sd1),
    "sd2-tiny": await from("pipelines/sd2-tiny"),
    "unet-9": await from(sd1, { unet: await unet("inpaint-tiny/unet") }),
    lcm: await from(sd1, { unet: await unet("img2img-tiny/unet-lcm") }),
    "vae-tiny": await from(sd1, {
      vae: await AutoencoderTiny.from_pretrained(at("img2img-tiny/vae-tiny"), { device }),
    }),
    "vae-asymmetric": await from(sd1, {
      vae: await AsymmetricAutoencoderKL.from_pretrained(at("inpaint-tiny/vae-asymmetric"), { device }),
    }),
    emoji: await from(emoji),
  };
}

/** Of a fixture set whose pictures are those of make_inpaint.py. */
export function options(call: FixtureCall, { fixture, tensors }: Given): Record<string, unknown> {
  const base = (fixture.base ?? call.options) as PictureCallOptions;
  const made = pictureOptions(base, call as PictureCall, picturesOf(tensors));
  return { ...made.options, output_type: made.shows ? "image" : "latent" };
}
