import { DiffusionPipeline, StableDiffusionDepth2ImgPipeline } from "@diffusers-web/pipelines";
import type { Place } from "./types.ts";

const checkpoint = "pipelines/depth-tiny";

export const pictures = "img2img";

export async function load({ device, path }: Place): Promise<Record<string, StableDiffusionDepth2ImgPipeline>> {
  // It has no other parts of its own, to keep it small.
  const { vae, text_encoder, tokenizer, scheduler } = await DiffusionPipeline.from_pretrained(
    path("pipelines/sd1-tiny"),
    { device },
  );
  const parts = { vae, text_encoder, tokenizer, scheduler } as object;
  const pipeline = await DiffusionPipeline.from_pretrained(path(checkpoint), { device, ...parts });
  if (!(pipeline instanceof StableDiffusionDepth2ImgPipeline)) throw new Error("another class");
  return { [checkpoint]: pipeline };
}

export const pipelineOf = (): string => checkpoint;
