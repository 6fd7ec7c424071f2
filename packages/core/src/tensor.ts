import {
  allocate,
  asNumbers,
  type Combined,
  convert,
  type DataOf,
  type DataType,
  type Divided,
  type Fractional,
  isFloat,
  promote,
} from "./dtypes.ts";
import { ValueError } from "./errors.ts";
import {
  broadcastStrides,
  clampNumbers,
  combine,
  deviationOf,
  extremeIndex,
  gather,
  mapNumbers,
  meanOf,
  type Operator,
  stridesOf,
} from "./tensor_ops.ts";
import {
  axisOf,
  concatenate,
  elementCount,
  flatten,
  joinedDims,
  type NestedNumbers,
  product,
  reshapedDims,
  type SliceRange,
  showDims,
  sliceOf,
  tensorData,
} from "./tensor_shapes.ts";

/** What `Tensor.from` takes: a number, lists in lists, or typed arrays in lists. */
export type TensorLike = number | bigint | boolean | readonly TensorLike[] | ArrayLike<number> | ArrayLike<bigint>;

/** What a tensor can be made of: its typed array, or anything with a length whose elements are numbers. */
export type TensorData<T extends DataType> = DataOf<T> | ArrayLike<number | bigint | boolean>;

/**
 * Numbers in a grid of any rank, row-major, with the operations that Diffusers' own examples use on torch tensors.
 * Operations follow torch: broadcasting, float32 rounding, type promotion. `Tensor` alone is a float32 tensor.
 *
 * Results may share data with their operand where torch's views would (`reshape`, `slice` of leading dimensions).
 *
 * @see torch `torch.Tensor`
 */
export class Tensor<T extends DataType = "float32"> {
  readonly type: T;
  readonly data: DataOf<T>;
  /** The shape, e.g. `[batch, channels, height, width]`; `[]` for a single number. */
  readonly dims: readonly number[];

  /**
   * @param type the element type
   * @param data its typed array, used as it is (float16: the bits in a Uint16Array), or other numbers, which are converted
   * @param dims the shape; its product is the number of elements
   * @throws TypeError for an unknown type, ValueError for a shape that does not fit the data.
   */
  constructor(type: T, data: TensorData<T>, dims: readonly number[]) {
    this.type = type;
    this.data = tensorData(type, data as ArrayLike<number>, dims);
    this.dims = Object.freeze([...dims]);
  }

  /** How many elements there are. */
  get size(): number {
    return this.data.length;
  }

  static zeros<T extends DataType = "float32">(dims: readonly number[], type: T = "float32" as T): Tensor<T> {
    return new Tensor(type, allocate(type, elementCount(dims)), dims);
  }

  static ones<T extends DataType = "float32">(dims: readonly number[], type: T = "float32" as T): Tensor<T> {
    return Tensor.full(dims, 1, type);
  }

  static full<T extends DataType = "float32">(
    dims: readonly number[],
    value: number,
    type: T = "float32" as T,
  ): Tensor<T> {
    const data = allocate(type, elementCount(dims));
    (data as Float32Array).fill(convert([value], type)[0] as number);
    return new Tensor(type, data, dims);
  }

  /**
   * A tensor of nested lists, e.g. `[[1, 2], [3, 4]]`.
   *
   * @param type default "float32"
   * @throws ValueError for lists of unequal lengths.
   */
  static from<T extends DataType = "float32">(values: TensorLike, type: T = "float32" as T): Tensor<T> {
    const { flat, dims } = flatten(values);
    return new Tensor(type, convert(flat, type), dims);
  }

  /** Elementwise sum, broadcast. @throws ValueError for shapes that do not broadcast. */
  add<U extends DataType = never>(other: Tensor<U> | number): Tensor<Combined<T, U>> {
    return this.combine("add", other) as Tensor<DataType> as Tensor<Combined<T, U>>;
  }

  /** Elementwise difference, broadcast. @throws ValueError for shapes that do not broadcast. */
  sub<U extends DataType = never>(other: Tensor<U> | number): Tensor<Combined<T, U>> {
    return this.combine("sub", other) as Tensor<DataType> as Tensor<Combined<T, U>>;
  }

