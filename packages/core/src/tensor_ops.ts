import { allocate, asNumbers, convert, type DataOf, type DataType, isFloat, promote } from "./dtypes.ts";
import { ValueError } from "./errors.ts";
import { product, showDims } from "./tensor_shapes.ts";

/** The arithmetic that tensors know. */
export type Operator = "add" | "sub" | "mul" | "div";

/** What an operation takes and gives: a tensor's parts. */
export interface Operand {
  readonly type: DataType;
  readonly data: DataOf<DataType>;
  readonly dims: readonly number[];
}

/** Row-major strides, in elements. */
export function stridesOf(dims: readonly number[]): number[] {
  const strides = new Array<number>(dims.length);
  let stride = 1;
  for (let i = dims.length - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= dims[i]!;
  }
  return strides;
}

/**
 * The shape that two shapes are broadcast to.
 *
 * @throws ValueError naming both shapes.
 */
export function broadcastDims(a: readonly number[], b: readonly number[]): number[] {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const x = a[a.length - rank + i] ?? 1;
    const y = b[b.length - rank + i] ?? 1;
    if (x !== y && x !== 1 && y !== 1) {
      throw new ValueError(
        `Tensors of shapes ${showDims(a)} and ${showDims(b)} do not broadcast: ${x} and ${y} differ and neither is 1.`,
        { found: `${showDims(a)} and ${showDims(b)}`, expected: "equal sizes, or 1, counted from the last dimension" },
      );
    }
    return x === 1 ? y : x;
  });
}

/** The strides by which a tensor of `dims` is read as one of shape `target`: 0 along what is repeated. */
export function broadcastStrides(dims: readonly number[], target: readonly number[]): number[] {
  const strides = stridesOf(dims);
  const missing = target.length - dims.length;
  return target.map((_, i) => (i < missing || dims[i - missing] === 1 ? 0 : strides[i - missing]!));
}

/** Copies `source`, read from `offset` by `strides`, into a new array of shape `dims`. */
export function gather<T extends DataType>(
  type: T,
  source: DataOf<T>,
  dims: readonly number[],
  strides: readonly number[],
  offset = 0,
): DataOf<T> {
  const result = allocate(type, product(dims));
  const out = result as Float32Array;
  const from = source as Float32Array;
  const inner = dims.at(-1) ?? 1;
  const step = strides.at(-1) ?? 1;
  walkRows(dims, [strides], (at, [start]) => {
    const base = offset + start!;
    if (step === 1) out.set(from.subarray(base, base + inner), at);
    else for (let i = 0; i < inner; i++) out[at + i] = from[base + i * step]!;
  });
  return result;
}

/** Calls `row` for every run along the last dimension, with where it starts in the result and in each operand. */
function walkRows(
  dims: readonly number[],
  strides: readonly (readonly number[])[],
  row: (at: number, starts: readonly number[]) => void,
): void {
  const inner = dims.at(-1) ?? 1;
  const size = product(dims);
  const index = new Array<number>(Math.max(0, dims.length - 1)).fill(0);
  const starts = strides.map(() => 0);
  for (let at = 0; at < size; at += inner) {
    row(at, starts);
    for (let d = index.length - 1; d >= 0; d--) {
      index[d]!++;
      for (let s = 0; s < starts.length; s++) starts[s]! += strides[s]![d]!;
      if (index[d]! < dims[d]!) break;
      for (let s = 0; s < starts.length; s++) starts[s]! -= strides[s]![d]! * dims[d]!;
      index[d] = 0;
    }
  }
}

/**
 * `a <operator> b`, broadcast, in the type that torch gives it.
 *
 * @throws ValueError for shapes that do not broadcast, TypeError for a difference of bools.
 */
