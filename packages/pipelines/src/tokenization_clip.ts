import {
  checkOptions,
  type Directory,
  type LoadOptions,
  ModelNotFoundError,
  makeCallable,
  openSource,
  parseConfig,
  type SourceLike,
  subSource,
  Tensor,
  ValueError,
} from "@diffusers-web/core";
import type { Tokenizer } from "@huggingface/tokenizers";
import { addedTokens, buildBackend, contentOf, idsOfAdded } from "./clip_tokenizer_backend.ts";
import { checkMerges, checkVocab, type FileObject, isToken, namedTokens } from "./clip_tokenizer_files.ts";
import { saveTokenizerFiles, TextFiles, withAddedTokens } from "./tokenizer_files.ts";

/** A token that is never split, as tokenizer files describe it. */
export interface AddedToken {
  readonly content: string;
  readonly lstrip?: boolean;
  readonly rstrip?: boolean;
  readonly single_word?: boolean;
  /** Whether it is looked for in the lower-cased text, or in the text as it was. Default: not for special tokens. */
  readonly normalized?: boolean;
  readonly special?: boolean;
}

/** What a {@link CLIPTokenizer} is made of. */
export interface CLIPTokenizerConfig {
  /** Tokens and their ids. */
  readonly vocab: Readonly<Record<string, number>>;
  /** Pairs of tokens, the earliest merged first. */
  readonly merges: readonly (readonly [string, string])[];
  readonly bos_token?: string | AddedToken;
  readonly eos_token?: string | AddedToken;
  readonly unk_token?: string | AddedToken;
  readonly pad_token?: string | AddedToken;
  /** Further tokens by id. */
  readonly added_tokens?: Readonly<Record<number, AddedToken>>;
  /** Default null: not known. */
  readonly model_max_length?: number | null;
  /** Default "right". */
  readonly padding_side?: "left" | "right";
  /** The side that is cut off. Default "right". */
  readonly truncation_side?: "left" | "right";
}

/** How texts are made equally long. */
export interface TokenizerOptions {
  /** `true` or "longest": to the longest of the batch; "max_length": to `max_length`. Default false. */
  readonly padding?: boolean | "longest" | "max_length";
  /** Cut what is longer than `max_length`. Default false. */
  readonly truncation?: boolean;
  /** Tokens, start and end included. Default: the tokenizer's `model_max_length`. */
  readonly max_length?: number;
  /** Put start and end around the text. Default true. */
  readonly add_special_tokens?: boolean;
}

/** What a tokenizer returns. */
export interface TokenizerOutput {
  /** `[batch, length]`. */
  readonly input_ids: Tensor<"int64">;
  /** `[batch, length]`: 1 for text, 0 for padding. */
  readonly attention_mask: Tensor<"int64">;
}

export interface CLIPTokenizer {
  (text: string, options?: TokenizerOptions): TokenizerOutput;
  (texts: readonly string[], options?: TokenizerOptions): TokenizerOutput;
}

const START = "<|startoftext|>";
const END = "<|endoftext|>";

/**
 * CLIP's byte-level byte-pair encoding: lower case, `</w>` at the end of words, start and end around the text.
 *
 * @example
 * ```ts
 * const tokenizer = await CLIPTokenizer.from_pretrained("openai/clip-vit-large-patch14");
 * const { input_ids } = tokenizer("a cat", { padding: "max_length", truncation: true });
 * console.log(input_ids.dims); // [1, 77]
 * ```
 * @see transformers `CLIPTokenizer`
 */
export class CLIPTokenizer {
  static readonly name: string = "CLIPTokenizer";
  readonly bos_token: string;
  readonly eos_token: string;
  readonly unk_token: string;
  readonly pad_token: string;
  /** The longest text that the model at hand takes, in tokens; null when the files do not say. */
  model_max_length: number | null;
  readonly padding_side: "left" | "right";
  readonly truncation_side: "left" | "right";
  private backend: Tokenizer;
  private readonly model: Pick<CLIPTokenizerConfig, "vocab" | "merges">;
  /** In the order of their ids. */
  private added: readonly AddedToken[];
  private addedIds: ReadonlyMap<string, number>;
  /** Whether its tokens are other ones than those of its files. */
  private isChanged = false;