  /** Elementwise product, broadcast. @throws ValueError for shapes that do not broadcast. */
  mul<U extends DataType = never>(other: Tensor<U> | number): Tensor<Combined<T, U>> {
    return this.combine("mul", other) as Tensor<DataType> as Tensor<Combined<T, U>>;
  }

  /** Elementwise quotient, broadcast; float32 for integers. @throws ValueError for shapes that do not broadcast. */
  div<U extends DataType = never>(other: Tensor<U> | number): Tensor<Divided<T, U>> {
    return this.combine("div", other) as Tensor<DataType> as Tensor<Divided<T, U>>;
  }

  neg(): Tensor<T> {
    if (this.type === "bool") throw new TypeError("neg is not defined for a bool tensor.");
    if (this.type === "int64") {
      return this.withData(BigInt64Array.from(this.data as BigInt64Array, (x) => -x) as DataOf<T>);
    }
    return this.map((x) => -x);
  }

  /** The square root of each element; float32 for integers. */
  sqrt(): Tensor<Fractional<T>> {
    if (!isFloat(this.type)) return this.to("float32").sqrt() as Tensor<Fractional<T>>;
    return this.map(Math.sqrt) as Tensor<DataType> as Tensor<Fractional<T>>;
  }

  abs(): Tensor<T> {
    if (this.type === "int64") {
      return this.withData(BigInt64Array.from(this.data as BigInt64Array, (x) => (x < 0n ? -x : x)) as DataOf<T>);
    }
    return this.map(Math.abs);
  }

  /**
   * Each element, at least `min` and at most `max` (which wins where they contradict). NaN stays NaN.
   *
   * @param min null for no bound
   * @param max null for no bound
   */
  clamp(min: number | null = null, max: number | null = null): Tensor<Combined<T, never>> {
    if (min === null && max === null) throw new ValueError("clamp needs a minimum or a maximum.", { field: "min" });
    const low = min ?? Number.NEGATIVE_INFINITY;
    const { type, data } = clampNumbers(this.type, this.data, low, max ?? Number.POSITIVE_INFINITY);
    return new Tensor(type, data, this.dims) as Tensor<DataType> as Tensor<Combined<T, never>>;
  }

  /**
   * The dimensions in another order: `permute(0, 2, 3, 1)` makes `[batch, height, width, channels]` of
   * `[batch, channels, height, width]`.
   *
   * @throws ValueError unless each dimension is named once.
   */
  permute(...axes: number[]): Tensor<T> {
    const order = axes.map((axis) => this.axis(axis));
    if (order.length !== this.dims.length || new Set(order).size !== order.length) {
      throw new ValueError(
        `permute(${axes.join(", ")}) does not name each dimension of a tensor of shape ${showDims(this.dims)} once.`,
        { field: "axes", found: showDims(axes), expected: `a permutation of ${this.dims.length} dimensions` },
      );
    }
    const strides = stridesOf(this.dims);
    return this.gathered(
      order.map((axis) => this.dims[axis]!),
      order.map((axis) => strides[axis]!),
    );
  }

  /**
   * The same elements in another shape; the data is shared.
   *
   * @param dims the shape; one size may be -1, which takes what is left
   * @throws ValueError for a shape with another number of elements.
   */
  reshape(...dims: number[]): Tensor<T> {
    return new Tensor(this.type, this.data, reshapedDims(this.dims, dims));
  }

  /** The same as `reshape`. */
  view(...dims: number[]): Tensor<T> {
    return this.reshape(...dims);
  }

  /** A dimension of size 1 more, before dimension `dim` (from the end if negative). */
  unsqueeze(dim: number): Tensor<T> {
    const at = axisOf(dim, this.dims.length + 1, this.dims);
    return new Tensor(this.type, this.data, [...this.dims.slice(0, at), 1, ...this.dims.slice(at)]);
  }

  /** Without dimension `dim` if its size is 1; without all of size 1 when none is named. */
  squeeze(dim?: number): Tensor<T> {
    const at = dim === undefined ? undefined : this.axis(dim);
    const kept = this.dims.filter((size, i) => size !== 1 || (at !== undefined && i !== at));
    return new Tensor(this.type, this.data, kept);
  }

