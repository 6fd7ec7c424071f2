import { Tensor, ValueError } from "@diffusers-web/core";
import type { CLIPTextModel, CLIPTextModelWithProjection } from "@diffusers-web/models";
import { maybe_convert_prompt } from "../loaders/multi_vector_tokens.ts";
import {
  checkAlike,
  checkBatch,
  type EncodePromptOptions,
  type LoraScale,
  lengthOf,
  loraScaleOf,
  type Prompt,
  warnOfTruncation,
} from "../prompt.ts";
import { type EncodedText, hasSyntax, modelMaxLength, type PromptJob } from "../prompt_syntax.ts";
import type { CLIPTokenizer, TokenizerOutput } from "../tokenization_clip.ts";

/** What {@link encode_prompt} takes. */
export interface EncodePromptXLOptions extends EncodePromptOptions {
  /** What the second text encoder reads. Default: `prompt`. */
  readonly prompt_2?: Prompt | null | undefined;
  /** What the second text encoder reads. Default: `negative_prompt`. */
  readonly negative_prompt_2?: Prompt | null | undefined;
  /** `[prompts, projection_dim]`, in place of what the second text encoder gives for the prompt. */
  readonly pooled_prompt_embeds?: Tensor | null | undefined;
  /** `[prompts, projection_dim]`, in place of what the second text encoder gives for the negative prompt. */
  readonly negative_pooled_prompt_embeds?: Tensor | null | undefined;
  /** How many further layers of the text encoders to leave out: the last one always is. Default: none. */
  readonly clip_skip?: number | null | undefined;
}

/** What {@link encode_prompt} returns; `batch` is prompts times pictures a prompt. */
export interface PromptXLEmbeddings {
  /** `[batch, tokens, width]`: the widths of both text encoders side by side. */
  readonly prompt_embeds: Tensor;
  /** `[batch, tokens, width]`; null without guidance and embeddings of its own. */
  readonly negative_prompt_embeds: Tensor | null;
  /** `[batch, projection_dim]`. */
  readonly pooled_prompt_embeds: Tensor;
  /** `[batch, projection_dim]`; null without guidance and embeddings of its own. */
  readonly negative_pooled_prompt_embeds: Tensor | null;
}

/** The part of a pipeline that encodes text. The refiner has the second encoder only. */
export interface TextEncodingXL {
  readonly text_encoder: CLIPTextModel | null;
  readonly text_encoder_2: CLIPTextModelWithProjection | null;
  readonly tokenizer: CLIPTokenizer | null;
  readonly tokenizer_2: CLIPTokenizer | null;
}

interface Encoder {
  readonly tokenizer: CLIPTokenizer;
  readonly text_encoder: CLIPTextModel | CLIPTextModelWithProjection;
}

/**
 * Encodes prompts for a UNet of Stable Diffusion XL, each once, and repeats the result for each picture: the last layer but one
 * of each text encoder, without its final normalisation, side by side; and the pooled output of the second.
 *
 * @param force_zeros whether zeros stand for a negative prompt that was not given
 * @throws ValueError for batches that do not fit, or a text encoder that is not there.
 * @see Diffusers `StableDiffusionXLPipeline.encode_prompt`
 */