  /** @throws IntegrityError when the start, end or padding token is not in the vocabulary. */
  constructor(config: CLIPTokenizerConfig) {
    const special = {
      bos_token: config.bos_token ?? START,
      eos_token: config.eos_token ?? END,
      unk_token: config.unk_token ?? END,
      pad_token: config.pad_token ?? END,
    };
    this.bos_token = contentOf(special.bos_token);
    this.eos_token = contentOf(special.eos_token);
    this.unk_token = contentOf(special.unk_token);
    this.pad_token = contentOf(special.pad_token);
    this.model_max_length = config.model_max_length ?? null;
    this.padding_side = config.padding_side ?? "right";
    this.truncation_side = config.truncation_side ?? "right";
    this.model = { vocab: config.vocab, merges: config.merges };
    this.added = addedTokens(config.added_tokens ?? {}, special);
    this.addedIds = idsOfAdded(config.vocab, this.added);
    this.backend = buildBackend(this.model, this.unk_token, this.added);
    // biome-ignore lint/correctness/noConstructorReturn: a tokenizer is a function.
    return makeCallable(this, (self, args) => self.encode(args[0] as string, args[1] as TokenizerOptions));
  }

  get bos_token_id(): number {
    return this.idOf(this.bos_token)!;
  }

  get eos_token_id(): number {
    return this.idOf(this.eos_token)!;
  }

  get unk_token_id(): number {
    return this.idOf(this.unk_token)!;
  }

  get pad_token_id(): number {
    return this.idOf(this.pad_token)!;
  }

  /** The number of tokens, added ones included. */
  get length(): number {
    return this.get_vocab().size;
  }

  /** The tokens that are never split, by id, in the order of their ids. */
  get added_tokens_decoder(): Map<number, AddedToken> {
    const ids = this.added_tokens_encoder;
    const known = this.added.map((token) => [ids.get(token.content)!, token] as const);
    return new Map(known.sort(([a], [b]) => a - b));
  }

  /** The ids of the tokens that are never split. */
  get added_tokens_encoder(): ReadonlyMap<string, number> {
    return this.addedIds;
  }

  /** All tokens and their ids, added ones included. */
  get_vocab(): Map<string, number> {
    return new Map([...Object.entries(this.model.vocab), ...this.addedIds]);
  }

  /** The id of a token; `unk_token_id` for what is none. */
  convert_tokens_to_ids(token: string): number {
    return this.idOf(token) ?? this.unk_token_id;
  }

  private idOf(token: string): number | undefined {
    return this.addedIds.get(token) ?? (Object.hasOwn(this.model.vocab, token) ? this.model.vocab[token] : undefined);
  }

  /** The tokens of a text, without start and end. */
  tokenize(text: string): string[] {
    return this.backend.tokenize(text);
  }

  /**
   * Adds tokens that are never split, with ids behind those there are; in texts, upper and lower case are the same.
   *
   * @returns how many were added: those that were there already are not
   * @see transformers `PreTrainedTokenizer.add_tokens`
   */
  add_tokens(new_tokens: string | readonly string[]): number {
    const known = new Set(this.added.map(({ content }) => content));
    const wanted = new Set(typeof new_tokens === "string" ? [new_tokens] : new_tokens);
    const fresh = [...wanted].filter((content) => content !== "" && !known.has(content));
    this.replaceAdded([...this.added, ...fresh.map((content) => ({ content, normalized: true, special: false }))]);
    return fresh.length;
  }