  /**
   * A part, one range for each leading dimension: `null` for all of it, `[begin, end]` for a range (from the end if
   * negative, cut where it goes beyond, as in Python), a number for one index, which drops the dimension.
   *
   * @throws ValueError for an index outside of its dimension, or for more ranges than dimensions.
   */
  slice(...ranges: SliceRange[]): Tensor<T> {
    const { dims, strides, offset } = sliceOf(this.dims, stridesOf(this.dims), ranges);
    return this.gathered(dims, strides, offset);
  }

  /**
   * The tensor in `n` pieces along `dim`; fewer where they would be empty, the last one smaller, as in torch.
   *
   * @throws ValueError for n below 1.
   */
  chunk(n: number, dim = 0): Tensor<T>[] {
    if (!Number.isInteger(n) || n < 1) {
      throw new ValueError(`chunk needs a whole number of at least 1, got ${n}.`, { field: "n", found: String(n) });
    }
    const axis = this.axis(dim);
    const size = this.dims[axis]!;
    const step = Math.ceil(size / n);
    const count = size === 0 ? n : Math.ceil(size / step);
    const before = new Array<null>(axis).fill(null);
    return Array.from({ length: count }, (_, i) => this.slice(...before, [i * step, Math.min(size, (i + 1) * step)]));
  }

  /**
   * Tensors one after the other along `dim`.
   *
   * @throws ValueError for an empty list, or shapes that differ elsewhere.
   */
  static cat<T extends DataType>(tensors: readonly Tensor<T>[], dim = 0): Tensor<T> {
    const first = tensors[0];
    if (first === undefined) throw new ValueError("cat needs at least one tensor.", { field: "tensors" });
    const axis = first.axis(dim);
    const dims = joinedDims(
      tensors.map((tensor) => tensor.dims),
      axis,
    );
    const type = tensors.reduce<DataType>((sofar, tensor) => promote(sofar, tensor.type), first.type) as T;
    const parts = tensors.map((tensor) => tensor.to(type));
    return new Tensor(type, concatenate(type, parts, axis, dims), dims);
  }

  /** Tensors of one shape along a new dimension `dim`. @throws ValueError for shapes that differ. */
  static stack<T extends DataType>(tensors: readonly Tensor<T>[], dim = 0): Tensor<T> {
    const first = tensors[0];
    if (first === undefined) throw new ValueError("stack needs at least one tensor.", { field: "tensors" });
    return Tensor.cat(
      tensors.map((tensor) => tensor.unsqueeze(dim)),
      dim < 0 ? dim + first.dims.length + 1 : dim,
    );
  }

  /** The elements as another type, converted as torch does (floats to integers: towards zero). Itself if it has it. */
  to<U extends DataType>(type: U): Tensor<U> {
    if ((this.type as DataType) === type) return this as unknown as Tensor<U>;
    const exact = this.type === "int64" && (type === "int32" || type === "uint8");
    return new Tensor(
      type,
      convert(exact ? (this.data as BigInt64Array) : asNumbers(this.type, this.data), type),
      this.dims,
    );
  }

  /** A copy with data of its own. */
  clone(): Tensor<T> {
    return this.withData(this.data.slice() as DataOf<T>);
  }

  /** The number in a tensor of one element. @throws ValueError for more or fewer. */
  item(): number {
    if (this.size !== 1) {
      throw new ValueError(`item() is for tensors of one element; this one has shape ${showDims(this.dims)}.`, {
        found: `${this.size} elements`,
        expected: "1 element",
      });
    }
    return asNumbers(this.type, this.data)[0]!;
  }

  /** The elements in nested lists, as numbers. */
  tolist(): NestedNumbers {
    const numbers = asNumbers(this.type, this.data);
    const nest = (depth: number, at: number, size: number): NestedNumbers => {
      if (depth === this.dims.length) return numbers[at]!;
      const length = this.dims[depth]!;
      const step = length === 0 ? 0 : size / length;
      return Array.from({ length }, (_, i) => nest(depth + 1, at + i * step, step));
    };
    return nest(0, 0, this.size);
  }

  /** The mean of all elements, `[]`. @throws TypeError for integers, as torch does. */
  mean(): Tensor<T> {
    return this.scalar(meanOf(this.floats("mean")));
  }