export function combine(operator: Operator, a: Operand, b: Operand | number): Operand {
  const right = typeof b === "number" ? numberOperand(operator, b, a.type) : b;
  let type = a.type === "float16" && typeof b === "number" ? a.type : promote(a.type, right.type);
  if (operator === "div" && !isFloat(type)) type = "float32";
  if (operator === "sub" && (a.type === "bool" || right.type === "bool")) {
    throw new TypeError("sub is not defined for bool tensors: convert them first.");
  }
  const dims = broadcastDims(a.dims, right.dims);
  const size = product(dims);
  if (type === "int64") {
    const out = new BigInt64Array(size);
    runBigInt(operator, toBigInts(a), toBigInts(right), out, dims, a.dims, right.dims);
    return { type, data: out, dims };
  }
  // float16 is computed in float32 and rounded once, as torch does.
  const out = (type === "float16" ? new Float32Array(size) : allocate(type, size)) as Values;
  run(operator, castNumbers(a, type), castNumbers(right, type), out, dims, a.dims, right.dims);
  return { type, data: type === "float16" || type === "bool" ? convert(out, type) : out, dims };
}

/** A number as the operand of a tensor of `type`: a fraction makes integers float32. */
function numberOperand(operator: Operator, value: number, type: DataType): Operand {
  let own: DataType = type;
  if (!isFloat(type)) {
    own = operator === "div" || !Number.isInteger(value) ? "float32" : type === "bool" ? "int64" : type;
  }
  // As in torch, float16 is multiplied by the number itself, but it is added to after rounding.
  if (type === "float16" && (operator === "mul" || operator === "div")) own = "float32";
  return { type: own, data: convert([value], own), dims: [] };
}

function toBigInts({ type, data }: Operand): BigInt64Array {
  return type === "int64" ? (data as BigInt64Array) : convert(asNumbers(type, data), "int64");
}

/** The numbers of an operand, rounded to the type of the result before they are used, as torch casts them. */
function castNumbers({ type, data }: Operand, result: DataType): Values {
  const numbers = asNumbers(type, data);
  if (type === "int32" || type === "int64") {
    if (result === "float16") return asNumbers("float16", convert(numbers, "float16"));
    if (result === "float32") return Float32Array.from(numbers);
  }
  return numbers;
}

/** Each element through `f`, which must know the type; float16 is computed in float32. Not for int64. */
export function mapNumbers<T extends DataType>(type: T, data: DataOf<T>, f: (x: number) => number): DataOf<T> {
  const numbers = asNumbers(type, data);
  const result = (type === "float16" ? new Float32Array(data.length) : allocate(type, data.length)) as Values;
  for (let i = 0; i < numbers.length; i++) result[i] = f(numbers[i]!);
  return (type === "float16" ? convert(result, type) : result) as DataOf<T>;
}

/** Each element, at least `low` and at most `high`; a fraction among the bounds makes integers float32. */
export function clampNumbers(type: DataType, data: DataOf<DataType>, low: number, high: number): Omit<Operand, "dims"> {
  const whole = [low, high].every((bound) => Number.isInteger(bound) || Math.abs(bound) === Number.POSITIVE_INFINITY);
  if (!isFloat(type) && !whole) {
    return clampNumbers("float32", convert(asNumbers(type, data), "float32"), low, high);
  }
  const lowest = Math.min(low, high);
  if (type === "int64") {
    const [below, above] = convert([lowest, high], "int64");
    const clamped = BigInt64Array.from(data as BigInt64Array, (x) => {
      if (x < low) return below!;
      if (x > high) return above!;
      return x;
    });
    return { type, data: clamped };
  }
  // Math.max(-0, 0) is 0, torch leaves -0; comparisons also leave NaN, unless a bound is NaN, which goes everywhere.
  const clamped = mapNumbers(type, data, (x) => {
    if (x < low || Number.isNaN(lowest)) return lowest;
    if (x > high) return high;
    return x;
  });
  return { type, data: clamped };
}

/** Where the smallest (largest) number is; the first NaN, if there is one. */
export function extremeIndex(values: ArrayLike<number>, sign: 1 | -1): number {
  let at = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (Number.isNaN(value)) return i;
    if (sign * value > sign * values[at]!) at = i;
  }
  return at;
}

