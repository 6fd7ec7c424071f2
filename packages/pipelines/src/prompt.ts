import { type Tensor, ValueError } from "@diffusers-web/core";
import type { CLIPTextModel } from "@diffusers-web/models";
import type { CLIPTokenizer, TokenizerOutput } from "./tokenization_clip.ts";

/** One prompt, or one for each picture of a batch. */
export type Prompt = string | readonly string[];

/** What {@link encode_prompt} takes. */
export interface EncodePromptOptions {
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

  // The same outputs in both runs, so that one session serves them.
  const wantsLayers = clip_skip != null;
  if (prompt_embeds === undefined) {
    const { text_encoder, tokenizer } = textParts(parts, "prompt");
    const text_inputs = tokenizer(prompts!, {
      padding: "max_length",
      max_length: modelMaxLength(tokenizer),
      truncation: true,
    });
    warnOfTruncation(tokenizer, prompts!, text_inputs.input_ids);
    prompt_embeds = await encodeText(text_encoder, text_inputs, clip_skip ?? undefined, wantsLayers);
  }
  const batch_size = prompts?.length ?? prompt_embeds.dims[0]!;

  if (do_classifier_free_guidance && negative_prompt_embeds === undefined) {
    if (negative_prompt != null && prompt != null && Array.isArray(prompt) !== Array.isArray(negative_prompt)) {
      const kind = (value: Prompt): string => (typeof value === "string" ? "a string" : "a list");
      throw new TypeError(
        `\`negative_prompt\` is ${kind(negative_prompt)} and \`prompt\` is ${kind(prompt)}: pass both alike.`,
      );
    }
    const negatives =
      negative_prompt == null
        ? new Array<string>(batch_size).fill("")
        : typeof negative_prompt === "string"
          ? [negative_prompt]
          : negative_prompt;
    checkBatch("negative_prompt", negatives.length, batch_size);
    const { text_encoder, tokenizer } = textParts(parts, "negative_prompt");
    const uncond_input = tokenizer(negatives, {
      padding: "max_length",
      max_length: prompt_embeds.dims[1]!,
      truncation: true,
    });
    negative_prompt_embeds = await encodeText(text_encoder, uncond_input, undefined, wantsLayers);
  }
  if (do_classifier_free_guidance) {
    checkBatch("negative_prompt_embeds", negative_prompt_embeds!.dims[0]!, batch_size);
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

/** How many tokens the model reads. @throws ValueError when the tokenizer's files do not say. */
export function modelMaxLength(tokenizer: CLIPTokenizer): number {
  if (tokenizer.model_max_length !== null) return tokenizer.model_max_length;
  throw new ValueError(
    "The tokenizer's files do not say how long a text may be. Set pipeline.tokenizer.model_max_length " +
      "(77 for OpenAI's CLIP).",
    { field: "model_max_length", found: "null", expected: "a number of tokens" },
  );
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
  console.warn(
    `CLIP reads ${length} tokens at most. What comes after them is left out: ` +
      `${JSON.stringify(cut.filter((text) => text !== ""))}`,
  );
}

/** The text encoder's last output; with `clip_skip`, that of an earlier layer after the same final norm. */
async function encodeText(
  text_encoder: CLIPTextModel,
  { input_ids, attention_mask }: TokenizerOutput,
  clip_skip: number | undefined,
  output_hidden_states: boolean,
): Promise<Tensor> {
  const usesMask = (text_encoder.config as { use_attention_mask?: unknown }).use_attention_mask === true;
  const { last_hidden_state, hidden_states } = await text_encoder(input_ids, {
    output_hidden_states,
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
