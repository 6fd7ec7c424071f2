import { IntegrityError, type SourceFile } from "@diffusers-web/core";
import type { WeightSource, WeightType } from "./graph/types.ts";
import { readSafetensors, type TensorEntry } from "./safetensors.ts";
import type { TargetType } from "./weight_conversion.ts";
import { cast, type LazyTensor } from "./weight_transforms.ts";

/** Tensors by name, none of them read yet. */
export type LazyTensors = ReadonlyMap<string, LazyTensor>;

/** The tensors of one or several safetensors files, read when they are asked for. Owns the files. */
export class Weights implements WeightSource {
  readonly file: string;
  /** The free text entries of the files' headers; of several files the last one's, where two have the same. */
  readonly metadata: Readonly<Record<string, string>>;
  private files: readonly SourceFile[];
  private tensors: LazyTensors;

  /**
   * @param files the safetensors files: their headers are read and checked
   * @param file what errors call them; default the first one's path
   * @throws IntegrityError for a header that lies, and for a tensor that two files have.
   */
  constructor(files: readonly SourceFile[], file: string = files[0]?.path ?? "") {
    this.files = files;
    this.file = file;
    const tensors = new Map<string, LazyTensor>();
    const metadata: Record<string, string> = {};
    for (const source of files) {
      const header = readSafetensors(source);
      Object.assign(metadata, header.metadata);
      for (const [name, entry] of header.tensors) {
        const other = tensors.get(name);
        if (other !== undefined) {
          throw new IntegrityError(`${source.path} has the tensor ${name}, which ${other.file} has as well.`, {
            file: source.path,
            tensors: [name],
            found: `${name} in ${other.file} and ${source.path}`,
            expected: "each tensor in one file",
          });
        }
        tensors.set(name, lazyTensor(source, name, entry));
      }
    }
    this.tensors = tensors;
    this.metadata = metadata;
  }

  /**
   * The same files seen another way: tensors under other names, left out, cut in parts, or with a {@link WeightTransform}
   * applied. Nothing is read or copied for it; closing either closes the files of both.
   */
  view(change: (tensors: LazyTensors) => LazyTensors): Weights {
    const seen = new Weights([], this.file);
    Object.assign(seen.metadata, this.metadata);
    seen.files = this.files;
    seen.tensors = change(this.tensors);
    return seen;
  }

  shape(name: string): readonly number[] | undefined {
    return this.tensors.get(name)?.shape;
  }

  dtype(name: string): WeightType {
    return this.locate(name).dtype;
  }

  names(): Iterable<string> {
    return this.tensors.keys();
  }

  /** The tensors themselves, to be written elsewhere. */
  entries(): Iterable<[string, LazyTensor]> {
    return this.tensors.entries();
  }

  /**
   * The tensor's bytes as `as`; a view of the file's own where it is in memory and already of that type.
   *
   * @throws UnsupportedModelError for an element type that cannot be converted to `as`.
   * @throws IntegrityError when the file ends before the tensor does.
   */
  read(name: string, as: TargetType): Uint8Array {
    return cast(as)(this.locate(name), name).read();
  }

  /** Frees the files. Idempotent. */
  close(): void {
    for (const file of this.files) file.close();
  }

  private locate(name: string): LazyTensor {
    const located = this.tensors.get(name);
    if (located === undefined) throw new TypeError(`${this.file} has no tensor ${name}.`);
    return located;
  }
}

function lazyTensor(source: SourceFile, name: string, { dtype, shape, begin, end }: TensorEntry): LazyTensor {
  const file = source.path;
  const read = (): Uint8Array => {
    const bytes = source.readSync(begin, end);
    if (bytes.length === end - begin) return bytes;
    throw new IntegrityError(
      `${file}, tensor ${name}: only ${bytes.length} of ${end - begin} bytes could be read. ` +
        "The file changed or was closed after its header was read.",
      { file, tensors: [name], found: `${bytes.length} bytes`, expected: `${end - begin} bytes` },
    );
  };
  return { dtype, shape, file, read };
}

/** The index of a checkpoint in several files: which file holds each tensor. */
export interface ShardedIndex {
  /** The files, each once, in the order of their names. */
  readonly files: readonly string[];
  readonly weightMap: Readonly<Record<string, string>>;
}

/**
 * Parses a `*.safetensors.index.json`.
 *
 * @throws IntegrityError when it is not a JSON object with a `weight_map` of file names.
 */
export function parseShardedIndex(text: string, file: string): ShardedIndex {
  const fail = (found: string, cause?: unknown): never => {
    const expected = "a JSON object whose weight_map names a file for each tensor";
    throw new IntegrityError(`${file}: found ${found}, expected ${expected}.`, { file, found, expected }, { cause });
  };
  let index: unknown;
  try {
    index = JSON.parse(text);
  } catch (cause) {
    fail(`text that is not JSON (${(cause as Error).message})`, cause);
  }
  const map = (index as { weight_map?: unknown } | null)?.weight_map;
  if (typeof map !== "object" || map === null || Array.isArray(map)) fail("no weight_map");
  const entries = Object.entries(map as object);
  if (entries.length === 0) fail("an empty weight_map");
  for (const [tensor, name] of entries) {
    // A path that leaves the folder is no shard of this checkpoint.
    const isName = typeof name === "string" && /^[^/\\]+\.safetensors$/.test(name);
    if (!isName) fail(`${JSON.stringify(name)} for ${tensor}`);
  }
  return { files: [...new Set(Object.values(map as Record<string, string>))].sort(), weightMap: map as never };
}

/** @throws IntegrityError when a shard lacks a tensor that the index puts in it. */
export function checkShards(weights: Weights, index: ShardedIndex): void {
  const missing = Object.keys(index.weightMap).filter((name) => weights.shape(name) === undefined);
  if (missing.length === 0) return;
  throw new IntegrityError(
    `${weights.file} puts ${missing[0]} in ${index.weightMap[missing[0]!]}, which has no such tensor` +
      `${missing.length > 1 ? ` (and ${missing.length - 1} more)` : ""}.`,
    { file: weights.file, tensors: missing, found: "no such tensor", expected: index.weightMap[missing[0]!]! },
  );
}
