import { ValueError } from "@diffusers-web/core";
import { checkWhole } from "../checks.ts";
import { type StepCallbackOptions, stepCallbackNames } from "../step_callback.ts";
import { type CallbackTensors, callbackTensors, checkPromptInputs, type PromptedOptions } from "./call_options.ts";
import type { ImageInput } from "./image_latents.ts";

type Left =
  | ("timesteps" | "sigmas" | "num_images_per_prompt" | "eta" | "clip_skip" | "cross_attention_kwargs")
  | ("ip_adapter_image" | "ip_adapter_image_embeds");

/** What upscalers are called with, besides what each has of its own. */
export interface UpscaleOptions<Pipeline>
  extends Omit<PromptedOptions<Pipeline, CallbackTensors>, Left>,
    StepCallbackOptions {
  /** The picture to enlarge; several as a list or a batch, one for each prompt. A tensor is `[batch, 3, height, width]` in 0..1. */
  readonly image?: ImageInput | null;
  /** At least 1. Default 75. */
  readonly num_inference_steps?: number;
  /** Above 1, the picture is drawn towards the prompt, and away from the negative one. Default 9. */
  readonly guidance_scale?: number;
}

/** The names of {@link UpscaleOptions}. */
export const upscaleOptionNames: readonly (keyof UpscaleOptions<never>)[] = [
  "prompt",
  "image",
  "num_inference_steps",
  "guidance_scale",
  "negative_prompt",
  "generator",
  "prompt_embeds",
  "negative_prompt_embeds",
  "output_type",
  "return_dict",
  ...stepCallbackNames,
  "callback_on_step_end",
  "callback_on_step_end_tensor_inputs",
  "signal",
];

/**
 * What is wrong with the options that upscalers have in common.
 *
 * @param textWidth the width of the embeddings that the UNet takes
 */
export function checkUpscaleInputs(className: string, options: UpscaleOptions<never>, textWidth: number): void {
  checkPromptInputs(className, options, textWidth, callbackTensors);
  checkWhole("callback_steps", options.callback_steps ?? 1);
}

/** @throws ValueError unless there is a picture for each prompt. */
export function checkImageBatch(found: number, prompts: number): void {
  if (found === prompts) return;
  throw new ValueError(
    `There are ${prompts} prompts and ${found} pictures in \`image\`: pass a prompt for each picture.`,
    { field: "image", found: `${found} pictures`, expected: `${prompts} pictures` },
  );
}

/** @throws ValueError unless latents and picture make up the UNet's channels. */
export function checkUpscaleChannels(className: string, latents: number, image: number, in_channels: number): void {
  if (latents + image === in_channels) return;
  const found = `${latents} + ${image}`;
  throw new ValueError(
    `The UNet takes ${in_channels} channels, but latents and \`image\` have ${found}: pass a picture, or a UNet and a VAE that ` +
      "belong together.",
    { className, field: "in_channels", found, expected: String(in_channels) },
  );
}
