import { IntegrityError, type SourceFile } from "@diffusers-web/core";
import type { WeightType } from "./graph/types.ts";

/** Bytes per element of the types that safetensors files hold. */
export const weightTypeBytes: Readonly<Record<WeightType, number>> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
};

/** Where a tensor lies in its file. */
export interface TensorEntry {
  readonly dtype: WeightType;
  readonly shape: readonly number[];
  /** The first byte and the byte after the last, from the start of the file. */
  readonly begin: number;
  readonly end: number;
}

/** The header of a safetensors file. */
export interface SafetensorsHeader {
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** The free text entries under `__metadata__`. */
  readonly metadata: Readonly<Record<string, string>>;
}

/** The reference implementation's limit. */
const MAX_HEADER_BYTES = 100_000_000;

/**
 * Reads the header of a safetensors file and checks that it describes the file: each tensor's range is as long as its
 * shape and type imply, and the ranges fill the file without overlap, gap or rest.
 *
 * @throws IntegrityError naming the file and the tensor, what was found and what was expected.
 * @see https://github.com/huggingface/safetensors#format
 */
export function readSafetensors(file: SourceFile): SafetensorsHeader {
  const fail: Fail = (found, expected, tensor) => {
    const where = tensor === undefined ? file.path : `${file.path}, tensor ${tensor}`;
    throw new IntegrityError(`${where}: found ${found}, expected ${expected}. Download the file again.`, {
      file: file.path,
      found,
      expected,
      ...(tensor === undefined ? {} : { tensors: [tensor] }),
    });
  };
  if (file.size < 8) fail(`${file.size} bytes`, "a safetensors file, which starts with 8 bytes of header length");
  const head = file.readSync(0, 8);
  if (head.length < 8) fail(`${head.length} bytes`, `${file.size} bytes`);
  const start = new TextDecoder().decode(head);
  if (start === "version ") fail("a Git LFS pointer", "the safetensors file that it points to");

  const headerLength = Number(new DataView(head.buffer, head.byteOffset, 8).getBigUint64(0, true));
  if (headerLength > MAX_HEADER_BYTES || headerLength < 2) {
    // Only then: the length of a sound header may begin with the byte of `<`.
    if (/^\s*</.test(start)) fail("a web page", "a safetensors file");
    fail(`a header length of ${headerLength}`, `2 to ${MAX_HEADER_BYTES}`);
  }
  const dataStart = 8 + headerLength;
  if (dataStart > file.size) fail(`a file of ${file.size} bytes`, `at least the ${dataStart} of its header`);

  const entries = parseHeader(file.readSync(8, dataStart), fail);
  const { __metadata__: metadata = {}, ...described } = entries;
  if (!isRecord(metadata)) fail("a __metadata__ that is no object", "an object of strings");
  const tensors = new Map<string, TensorEntry>();
  for (const [name, entry] of Object.entries(described)) tensors.set(name, checkEntry(name, entry, dataStart, fail));
  checkLayout(tensors, dataStart, file.size, fail);
  return { tensors, metadata: metadata as Record<string, string> };
}

type Fail = (found: string, expected: string, tensor?: string) => never;

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function parseHeader(bytes: Uint8Array, fail: Fail): Record<string, unknown> {
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    fail(`a header that is not JSON (${(cause as Error).message})`, "a JSON object");
  }
  if (!isRecord(header)) fail("a header that is no JSON object", "a JSON object");
  return header as Record<string, unknown>;
}

function checkEntry(name: string, entry: unknown, dataStart: number, fail: Fail): TensorEntry {
  if (!isRecord(entry)) fail(JSON.stringify(entry), "an object with dtype, shape and data_offsets", name);
  const { dtype, shape, data_offsets: offsets } = entry as Record<string, unknown>;
  if (typeof dtype !== "string" || !Object.hasOwn(weightTypeBytes, dtype)) {
    fail(`dtype ${JSON.stringify(dtype)}`, `one of ${Object.keys(weightTypeBytes).join(", ")}`, name);
  }
  if (!isSizes(shape)) fail(`shape ${JSON.stringify(shape)}`, "a list of whole numbers", name);
  if (!isSizes(offsets) || offsets.length !== 2) {
    fail(`data_offsets ${JSON.stringify(offsets)}`, "two whole numbers", name);
  }
  const [begin, end] = offsets as [number, number];
  const itemBytes = weightTypeBytes[dtype as WeightType];
  const byteLength = (shape as number[]).reduce((product, dim) => product * dim, itemBytes);
  if (end - begin !== byteLength) {
    fail(`bytes ${begin} to ${end}`, `${byteLength} bytes for ${dtype} [${(shape as number[]).join(", ")}]`, name);
  }
  return { dtype: dtype as WeightType, shape: shape as number[], begin: dataStart + begin, end: dataStart + end };
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}

function checkLayout(tensors: Map<string, TensorEntry>, dataStart: number, size: number, fail: Fail): void {
  const inOrder = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let at = dataStart;
  let before = "";
  for (const [name, { begin, end }] of inOrder) {
    if (begin < at) fail(`a start at byte ${begin}, inside ${before}`, `a start at byte ${at}`, name);
    if (begin > at) fail(`a start at byte ${begin}`, `a start at byte ${at}, where the one before ends`, name);
    if (end > size) fail(`a file of ${size} bytes (truncated?)`, `at least ${end}`, name);
    at = end;
    before = name;
  }
  if (at !== size) fail(`a file of ${size} bytes`, `${at} bytes, where its last tensor ends`);
}
