import { checkOptions, type Generator, Tensor, ValueError } from "@diffusers-web/core";
import { type CrossAttentionKwargs, checkCrossAttentionKwargs } from "@diffusers-web/models";
import type { RunOptions } from "../calls.ts";
import { checkNumber, checkOutputType, checkReturnDict, checkTensor, checkWhole } from "../checks.ts";
import type { OutputType } from "../pipeline_output.ts";
import type { Prompt } from "../prompt.ts";
import { hasSyntax, type PromptSyntax } from "../prompt_syntax.ts";
import type { CustomTimesteps } from "../timesteps.ts";
import type { IPAdapterCallOptions } from "./ip_adapter_mixin.ts";
import type { StableDiffusionPipeline } from "./pipeline_stable_diffusion.ts";

/** The tensors that a callback is shown, by name; what it returns replaces them. */
export type CallbackTensors = Readonly<Partial<Record<"latents" | "prompt_embeds" | "negative_prompt_embeds", Tensor>>>;

/** What pipelines of Stable Diffusion that are told a prompt are called with, besides what each has of its own. */
export interface PromptedOptions<Pipeline, Tensors>
  extends RunOptions,
    CustomTimesteps,
    IPAdapterCallOptions,
    PromptSyntax {
  /** One prompt, or one for each picture of a batch. */
  readonly prompt?: Prompt | null;
  /** At least 1. Default 50. */
  readonly num_inference_steps?: number;
  /** Above 1, the picture is drawn towards the prompt, and away from the negative one. Default 7.5. */
  readonly guidance_scale?: number;
  /** What should not be in the picture; of the same kind as `prompt`. */
  readonly negative_prompt?: Prompt | null;
  /** Default 1. */
  readonly num_images_per_prompt?: number;
  /** DDIM: 0 (default, deterministic) to 1. Other schedulers do not use it. */
  readonly eta?: number;
  /** One for all, or one for each picture. Default: seeded at random. */
  readonly generator?: Generator | readonly Generator[] | null;
  /** `[prompts, tokens, width]`, in place of `prompt`. */
  readonly prompt_embeds?: Tensor | null;
  /** `[prompts, tokens, width]`, in place of `negative_prompt`. */
  readonly negative_prompt_embeds?: Tensor | null;
  /** Default "image". */
  readonly output_type?: OutputType;
  readonly return_dict?: true;
  /** For the attention layers: `scale` is a factor of the active LoRAs in this call, of the UNet's and the text encoders'. */
  readonly cross_attention_kwargs?: CrossAttentionKwargs | null | undefined;
  /** How many of the text encoder's last layers to leave out. Default: none. */
  readonly clip_skip?: number | null;
  /** Called after each step, and awaited; it may return tensors to go on with. */
  readonly callback_on_step_end?:
    | ((pipe: Pipeline, step: number, timestep: number, tensors: Tensors) => unknown)
    | null;
  /** Which tensors the callback is shown. Default `["latents"]`. */
  readonly callback_on_step_end_tensor_inputs?: readonly (keyof Tensors & string)[];
}

/** The names of {@link PromptedOptions}. */
export const promptedOptionNames: readonly (keyof PromptedOptions<never, CallbackTensors>)[] = [
  "prompt",
  "num_inference_steps",
  "timesteps",
  "sigmas",
  "guidance_scale",
  "negative_prompt",
  "num_images_per_prompt",
  "eta",
  "generator",
  "prompt_embeds",
  "negative_prompt_embeds",
  "ip_adapter_image",
  "ip_adapter_image_embeds",
  "output_type",
  "return_dict",
  "cross_attention_kwargs",
  "clip_skip",
  "long_prompt",
  "prompt_weighting",
  "callback_on_step_end",
  "callback_on_step_end_tensor_inputs",
  "signal",
];

/** What a {@link StableDiffusionPipeline} is called with. */
export interface StableDiffusionOptions extends PromptedOptions<StableDiffusionPipeline, CallbackTensors> {
  /** A multiple of 8. Default: what the model was trained at. As in Diffusers, used together with `width` only. */
  readonly height?: number | null;
  /** A multiple of 8. Default: what the model was trained at. As in Diffusers, used together with `height` only. */
  readonly width?: number | null;
  /** The noise to begin with, `[batch, channels, height / 8, width / 8]`. */
  readonly latents?: Tensor | null;
  /** 0 to 1: against the over-exposure of strong guidance. Default 0. */
  readonly guidance_rescale?: number;
}

const optionNames: readonly (keyof StableDiffusionOptions)[] = [
  ...promptedOptionNames,
  "height",
  "width",
  "latents",
  "guidance_rescale",
];

/** The tensors that a callback may be shown. */
export const callbackTensors: readonly (keyof CallbackTensors)[] = [
  "latents",
  "prompt_embeds",
  "negative_prompt_embeds",
];

/**
 * What is wrong with a call.
 *
 * @param textWidth the width of the embeddings that the UNet takes
 * @see Diffusers `StableDiffusionPipeline.check_inputs`
 */
