import type { SourceFile } from "@diffusers-web/core";

/** Writes a safetensors file: tensors in the order given, each `[dtype, shape, byte length]`. */
export function safetensors(
  tensors: Readonly<Record<string, readonly [dtype: string, shape: readonly number[], byteLength: number]>>,
  options: { data?: ArrayLike<number>; metadata?: Record<string, string>; padding?: number } = {},
): Uint8Array {
  let at = 0;
  const header: Record<string, unknown> = options.metadata === undefined ? {} : { __metadata__: options.metadata };
  for (const [name, [dtype, shape, byteLength]] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [at, at + byteLength] };
    at += byteLength;
  }
  const text = new TextEncoder().encode(JSON.stringify(header) + " ".repeat(options.padding ?? 0));
  const bytes = new Uint8Array(8 + text.length + at);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  if (options.data !== undefined) bytes.set(options.data, 8 + text.length);
  return bytes;
}

/** A file in memory, as a source opens it. */
export function memoryFile(bytes: Uint8Array, path = "model.safetensors"): SourceFile {
  return { path, size: bytes.length, readSync: (begin, end) => bytes.subarray(begin, end), close: () => {} };
}