export async function encode_prompt(
  parts: TextEncodingXL,
  options: EncodePromptXLOptions,
  force_zeros: boolean,
): Promise<PromptXLEmbeddings> {
  const { prompt, negative_prompt, clip_skip, num_images_per_prompt = 1, do_classifier_free_guidance = true } = options;
  let prompt_embeds = options.prompt_embeds ?? undefined;
  let pooled_prompt_embeds = options.pooled_prompt_embeds ?? undefined;
  let negative_prompt_embeds = options.negative_prompt_embeds ?? undefined;
  let negative_pooled_prompt_embeds = options.negative_pooled_prompt_embeds ?? undefined;
  const prompts = listOf(prompt);
  const lora_scale = loraScaleOf(options);
  const batch_size = prompts?.length ?? prompt_embeds!.dims[0]!;
  const needsNegative = do_classifier_free_guidance && negative_prompt_embeds === undefined;
  const isZero = needsNegative && negative_prompt == null && force_zeros;

  if (hasSyntax(options)) {
    const job = (
      { tokenizer, text_encoder }: Encoder,
      texts: readonly string[],
      field: string,
      skip: number,
    ): PromptJob => {
      checkBatch(field, texts.length, batch_size);
      const encode = (input: TokenizerOutput): Promise<EncodedText> =>
        encodeText(text_encoder, input, skip, lora_scale);
      return { tokenizer, texts: maybe_convert_prompt(texts, tokenizer), encode };
    };
    const positive = prompt_embeds === undefined ? encodersOf(parts, "prompt") : [];
    const negative = needsNegative && !isZero ? encodersOf(parts, "negative_prompt") : [];
    const texts = [prompts, listOf(orElse(options.prompt_2, prompt))];
    const negatives = negativeTexts(options, batch_size);
    const jobs = [
      ...positive.map((one, i) => job(one, texts[i]!, i === 0 ? "prompt" : "prompt_2", clip_skip ?? 0)),
      ...negative.map((one, i) => job(one, negatives[i]!, i === 0 ? "negative_prompt" : "negative_prompt_2", 0)),
    ];
    const { encodeChunks } = await import("../prompt_weighting.ts");
    const encoded = await encodeChunks(jobs, options, lengthOf(prompt_embeds ?? negative_prompt_embeds));
    const [ofPrompt, ofNegative] = [encoded.slice(0, positive.length), encoded.slice(positive.length)];
    if (ofPrompt.length > 0) {
      prompt_embeds = sideBySide(ofPrompt);
      pooled_prompt_embeds ??= pooledOf(ofPrompt);
    }
    if (ofNegative.length > 0) {
      negative_prompt_embeds = sideBySide(ofNegative);
      negative_pooled_prompt_embeds ??= pooledOf(ofNegative);
    }
  }
  if (prompt_embeds === undefined) {
    const texts = [prompts!, listOf(orElse(options.prompt_2, prompt))!];
    const encoded: EncodedText[] = [];
    for (const [i, { tokenizer, text_encoder }] of encodersOf(parts, "prompt").entries()) {
      checkBatch(i === 0 ? "prompt" : "prompt_2", texts[i]!.length, batch_size);
      // textual inversion: process multi-vector tokens if necessary
      const converted = maybe_convert_prompt(texts[i]!, tokenizer);
      const text_inputs = tokenizer(converted, {
        padding: "max_length",
        max_length: modelMaxLength(tokenizer),
        truncation: true,
      });
      warnOfTruncation(tokenizer, converted, text_inputs.input_ids);
      encoded.push(await encodeText(text_encoder, text_inputs, clip_skip ?? 0, lora_scale));
    }
    prompt_embeds = sideBySide(encoded);
    pooled_prompt_embeds ??= pooledOf(encoded);
  }
  if (pooled_prompt_embeds === undefined) throw noPooled("pooled_prompt_embeds");

  // unconditional embeddings for classifier free guidance
  if (isZero) {
    negative_prompt_embeds = Tensor.zeros(prompt_embeds.dims);
    negative_pooled_prompt_embeds = Tensor.zeros(pooled_prompt_embeds.dims);
  } else if (do_classifier_free_guidance && negative_prompt_embeds === undefined) {
    const texts = negativeTexts(options, batch_size);
    const encoded: EncodedText[] = [];
    for (const [i, { tokenizer, text_encoder }] of encodersOf(parts, "negative_prompt").entries()) {
      checkBatch(i === 0 ? "negative_prompt" : "negative_prompt_2", texts[i]!.length, batch_size);
      const uncond_input = tokenizer(maybe_convert_prompt(texts[i]!, tokenizer), {
        padding: "max_length",
        max_length: prompt_embeds.dims[1]!,
        truncation: true,
      });
      encoded.push(await encodeText(text_encoder, uncond_input, 0, lora_scale));
    }
    negative_prompt_embeds = sideBySide(encoded);
    negative_pooled_prompt_embeds ??= pooledOf(encoded);
  }

  checkBatch("pooled_prompt_embeds", pooled_prompt_embeds.dims[0]!, batch_size);
  if (do_classifier_free_guidance) {
    if (negative_pooled_prompt_embeds === undefined) throw noPooled("negative_pooled_prompt_embeds");
    checkBatch("negative_prompt_embeds", negative_prompt_embeds!.dims[0]!, batch_size);
    checkAlike(prompt_embeds, negative_prompt_embeds!);
    checkBatch("negative_pooled_prompt_embeds", negative_pooled_prompt_embeds.dims[0]!, batch_size);
  }
  const repeat = (embeds: Tensor): Tensor =>
    num_images_per_prompt === 1 ? embeds : embeds.repeat_interleave(num_images_per_prompt, 0);
  const negative = (embeds: Tensor | undefined): Tensor | null =>
    do_classifier_free_guidance ? repeat(embeds!) : (embeds ?? null);
  return {
    prompt_embeds: repeat(prompt_embeds),
    negative_prompt_embeds: negative(negative_prompt_embeds),
    pooled_prompt_embeds: repeat(pooled_prompt_embeds),
    negative_pooled_prompt_embeds: negative(negative_pooled_prompt_embeds),
  };
}

