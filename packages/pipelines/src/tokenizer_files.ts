import {
  type ConfigDict,
  type Directory,
  floatsOf,
  type LoadOptions,
  markFloats,
  parseConfig,
  readText,
  type Source,
  stringifyPythonJson,
  UnsupportedModelError,
  writeFile,
} from "@diffusers-web/core";
import type { AddedToken } from "./tokenization_clip.ts";

/** The files of each tokenizer that was read from some, as they were. */
const filesOf = new WeakMap<object, ReadonlyMap<string, string>>();

/** A source's files as text, and what has been read of them. */
export class TextFiles {
  private readonly texts = new Map<string, string>();

  constructor(
    private readonly source: Source,
    private readonly options: LoadOptions,
  ) {}

  /** A file; undefined where there is none. */
  async read(file: string): Promise<string | undefined> {
    const text = await readText(this.source, file, this.options);
    if (text !== undefined) this.texts.set(file, text);
    return text;
  }

  /** Keeps what was read for when `tokenizer` is saved. */
  keepFor<T extends object>(tokenizer: T): T {
    filesOf.set(tokenizer, this.texts);
    return tokenizer;
  }
}

/**
 * Writes a tokenizer's files into a folder, as they were read.
 *
 * @param change what becomes of them first
 * @throws UnsupportedModelError for one that was not read from files.
 */
export async function saveTokenizerFiles(
  tokenizer: object,
  directory: Directory,
  change?: (files: ReadonlyMap<string, string>) => ReadonlyMap<string, string>,
): Promise<void> {
  const files = filesOf.get(tokenizer);
  if (files === undefined) {
    const className = tokenizer.constructor.name;
    throw new UnsupportedModelError(`A ${className} that was not loaded has no files to save.`, {
      className,
      field: "save_pretrained",
      expected: `${className}.from_pretrained`,
    });
  }
  for (const [file, text] of change?.(files) ?? files) await writeFile(directory, file, [text]);
}

/**
 * A tokenizer's files with other added tokens: in the places where the files at hand, or any release of transformers, have them.
 *
 * @param tokens by id: all that are never split
 */
export function withAddedTokens(
  files: ReadonlyMap<string, string>,
  tokens: ReadonlyMap<number, AddedToken>,
): ReadonlyMap<string, string> {
  const changed = new Map(files);
  const described = [...tokens].map(([id, token]) => {
    const { content, lstrip = false, rstrip = false, single_word = false, special = false } = token;
    return { id, content, single_word, lstrip, rstrip, normalized: token.normalized ?? !special, special };
  });
  const read = (file: string): Record<string, unknown> | undefined => {
    const text = files.get(file);
    return text === undefined ? undefined : (parseConfig(text, file, "the tokenizer") as Record<string, unknown>);
  };
  const write = (file: string, value: object): void => {
    changed.set(file, `${stringifyPythonJson(value as ConfigDict)}\n`);
  };

  const settings = read("tokenizer_config.json");
  if (settings?.["added_tokens_decoder"] !== undefined) {
    const added_tokens_decoder = Object.fromEntries(described.map(({ id, ...token }) => [id, token]));
    write("tokenizer_config.json", markFloats({ ...settings, added_tokens_decoder }, floatsOf(settings) ?? []));
  } else {
    const before = read("added_tokens.json") ?? {};
    const listed = described.filter(({ content, special }) => !special || content in before);
    write("added_tokens.json", Object.fromEntries(listed.map(({ content, id }) => [content, id])));
  }
  const fast = files.get("tokenizer.json");
  if (fast !== undefined) {
    changed.set("tokenizer.json", JSON.stringify({ ...JSON.parse(fast), added_tokens: described }, null, 2));
  }
  return changed;
}
