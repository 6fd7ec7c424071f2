import { type Tensor, ValueError } from "@diffusers-web/core";
import type { CLIPTextModel, CLIPTextOptions, CrossAttentionKwargs } from "@diffusers-web/models";
import { maybe_convert_prompt } from "./loaders/multi_vector_tokens.ts";
import {
  type EncodedText,
  hasSyntax,
  modelMaxLength,
  type PromptJob,
  type PromptSyntax,
  warnOfCut,
} from "./prompt_syntax.ts";
import type { CLIPTokenizer, TokenizerOutput } from "./tokenization_clip.ts";

/** One prompt, or one for each picture of a batch. */
export type Prompt = string | readonly string[];

/** What {@link encode_prompt} takes. */
export interface EncodePromptOptions extends PromptSyntax {
  readonly prompt?: Prompt | null | undefined;
  /** Default 1. */
  readonly num_images_per_prompt?: number;
  /** Encode the negative prompt as well. Default true. */
  readonly do_classifier_free_guidance?: boolean;
  readonly negative_prompt?: Prompt | null | undefined;
  /** `[prompts, tokens, width]`, in place of `prompt`. */
  readonly prompt_embeds?: Tensor | null | undefined;
  /** `[prompts, tokens, width]`, in place of `negative_prompt`. */
  readonly negative_prompt_embeds?: Tensor | null | undefined;
  /** How many of the text encoder's last layers to leave out. Default: none, and its own last output. */
  readonly clip_skip?: number | null | undefined;
  /** A factor of the text encoder's active LoRAs. Default: what `cross_attention_kwargs` says, or 1. */
  readonly lora_scale?: number | null | undefined;
  /** Of the call that the text is encoded for. */
  readonly cross_attention_kwargs?: CrossAttentionKwargs | null | undefined;
}

/** What {@link encode_prompt} returns; `batch` is prompts times pictures a prompt. */
export interface PromptEmbeddings {
  /** `[batch, tokens, width]`. */
  readonly prompt_embeds: Tensor;
  /** `[batch, tokens, width]`; null without guidance and embeddings of its own. */
  readonly negative_prompt_embeds: Tensor | null;
}

/** The part of a pipeline that encodes text. */
export interface TextEncoding {
  readonly text_encoder: CLIPTextModel | null;
  readonly tokenizer: CLIPTokenizer | null;
}

/**
 * Encodes prompts for a UNet, each once, and repeats the result for each picture.
 *
 * @throws ValueError for a batch that does not fit, TypeError when one of prompt and negative prompt is a list only.
 * @see Diffusers `StableDiffusionPipeline.encode_prompt`
 */
export async function encode_prompt(parts: TextEncoding, options: EncodePromptOptions): Promise<PromptEmbeddings> {
  const { prompt, negative_prompt, clip_skip, num_images_per_prompt = 1, do_classifier_free_guidance = true } = options;
  let prompt_embeds = options.prompt_embeds ?? undefined;
  let negative_prompt_embeds = options.negative_prompt_embeds ?? undefined;
  const prompts = prompt == null ? undefined : typeof prompt === "string" ? [prompt] : prompt;
  const lora_scale = loraScaleOf(options);

  // The same outputs in both runs, so that one session serves them.
  const wantsLayers = clip_skip != null;
  if (hasSyntax(options)) {
    const guided = do_classifier_free_guidance && negative_prompt_embeds === undefined;
    const negatives = guided
      ? negativePrompts(prompt, negative_prompt, prompts?.length ?? prompt_embeds!.dims[0]!)
      : undefined;
    const job = (field: string, texts: readonly string[], skip: number | undefined): PromptJob => {
      const { text_encoder, tokenizer } = textParts(parts, field);
      const encode = async (input: TokenizerOutput): Promise<EncodedText> => ({
        embeds: await encodeText(text_encoder, input, skip, wantsLayers, lora_scale),
      });
      return { tokenizer, texts: maybe_convert_prompt(texts, tokenizer), encode };
    };
    const jobs = [
      ...(prompt_embeds === undefined ? [job("prompt", prompts!, clip_skip ?? undefined)] : []),
      ...(negatives === undefined ? [] : [job("negative_prompt", negatives, undefined)]),
    ];
    const { encodeChunks } = await import("./prompt_weighting.ts");
    const encoded = await encodeChunks(jobs, options, lengthOf(prompt_embeds ?? negative_prompt_embeds));
    prompt_embeds ??= encoded.shift()!.embeds;
    negative_prompt_embeds ??= encoded.shift()?.embeds;
  }
  if (prompt_embeds === undefined) {
    const { text_encoder, tokenizer } = textParts(parts, "prompt");
    // textual inversion: process multi-vector tokens if necessary
    const texts = maybe_convert_prompt(prompts!, tokenizer);
    const text_inputs = tokenizer(texts, {
      padding: "max_length",
      max_length: modelMaxLength(tokenizer),
      truncation: true,
    });
    warnOfTruncation(tokenizer, texts, text_inputs.input_ids);
    prompt_embeds = await encodeText(text_encoder, text_inputs, clip_skip ?? undefined, wantsLayers, lora_scale);
  }
  const batch_size = prompts?.length ?? prompt_embeds.dims[0]!;

  if (do_classifier_free_guidance && negative_prompt_embeds === undefined) {
    const negatives = negativePrompts(prompt, negative_prompt, batch_size);
    const { text_encoder, tokenizer } = textParts(parts, "negative_prompt");
    const uncond_input = tokenizer(maybe_convert_prompt(negatives, tokenizer), {
      padding: "max_length",
      max_length: prompt_embeds.dims[1]!,
      truncation: true,
    });
    negative_prompt_embeds = await encodeText(text_encoder, uncond_input, undefined, wantsLayers, lora_scale);
  }
  if (do_classifier_free_guidance) {
    checkBatch("negative_prompt_embeds", negative_prompt_embeds!.dims[0]!, batch_size);
    checkAlike(prompt_embeds, negative_prompt_embeds!);
  }

  const repeat = (embeds: Tensor): Tensor =>
    num_images_per_prompt === 1 ? embeds : embeds.repeat_interleave(num_images_per_prompt, 0);
  return {
    prompt_embeds: repeat(prompt_embeds),
    negative_prompt_embeds: do_classifier_free_guidance
      ? repeat(negative_prompt_embeds!)
      : (negative_prompt_embeds ?? null),
  };
}

