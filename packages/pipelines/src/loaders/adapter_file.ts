import {
  type LoadOptions,
  ModelNotFoundError,
  openSource,
  reportProgress,
  type Source,
  type SourceLike,
  subSource,
  type UnsupportedModelError,
} from "@diffusers-web/core";
import { openFile, parseAddress, pickle, type SingleFileSource, Weights } from "@diffusers-web/models";

/** Where a small file of weights is: its address, or a repository or folder that has it. */
export type AdapterSource = SourceLike | SingleFileSource;

/** Which file of a source, and how it is loaded. */
export interface AdapterFileOptions extends Omit<LoadOptions, "variant"> {
  /** The file's name in the repository or folder. */
  readonly weight_name?: string | undefined;
}

/** What a kind of file is called. */
export interface AdapterFileKind {
  /** The usual name, e.g. `pytorch_lora_weights.safetensors`. */
  readonly default_name: string;
  /** Whether another .safetensors file is taken where there is none of the usual name. */
  readonly isGuessed: boolean;
  /** How Python gets at the tensors in a pickle of that name, which is not read. Default: it is nothing but tensors. */
  readonly within?: (file: string) => string;
}

const noPickle = (file: string, { within }: AdapterFileKind): UnsupportedModelError =>
  pickle(file, within?.(file) ?? "");

/**
 * Finds and opens a small file of weights, such as a LoRA: what the address names, `weight_name` in a repository or folder, or
 * the file there that is called as usual.
 *
 * @throws ModelNotFoundError when there is none, saying what there is; UnsupportedModelError for a pickle.
 * @throws IntegrityError for what is no safetensors file.
 * @see Diffusers `_fetch_state_dict`, `_best_guess_weight_name`
 */
export async function openAdapterFile(
  from: AdapterSource,
  kind: AdapterFileKind,
  { weight_name, subfolder, ...options }: AdapterFileOptions,
): Promise<Weights> {
  const { signal } = options;
  const progress = reportProgress(options.progress_callback);
  let source: Source;
  let file: string;
  if (weight_name === undefined && isOneFile(from)) {
    const address = await parseAddress(from, options.endpoint, (name) => kind.within?.(name) ?? "");
    source = await openSource(address.source, { ...options, revision: options.revision ?? address.revision });
    file = address.file;
  } else {
    source = subSource(await openSource(from as SourceLike, options), subfolder);
    file = await chosenFile(source, kind, weight_name, signal);
  }
  const opened = await openFile(source, file, { signal, progress, within: kind.within?.(file) ?? "" });
  try {
    return new Weights([opened]);
  } catch (error) {
    opened.close();
    throw error;
  }
}

/** Whether it is a file itself, not what holds some. */
function isOneFile(from: AdapterSource): from is SingleFileSource {
  if (typeof from === "string" || from instanceof URL) {
    return /\.(safetensors|bin|pt|pth|ckpt|pkl)$/i.test(String(from).replace(/\?.*$/, ""));
  }
  if (typeof File !== "undefined" && from instanceof File) return true;
  return typeof from === "object" && from !== null && "file" in from && "source" in from;
}

const isPickle = (path: string): boolean => /\.(bin|pt|pth|ckpt|pkl)$/i.test(path);

async function chosenFile(
  source: Source,
  kind: AdapterFileKind,
  weight_name: string | undefined,
  signal: AbortSignal | undefined,
): Promise<string> {
  const { default_name, isGuessed } = kind;
  if (weight_name !== undefined && isPickle(weight_name)) throw noPickle(weight_name, kind);
  const listing = await source.list?.({ signal });
  if (listing === undefined) return weight_name ?? default_name;
  const paths = listing.map(({ path }) => path);
  const wanted = weight_name ?? default_name;
  if (paths.includes(wanted)) return wanted;

  const candidates = paths.filter((path) => path.endsWith(".safetensors"));
  if (weight_name === undefined && isGuessed) {
    const guesses = guessesAmong(candidates, default_name);
    if (guesses.length > 1) {
      console.warn(
        `${source.name} has ${guesses.length} .safetensors files: ${guesses[0]} is taken. Pass { weight_name } for another.`,
      );
    }
    if (guesses[0] !== undefined) return guesses[0];
  }
  const old = weight_name === undefined ? paths.find((path) => isPickle(path) && isTop(path)) : undefined;
  if (candidates.length === 0 && old !== undefined) throw noPickle(old, kind);
  const there = candidates.length === 0 ? "none" : candidates.join(", ");
  throw new ModelNotFoundError(
    `${source.name} has no ${wanted}. Its .safetensors files: ${there}. Check { weight_name } and { subfolder }.`,
    { file: wanted, found: there, expected: wanted },
  );
}

const isTop = (path: string): boolean => !path.includes("/");

/** Those that may be meant, the likeliest first: not what a training left behind, and rather at the top than in a folder. */
function guessesAmong(paths: readonly string[], default_name: string): readonly string[] {
  const likely = paths.filter((path) => !/scheduler|optimizer|checkpoint/.test(path));
  const usual = likely.filter((path) => path.endsWith(default_name));
  const candidates = usual.length > 0 ? usual : likely;
  const top = candidates.filter(isTop);
  return top.length > 0 ? top : candidates;
}