  /** Takes added tokens away; those behind them move up. @internal */
  remove_tokens(tokens: ReadonlySet<string>): void {
    this.replaceAdded(this.added.filter(({ content }) => !tokens.has(content)));
  }

  private replaceAdded(added: readonly AddedToken[]): void {
    if (added.length === this.added.length) return;
    this.backend = buildBackend(this.model, this.unk_token, added);
    this.added = added;
    this.addedIds = idsOfAdded(this.model.vocab, added);
    this.isChanged = true;
  }

  private encode(text: string | readonly string[], options: TokenizerOptions = {}): TokenizerOutput {
    checkOptions("CLIPTokenizer", options, ["padding", "truncation", "max_length", "add_special_tokens"]);
    const { padding = false, truncation = false, add_special_tokens = true } = options;
    const max_length = options.max_length ?? this.model_max_length;
    const texts = typeof text === "string" ? [text] : text;
    if (!Array.isArray(texts) || !texts.every((item) => typeof item === "string")) {
      throw new ValueError(`A tokenizer takes a string or a list of strings, got ${typeof text}.`, {
        field: "text",
        found: typeof text,
        expected: "a string or a list of strings",
      });
    }
    if ((padding === "max_length" || truncation) && max_length === null) {
      throw new ValueError(
        "The tokenizer's files give no model_max_length (tokenizer_config.json does in other checkpoints). " +
          "Set tokenizer.model_max_length, or pass { max_length }.",
        { field: "max_length", found: "null", expected: "a number of tokens" },
      );
    }

    const [begin, end] = add_special_tokens ? [[this.bos_token_id], [this.eos_token_id]] : [[], []];
    const room = truncation ? max_length! - begin.length - end.length : Number.POSITIVE_INFINITY;
    if (room < 0) {
      throw new ValueError(`max_length ${max_length} leaves no room for the start and end of a text.`, {
        field: "max_length",
        found: String(max_length),
        expected: "at least 2",
      });
    }
    const rows = texts.map((item) => {
      const { ids } = this.backend.encode(item, { add_special_tokens: false });
      const cut = this.truncation_side === "right" || ids.length <= room ? ids.slice(0, room) : ids.slice(-room);
      return [...begin, ...(room === 0 ? [] : cut), ...end];
    });
    const longest = Math.max(0, ...rows.map((row) => row.length));
    const least = padding === "max_length" ? max_length! : padding === false ? 0 : longest;
    const lengths = rows.map((row) => Math.max(row.length, least));
    const length = lengths[0] ?? 0;
    if (lengths.some((other) => other !== length)) {
      throw new ValueError("The texts differ in length, which no tensor can hold: pass { padding: true }.", {
        field: "padding",
        found: `lengths ${lengths.join(", ")}`,
        expected: "equal lengths",
      });
    }

    const input_ids = new BigInt64Array(rows.length * length).fill(BigInt(this.pad_token_id));
    const attention_mask = new BigInt64Array(rows.length * length);
    rows.forEach((row, i) => {
      const start = i * length + (this.padding_side === "right" ? 0 : length - row.length);
      input_ids.set(row.map(BigInt), start);
      attention_mask.fill(1n, start, start + row.length);
    });
    const dims = [rows.length, length];
    return {
      input_ids: new Tensor("int64", input_ids, dims),
      attention_mask: new Tensor("int64", attention_mask, dims),
    };
  }

  /**
   * The text of token ids.
   *
   * @param skip_special_tokens leave out start, end and padding. Default false.
   */
  decode(ids: Iterable<number | bigint>, options: { skip_special_tokens?: boolean } = {}): string {
    const numbers = Array.from(ids, Number);
    if (numbers.length === 0) return "";
    return this.backend.decode(numbers, { ...options, clean_up_tokenization_spaces: false }).trim();
  }

