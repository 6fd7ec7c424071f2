import { DiffusionPipeline, StableDiffusionDepth2ImgPipeline } from "@diffusers-web/pipelines";
import type { Place } from "./types.ts";

export async function load({ device, path }: Place): Promise<Record<string, StableDiffusionDepth2ImgPipeline>> {
  const { vae, text_encoder, tokenizer, scheduler } = await DiffusionPipeline.from_pretrained(
    path("pipelines/sd1-tiny"),
    { device },
  );
  const parts = { vae, text_encoder, tokenizer, scheduler, device } as object;
  return { only: await StableDiffusionDepth2ImgPipeline.from_pretrained(path("pipelines/depth-tiny"), parts) };
}

export const pipelineOf = (): string => "only";
