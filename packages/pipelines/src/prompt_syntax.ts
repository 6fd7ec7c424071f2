import { type Tensor, ValueError } from "@diffusers-web/core";
import type { CLIPTokenizer, TokenizerOutput } from "./tokenization_clip.ts";

/** How prompts are read. */
export interface PromptSyntax {
  /**
   * Encode texts of any length, in parts of as many tokens as the model reads (77), laid one after the other. Default false: what
   * comes after those is left out, with a warning.
   */
  readonly long_prompt?: boolean | undefined;
  /**
   * "a1111": words in brackets count more or less, in the syntax of AUTOMATIC1111's web UI: `(word)` 1.1 times as much, `(word:1.3)` as
   * said, `[word]` 1.1 times less; `\\(` is a bracket that is text. Default null: brackets are text.
   */
  readonly prompt_weighting?: "a1111" | null | undefined;
}

/** Texts to be encoded part by part, and how. */
export interface PromptJob {
  readonly tokenizer: CLIPTokenizer;
  /** One for each prompt of the batch. */
  readonly texts: readonly string[];
  /** Encodes as many tokens as the model reads: `[batch, tokens]` to `[batch, tokens, width]`. */
  encode(input: TokenizerOutput): Promise<EncodedText>;
}

/** What a text encoder makes of tokens. */
export interface EncodedText {
  /** `[batch, tokens, width]`. */
  readonly embeds: Tensor;
  /** `[batch, projection_dim]`. */
  readonly pooled?: Tensor | undefined;
}

/** Whether prompts are read otherwise than by the tokenizer alone. @throws ValueError for another syntax than there is. */
export function hasSyntax({ long_prompt = false, prompt_weighting = null }: PromptSyntax): boolean {
  if (typeof long_prompt !== "boolean") {
    throw new ValueError(`\`long_prompt\` is ${JSON.stringify(long_prompt)}, expected true or false.`, {
      field: "long_prompt",
      found: String(long_prompt),
      expected: "true or false",
    });
  }
  if (prompt_weighting !== null && prompt_weighting !== "a1111") {
    throw new ValueError(`\`prompt_weighting\` is ${JSON.stringify(prompt_weighting)}, expected "a1111" or null.`, {
      field: "prompt_weighting",
      found: String(prompt_weighting),
      expected: '"a1111" or null',
    });
  }
  return long_prompt || prompt_weighting !== null;
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

/** @param cut what was left out of each text */
export function warnOfCut(length: number, cut: readonly string[]): void {
  const texts = cut.filter((text) => text !== "");
  if (texts.length === 0) return;
  console.warn(`CLIP reads ${length} tokens at most. What comes after them is left out: ${JSON.stringify(texts)}`);
}