export function checkInputs(options: StableDiffusionOptions, height: number, width: number, textWidth: number): void {
  checkOptions("StableDiffusionPipeline", options, optionNames);
  checkDivisible("height", height);
  checkDivisible("width", width);
  checkNumber("guidance_rescale", options.guidance_rescale ?? 0);
  checkPromptInputs("StableDiffusionPipeline", options, textWidth, callbackTensors);
}

/**
 * What is wrong with the options that pipelines with a prompt have in common.
 *
 * @param textWidth the width of the embeddings that the UNet takes
 * @param allowed the tensors that a callback may be shown
 */
export function checkPromptInputs(
  className: string,
  options: PromptedOptions<never, Record<string, Tensor>>,
  textWidth: number,
  allowed: readonly string[],
): void {
  const { prompt, prompt_embeds, negative_prompt, negative_prompt_embeds } = options;
  checkCrossAttentionKwargs(className, options.cross_attention_kwargs);
  checkCallbackTensors(options.callback_on_step_end_tensor_inputs, allowed);
  checkEither("prompt", prompt, "prompt_embeds", prompt_embeds);
  checkEither("negative_prompt", negative_prompt, "negative_prompt_embeds", negative_prompt_embeds);
  if (prompt == null && prompt_embeds == null) {
    throw new ValueError("Neither `prompt` nor `prompt_embeds` was given: pass one of them.", {
      field: "prompt",
      found: "nothing",
      expected: "prompt or prompt_embeds",
    });
  }
  checkImageEmbeds(options);
  checkPrompt("prompt", prompt);
  checkPrompt("negative_prompt", negative_prompt);
  const dims = [null, null, textWidth];
  if (prompt_embeds != null) checkTensor("prompt_embeds", prompt_embeds, dims);
  if (negative_prompt_embeds != null) {
    checkTensor("negative_prompt_embeds", negative_prompt_embeds, prompt_embeds?.dims ?? dims);
  }
  checkWhole("num_inference_steps", options.num_inference_steps ?? 50);
  checkWhole("num_images_per_prompt", options.num_images_per_prompt ?? 1);
  checkNumber("guidance_scale", options.guidance_scale ?? 7.5, 0);
  checkNumber("eta", options.eta ?? 0);
  if (options.clip_skip != null) checkWhole("clip_skip", options.clip_skip, 0);
  hasSyntax(options);
  checkOutputType(options.output_type ?? "image");
  checkReturnDict(options.return_dict);
}

/** @throws ValueError for pictures and embeddings at once, and for embeddings that are no list of tensors of 3 or 4 dims. */
function checkImageEmbeds({ ip_adapter_image, ip_adapter_image_embeds: embeds }: IPAdapterCallOptions): void {
  checkEither("ip_adapter_image", ip_adapter_image, "ip_adapter_image_embeds", embeds);
  if (embeds == null) return;
  const expected = "a list of float32 tensors, one for each IP-Adapter, of 3 or 4 dims";
  const fail = (field: string, found: string): never => {
    throw new ValueError(`\`${field}\` is ${found}, expected ${expected}.`, { field, found, expected });
  };
  if (!Array.isArray(embeds)) fail("ip_adapter_image_embeds", embeds instanceof Tensor ? "a tensor" : typeof embeds);
  if (embeds.length === 0) fail("ip_adapter_image_embeds", "[]");
  embeds.forEach((one: unknown, i) => {
    const isTensor = one instanceof Tensor;
    const { type, dims } = isTensor ? one : { type: typeof one, dims: [] };
    if (type === "float32" && (dims.length === 3 || dims.length === 4)) return;
    fail(`ip_adapter_image_embeds[${i}]`, isTensor ? `${type} [${dims.join(", ")}]` : type);
  });
}

/** @throws ValueError for a tensor that a callback is not shown. */
export function checkCallbackTensors(shown: readonly string[] | undefined, allowed: readonly string[]): void {
  for (const name of shown ?? []) {
    if (allowed.includes(name)) continue;
    throw new ValueError(
      `\`callback_on_step_end_tensor_inputs\` has ${JSON.stringify(name)}, expected some of ${allowed.join(", ")}.`,
      { field: "callback_on_step_end_tensor_inputs", found: String(name), expected: allowed.join(", ") },
    );
  }
}

/** @throws ValueError unless `value` is a multiple of `by`. */
export function checkDivisible(field: string, value: unknown, by = 8): void {
  if (typeof value === "number" && value > 0 && value % by === 0) return;
  throw new ValueError(`\`height\` and \`width\` must be divisible by ${by}, but \`${field}\` is ${value}.`, {
    field,
    found: String(value),
    expected: `a multiple of ${by}`,
  });
}

function checkEither(first: string, a: unknown, second: string, b: unknown): void {
  if (a == null || b == null) return;
  throw new ValueError(`\`${first}\` and \`${second}\` were both given: pass one of them.`, { field: second });
}

/** @throws ValueError for what is neither a string nor a list of strings. */
export function checkPrompt(field: string, value: unknown): void {
  const isList = Array.isArray(value) && value.length > 0 && value.every((item) => typeof item === "string");
  if (value == null || typeof value === "string" || isList) return;
  const found = Array.isArray(value) ? JSON.stringify(value) : typeof value;
  throw new ValueError(`\`${field}\` is ${found}, expected a string or a list of strings.`, {
    field,
    found,
    expected: "a string or a list of strings",
  });
}
