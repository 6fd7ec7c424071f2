import { checkOptions, loadOptionNames, Tensor, UnsupportedModelError, ValueError } from "@diffusers-web/core";
import type { CLIPTokenizer } from "../tokenization_clip.ts";
import { type AdapterFileKind, type AdapterFileOptions, type AdapterSource, openAdapterFile } from "./adapter_file.ts";
import type {
  CLIPTextEncoder,
  TextualInversionLoaderMixin,
  TextualInversionOptions,
  TextualInversionSource,
} from "./textual_inversion.ts";

const fileKind: AdapterFileKind = {
  default_name: "learned_embeds.safetensors",
  isGuessed: false,
  // A1111's and Diffusers' own.
  within: (file) => (file.endsWith(".pt") ? "['string_to_param']" : ""),
};

const optionNames: readonly string[] = [
  ...loadOptionNames.filter((name) => name !== "variant"),
  "weight_name",
  "tokenizer",
  "text_encoder",
  "hf_token",
];

/** The tensors of a source by name; one without a name that was given by itself. */
type State = Tensor | ReadonlyMap<string, Tensor>;

/** Where vectors go. */
interface Target {
  readonly tokenizer: CLIPTokenizer | null;
  readonly text_encoder: CLIPTextEncoder | null;
  /** What files for XL call the vectors for it. */
  readonly key: "clip_l" | "clip_g";
}

/** A target that is there. */
interface WholeTarget extends Target {
  readonly tokenizer: CLIPTokenizer;
  readonly text_encoder: CLIPTextEncoder;
}

/** The vectors of a word. */
interface Learned {
  readonly token: string;
  /** `[width]` or `[vectors, width]` */
  readonly tensor: Tensor;
}

/**
 * Adds tokens and their vectors: all of them, or none when something does not fit.
 *
 * @see Diffusers `TextualInversionLoaderMixin.load_textual_inversion`
 */
export async function loadTextualInversion(
  pipeline: TextualInversionLoaderMixin,
  from: TextualInversionSource | readonly TextualInversionSource[],
  { token, ...options }: TextualInversionOptions,
): Promise<void> {
  checkOptions(`${pipeline.constructor.name}.load_textual_inversion`, options, optionNames);
  const { tokenizer, text_encoder, hf_token, ...loading } = options;
  // 1. Set correct tokenizer and text encoder
  const targets = targetsOf(pipeline, tokenizer, text_encoder);

  // 2. Normalize inputs
  const sources = (Array.isArray(from) ? from : [from]) as readonly TextualInversionSource[];
  const given = (Array.isArray(token) ? token : [token]) as readonly (string | null | undefined)[];
  const tokens = given.length === 1 && given[0] == null ? sources.map(() => null) : given;

  // 3. Check inputs
  checkNumbers(sources, tokens);

  // 4. Load state dicts of textual embeddings
  const states: State[] = [];
  for (const source of sources) states.push(await stateOf(source, { ...loading, token: hf_token }));
  options.signal?.throwIfAborted();
  const isXL = "text_encoder_2" in pipeline.components;
  for (const state of states) checkState(state, isXL);

  // 5. to 7. Retrieve and extend tokens and embeddings, make sure that they fit; nothing is changed yet
  const additions = targets.map((target, i) => {
    const here = states.map((state, j) => ({ state, token: tokens[j] ?? null }));
    // A file without vectors for several text encoders is for the first one.
    const own = here.filter(({ state }) => (isPair(state) ? isWhole(target) : i === 0));
    // One source may hold the vectors of several tokens.
    const names = states.length === 1 && tokens.length > 1 ? tokens : undefined;
    return own.length === 0 ? undefined : prepare(checkTarget(target), learnedOf(own, names, checkTarget(target)));
  });
  if (additions.every((add) => add === undefined)) checkTarget(targets[0]!);
  for (const add of additions) add?.();
}

/**
 * Takes tokens and their vectors away.
 *
 * @see Diffusers `TextualInversionLoaderMixin.unload_textual_inversion`
 */
