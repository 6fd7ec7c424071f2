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
export function parseTensors(file: Uint8Array): Record<string, FixtureTensor> {
  const { buffer, byteOffset, byteLength } = file;
  const headerLength = Number(new DataView(buffer, byteOffset, byteLength).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + headerLength))) as Record<
    string,
    { dtype: keyof typeof arrays; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors: Record<string, FixtureTensor> = {};
  for (const [key, entry] of Object.entries(header)) {
    if (key === "__metadata__") continue;
    const [begin, end] = entry.data_offsets.map((offset) => offset + 8 + headerLength) as [number, number];
    tensors[key] = { dims: entry.shape, data: new arrays[entry.dtype](file.slice(begin, end).buffer) };
  }
  return tensors;
}
