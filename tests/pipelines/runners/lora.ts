import {
  type AnyPipeline,
  AutoPipelineForImage2Image,
  AutoPipelineForInpainting,
  type FuseLoraOptions,
  StableDiffusionPipeline,
  StableDiffusionXLPipeline,
} from "@diffusers-web/pipelines";
import { optionsOf, pictureOf } from "../../support/calls.ts";
import type { FixtureCall, Given, Place } from "./types.ts";

export type LoraStep =
  | readonly ["load", string, string | null]
  | readonly ["set", string | string[], never]
  | readonly ["delete", string]
  | readonly ["fuse" | "unfuse", FuseLoraOptions]
  | readonly ["unload" | "disable" | "enable"];

/** A call, and what is done to the pipeline before, and its adapters then. */
export interface LoraCall extends FixtureCall {
  readonly steps: readonly LoraStep[];
  readonly active: readonly string[];
  readonly list: Readonly<Record<string, string[]>>;
}

const tasks = { img2img: AutoPipelineForImage2Image, inpaint: AutoPipelineForInpainting };

export async function load({ device, path }: Place): Promise<Record<string, AnyPipeline>> {
  const pipelines: Record<string, object> = {
    "sd1-tiny": await StableDiffusionPipeline.from_pretrained(path("pipelines/sd1-tiny"), { device }),
    "sdxl-tiny": await StableDiffusionXLPipeline.from_pretrained(path("pipelines/sdxl-tiny"), { device }),
  };
  for (const [name, pipeline] of Object.entries(pipelines)) {
    for (const [task, auto] of Object.entries(tasks)) {
      pipelines[`${name} ${task}`] = await auto.from_pipe(pipeline as StableDiffusionPipeline);
    }
  }
  return pipelines as Record<string, AnyPipeline>;
}

export function pipelineOf({ checkpoint, options }: FixtureCall): string {
  if ("mask_image" in options) return `${checkpoint} inpaint`;
  return "image" in options ? `${checkpoint} img2img` : checkpoint!;
}

/** Takes the adapters away; what was fused for good ends with the pipeline. */
export function renew(pipelines: Readonly<Record<string, AnyPipeline>>): boolean {
  const own = [pipelines["sd1-tiny"]!, pipelines["sdxl-tiny"]!];
  for (const pipeline of own) {
    pipeline.unfuse_lora();
    pipeline.unload_lora_weights();
  }
  return own.every((pipeline) => pipeline.num_fused_loras === 0);
}

export async function takeStep(pipeline: AnyPipeline, [step, ...given]: LoraStep, place: Place): Promise<void> {
  const [first, second] = given as [never, never];
  if (step === "load") {
    const names = { weight_name: `${first}.safetensors`, adapter_name: second };
    await pipeline.load_lora_weights(place.path("pipelines/lora-tiny"), names);
  } else if (step === "set") pipeline.set_adapters(first, second);
  else if (step === "delete") pipeline.delete_adapters(first);
  else if (step === "fuse") pipeline.fuse_lora(first);
  else if (step === "unfuse") pipeline.unfuse_lora(first);
  else if (step === "unload") pipeline.unload_lora_weights();
  else if (step === "disable") pipeline.disable_lora();
  else pipeline.enable_lora();
}

export async function prepare(pipeline: object, call: FixtureCall, { place }: Given): Promise<void> {
  for (const step of (call as LoraCall).steps) await takeStep(pipeline as AnyPipeline, step, place);
}

export function options(call: FixtureCall, { tensors }: Given): Record<string, unknown> {
  const { image, mask_image, ...rest } = call.options as Record<string, unknown> & FixtureCall["options"];
  return {
    ...optionsOf({ name: call.name, options: rest }, tensors),
    ...(image === undefined ? {} : { image: pictureOf(tensors["given/image"]!) }),
    ...(mask_image === undefined ? {} : { mask_image: pictureOf(tensors["given/mask_image"]!) }),
    output_type: "latent",
  };
}
