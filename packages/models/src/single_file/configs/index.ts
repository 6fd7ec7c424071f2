import type { ConfigDict } from "@diffusers-web/core";
import type { SingleFileKind } from "../detect.ts";
import { instructPix2Pix, sd1, sd1Inpainting } from "./sd1.ts";
import { sd2, sd2Inpainting } from "./sd2.ts";
import { sdxl, sdxlInpainting, sdxlRefiner } from "./sdxl.ts";

/** The configs of a kind's components, by their folder in the Diffusers layout. */
export interface SingleFileConfigs {
  readonly unet: ConfigDict;
  readonly vae: ConfigDict;
  readonly text_encoder?: ConfigDict;
  readonly text_encoder_2?: ConfigDict;
  /** With its `_class_name`. */
  readonly scheduler?: ConfigDict;
}

/** Where Python asks the hub for the config of a kind's best known model, it is written down here. */
export const singleFileConfigs: Readonly<Partial<Record<SingleFileKind, SingleFileConfigs>>> = {
  v1: sd1,
  v2: sd2,
  inpainting: sd1Inpainting,
  inpainting_v2: sd2Inpainting,
  "instruct-pix2pix": instructPix2Pix,
  xl_base: sdxl,
  xl_inpaint: sdxlInpainting,
  xl_refiner: sdxlRefiner,
};
