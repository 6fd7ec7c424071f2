import { allocate, convert, type DataOf, type DataType, halfBits, holds } from "./dtypes.ts";
import { ValueError } from "./errors.ts";

/** Numbers in lists in lists, as `tolist` gives them and `Tensor.from` takes them. */
export type NestedNumbers = number | readonly NestedNumbers[];

/** The part of one dimension that `slice` takes. */
export type SliceRange = number | readonly [number, number] | null;

/** `[2, 3]`, as Python prints a shape. */
export function showDims(dims: readonly number[]): string {
  return `[${dims.join(", ")}]`;
}

export function product(dims: readonly number[]): number {
  return dims.reduce((a, b) => a * b, 1);
}

/**
 * How many elements a tensor of shape `dims` has.
 *
 * @throws TypeError for what is no shape.
 */
export function elementCount(dims: readonly number[]): number {
  if (!Array.isArray(dims) || dims.some((size) => !Number.isSafeInteger(size) || size < 0)) {
    const found = Array.isArray(dims) ? showDims(dims) : typeof dims;
    throw new TypeError(`A shape is a list of whole numbers of at least 0, e.g. [1, 4, 64, 64]; got ${found}.`);
  }
  return product(dims);
}

/**
 * The typed array of a new tensor: `data` itself where it is the type's own.
 *
 * @throws TypeError for an unknown type, ValueError for data that does not fill the shape.
 */
export function tensorData<T extends DataType>(
  type: T,
  data: ArrayLike<number | bigint | boolean>,
  dims: readonly number[],
): DataOf<T> {
  const own = holds(type, data);
  const size = elementCount(dims);
  if (data.length !== size) {
    throw new ValueError(`${data.length} values do not fill a tensor of shape ${showDims(dims)}, which has ${size}.`, {
      field: "dims",
      found: `${data.length} values`,
      expected: `${size} values`,
    });
  }
  if (own) return data as DataOf<T>;
  const bits = type === "float16" ? halfBits(data) : undefined;
  return (bits as DataOf<T> | undefined) ?? convert(data, type);
}

function isList(value: unknown): value is ArrayLike<unknown> {
  return Array.isArray(value) || (ArrayBuffer.isView(value) && "length" in value);
}

/**
 * The numbers of nested lists, in order, and the shape of the lists.
 *
 * @throws ValueError for lists of unequal lengths.
 */
export function flatten(values: unknown): { flat: (number | bigint | boolean)[]; dims: number[] } {
  const dims: number[] = [];
  for (let level = values; isList(level); level = level[0]) dims.push(level.length);
  const flat: (number | bigint | boolean)[] = [];
  const visit = (value: unknown, depth: number): void => {
    const expected = dims[depth];
    if (isList(value) ? value.length !== expected : expected !== undefined) {
      const found = isList(value) ? `a list of ${value.length}` : String(value);
      throw new ValueError(
        `Nested lists must have equal lengths: at depth ${depth}, ${found} is not like the others.`,
        {
          field: "values",
          found,
          expected: expected === undefined ? "a number" : `a list of ${expected}`,
        },
      );
    }
    if (!isList(value)) flat.push(value as number);
    else for (let i = 0; i < value.length; i++) visit(value[i], depth + 1);
  };
  visit(values, 0);
  return { flat, dims };
}

/**
 * The dimension that `dim` names in a shape of `rank` dimensions, from the end if negative.
 *
 * @throws ValueError for one that is not there.
 */
export function axisOf(dim: number, rank: number, dims: readonly number[]): number {
  const axis = dim < 0 ? dim + rank : dim;
  if (Number.isInteger(axis) && axis >= 0 && axis < rank) return axis;
  throw new ValueError(`Dimension ${dim} is out of range for a tensor of shape ${showDims(dims)}.`, {
    field: "dim",
    found: String(dim),
    expected: rank === 0 ? "a tensor with dimensions" : `${-rank} to ${rank - 1}`,
  });
}

/**
 * `dims` with its -1 filled in.
 *
 * @throws ValueError for a shape with another number of elements.
 */
