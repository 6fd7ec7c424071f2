import { type AnyPipeline, DiffusionPipeline } from "@diffusers-web/pipelines";
import type { Place } from "./types.ts";

export const emoji = "../../demo/public/models/emoji-diffusion";
const checkpoints = ["sd1-tiny", "sd2-tiny", "emoji", "ddpm-tiny", "ddim-tiny"];

export async function load({ device, path }: Place): Promise<Record<string, AnyPipeline>> {
  const pipelines: Record<string, AnyPipeline> = {};
  for (const name of checkpoints) {
    const folder = path(name === "emoji" ? emoji : `pipelines/${name}`);
    pipelines[name] = await DiffusionPipeline.from_pretrained(folder, { device });
  }
  return pipelines;
}
