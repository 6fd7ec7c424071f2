import type { AnyPipeline, IPScaleConfig } from "@diffusers-web/pipelines";
import { giveAdapters } from "./ip_adapter.ts";
import { type LoraStep, takeStep as takeLoraStep } from "./lora.ts";
import { takeStep as takeWordStep, type WordStep } from "./textual_inversion.ts";
import type { FixtureCall, Given } from "./types.ts";

export { load, options } from "./ip_adapter.ts";

type Step =
  | LoraStep
  | readonly ["ip", readonly string[], number | IPScaleConfig | (number | IPScaleConfig)[]]
  | readonly ["ip off"]
  | readonly ["freeu", { readonly s1: number; readonly s2: number; readonly b1: number; readonly b2: number }]
  | readonly ["word", WordStep];

/** A UNet's own pipelines stand for all that share it. */
const owners = ["sd", "lcm", "pix2pix", "xl"];

export async function renew(pipelines: Readonly<Record<string, AnyPipeline>>): Promise<boolean> {
  const own = owners.map((name) => pipelines[name]!);
  for (const pipeline of own) {
    pipeline.unfuse_lora();
    pipeline.unload_lora_weights();
    await pipeline.unload_textual_inversion();
    pipeline.disable_freeu();
  }
  for (const pipeline of Object.values(pipelines)) {
    if (pipeline.image_encoder != null) await pipeline.unload_ip_adapter();
  }
  return own.every((pipeline) => pipeline.num_fused_loras === 0);
}

export async function prepare(pipeline: object, call: FixtureCall, given: Given): Promise<void> {
  const any = pipeline as AnyPipeline;
  for (const step of (call as FixtureCall & { steps: readonly Step[] }).steps) {
    if (step[0] === "ip") await giveAdapters(any, step[1], step[2], given.place);
    else if (step[0] === "ip off") await any.unload_ip_adapter();
    else if (step[0] === "freeu") any.enable_freeu(step[1].s1, step[1].s2, step[1].b1, step[1].b2);
    else if (step[0] === "word") await takeWordStep(any, step[1], given.tensors);
    else await takeLoraStep(any, step, given.place);
  }
}