  /** The texts of a batch of token ids, `[batch, length]`. */
  batch_decode(ids: Tensor<"int64">, options: { skip_special_tokens?: boolean } = {}): string[] {
    const [batch = 0, length = 0] = ids.dims;
    return Array.from({ length: batch }, (_, i) =>
      this.decode(ids.data.subarray(i * length, (i + 1) * length), options),
    );
  }

  /**
   * Loads a tokenizer: `tokenizer.json`, or else `vocab.json` and `merges.txt`, and the settings beside them.
   *
   * @throws ModelNotFoundError when there is neither, IntegrityError when a file is damaged.
   * @see transformers `CLIPTokenizer.from_pretrained`
   */
  static async from_pretrained(from: SourceLike, options: LoadOptions = {}): Promise<CLIPTokenizer> {
    const source = subSource(await openSource(from, options), options.subfolder);
    const files = new TextFiles(source, options);
    const read = async (file: string): Promise<FileObject | undefined> => {
      const text = await files.read(file);
      return text === undefined ? undefined : (parseConfig(text, file, source.name) as FileObject);
    };
    const { added_tokens_decoder, ...settings } = (await read("tokenizer_config.json")) ?? {};
    const isOld = added_tokens_decoder === undefined;
    const readOld = async (file: string): Promise<FileObject> => (isOld ? ((await read(file)) ?? {}) : {});
    const [fast, special, addedIds] = await Promise.all([
      read("tokenizer.json"),
      readOld("special_tokens_map.json"),
      readOld("added_tokens.json"),
    ]);
    const added = { ...(added_tokens_decoder as Record<number, AddedToken> | undefined) };
    if (isOld) {
      // Later ones win, as in transformers.
      for (const [content, id] of Object.entries(addedIds)) {
        const isSpecial = Object.values({ ...settings, ...special }).some((token) => isToken(token, content));
        added[id as number] = { content, normalized: !isSpecial, special: isSpecial };
      }
      for (const { id, ...token } of (fast?.["added_tokens"] ?? []) as (AddedToken & { id: number })[]) {
        added[id] = token;
      }
    }

    let model = fast?.["model"] as { vocab?: unknown; merges?: unknown } | undefined;
    if (fast === undefined) {
      const [vocab, merges] = await Promise.all([read("vocab.json"), files.read("merges.txt")]);
      if (vocab === undefined || merges === undefined) {
        const missing = vocab === undefined ? "vocab.json" : "merges.txt";
        throw new ModelNotFoundError(
          `${source.name} has neither tokenizer.json nor ${missing}: a CLIP tokenizer needs the first, or vocab.json ` +
            "and merges.txt.",
          { file: missing, found: "no such file", expected: "tokenizer.json, or vocab.json and merges.txt" },
        );
      }
      model = { vocab, merges: merges.split("\n").filter((line) => line !== "" && !line.startsWith("#version")) };
    }
    const file = fast === undefined ? "vocab.json" : "tokenizer.json";
    const longest = settings["model_max_length"];
    const config: CLIPTokenizerConfig = {
      vocab: checkVocab(model?.vocab, file),
      merges: checkMerges(model?.merges, fast === undefined ? "merges.txt" : file),
      ...namedTokens({ ...settings, ...special }, added),
      added_tokens: added,
      // Python writes 10^30 for "unknown".
      model_max_length: typeof longest === "number" && longest < 1e20 ? longest : null,
      ...(settings["padding_side"] === "left" ? { padding_side: "left" } : {}),
      ...(settings["truncation_side"] === "left" ? { truncation_side: "left" } : {}),
    };
    return files.keepFor(new CLIPTokenizer(config));
  }

  /** Writes the files that the tokenizer was loaded from into a folder; tokens that were added since stand in them. */
  save_pretrained(directory: Directory): Promise<void> {
    const tokens = this.isChanged ? this.added_tokens_decoder : undefined;
    return saveTokenizerFiles(this, directory, tokens && ((files) => withAddedTokens(files, tokens)));
  }
}
