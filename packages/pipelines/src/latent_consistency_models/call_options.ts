import { LCMScheduler, type Scheduler, type Tensor, ValueError } from "@diffusers-web/core";
import type { UNet2DConditionModel } from "@diffusers-web/models";
import { checkWhole } from "../checks.ts";
import { checkPromptInputs, type PromptedOptions, promptedOptionNames } from "../stable_diffusion/call_options.ts";

/** The tensors that a callback is shown, by name; what it returns replaces them. */
export type LCMCallbackTensors = Readonly<
  Partial<Record<"latents" | "denoised" | "prompt_embeds" | "w_embedding", Tensor>>
>;

/** The tensors that a callback may be shown. */
export const lcmCallbackTensors: readonly (keyof LCMCallbackTensors)[] = [
  "latents",
  "denoised",
  "prompt_embeds",
  "w_embedding",
];

type Left = "sigmas" | "negative_prompt" | "negative_prompt_embeds" | "eta";

/** What pipelines of latent consistency models are called with, besides what each has of its own. */
export interface LCMPromptedOptions<Pipeline> extends Omit<PromptedOptions<Pipeline, LCMCallbackTensors>, Left> {
  /** At least 1; a few are enough. Default 4. */
  readonly num_inference_steps?: number;
  /** How many steps the schedule has that those of the run are chosen of. Default: what the scheduler's config says. */
  readonly original_inference_steps?: number | null;
  /**
   * How much the picture is drawn towards the prompt: an input of the model, which was distilled with it and needs no second run.
   * Default 8.5.
   */
  readonly guidance_scale?: number;
}

const left: readonly string[] = ["sigmas", "negative_prompt", "negative_prompt_embeds", "eta"];

/** The names of {@link LCMPromptedOptions}. */
export const lcmPromptedOptionNames: readonly string[] = [
  ...promptedOptionNames.filter((option) => !left.includes(option)),
  "original_inference_steps",
];

/**
 * What is wrong with a call, or with the models for it.
 *
 * @throws ValueError for a UNet that was not distilled with the guidance, and for another scheduler than LCM's.
 */
export function checkLCMInputs(
  className: string,
  options: LCMPromptedOptions<never>,
  { unet, scheduler }: { readonly unet: UNet2DConditionModel; readonly scheduler: Scheduler },
): void {
  const { cross_attention_dim, time_cond_proj_dim } = unet.config;
  checkPromptInputs(className, options, cross_attention_dim as number, lcmCallbackTensors);
  if (options.original_inference_steps != null) {
    checkWhole("original_inference_steps", options.original_inference_steps);
  }
  if (time_cond_proj_dim === null) {
    throw new ValueError(
      `The UNet does not take the guidance as an input (\`time_cond_proj_dim\` is null), so it is none for ${className}. With an ` +
        "LCM-LoRA, or a UNet that was distilled without guidance, use StableDiffusionPipeline and an LCMScheduler.",
      { className, field: "time_cond_proj_dim", found: "null", expected: "a width" },
    );
  }
  if (scheduler instanceof LCMScheduler) return;
  const found = scheduler.constructor.name;
  throw new ValueError(
    `The scheduler is a ${found}, but ${className} works with an LCMScheduler only: ` +
      "pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config).",
    { className, field: "scheduler", found, expected: "LCMScheduler" },
  );
}
