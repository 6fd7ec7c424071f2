import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";

/** The path of a committed fixture, e.g. `fixturePath("schedulers/ddpm.safetensors")`. */
export function fixturePath(name: string): string {
  return fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url));
}

export function fixtureText(name: string): string {
  return readFileSync(fixturePath(name), "utf8");
}

/** A fixture that is packed with gzip, as text. */
export function fixtureGzip(name: string): string {
  return gunzipSync(readFileSync(fixturePath(name))).toString("utf8");
}

export interface FixtureTensor {
  readonly dims: number[];
  readonly data: Float32Array | Float64Array | Int32Array | BigInt64Array | Uint8Array;
}

const arrays = {
  F32: Float32Array,
  F64: Float64Array,
  I32: Int32Array,
  I64: BigInt64Array,
  U8: Uint8Array,
  BOOL: Uint8Array,
};

/** All tensors of a small safetensors file that a generator script wrote. Independent of the reader under test. */
export function fixtureTensors(name: string): Record<string, FixtureTensor> {
  const file = readFileSync(fixturePath(name));
  const headerLength = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString("utf8", 8, 8 + headerLength)) as Record<
    string,
    { dtype: keyof typeof arrays; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors: Record<string, FixtureTensor> = {};
  for (const [key, entry] of Object.entries(header)) {
    if (key === "__metadata__") continue;
    const [begin, end] = entry.data_offsets.map((offset) => offset + 8 + headerLength) as [number, number];
    const bytes = file.buffer.slice(file.byteOffset + begin, file.byteOffset + end);
    tensors[key] = { dims: entry.shape, data: new arrays[entry.dtype](bytes) };
  }
  return tensors;
}
