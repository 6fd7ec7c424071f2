import {
  IntegrityError,
  type LoadOptions,
  ModelNotFoundError,
  readText,
  type Source,
  type SourceFile,
  UnsupportedModelError,
} from "@diffusers-web/core";
import { checkShards, parseShardedIndex, Weights } from "./weights.ts";

/** Which weights to look for. */
export interface WeightsRequest {
  /** The file name without its ending: `diffusion_pytorch_model`, or `model` as transformers names it. */
  readonly stem: string;
  /** The class that needs them, for errors. */
  readonly className: string;
  readonly options: Pick<LoadOptions, "variant" | "signal" | "progress_callback">;
}

/**
 * Finds and opens a component's weights: one safetensors file, or the several that an index names.
 *
 * Each look costs a request where the source is remote, so the likeliest name comes first.
 *
 * @throws ModelNotFoundError when there are none, saying what was looked for.
 * @throws UnsupportedModelError when there is only a pickle, naming the file and the class.
 * @throws IntegrityError for files that are not what they say.
 */
export async function openWeights(source: Source, request: WeightsRequest): Promise<Weights> {
  const { stem, options } = request;
  const { single, indices } = weightNames(stem, options.variant);
  const file = await source.open(single, options);
  if (file !== undefined) return verify([file], file.path, request);
  for (const index of indices) {
    const text = await readText(source, index, options);
    if (text !== undefined) return openShards(source, index, text, request);
  }
  return refuse(source, [single, ...indices], request);
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

async function openShards(source: Source, name: string, text: string, request: WeightsRequest): Promise<Weights> {
  const index = parseShardedIndex(text, name);
  const files: SourceFile[] = [];
  try {
    for (const shard of index.files) {
      const file = await source.open(shard, request.options);
      if (file === undefined) {
        throw new ModelNotFoundError(`${source.name} has no ${shard}, which its ${name} names.`, {
          file: shard,
          className: request.className,
          found: "no such file",
          expected: shard,
        });
      }
      files.push(file);
    }
  } catch (error) {
    for (const file of files) file.close();
    throw error;
  }
  const weights = verify(files, name, request);
  try {
    checkShards(weights, index);
  } catch (error) {
    weights.close();
    throw error;
  }
  return weights;
}

function verify(files: readonly SourceFile[], name: string, { options }: WeightsRequest): Weights {
  options.progress_callback?.({ phase: "verify", file: name, loaded: 0, total: 0 });
  try {
    return new Weights(files, name);
  } catch (error) {
    for (const file of files) file.close();
    throw error;
  }
}

/** Says why there are no weights to load: only another variant, only a pickle, or nothing at all. */
async function refuse(source: Source, looked: readonly string[], request: WeightsRequest): Promise<never> {
  const { stem, className, options } = request;
  const { variant, signal } = options;
  const missing = `${source.name} has no weights for ${className}: looked for`;
  const details = { file: looked[0]!, className, expected: looked[0]! };

  const other = variant === undefined ? "fp16" : undefined;
  const { single, indices } = weightNames(stem, other);
  for (const name of [single, ...indices]) {
    if (!(await exists(source, name, signal))) continue;
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
    if (!(await exists(source, name, signal))) continue;
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