export function unloadTextualInversion(
  pipeline: TextualInversionLoaderMixin,
  tokens: string | readonly string[] | null | undefined,
  tokenizer: CLIPTokenizer | null | undefined,
  text_encoder: CLIPTextEncoder | null | undefined,
): void {
  const targets = targetsOf(pipeline, tokenizer, text_encoder);
  const there = targets.filter(isWhole);
  if (there.length === 0) checkTarget(targets[0]!);
  const wanted = tokens == null || tokens.length === 0 ? undefined : [tokens].flat();
  const removals = there.map((target) => {
    const added = [...target.tokenizer.added_tokens_decoder];
    const lastSpecial = added.findLast(([, { special }]) => special === true)?.[0] ?? -1;
    const leaving = added.filter(([, { content, special }]) => !special && (wanted?.includes(content) ?? true));
    return { ...checkTarget(target), lastSpecial, leaving };
  });
  if (wanted !== undefined && removals.every(({ leaving }) => leaving.length === 0)) {
    const known = there.flatMap((target) => [...target.tokenizer.added_tokens_decoder.values()]);
    const expected = known.flatMap(({ content, special }) => (special ? [] : [content])).join(", ") || "none";
    throw new ValueError(`No tokens to remove found: ${wanted.join(", ")} are none of those added: ${expected}.`, {
      field: "tokens",
      found: wanted.join(", "),
      expected,
    });
  }
  for (const { tokenizer, text_encoder, lastSpecial, leaving } of removals) {
    if (leaving.length === 0) continue;
    const ids = new Set(leaving.map(([id]) => id));
    text_encoder.token_embeddings = text_encoder.token_embeddings.without(ids, lastSpecial + 1);
    tokenizer.remove_tokens(new Set(leaving.map(([, { content }]) => content)));
  }
}

/** The text encoders at hand: those that are passed, or all of the pipeline. */
function targetsOf(
  { components }: TextualInversionLoaderMixin,
  tokenizer: CLIPTokenizer | null | undefined,
  text_encoder: CLIPTextEncoder | null | undefined,
): readonly Target[] {
  const of = (name: string): unknown => components[name] ?? null;
  const first = {
    tokenizer: tokenizer ?? (of("tokenizer") as CLIPTokenizer | null),
    text_encoder: text_encoder ?? (of("text_encoder") as CLIPTextEncoder | null),
  };
  const second = {
    tokenizer: of("tokenizer_2") as CLIPTokenizer | null,
    text_encoder: of("text_encoder_2") as CLIPTextEncoder | null,
  };
  const isSecond = first.text_encoder !== null && first.text_encoder === second.text_encoder;
  const targets: Target[] = [{ ...first, key: isSecond ? "clip_g" : "clip_l" }];
  const isGiven = tokenizer != null || text_encoder != null;
  return isGiven || !("text_encoder_2" in components) ? targets : [...targets, { ...second, key: "clip_g" }];
}

function isWhole(target: Target): target is WholeTarget {
  return target.tokenizer !== null && target.text_encoder !== null;
}

/** @throws ValueError for one that is not there, UnsupportedModelError for one whose graph is fixed. */
function checkTarget(target: Target): WholeTarget {
  if (!isWhole(target)) {
    const missing = target.tokenizer === null ? "tokenizer" : "text_encoder";
    throw new ValueError(
      `A textual inversion needs a ${missing}, which this pipeline was loaded without: pass { ${missing} }.`,
      { field: missing, found: "null", expected: `a ${missing}` },
    );
  }
  if (target.text_encoder.token_embeddings !== undefined) return target;
  const className = (target.text_encoder as object).constructor.name;
  throw new UnsupportedModelError(
    `This pipeline's text_encoder is an ${className}, whose graph is fixed: no tokens can be added to it. Use the checkpoint ` +
      "in the layout of Diffusers.",
    { className, field: "load_textual_inversion", found: className, expected: "a CLIPTextModel" },
  );
}

