import type { Tensor } from "@diffusers-web/core";
import type { CLIPTextModel, CLIPTextModelWithProjection } from "@diffusers-web/models";
import type { Prompt } from "../prompt.ts";
import type { CLIPTokenizer } from "../tokenization_clip.ts";
import type { AdapterFileOptions, AdapterSource } from "./adapter_file.ts";
import { LoraLoaderMixin } from "./lora_base.ts";
import { maybe_convert_prompt } from "./multi_vector_tokens.ts";

/** A text encoder that tokens can be added to. */
export type CLIPTextEncoder = CLIPTextModel | CLIPTextModelWithProjection;

/** Learned embeddings: where their file is, a tensor `[width]` or `[vectors, width]`, or tensors by name, as in a file. */
export type TextualInversionSource = AdapterSource | Tensor | Readonly<Record<string, Tensor>>;

/** How textual inversions are loaded. */
export interface TextualInversionOptions extends Omit<AdapterFileOptions, "token"> {
  /** What prompts call it; a list of one for each source, or of one for each vector of a tensor. Default: what the file says. */
  readonly token?: string | readonly string[] | null | undefined;
  /** Default: the pipeline's (first) one. */
  readonly tokenizer?: CLIPTokenizer | null | undefined;
  /** Default: the pipeline's (first) one. */
  readonly text_encoder?: CLIPTextEncoder | null | undefined;
  /** A hub access token. */
  readonly hf_token?: string | undefined;
}

/**
 * Textual inversions: words that stand for learned vectors, in pipelines with a tokenizer and a text encoder.
 *
 * Tokenizer and text encoder have them: pipelines made by `from_pipe` have the same ones, and `save_pretrained` writes them.
 *
 * @see Diffusers `TextualInversionLoaderMixin`
 */
export abstract class TextualInversionLoaderMixin extends LoraLoaderMixin {
  static override readonly name: string = "TextualInversionLoaderMixin";

  /**
   * Teaches the text encoder words: all of them, or none when something does not fit. Files are those of Diffusers and, as
   * `.safetensors`, of A1111.
   *
   * A file for Stable Diffusion XL holds `clip_l` and `clip_g`, the vectors for the two text encoders. In Python it is loaded in
   * two steps; here an XL pipeline takes it at once, unless a `tokenizer` or `text_encoder` is passed.
   *
   * @param source a hub id, a URL or a folder with a `learned_embeds.safetensors` (or the `weight_name`), the address of a
   * `.safetensors` file, a `File`, a Tensor, or tensors by name; or a list of these
   * @example
   * ```ts
   * await pipeline.load_textual_inversion("https://example.org/cat-toy.safetensors", { token: "<cat-toy>" });
   * const { images } = await pipeline("A <cat-toy> backpack");
   * ```
   * @throws ValueError for a token that is there already or twice, for vectors of another width, for another number of tokens
   * than of sources, and without a tokenizer or text encoder.
   * @throws UnsupportedModelError for a pickle, and for an ONNX text encoder; else what `from_pretrained` throws.
   * @see Diffusers `TextualInversionLoaderMixin.load_textual_inversion`
   */
  async load_textual_inversion(
    source: TextualInversionSource | readonly TextualInversionSource[],
    options: TextualInversionOptions = {},
  ): Promise<void> {
    const { loadTextualInversion } = await import("./textual_inversion_loading.ts");
    await loadTextualInversion(this, source, options);
  }

  /**
   * Takes words away again.
   *
   * @param tokens default: all that were added
   * @param tokenizer, text_encoder default: the pipeline's; of XL, unlike in Python, those two that know one of the tokens
   * @throws ValueError when none of the tokens is known, and without a tokenizer or text encoder.
   * @see Diffusers `TextualInversionLoaderMixin.unload_textual_inversion`
   */
  async unload_textual_inversion(
    tokens?: string | readonly string[] | null,
    tokenizer?: CLIPTokenizer | null,
    text_encoder?: CLIPTextEncoder | null,
  ): Promise<void> {
    const { unloadTextualInversion } = await import("./textual_inversion_loading.ts");
    unloadTextualInversion(this, tokens, tokenizer, text_encoder);
  }

  /**
   * Puts all tokens of a textual inversion with several vectors where the first one stands: `cat` becomes `cat cat_1 cat_2`.
   * Calls of the pipeline do so with their prompts.
   *
   * @see Diffusers `TextualInversionLoaderMixin.maybe_convert_prompt`
   */
  maybe_convert_prompt(prompt: string, tokenizer: CLIPTokenizer): string;
  maybe_convert_prompt(prompt: readonly string[], tokenizer: CLIPTokenizer): string[];
  maybe_convert_prompt(prompt: Prompt, tokenizer: CLIPTokenizer): string | string[] {
    return maybe_convert_prompt(prompt, tokenizer);
  }
}