/** What each text encoder reads as the negative prompt. */
function negativeTexts(
  { negative_prompt, negative_prompt_2 }: EncodePromptXLOptions,
  batch_size: number,
): readonly (readonly string[])[] {
  const first = orElse(negative_prompt, "");
  const filled = (text: Prompt): readonly string[] =>
    typeof text === "string" ? new Array<string>(batch_size).fill(text) : text;
  return [filled(first), filled(orElse(negative_prompt_2, first))];
}

/** The one text encoder of a refiner, which reads the (first) prompt, or both. */
function encodersOf(parts: TextEncodingXL, field: string): Encoder[] {
  const { text_encoder, text_encoder_2, tokenizer, tokenizer_2 } = parts;
  if (text_encoder_2 === null || tokenizer_2 === null) throw missing("2", text_encoder_2 === null, field);
  const second = { text_encoder: text_encoder_2, tokenizer: tokenizer_2 };
  if (text_encoder === null && tokenizer === null) return [second];
  if (text_encoder === null || tokenizer === null) throw missing("", text_encoder === null, field);
  return [{ text_encoder, tokenizer }, second];
}

function missing(number: "2" | "", isEncoder: boolean, field: string): ValueError {
  const name = `${isEncoder ? "text_encoder" : "tokenizer"}${number === "" ? "" : "_2"}`;
  return new ValueError(
    `The pipeline was loaded without its ${name}, so it cannot encode a ${field}: pass \`${field}_embeds\`.`,
    { field: name, found: "null", expected: `a ${name}, or ${field}_embeds` },
  );
}

function noPooled(field: string): ValueError {
  return new ValueError(
    `There is no \`${field}\`: none was given, and neither text encoder has a projection, as a CLIPTextModelWithProjection does.`,
    { field, found: "nothing", expected: "a CLIPTextModelWithProjection" },
  );
}

/** The last layer but one, or one of those before it; and what the projection gives, where there is one. */
async function encodeText(
  text_encoder: Encoder["text_encoder"],
  { input_ids }: TokenizerOutput,
  clip_skip: number,
  lora_scale: LoraScale,
): Promise<EncodedText> {
  const output = await text_encoder(input_ids, lora_scale);
  const embeds = output.hidden_states.at(-(clip_skip + 2));
  if (embeds !== undefined) return { embeds, pooled: "text_embeds" in output ? output.text_embeds : undefined };
  const layers = text_encoder.config.num_hidden_layers;
  throw new ValueError(
    `clip_skip is ${clip_skip}, but a text encoder has ${layers} layers, of which the last is left out anyway.`,
    { field: "clip_skip", found: String(clip_skip), expected: `a whole number from 0 to ${layers - 1}` },
  );
}

/** @throws ValueError when the encoders read texts of different lengths. */
function sideBySide(encoded: readonly EncodedText[]): Tensor {
  const lengths = encoded.map(({ embeds }) => embeds.dims[1]!);
  if (lengths.every((length) => length === lengths[0])) {
    return Tensor.cat(
      encoded.map(({ embeds }) => embeds),
      -1,
    );
  }
  throw new ValueError(`The tokenizers make texts of ${lengths.join(" and ")} tokens: they have to be alike.`, {
    field: "model_max_length",
    found: lengths.join(" and "),
    expected: "the same in both",
  });
}

/** Of the first encoder that has a projection. */
function pooledOf(encoded: readonly EncodedText[]): Tensor | undefined {
  return encoded.find(({ pooled }) => pooled !== undefined)?.pooled;
}

function listOf(prompt: Prompt | null | undefined): readonly string[] | undefined {
  return prompt == null ? undefined : typeof prompt === "string" ? [prompt] : prompt;
}

/** As Python's `or`: an empty text is none. */
function orElse<T extends Prompt | null | undefined>(prompt: Prompt | null | undefined, otherwise: T): Prompt | T {
  return prompt == null || prompt === "" ? otherwise : prompt;
}