/** @throws ValueError for as many tokens as cannot be, and for one that is there twice. */
function checkNumbers(
  sources: readonly TextualInversionSource[],
  tokens: readonly (string | null | undefined)[],
): void {
  const fail = (message: string, found: string, expected: string): never => {
    throw new ValueError(message, { field: "token", found, expected });
  };
  if (sources.length === 0) fail("The list of textual inversions is empty: pass one at least.", "none", "one or more");
  if (sources.length > 1 && sources.length !== tokens.length) {
    fail(
      `There are ${sources.length} textual inversions, but ${tokens.length} tokens: pass as many.`,
      `${tokens.length} tokens`,
      `${sources.length} tokens`,
    );
  }
  const named = tokens.filter((token) => token != null);
  const wrong = named.find((token) => typeof token !== "string" || token === "");
  if (wrong !== undefined)
    fail(`A token is ${JSON.stringify(wrong)}, expected a text.`, JSON.stringify(wrong), "a text");
  const twice = named.find((token, i) => named.indexOf(token) < i);
  if (twice !== undefined) fail(`The token ${twice} is there twice: ${named.join(", ")}.`, twice, "distinct tokens");
}

/** Reads the tensors of a source. */
async function stateOf(source: TextualInversionSource, options: AdapterFileOptions): Promise<State> {
  if (source instanceof Tensor) return source;
  if (isStateDict(source)) return new Map(Object.entries(source));
  const weights = await openAdapterFile(source, fileKind, options);
  try {
    const names = [...weights.names()];
    // What is no embedding is not read: it may be large.
    const wanted = names.length === 1 || names.includes("clip_l") ? names : [];
    if (wanted.length === 0) throw incorrect(names, weights.file);
    return new Map(
      wanted.map((name) => {
        const bytes = weights.read(name, "float32").slice();
        return [name, new Tensor("float32", new Float32Array(bytes.buffer), weights.shape(name)!)];
      }),
    );
  } finally {
    weights.close();
  }
}

function isStateDict(source: AdapterSource | Readonly<Record<string, Tensor>>): source is Record<string, Tensor> {
  if (typeof source !== "object" || source === null || Object.getPrototypeOf(source) !== Object.prototype) return false;
  return Object.values(source).every((value: unknown) => value instanceof Tensor);
}

/** Whether it has vectors for both text encoders of XL. */
function isPair(state: State): state is ReadonlyMap<string, Tensor> {
  return !(state instanceof Tensor) && state.size === 2 && state.has("clip_l") && state.has("clip_g");
}

function checkState(state: State, isXL: boolean): void {
  if (state instanceof Tensor || state.size === 1 || (isXL && isPair(state))) return;
  throw incorrect([...state.keys()]);
}

function incorrect(names: readonly string[], file = "A textual inversion"): ValueError {
  const found = names.length > 5 ? `${names.slice(0, 5).join(", ")} and ${names.length - 5} more` : names.join(", ");
  const expected = "one tensor, or clip_l and clip_g for a pipeline of Stable Diffusion XL";
  return new ValueError(`${file} holds ${found || "no tensor"}, but ${expected} is expected.`, {
    field: "source",
    found,
    expected,
  });
}

/** The words that a target is taught. @param tokens where there are several for the only source */
function learnedOf(
  own: readonly { readonly state: State; readonly token: string | null }[],
  tokens: readonly (string | null | undefined)[] | undefined,
  { key }: WholeTarget,
): readonly Learned[] {
  return own.flatMap(({ state, token }) => {
    const isNamed = !(state instanceof Tensor) && !isPair(state);
    const [name, tensor] = isNamed
      ? [...state][0]!
      : [undefined, state instanceof Tensor ? state : (state.get(key) as Tensor)];
    if (tensor.dims.length < 1 || tensor.dims.length > 2) {
      throw wrongShape(token ?? name ?? key, tensor.dims, "[width] or [vectors, width]");
    }
    if (tokens !== undefined) return split(tensor, tokens, name);
    const called = token ?? name;
    if (called !== undefined) return [{ token: called, tensor }];
    throw new ValueError(
      "A textual inversion without a name (a Tensor, or clip_l and clip_g) was given without a token: pass { token }.",
      { field: "token", found: "null", expected: "what prompts call it" },
    );
  });
}