/** The mean, added up in float64. */
export function meanOf(values: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i]!;
  return total / values.length;
}

/** The unbiased standard deviation; NaN for fewer than two numbers. */
export function deviationOf(values: ArrayLike<number>): number {
  const mean = meanOf(values);
  let squares = 0;
  for (let i = 0; i < values.length; i++) squares += (values[i]! - mean) ** 2;
  return values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : Number.NaN;
}

function sameDims(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, i) => size === b[i]);
}

function run(
  operator: Operator,
  x: Values,
  y: Values,
  out: Values,
  dims: readonly number[],
  xDims: readonly number[],
  yDims: readonly number[],
): void {
  const whole = (a: Values, d: readonly number[]): boolean => a.length === out.length && sameDims(d, dims);
  if ((whole(x, xDims) || x.length === 1) && (whole(y, yDims) || y.length === 1)) {
    rows[operator](x, 0, x.length === 1 ? 0 : 1, y, 0, y.length === 1 ? 0 : 1, out, 0, out.length);
    return;
  }
  const xStrides = broadcastStrides(xDims, dims);
  const yStrides = broadcastStrides(yDims, dims);
  const inner = dims.at(-1) ?? 1;
  walkRows(dims, [xStrides, yStrides], (at, [xAt, yAt]) => {
    rows[operator](x, xAt!, xStrides.at(-1)!, y, yAt!, yStrides.at(-1)!, out, at, inner);
  });
}

type Values = Float32Array | Float64Array | Int32Array | Uint8Array | Uint16Array;

type Row = (
  x: Values,
  xAt: number,
  xStep: number,
  y: Values,
  yAt: number,
  yStep: number,
  out: Values,
  at: number,
  length: number,
) => void;

const rows: Record<Operator, Row> = {
  add(x, xAt, xStep, y, yAt, yStep, out, at, length) {
    for (let i = 0; i < length; i++) out[at + i] = x[xAt + i * xStep]! + y[yAt + i * yStep]!;
  },
  sub(x, xAt, xStep, y, yAt, yStep, out, at, length) {
    for (let i = 0; i < length; i++) out[at + i] = x[xAt + i * xStep]! - y[yAt + i * yStep]!;
  },
  mul(x, xAt, xStep, y, yAt, yStep, out, at, length) {
    // Products of int32 are exact in their low 32 bits only this way.
    if (out instanceof Int32Array) {
      for (let i = 0; i < length; i++) out[at + i] = Math.imul(x[xAt + i * xStep]!, y[yAt + i * yStep]!);
      return;
    }
    for (let i = 0; i < length; i++) out[at + i] = x[xAt + i * xStep]! * y[yAt + i * yStep]!;
  },
  div(x, xAt, xStep, y, yAt, yStep, out, at, length) {
    for (let i = 0; i < length; i++) out[at + i] = x[xAt + i * xStep]! / y[yAt + i * yStep]!;
  },
};

function runBigInt(
  operator: Operator,
  x: BigInt64Array,
  y: BigInt64Array,
  out: BigInt64Array,
  dims: readonly number[],
  xDims: readonly number[],
  yDims: readonly number[],
): void {
  const xStrides = broadcastStrides(xDims, dims);
  const yStrides = broadcastStrides(yDims, dims);
  const inner = dims.at(-1) ?? 1;
  const xStep = xStrides.at(-1) ?? 0;
  const yStep = yStrides.at(-1) ?? 0;
  walkRows(dims, [xStrides, yStrides], (at, [xAt, yAt]) => {
    for (let i = 0; i < inner; i++) {
      const a = x[xAt! + i * xStep]!;
      const b = y[yAt! + i * yStep]!;
      out[at + i] = operator === "add" ? a + b : operator === "sub" ? a - b : a * b;
    }
  });
}
