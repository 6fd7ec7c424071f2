import type { Prompt } from "../prompt.ts";
import type { CLIPTokenizer } from "../tokenization_clip.ts";

/**
 * Puts all tokens of a textual inversion with several vectors where the first one stands: `cat` becomes `cat cat_1 cat_2`.
 *
 * As in Diffusers, a token with upper-case letters is not found.
 *
 * @see Diffusers `TextualInversionLoaderMixin.maybe_convert_prompt`
 */
export function maybe_convert_prompt(prompt: string, tokenizer: CLIPTokenizer): string;
export function maybe_convert_prompt(prompt: readonly string[], tokenizer: CLIPTokenizer): string[];
export function maybe_convert_prompt(prompt: Prompt, tokenizer: CLIPTokenizer): string | string[];
export function maybe_convert_prompt(prompt: Prompt, tokenizer: CLIPTokenizer): string | string[] {
  const added = tokenizer.added_tokens_encoder;
  const replacements = new Map<string, string>();
  for (const token of added.keys()) {
    if (!added.has(`${token}_1`)) continue;
    const tokens = [token];
    while (added.has(`${token}_${tokens.length}`)) tokens.push(`${token}_${tokens.length}`);
    replacements.set(token, tokens.join(" "));
  }
  const convert = (text: string): string => {
    let converted = text;
    for (const token of replacements.size === 0 ? [] : new Set(tokenizer.tokenize(text))) {
      const replacement = replacements.get(token);
      // A function: text may have a `$`, which means something else here.
      if (replacement !== undefined) converted = converted.replaceAll(token, () => replacement);
    }
    return converted;
  };
  return typeof prompt === "string" ? convert(prompt) : prompt.map(convert);
}
