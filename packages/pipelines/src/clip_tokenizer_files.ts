import { IntegrityError } from "@diffusers-web/core";
import { contentOf, type NamedTokens, namesOfTokens } from "./clip_tokenizer_backend.ts";
import type { AddedToken } from "./tokenization_clip.ts";

/** A JSON file. */
export type FileObject = Record<string, unknown>;

/** Whether a setting names the token. */
export function isToken(value: unknown, content: string): boolean {
  return value === content || (value as AddedToken | null)?.content === content;
}

/** The special tokens that the settings name; one that is among the added tokens takes its properties. */
export function namedTokens(settings: FileObject, added: Readonly<Record<number, AddedToken>>): NamedTokens {
  const found: Record<string, string | AddedToken> = {};
  for (const name of namesOfTokens) {
    const value = settings[name];
    if (typeof value !== "string" && typeof (value as AddedToken | null)?.content !== "string") continue;
    const content = contentOf(value as string | AddedToken);
    found[name] = Object.values(added).find((token) => token.content === content) ?? (value as string | AddedToken);
  }
  return found;
}

/** @throws IntegrityError for what is no vocabulary. */
export function checkVocab(vocab: unknown, file: string): Record<string, number> {
  const isObject = typeof vocab === "object" && vocab !== null && !Array.isArray(vocab);
  if (isObject && Object.values(vocab).every((id) => Number.isInteger(id))) return vocab as Record<string, number>;
  throw new IntegrityError(`${file} holds no vocabulary: expected a JSON object of tokens and their ids.`, {
    file,
    found: isObject ? "an id that is no whole number" : typeof vocab,
    expected: "tokens and their ids",
  });
}

/** Merges, which are lines `a b` or pairs. @throws IntegrityError for what are none. */
export function checkMerges(merges: unknown, file: string): [string, string][] {
  const pairs = Array.isArray(merges)
    ? merges.map((merge) => (typeof merge === "string" ? merge.trim().split(" ") : merge))
    : undefined;
  const wrong = pairs?.findIndex((pair) => !Array.isArray(pair) || pair.length !== 2) ?? 0;
  if (pairs !== undefined && wrong < 0) return pairs as [string, string][];
  throw new IntegrityError(`${file} holds no merges: expected two tokens a line.`, {
    file,
    found: JSON.stringify(pairs?.[wrong] ?? typeof merges),
    expected: "two tokens",
  });
}