/** How many tokens embeddings have. */
export function lengthOf(embeds: Tensor | undefined): number {
  return embeds?.dims[1] ?? 0;
}

/** @throws ValueError for a prompt and a negative prompt that differ in length, which cannot be one batch. */
export function checkAlike(prompt_embeds: Tensor, negative_prompt_embeds: Tensor): void {
  const [expected, found] = [lengthOf(prompt_embeds), lengthOf(negative_prompt_embeds)];
  if (found === expected) return;
  throw new ValueError(
    `The negative prompt has ${found} tokens, the prompt ${expected}: with \`long_prompt\`, pass both as text, or both as embeddings of one length.`,
    { field: "negative_prompt_embeds", found: `${found} tokens`, expected: `${expected} tokens` },
  );
}

/**
 * The negative prompt of each prompt: the empty text where there is none.
 *
 * @throws TypeError when one of prompt and negative prompt is a list only, ValueError for another number of them.
 */
export function negativePrompts(
  prompt: Prompt | null | undefined,
  negative_prompt: Prompt | null | undefined,
  batch_size: number,
): readonly string[] {
  if (negative_prompt == null) return new Array<string>(batch_size).fill("");
  if (prompt != null && Array.isArray(prompt) !== Array.isArray(negative_prompt)) {
    const kind = (value: Prompt): string => (typeof value === "string" ? "a string" : "a list");
    throw new TypeError(
      `\`negative_prompt\` is ${kind(negative_prompt)} and \`prompt\` is ${kind(prompt)}: pass both alike.`,
    );
  }
  const negatives = typeof negative_prompt === "string" ? [negative_prompt] : negative_prompt;
  checkBatch("negative_prompt", negatives.length, batch_size);
  return negatives;
}

/** A text encoder's option, where a LoRA is scaled. */
export type LoraScale = Readonly<Pick<CLIPTextOptions, "lora_scale">>;

/** What text encoders are told of the scale of LoRAs: nothing, where the caller says nothing. */
export function loraScaleOf({ lora_scale, cross_attention_kwargs }: EncodePromptOptions): LoraScale {
  const scale = lora_scale ?? cross_attention_kwargs?.scale;
  return scale == null ? {} : { lora_scale: scale };
}

/** @throws ValueError for another batch than there are prompts. */
export function checkBatch(field: string, found: number, expected: number): void {
  if (found === expected) return;
  throw new ValueError(
    `\`${field}\` has batch size ${found}, but there are ${expected} prompts. Pass as many as there are prompts.`,
    { field, found: String(found), expected: String(expected) },
  );
}

function textParts(parts: TextEncoding, field: string): { text_encoder: CLIPTextModel; tokenizer: CLIPTokenizer } {
  const { text_encoder, tokenizer } = parts;
  if (text_encoder === null || tokenizer === null) {
    const missing = text_encoder === null ? "text_encoder" : "tokenizer";
    throw new ValueError(
      `The pipeline was loaded without its ${missing}, so it cannot encode a ${field}: pass \`${field}_embeds\`.`,
      { field: missing, found: "null", expected: `a ${missing}, or ${field}_embeds` },
    );
  }
  return { text_encoder, tokenizer };
}

/** Says which words the model will not see. */
export function warnOfTruncation(
  tokenizer: CLIPTokenizer,
  prompts: readonly string[],
  input_ids: Tensor<"int64">,
): void {
  const length = input_ids.dims[1]!;
  const { input_ids: untruncated } = tokenizer(prompts, { padding: "longest" });
  const whole = untruncated.dims[1]!;
  if (whole < length || (whole === length && untruncated.data.every((id, i) => id === input_ids.data[i]))) return;
  const cut = prompts.map((_, i) => {
    const ids = untruncated.data.subarray(i * whole + length - 1, (i + 1) * whole - 1);
    return tokenizer.decode(ids, { skip_special_tokens: true });
  });
  warnOfCut(length, cut);
}

/** The text encoder's last output; with `clip_skip`, that of an earlier layer after the same final norm. */
async function encodeText(
  text_encoder: CLIPTextModel,
  { input_ids, attention_mask }: TokenizerOutput,
  clip_skip: number | undefined,
  output_hidden_states: boolean,
  lora_scale: LoraScale,
): Promise<Tensor> {
  const usesMask = (text_encoder.config as { use_attention_mask?: unknown }).use_attention_mask === true;
  const { last_hidden_state, hidden_states } = await text_encoder(input_ids, {
    output_hidden_states,
    ...lora_scale,
    ...(usesMask ? { attention_mask } : {}),
  });
  if (clip_skip === undefined) return last_hidden_state;
  const layers = text_encoder.config.num_hidden_layers;
  if (!Number.isInteger(clip_skip) || clip_skip < 0 || clip_skip > layers) {
    throw new ValueError(`clip_skip is ${clip_skip}, but the text encoder has ${layers} layers to leave out.`, {
      field: "clip_skip",
      found: String(clip_skip),
      expected: `a whole number from 0 to ${layers}`,
    });
  }
  return text_encoder.final_layer_norm(hidden_states[layers - clip_skip]!);
}
