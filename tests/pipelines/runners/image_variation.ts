import { DiffusionPipeline, StableDiffusionImageVariationPipeline } from "@diffusers-web/pipelines";
import type { Place } from "./types.ts";

export { options } from "./inpaint.ts";

export const pictures = "inpaint";

const checkpoint = "pipelines/image-variation-tiny";

export async function load({ device, path }: Place): Promise<Record<string, StableDiffusionImageVariationPipeline>> {
  // It has no other parts of its own, to keep it small.
  const { unet, vae, scheduler } = await DiffusionPipeline.from_pretrained(path("pipelines/sd1-tiny"), { device });
  const parts = { unet, vae, scheduler } as object;
  const pipeline = await DiffusionPipeline.from_pretrained(path(checkpoint), { device, ...parts });
  if (!(pipeline instanceof StableDiffusionImageVariationPipeline)) throw new Error("another class");
  return { [checkpoint]: pipeline };
}

export const pipelineOf = (): string => checkpoint;