export function reshapedDims(from: readonly number[], dims: readonly number[]): number[] {
  const size = product(from);
  const known = product(dims.filter((n) => n !== -1));
  const shape = dims.map((n) => (n === -1 && known > 0 ? size / known : n));
  const open = dims.filter((n) => n === -1).length;
  if (open > 1 || shape.some((n) => !Number.isInteger(n) || n < 0) || product(shape) !== size) {
    throw new ValueError(`A tensor of shape ${showDims(from)} cannot be reshaped to ${showDims(dims)}.`, {
      field: "dims",
      found: `${size} elements`,
      expected: showDims(dims),
    });
  }
  return shape;
}

/** Where a slice lies: its shape and strides, and the element it begins with. */
export interface Slice {
  readonly dims: number[];
  readonly strides: number[];
  readonly offset: number;
}

/** @throws ValueError for an index outside of its dimension, or for more ranges than dimensions. */
export function sliceOf(dims: readonly number[], strides: readonly number[], ranges: readonly SliceRange[]): Slice {
  if (ranges.length > dims.length) {
    throw new ValueError(`slice got ${ranges.length} ranges for a tensor of shape ${showDims(dims)}.`, {
      field: "ranges",
      found: `${ranges.length} ranges`,
      expected: `at most ${dims.length}`,
    });
  }
  const kept: Slice & { offset: number } = { dims: [], strides: [], offset: 0 };
  for (const [i, size] of dims.entries()) {
    const range = ranges[i] ?? null;
    if (typeof range === "number") {
      const index = range < 0 ? range + size : range;
      if (!Number.isInteger(index) || index < 0 || index >= size) {
        throw new ValueError(
          `Index ${range} is out of range for dimension ${i} of a tensor of shape ${showDims(dims)}.`,
          {
            field: "ranges",
            found: String(range),
            expected: `${-size} to ${size - 1}`,
          },
        );
      }
      kept.offset += index * strides[i]!;
      continue;
    }
    const [begin, end] = range === null ? [0, size] : [bound(range[0], size), bound(range[1], size)];
    kept.offset += begin * strides[i]!;
    kept.dims.push(Math.max(0, end - begin));
    kept.strides.push(strides[i]!);
  }
  return kept;
}

/** A bound of a range as Python takes it: from the end if negative, cut to the dimension. */
function bound(value: number, size: number): number {
  if (!Number.isInteger(value) && Math.abs(value) !== Number.POSITIVE_INFINITY) {
    throw new TypeError(`The bounds of a range are whole numbers; got ${value}.`);
  }
  return Math.min(size, Math.max(0, value < 0 ? value + size : value));
}

/**
 * The shape of tensors joined along `axis`.
 *
 * @throws ValueError for shapes that differ elsewhere.
 */
export function joinedDims(shapes: readonly (readonly number[])[], axis: number): number[] {
  const first = shapes[0]!;
  for (const dims of shapes) {
    if (dims.length === first.length && dims.every((size, i) => i === axis || size === first[i])) continue;
    throw new ValueError(
      `Tensors of shapes ${showDims(first)} and ${showDims(dims)} cannot be joined along dimension ${axis}.`,
      { field: "tensors", found: showDims(dims), expected: `${showDims(first)}, except in dimension ${axis}` },
    );
  }
  return first.map((size, i) => (i === axis ? shapes.reduce((sum, dims) => sum + dims[axis]!, 0) : size));
}

/** The data of equally typed tensors, joined along `axis`. */
export function concatenate<T extends DataType>(
  type: T,
  parts: readonly { data: DataOf<T>; dims: readonly number[] }[],
  axis: number,
  dims: readonly number[],
): DataOf<T> {
  const result = allocate(type, product(dims));
  const outer = product(dims.slice(0, axis));
  const row = product(dims.slice(axis));
  let column = 0;
  for (const { data, dims: partDims } of parts) {
    const length = product(partDims.slice(axis));
    for (let i = 0; i < outer; i++) {
      (result as Float32Array).set((data as Float32Array).subarray(i * length, (i + 1) * length), i * row + column);
    }
    column += length;
  }
  return result;
}