/** One tensor of n vectors for n tokens. */
function split(
  tensor: Tensor,
  tokens: readonly (string | null | undefined)[],
  name: string | undefined,
): readonly Learned[] {
  const [count, width] = tensor.dims.length === 2 ? (tensor.dims as [number, number]) : [1, tensor.dims[0]!];
  const isForOne = name !== undefined;
  if (isForOne || count !== tokens.length || tokens.includes(null) || tokens.includes(undefined)) {
    const found = isForOne ? `one textual inversion, ${name}` : `${count} vectors`;
    throw new ValueError(
      `There are ${tokens.length} tokens for ${found}: pass ${isForOne ? "one" : "as many"} ` +
        `(one token for several vectors makes them one word).`,
      { field: "token", found: `${tokens.length} tokens`, expected: isForOne ? "one" : `${count}` },
    );
  }
  return tokens.map((token, i) => ({
    token: token!,
    tensor: new Tensor("float32", tensor.to("float32").data.slice(i * width, (i + 1) * width), [width]),
  }));
}

/** Checks all of a target's words. What comes back adds them. */
function prepare({ tokenizer, text_encoder }: WholeTarget, learned: readonly Learned[]): () => void {
  const vocab = tokenizer.get_vocab();
  const width = text_encoder.config.hidden_size;
  const added = new Map<string, Float32Array>();
  const words: string[] = [];
  const fail = (message: string, found: string): never => {
    throw new ValueError(`${message} Pass another { token }, or unload_textual_inversion first.`, {
      field: "token",
      found,
      expected: "a token that is not there yet",
    });
  };
  for (const { token, tensor } of learned) {
    if (vocab.has(token)) fail(`The token ${token} is in the tokenizer's vocabulary already.`, token);
    if (vocab.has(`${token}_1`)) {
      const known = [token];
      while (vocab.has(`${token}_${known.length}`)) known.push(`${token}_${known.length}`);
      fail(`The tokenizer's vocabulary has ${known.slice(1).join(", ")}, as if ${token} had several vectors.`, token);
    }
    if (tensor.dims.at(-1) !== width) throw wrongShape(token, tensor.dims, `[${width}] or [vectors, ${width}]`);
    const { data } = tensor.to("float32");
    const count = data.length / width;
    if (count === 0) throw wrongShape(token, tensor.dims, `[${width}] or [vectors, ${width}]`);
    for (let i = 0; i < count; i++) {
      const name = i === 0 ? token : `${token}_${i}`;
      if (added.has(name) || vocab.has(name)) fail(`The token ${name} is there twice.`, name);
      added.set(name, data.slice(i * width, (i + 1) * width));
    }
    if (count > 1) words.push(token);
  }

  const count = tokenizer.length + added.size;
  const vectors = new Map([...added.values()].map((vector, i) => [tokenizer.length + i, vector]));
  const embeddings = text_encoder.token_embeddings.resized(count, vectors);
  if (embeddings === undefined) {
    const found = `${text_encoder.token_embeddings.length}`;
    throw new ValueError(
      `The tokenizer has ${tokenizer.length} tokens, but the text encoder embeddings of ${found} only.`,
      { field: "tokenizer", found, expected: `${tokenizer.length}` },
    );
  }
  return () => {
    text_encoder.token_embeddings = embeddings;
    tokenizer.add_tokens([...added.keys()]);
    const unseen = words.filter((word) => tokenizer.tokenize(word)[0] !== word);
    if (unseen.length === 0) return;
    console.warn(
      `Of ${unseen.join(", ")} prompts reach the first vector only, as in Diffusers, because of the upper-case letters: pass a ` +
        "{ token } in lower case to use all of them.",
    );
  };
}

function wrongShape(token: string, dims: readonly number[], expected: string): ValueError {
  const found = `[${dims.join(", ")}]`;
  return new ValueError(
    `The textual inversion ${token} has vectors of the shape ${found}, but ${expected} is expected: it is for another model.`,
    { field: "source", found, expected },
  );
}
