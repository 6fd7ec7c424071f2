import type { WeightType } from "./graph/types.ts";

/** Element types that weights are handed to the engine in. */
export type TargetType = "float32" | "float16" | "int64";

const sameBits: Readonly<Record<TargetType, WeightType>> = { float32: "F32", float16: "F16", int64: "I64" };

/**
 * The elements of a little-endian tensor as another type. Rounding is to nearest, ties to even, as torch's.
 *
 * @param bytes as in the file, at any alignment
 * @returns `bytes` themselves when nothing has to change; undefined when `from` cannot become `to`
 */
export function convertWeights(bytes: Uint8Array, from: WeightType, to: TargetType): Uint8Array | undefined {
  if (sameBits[to] === from) return bytes;
  if (to === "int64") return from === "I32" ? asBytes(BigInt64Array.from(view(bytes, Int32Array), BigInt)) : undefined;
  switch (from) {
    case "F64": {
      const singles = Float32Array.from(view(bytes, Float64Array));
      return to === "float32" ? asBytes(singles) : asBytes(halvesOf(singles));
    }
    case "F32":
      return asBytes(halvesOf(view(bytes, Float32Array)));
    case "F16":
      return asBytes(lookUp(view(bytes, Uint16Array), halfToSingleTable()));
    case "BF16":
      return to === "float32"
        ? asBytes(brainToSingle(view(bytes, Uint16Array)))
        : asBytes(lookUp(view(bytes, Uint16Array), brainToHalfTable()));
    default:
      return undefined;
  }
}

type ArrayType<T> = {
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): T;
  readonly BYTES_PER_ELEMENT: number;
};

/** The bytes as elements, copied only when they are not aligned (what a `Buffer` calls a slice is no copy). */
function view<T>(bytes: Uint8Array, type: ArrayType<T>): T {
  const aligned = bytes.byteOffset % type.BYTES_PER_ELEMENT === 0 ? bytes : new Uint8Array(bytes);
  return new type(aligned.buffer, aligned.byteOffset, bytes.length / type.BYTES_PER_ELEMENT);
}

function asBytes(array: ArrayBufferView): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** Maps 16-bit patterns by a table of 65,536: faster than arithmetic on each element. */
function lookUp<T extends Uint32Array | Uint16Array>(source: Uint16Array, table: T): T {
  const result = new (table.constructor as new (length: number) => T)(source.length);
  for (let i = 0; i < source.length; i++) result[i] = table[source[i]!]!;
  return result;
}

let halfToSingle: Uint32Array | undefined;
let brainToHalf: Uint16Array | undefined;

/** For each float16 its float32, both as bits. */
function halfToSingleTable(): Uint32Array {
  if (halfToSingle !== undefined) return halfToSingle;
  halfToSingle = new Uint32Array(65536);
  const single = new Float32Array(1);
  const bits = new Uint32Array(single.buffer);
  for (let half = 0; half < 65536; half++) {
    const sign = (half & 0x8000) << 16;
    const exponent = (half >> 10) & 31;
    const fraction = half & 0x3ff;
    if (exponent === 31) halfToSingle[half] = sign | 0x7f800000 | (fraction << 13);
    else if (exponent > 0) halfToSingle[half] = sign | ((exponent + 112) << 23) | (fraction << 13);
    else {
      single[0] = fraction * 2 ** -24;
      halfToSingle[half] = sign | bits[0]!;
    }
  }
  return halfToSingle;
}

/** For each bfloat16 its float16, both as bits. */
function brainToHalfTable(): Uint16Array {
  brainToHalf ??= halvesOf(new Float32Array(brainToSingle(Uint16Array.from({ length: 65536 }, (_, i) => i)).buffer));
  return brainToHalf;
}

/** A bfloat16 is the upper half of a float32. */
function brainToSingle(source: Uint16Array): Uint32Array {
  const result = new Uint32Array(source.length);
  for (let i = 0; i < source.length; i++) result[i] = source[i]! << 16;
  return result;
}

function halvesOf(singles: Float32Array): Uint16Array {
  const source = new Uint32Array(singles.buffer, singles.byteOffset, singles.length);
  const result = new Uint16Array(source.length);
  const scratch = new Float32Array(1);
  const scratchBits = new Uint32Array(scratch.buffer);
  for (let i = 0; i < source.length; i++) {
    const bits = source[i]!;
    const sign = (bits >>> 16) & 0x8000;
    const magnitude = bits & 0x7fffffff;
    if (magnitude >= 0x47800000) {
      // 65536 and more is infinite; a NaN stays one.
      result[i] = sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00);
    } else if (magnitude < 0x38800000) {
      // Subnormal: at 0.5, float32 has the spacing of these halves, and its addition rounds ties to even.
      scratchBits[0] = magnitude;
      scratch[0] = scratch[0]! + 0.5;
      result[i] = sign | (scratchBits[0]! - 0x3f000000);
    } else {
      // Rounding may carry into the exponent, up to infinity.
      result[i] = sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
    }
  }
  return result;
}
