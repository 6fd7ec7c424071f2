import type { RawImage } from "@diffusers-web/pipelines";
import { fixtureTensors } from "./fixtures.ts";
import { picturesOf } from "./picture_options.ts";

/** A picture or mask of tests/fixtures/pipelines/make_inpaint.py. */
export const pictureNamed: (name: string) => RawImage = picturesOf(fixtureTensors("pipelines/inpaint.safetensors"));
