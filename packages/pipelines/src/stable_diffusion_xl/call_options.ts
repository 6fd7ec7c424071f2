import { type Tensor, ValueError } from "@diffusers-web/core";
import { checkNumber, checkShare, checkTensor } from "../checks.ts";
import type { Prompt } from "../prompt.ts";
import {
  checkPrompt,
  checkPromptInputs,
  type PromptedOptions,
  promptedOptionNames,
} from "../stable_diffusion/call_options.ts";
import { checkMicroConditioning, type MicroConditioning, microConditioningNames } from "./micro_conditioning.ts";

/** The tensors that a callback is shown, by name; what it returns replaces them. */
export type XLCallbackTensors = Readonly<
  Partial<Record<"latents" | "prompt_embeds" | "add_text_embeds" | "add_time_ids", Tensor>>
>;

/** The tensors that a callback may be shown. */
export const xlCallbackTensors: readonly (keyof XLCallbackTensors)[] = [
  "latents",
  "prompt_embeds",
  "add_text_embeds",
  "add_time_ids",
];

/** What pipelines of Stable Diffusion XL are called with, besides what each has of its own. */
export interface XLPromptedOptions<Pipeline, Tensors = XLCallbackTensors>
  extends PromptedOptions<Pipeline, Tensors>,
    MicroConditioning {
  /** What the second text encoder reads. Default: `prompt`. */
  readonly prompt_2?: Prompt | null;
  /** What should not be in the picture. Default: zeros for the text, where the checkpoint says so, or the empty text. */
  readonly negative_prompt?: Prompt | null;
  /** What the second text encoder reads. Default: `negative_prompt`. */
  readonly negative_prompt_2?: Prompt | null;
  /** Above 1, the picture is drawn towards the prompt, and away from the negative one. Default 5. */
  readonly guidance_scale?: number;
  /** 0 to 1: against the over-exposure of strong guidance. Default 0. */
  readonly guidance_rescale?: number;
  /** `[prompts, projection_dim]`; has to be there with `prompt_embeds`. */
  readonly pooled_prompt_embeds?: Tensor | null;
  /** `[prompts, projection_dim]`; has to be there with `negative_prompt_embeds`. */
  readonly negative_pooled_prompt_embeds?: Tensor | null;
  /**
   * 0 to 1: the share of the denoising after which the run ends, its latents still noisy, for a refiner to go on with. Default:
   * all of it.
   */
  readonly denoising_end?: number | null;
  /** How many further layers of the text encoders to leave out: the last one always is. Default: none. */
  readonly clip_skip?: number | null;
}

/** The names of {@link XLPromptedOptions}. */
export const xlPromptedOptionNames: readonly (keyof XLPromptedOptions<never>)[] = [
  ...promptedOptionNames,
  ...microConditioningNames,
  "prompt_2",
  "negative_prompt_2",
  "guidance_rescale",
  "pooled_prompt_embeds",
  "negative_pooled_prompt_embeds",
  "denoising_end",
];

/**
 * What is wrong with the options that pipelines of Stable Diffusion XL have in common.
 *
 * @param textWidth the width of the embeddings that the UNet takes
 * @param allowed the tensors that a callback may be shown
 * @see Diffusers `StableDiffusionXLPipeline.check_inputs`
 */
export function checkXLPromptInputs(
  className: string,
  options: XLPromptedOptions<never, Record<string, Tensor>>,
  textWidth: number,
  allowed: readonly string[] = xlCallbackTensors,
): void {
  for (const [second, embeds] of [
    ["prompt_2", "prompt_embeds"],
    ["negative_prompt_2", "negative_prompt_embeds"],
  ] as const) {
    checkPrompt(second, options[second]);
    if (options[second] == null || options[embeds] == null) continue;
    throw new ValueError(`\`${second}\` and \`${embeds}\` were both given: pass one of them.`, { field: embeds });
  }
  checkPromptInputs(className, options, textWidth, allowed);
  for (const [embeds, pooled] of [
    ["prompt_embeds", "pooled_prompt_embeds"],
    ["negative_prompt_embeds", "negative_pooled_prompt_embeds"],
  ] as const) {
    if (options[pooled] != null) checkTensor(pooled, options[pooled], [options[embeds]?.dims[0] ?? null, null]);
    if (options[embeds] == null || options[pooled] != null) continue;
    throw new ValueError(
      `\`${embeds}\` was given without \`${pooled}\`: pass both, of the same text encoders (encode_prompt gives them).`,
      { field: pooled, found: "nothing", expected: "[prompts, projection_dim]" },
    );
  }
  checkMicroConditioning(options);
  checkNumber("guidance_rescale", options.guidance_rescale ?? 0);
  if (options.denoising_end != null) checkShare("denoising_end", options.denoising_end);
}
