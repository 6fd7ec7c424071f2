// transformers.js re-exports these very classes, but importing it brings 150 kB (gzipped) of vision and audio models
// and a second loader of the ONNX runtime along; this package of its is 11 kB.
import { Normalizer, Tokenizer } from "@huggingface/tokenizers";
import type { AddedToken, CLIPTokenizerConfig } from "./tokenization_clip.ts";

/** The tokens with a meaning of their own. */
export type NamedTokens = Pick<CLIPTokenizerConfig, "bos_token" | "eos_token" | "unk_token" | "pad_token">;

export const namesOfTokens = ["bos_token", "eos_token", "unk_token", "pad_token"] as const;

export function contentOf(token: string | AddedToken): string {
  return typeof token === "string" ? token : token.content;
}

const SPLIT = String.raw`<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+`;

/** Lower-cases character by character, as Rust does: JavaScript alone knows Greek's final sigma. */
class CLIPNormalizer extends Normalizer {
  normalize(text: string): string {
    const spaced = text.normalize("NFC").replace(/\p{White_Space}+/gu, " ");
    return Array.from(spaced, (character) => character.toLowerCase()).join("");
  }
}

/** The tokens that are never split, as files list them by id, and those with a meaning that they leave out. */
export function addedTokens(
  listed: Readonly<Record<number, AddedToken>>,
  special: Required<NamedTokens>,
): readonly AddedToken[] {
  const contents = namesOfTokens.map((name) => contentOf(special[name]));
  const wanted: AddedToken[] = Object.entries(listed)
    .sort(([a], [b]) => Number(a) - Number(b))
    .map(([, token]) => ({ ...token, special: token.special === true || contents.includes(token.content) }));
  const known = wanted.map((token) => token.content);
  const distinct = new Set<string>();
  for (const name of namesOfTokens) {
    const token = special[name];
    const key = JSON.stringify(token);
    if (known.includes(contentOf(token)) || distinct.has(key)) continue;
    distinct.add(key);
    wanted.push(typeof token === "string" ? { content: token, special: true } : { ...token, special: true });
  }
  return wanted;
}

/** The ids of added tokens: those of the vocabulary keep theirs, others follow it. */
export function idsOfAdded(
  vocab: CLIPTokenizerConfig["vocab"],
  tokens: readonly AddedToken[],
): ReadonlyMap<string, number> {
  let next = 1 + Object.values(vocab).reduce((highest, id) => Math.max(highest, id), -1);
  const ids = new Map<string, number>();
  for (const { content } of tokens) {
    const known = Object.hasOwn(vocab, content) ? vocab[content] : ids.get(content);
    ids.set(content, known ?? next++);
  }
  return ids;
}

/**
 * The tokenizer.json that transformers' class builds in memory; of a file of that name it too takes only the vocabulary.
 *
 * Tokens that are looked for in the normalised text are put in as they are found there, and come out so, as of Rust's.
 */
export function buildBackend(
  { vocab, merges }: Pick<CLIPTokenizerConfig, "vocab" | "merges">,
  unk_token: string,
  tokens: readonly AddedToken[],
): Tokenizer {
  const normalizer = {
    type: "Sequence" as const,
    normalizers: [{ type: "NFC" as const }, { type: "Lowercase" as const }],
  };
  const normalized = new CLIPNormalizer(normalizer);
  const ids = idsOfAdded(vocab, tokens);
  const added = new Map(tokens.map((token) => [token.content, { ...token, id: ids.get(token.content)! }]));
  const split = { type: "Split", pattern: { Regex: SPLIT }, behavior: "Removed", invert: true };
  const bytes = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  const json = {
    version: "1.0",
    added_tokens: [...added.values()].map((token) =>
      token.normalized === true ? { ...token, content: normalized.normalize(token.content) } : token,
    ),
    normalizer,
    pre_tokenizer: { type: "Sequence", pretokenizers: [split, bytes] },
    // Start and end are put around the text after it has been cut to length.
    post_processor: null,
    decoder: bytes,
    model: {
      type: "BPE",
      vocab,
      merges,
      unk_token,
      continuing_subword_prefix: "",
      end_of_word_suffix: "</w>",
      fuse_unk: false,
    },
  };
  const backend = new Tokenizer(json, {});
  backend.normalizer = normalized;
  return backend;
}
