import {
  type FileInfo,
  IntegrityError,
  ModelNotFoundError,
  type OpenOptions,
  type ProgressReporter,
  prefetchFiles,
  readText,
  type Source,
  type SourceFile,
  UnsupportedModelError,
} from "@diffusers-web/core";
import { checkShards, parseShardedIndex, type ShardedIndex, Weights } from "./weights.ts";

/** Which weights to look for. */
export interface WeightsRequest {
  /** The file name without its ending: `diffusion_pytorch_model`, or `model` as transformers names it. */
  readonly stem: string;
  /** The class that needs them, for errors. */
  readonly className: string;
  readonly variant?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly progress?: ProgressReporter | undefined;
}

/** The weight files that a load takes. */
export interface FoundWeights {
  /** The one file, or the index that names several. */
  readonly name: string;
  readonly index?: ShardedIndex;
  /** All of them, the index included. */
  readonly files: readonly FileInfo[];
}

/**
 * Finds and opens a component's weights: one safetensors file, or the several that an index names.
 *
 * Where the source lists its files they are chosen from the list, and fetched together. Elsewhere each look costs a request,
 * so the likeliest name comes first.
 *
 * @throws ModelNotFoundError when there are none, saying what was looked for.
 * @throws UnsupportedModelError when there is only a pickle, naming the file and the class.
 * @throws IntegrityError for files that are not what they say.
 */
export async function openWeights(source: Source, request: WeightsRequest): Promise<Weights> {
  const listing = await source.list?.({ signal: request.signal });
  if (listing !== undefined) {
    const { name, index, files } = await findWeights(source, listing, request);
    await prefetchFiles(source, files, request);
    return index === undefined ? openSingle(source, name, request) : openShards(source, name, index, request);
  }
  const { single, indices } = weightNames(request.stem, request.variant);
  const file = await source.open(single, openOptions(request));
  if (file !== undefined) return verify([file], file.path, request);
  for (const name of indices) {
    const text = await readText(source, name, request);
    if (text !== undefined) return openShards(source, name, parseShardedIndex(text, name), request);
  }
  return refuse(source, [single, ...indices], request, (name) => exists(source, name, request.signal));
}

/** Whether there are weights of that variant (or, undefined, without one) among files of these names. */
export function hasWeights(has: (name: string) => boolean, stem: string, variant: string | undefined): boolean {
  const { single, indices } = weightNames(stem, variant);
  return [single, ...indices].some(has);
}

/**
 * The files that {@link openWeights} takes of those that the source lists. Reads no more than an index.
 *
 * A single file comes before an index. (Diffusers fetches both and reads the index; they hold the same.)
 *
 * @throws as `openWeights` does, and ModelNotFoundError when the source lacks a file that the index names.
 */
export async function findWeights(
  source: Source,
  listing: readonly FileInfo[],
  request: WeightsRequest,
): Promise<FoundWeights> {
  const listed = new Map(listing.map((file) => [file.path, file]));
  const { single, indices } = weightNames(request.stem, request.variant);
  const one = listed.get(single);
  if (one !== undefined) return { name: single, files: [one] };
  const name = indices.find((candidate) => listed.has(candidate));
  const text = name === undefined ? undefined : await readText(source, name, request);
  if (name === undefined || text === undefined) {
    return refuse(source, [single, ...indices], request, async (candidate) => listed.has(candidate));
  }
  const index = parseShardedIndex(text, name);
  const shards = index.files.map((shard) => listed.get(shard) ?? missingShard(source, shard, name, request));
  return { name, index, files: [listed.get(name)!, ...shards] };
}

/** The names under which weights are saved, now and before the variant moved to the end of an index's name. */
function weightNames(stem: string, variant: string | undefined): { single: string; indices: readonly string[] } {
  if (variant === undefined) {
    return { single: `${stem}.safetensors`, indices: [`${stem}.safetensors.index.json`] };
  }
  return {
    single: `${stem}.${variant}.safetensors`,
    indices: [`${stem}.safetensors.index.${variant}.json`, `${stem}.safetensors.${variant}.index.json`],
  };
}

function openOptions({ signal, progress }: WeightsRequest): OpenOptions {
  return { signal, progress_callback: progress };
}

