import {
  type Directory,
  type LoadOptions,
  readText,
  type Source,
  UnsupportedModelError,
  writeFile,
} from "@diffusers-web/core";

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
 * @throws UnsupportedModelError for one that was not read from files.
 */
export async function saveTokenizerFiles(tokenizer: object, directory: Directory): Promise<void> {
  const files = filesOf.get(tokenizer);
  if (files === undefined) {
    const className = tokenizer.constructor.name;
    throw new UnsupportedModelError(`A ${className} that was not loaded has no files to save.`, {
      className,
      field: "save_pretrained",
      expected: `${className}.from_pretrained`,
    });
  }
  for (const [file, text] of files) await writeFile(directory, file, [text]);
}
