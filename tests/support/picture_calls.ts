import type { RawImage } from "@diffusers-web/pipelines";
import { fixtureTensors } from "./fixtures.ts";
import {
  pictureOptions as optionsOf,
  type PictureCall,
  type PictureCallOptions,
  picturesOf,
} from "./picture_options.ts";

export { seeded } from "./calls.ts";
export type { PictureCall, PictureCallOptions } from "./picture_options.ts";

/** A picture or mask of tests/fixtures/pipelines/make_inpaint.py. */
export const pictureNamed: (name: string) => RawImage = picturesOf(fixtureTensors("pipelines/inpaint.safetensors"));

/** The options of a call: pictures by name, and random values for what it gives as dims. */
export function pictureOptions(base: PictureCallOptions, call: PictureCall): ReturnType<typeof optionsOf> {
  return optionsOf(base, call, pictureNamed);
}