  /** The smallest of all elements, `[]`; NaN if one is. @throws ValueError for no elements. */
  min(): Tensor<T> {
    return this.extreme("min", -1);
  }

  /** The largest of all elements, `[]`; NaN if one is. @throws ValueError for no elements. */
  max(): Tensor<T> {
    return this.extreme("max", 1);
  }

  /** The unbiased standard deviation of all elements, `[]`. @throws TypeError for integers, as torch does. */
  std(): Tensor<T> {
    return this.scalar(deviationOf(this.floats("std")));
  }

  /** Each slice along `dim` `n` times in a row: `[a, b]` becomes `[a, a, b, b]`. */
  repeat_interleave(n: number, dim: number): Tensor<T> {
    if (!Number.isInteger(n) || n < 0) {
      throw new ValueError(`repeat_interleave needs a whole number of at least 0, got ${n}.`, { field: "n" });
    }
    const axis = this.axis(dim);
    const split = [...this.dims.slice(0, axis + 1), 1, ...this.dims.slice(axis + 1)];
    const repeated = split.map((size, i) => (i === axis + 1 ? n : size));
    const dims = this.dims.map((size, i) => (i === axis ? size * n : size));
    return new Tensor(this.type, gather(this.type, this.data, repeated, broadcastStrides(split, repeated)), dims);
  }

  /**
   * Dimensions of size 1 repeated to the sizes given; -1 keeps a size. Unlike torch's, the result is a copy.
   *
   * @throws ValueError for a size that is neither the present one nor repeats a 1.
   */
  expand(...dims: number[]): Tensor<T> {
    const missing = dims.length - this.dims.length;
    const target = dims.map((size, i) => (size === -1 && i >= missing ? this.dims[i - missing]! : size));
    const fits = this.dims.every((size, i) => size === 1 || size === target[i + missing]);
    if (missing < 0 || !fits || target.some((size) => !Number.isInteger(size) || size < 0)) {
      throw new ValueError(`A tensor of shape ${showDims(this.dims)} cannot be expanded to ${showDims(dims)}.`, {
        field: "dims",
        found: showDims(this.dims),
        expected: "sizes equal to the target's, or 1",
      });
    }
    return this.gathered(target, broadcastStrides(this.dims, target));
  }

  private combine(operator: Operator, other: Tensor<DataType> | number): Tensor<DataType> {
    if (typeof other !== "number" && !(other instanceof Tensor)) {
      throw new TypeError(`${operator} takes a tensor or a number, got ${other === null ? "null" : typeof other}.`);
    }
    const { type, data, dims } = combine(operator, this, other);
    return new Tensor(type, data, dims);
  }

  private map(f: (x: number) => number): Tensor<T> {
    return this.withData(mapNumbers(this.type, this.data, f));
  }

  private withData(data: DataOf<T>): Tensor<T> {
    return new Tensor(this.type, data, this.dims);
  }

  /** The elements at `offset` read by `strides`: a view where they lie together, else a copy. */
  private gathered(dims: readonly number[], strides: readonly number[], offset = 0): Tensor<T> {
    const packed = stridesOf(dims);
    const together = dims.every((size, i) => size === 1 || strides[i] === packed[i]);
    const size = product(dims);
    const data = together
      ? (this.data.subarray(offset, offset + size) as DataOf<T>)
      : gather(this.type, this.data, dims, strides, offset);
    return new Tensor(this.type, data, dims);
  }

  private axis(dim: number): number {
    return axisOf(dim, this.dims.length, this.dims);
  }

  private extreme(operation: string, sign: 1 | -1): Tensor<T> {
    if (this.size === 0) throw new ValueError(`${operation}() of no elements: the shape is ${showDims(this.dims)}.`);
    return this.reshape(-1)
      .slice(extremeIndex(asNumbers(this.type, this.data), sign))
      .clone();
  }

  private scalar(value: number): Tensor<T> {
    return new Tensor(this.type, convert([value], this.type), []);
  }

  private floats(operation: string): ArrayLike<number> {
    if (isFloat(this.type)) return asNumbers(this.type, this.data);
    throw new TypeError(`${operation} needs a float tensor, this one is ${this.type}: convert it with .to("float32").`);
  }
}
