import { type AnyPipeline, DiffusionPipeline } from "@diffusers-web/pipelines";
import type { Place } from "./types.ts";

export async function load({ device, path }: Place): Promise<Record<string, AnyPipeline>> {
  const from = (name: string): Promise<AnyPipeline> =>
    DiffusionPipeline.from_pretrained(path(`pipelines/${name}`), { device });
  return { "sd1-tiny": await from("sd1-tiny"), "sdxl-tiny": await from("sdxl-tiny") };
}
