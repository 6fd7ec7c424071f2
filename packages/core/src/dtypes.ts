import { nearest } from "./errors.ts";

/** Element types a tensor can have, named as onnxruntime and transformers.js name them. */
export type DataType = "float32" | "float64" | "float16" | "int32" | "int64" | "uint8" | "bool";

/** The typed array that holds each element type; float16 is kept as its bits, bool as 0 and 1. */
export interface DataMap {
  float32: Float32Array;
  float64: Float64Array;
  float16: Uint16Array;
  int32: Int32Array;
  int64: BigInt64Array;
  uint8: Uint8Array;
  bool: Uint8Array;
}

/** The typed array of element type `T`. */
export type DataOf<T extends DataType> = DataMap[T];

type FloatType = "float32" | "float64" | "float16";

/** What arithmetic on two element types gives: the one of higher rank, as in torch. */
type Promoted<A extends DataType, B extends DataType> = "float64" extends A | B
  ? "float64"
  : "float32" extends A | B
    ? "float32"
    : "float16" extends A | B
      ? "float16"
      : "int64" extends A | B
        ? "int64"
        : "int32" extends A | B
          ? "int32"
          : "uint8" extends A | B
            ? "uint8"
            : "bool";

/** What arithmetic with a JavaScript number gives: floats stay, integers become float32 when the number has a fraction. */
type WithNumber<T extends DataType> = T extends FloatType ? T : T extends "bool" ? "int64" | "float32" : T | "float32";

/** What arithmetic of a `T` tensor with a `U` tensor gives, or with a number (`U` is never). */
export type Combined<T extends DataType, U extends DataType> = [U] extends [never] ? WithNumber<T> : Promoted<T, U>;

/** What a square root gives: floats stay, integers become float32. */
export type Fractional<T extends DataType> = T extends FloatType ? T : "float32";

/** What a division of a `T` tensor by a `U` tensor gives, or by a number (`U` is never). */
export type Divided<T extends DataType, U extends DataType> = Fractional<[U] extends [never] ? T : Promoted<T, U>>;

const ranks: readonly DataType[] = ["bool", "uint8", "int32", "int64", "float16", "float32", "float64"];
const constructors = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

/** The array class of `type`. @throws TypeError for what is no element type, naming the nearest. */
function arrayClass(type: DataType): (typeof constructors)[DataType] {
  if (Object.hasOwn(constructors, type)) return constructors[type];
  const known = Object.keys(constructors);
  const guess = nearest(String(type), known);
  const hint = guess === undefined ? "" : ` Did you mean "${guess}"?`;
  throw new TypeError(`A tensor's type is one of ${known.join(", ")}; got ${String(type)}.${hint}`);
}

export function isFloat(type: DataType): type is FloatType {
  return type === "float32" || type === "float64" || type === "float16";
}

export function promote(a: DataType, b: DataType): DataType {
  return ranks.indexOf(a) >= ranks.indexOf(b) ? a : b;
}

/** A zeroed array of `length` elements. */
export function allocate<T extends DataType>(type: T, length: number): DataOf<T> {
  return new (arrayClass(type))(length) as DataOf<T>;
}

/** Whether `data` is the kind of array that holds `type`. */
export function holds(type: DataType, data: unknown): boolean {
  return data instanceof arrayClass(type);
}

const float32 = new Float32Array(1);
const bits32 = new Uint32Array(float32.buffer);

/** The float16 bits nearest to a float32 value, ties to even; what is too large becomes infinite. */
export function toHalf(value: number): number {
  float32[0] = value;
  const bits = bits32[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x7f800000) return sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00);
  // From 65520 on, values round to infinity.
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // A subnormal half is a multiple of 2^-24; float32 arithmetic at 0.5 has that spacing and rounds ties to even.
    float32[0] = Math.abs(value) + 0.5;
    return sign | (bits32[0]! - 0x3f000000);
  }
  const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
  return sign | ((rounded - 0x38000000) >>> 13);
}

/** The value of float16 bits. */
export function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** A Float16Array, where the runtime has the class, as the bits that a float16 tensor keeps. */
export function halfBits(data: object): Uint16Array | undefined {
  const { Float16Array } = globalThis as { Float16Array?: new () => ArrayBufferView };
  if (Float16Array === undefined || !(data instanceof Float16Array)) return undefined;
  return new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2);
}

/** The elements as numbers, in an array that can be indexed for them: `data` itself where its elements are numbers. */
export function asNumbers(type: DataType, data: DataOf<DataType>): Exclude<DataOf<DataType>, BigInt64Array> {
  if (type === "float16") {
    const source = data as Uint16Array;
    const numbers = new Float32Array(source.length);
    for (let i = 0; i < numbers.length; i++) numbers[i] = fromHalf(source[i]!);
    return numbers;
  }
  if (type === "int64") {
    const source = data as BigInt64Array;
    const numbers = new Float64Array(source.length);
    for (let i = 0; i < numbers.length; i++) numbers[i] = Number(source[i]!);
    return numbers;
  }
  return data as Exclude<DataOf<DataType>, BigInt64Array>;
}

const int64Minimum = -(2n ** 63n);

/** A number as int64: truncated towards zero; what does not fit is the smallest one, as x86 converts. */
function toInt64(value: number): bigint {
  const whole = Math.trunc(value);
  return whole >= -(2 ** 63) && whole < 2 ** 63 ? BigInt(whole) : int64Minimum;
}

/** Numbers (or bigints) as an array of `type`, each converted as torch's `to` does. */
export function convert<T extends DataType>(values: ArrayLike<number | bigint | boolean>, type: T): DataOf<T> {
  const length = values.length;
  const result = allocate(type, length);
  if (type === "int64") {
    const out = result as BigInt64Array;
    for (let i = 0; i < length; i++) {
      const value = values[i]!;
      out[i] = typeof value === "bigint" ? value : toInt64(Number(value));
    }
  } else if (type === "bool") {
    // NaN is true.
    for (let i = 0; i < length; i++) (result as Uint8Array)[i] = Number(values[i]) === 0 ? 0 : 1;
  } else if (type === "float16") {
    for (let i = 0; i < length; i++) (result as Uint16Array)[i] = toHalf(Number(values[i]));
  } else if (type === "int32") {
    const out = result as Int32Array;
    for (let i = 0; i < length; i++) {
      const value = values[i]!;
      if (typeof value === "bigint") out[i] = Number(BigInt.asIntN(32, value));
      else {
        const whole = Math.trunc(Number(value));
        out[i] = whole >= -(2 ** 31) && whole < 2 ** 31 ? whole : -(2 ** 31);
      }
    }
  } else if (type === "uint8") {
    const out = result as Uint8Array;
    for (let i = 0; i < length; i++) {
      const value = values[i]!;
      // A typed array stores a number modulo 256, truncated, as torch's way over int64 does.
      out[i] = typeof value === "bigint" ? Number(BigInt.asUintN(8, value)) : Number(value);
    }
  } else if (ArrayBuffer.isView(values) && !(values instanceof BigInt64Array)) {
    (result as Float32Array).set(values as unknown as Float32Array);
  } else {
    for (let i = 0; i < length; i++) (result as Float32Array)[i] = Number(values[i]);
  }
  return result;
}