async function openSingle(source: Source, name: string, request: WeightsRequest): Promise<Weights> {
  const file = await source.open(name, openOptions(request));
  if (file !== undefined) return verify([file], file.path, request);
  throw new ModelNotFoundError(`${source.name} lists ${name}, but has it no longer. Load it again.`, {
    file: name,
    className: request.className,
    found: "no such file",
    expected: name,
  });
}

async function openShards(
  source: Source,
  name: string,
  index: ShardedIndex,
  request: WeightsRequest,
): Promise<Weights> {
  const files: SourceFile[] = [];
  try {
    for (const shard of index.files) {
      const file = await source.open(shard, openOptions(request));
      files.push(file ?? missingShard(source, shard, name, request));
    }
  } catch (error) {
    for (const file of files) file.close();
    throw error;
  }
  // As a file of a component the index is called what its shards are: by its path in the whole source.
  const [first] = files as [SourceFile];
  const folder = first.path.slice(0, first.path.lastIndexOf("/") + 1);
  const weights = verify(files, folder + name, request);
  try {
    checkShards(weights, index);
  } catch (error) {
    weights.close();
    throw error;
  }
  return weights;
}

function missingShard(source: Source, shard: string, name: string, { className }: WeightsRequest): never {
  throw new ModelNotFoundError(`${source.name} has no ${shard}, which its ${name} names.`, {
    file: shard,
    className,
    found: "no such file",
    expected: shard,
  });
}

function verify(files: readonly SourceFile[], name: string, { progress }: WeightsRequest): Weights {
  progress?.({ phase: "verify", file: name, loaded: 0, total: 0 });
  try {
    return new Weights(files, name);
  } catch (error) {
    for (const file of files) file.close();
    throw error;
  }
}

/** Says why there are no weights to load: only another variant, only a pickle, or nothing at all. */
async function refuse(
  source: Source,
  looked: readonly string[],
  request: WeightsRequest,
  has: (name: string) => Promise<boolean>,
): Promise<never> {
  const { stem, className, variant } = request;
  const missing = `${source.name} has no weights for ${className}: looked for`;
  const details = { file: looked[0]!, className, expected: looked[0]! };

  const other = variant === undefined ? "fp16" : undefined;
  const { single, indices } = weightNames(stem, other);
  for (const name of [single, ...indices]) {
    if (!(await has(name))) continue;
    const advice = other === undefined ? "leave { variant } out" : `pass { variant: "${other}" }`;
    throw new ModelNotFoundError(`${missing} ${looked.join(", ")}, but it has ${name}: ${advice}.`, {
      ...details,
      found: name === single ? single : `${stem}-*.safetensors`,
      field: "variant",
    });
  }

  const pickle = stem === "model" ? "pytorch_model" : stem;
  const infix = variant === undefined ? "" : `.${variant}`;
  const pickles = [`${pickle}${infix}.bin`, `${pickle}.bin.index${infix}.json`];
  for (const name of pickles) {
    if (!(await has(name))) continue;
    throw new UnsupportedModelError(
      `${source.name} has the weights of ${className} only as ${name}, a pickle, which can run code when it is read. Use ` +
        "a repository with safetensors, or convert them in Python: model.save_pretrained(folder, safe_serialization=True).",
      { ...details, file: name, found: name },
    );
  }
  const all = [...looked, ...pickles].join(", ");
  throw new ModelNotFoundError(`${missing} ${all}. Check the name, { subfolder } and { variant }.`, {
    ...details,
    found: "none of them",
  });
}

/** Whether there is such a file, without reading it: a remote one is dropped as soon as it starts to arrive. */
async function exists(source: Source, name: string, signal: AbortSignal | undefined): Promise<boolean> {
  const found = new AbortController();
  const stop = (): void => found.abort(signal?.reason);
  signal?.addEventListener("abort", stop);
  try {
    const file = await source.open(name, { signal: found.signal, progress_callback: () => found.abort() });
    file?.close();
    return file !== undefined;
  } catch (error) {
    signal?.throwIfAborted();
    if (found.signal.aborted || error instanceof IntegrityError) return true;
    throw error;
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}
