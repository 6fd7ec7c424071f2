import { IntegrityError, type SourceFile, UnsupportedModelError } from "@diffusers-web/core";
import type { WeightSource, WeightType } from "./graph/types.ts";
import { readSafetensors, type TensorEntry } from "./safetensors.ts";
import { convertWeights, type TargetType } from "./weight_conversion.ts";

interface Located extends TensorEntry {
  readonly in: SourceFile;
}

/** The tensors of one or several safetensors files, read when they are asked for. Owns the files. */
export class Weights implements WeightSource {
  readonly file: string;
  private readonly files: readonly SourceFile[];
  private readonly tensors = new Map<string, Located>();

  /**
   * @param files the safetensors files: their headers are read and checked
   * @param file what errors call them; default the first one's path
   * @throws IntegrityError for a header that lies, and for a tensor that two files have.
   */
  constructor(files: readonly SourceFile[], file: string = files[0]?.path ?? "") {
    this.files = files;
    this.file = file;
    for (const source of files) {
      for (const [name, entry] of readSafetensors(source).tensors) {
        const other = this.tensors.get(name);
        if (other !== undefined) {
          throw new IntegrityError(`${source.path} has the tensor ${name}, which ${other.in.path} has as well.`, {
            file: source.path,
            tensors: [name],
            found: `${name} in ${other.in.path} and ${source.path}`,
            expected: "each tensor in one file",
          });
        }
        this.tensors.set(name, { ...entry, in: source });
      }
    }
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

  /**
   * The tensor's bytes as `as`; a view of the file's own where it is in memory and already of that type.
   *
   * @throws UnsupportedModelError for an element type that cannot be converted to `as`.
   * @throws IntegrityError when the file ends before the tensor does.
   */
  read(name: string, as: TargetType): Uint8Array {
    const { dtype, begin, end, in: source } = this.locate(name);
    const bytes = source.readSync(begin, end);
    if (bytes.length !== end - begin) {
      throw new IntegrityError(
        `${source.path}, tensor ${name}: only ${bytes.length} of ${end - begin} bytes could be read. ` +
          "The file changed or was closed after its header was read.",
        { file: source.path, tensors: [name], found: `${bytes.length} bytes`, expected: `${end - begin} bytes` },
      );
    }
    const converted = convertWeights(bytes, dtype, as);
    if (converted === undefined) {
      throw new UnsupportedModelError(
        `${source.path}, tensor ${name}: found ${dtype} weights, which cannot be used as ${as}. ` +
          "Quantised checkpoints are not supported: use the original one.",
        { file: source.path, tensors: [name], found: dtype, expected: as },
      );
    }
    return converted;
  }

  /** Frees the files. Idempotent. */
  close(): void {
    for (const file of this.files) file.close();
  }

  private locate(name: string): Located {
    const located = this.tensors.get(name);
    if (located === undefined) throw new TypeError(`${this.file} has no tensor ${name}.`);
    return located;
  }
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
