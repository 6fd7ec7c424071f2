import { UnsupportedModelError, WeightsMismatchError } from "@diffusers-web/core";
import type { WeightType } from "./graph/types.ts";
import { weightTypeBytes } from "./safetensors.ts";
import { convertWeights, type TargetType } from "./weight_conversion.ts";

/** A tensor of a checkpoint: what it is, and how its bytes are read when they are asked for. */
export interface LazyTensor {
  readonly dtype: WeightType;
  readonly shape: readonly number[];
  /** The file it lies in, for errors. */
  readonly file: string;
  /** The bytes, row by row and little-endian, read now. May be a view of the file's own: do not write to it. */
  read(): Uint8Array;
}

/**
 * One step on a tensor's way from the file to the engine. What it makes of the tensor is known before a byte is read, and
 * steps are applied to each tensor alone, as the engine asks for it: a checkpoint is never copied.
 *
 * @param tensor what the step before gives
 * @param name the tensor's name, for steps that change some only, and for errors
 */
export type WeightTransform = (tensor: LazyTensor, name: string) => LazyTensor;

/** Several steps as one, in their order. */
export function chain(...steps: readonly WeightTransform[]): WeightTransform {
  return (tensor, name) => steps.reduce((result, step) => step(result, name), tensor);
}

const typeNames: Readonly<Record<TargetType, WeightType>> = { float32: "F32", float16: "F16", int64: "I64" };

/**
 * Converts the elements, rounding as torch does.
 *
 * @returns a step that throws UnsupportedModelError for an element type that cannot become `to`.
 */
export function cast(to: TargetType): WeightTransform {
  return (tensor, name) => {
    const { dtype, file } = tensor;
    const dtypeAfter = typeNames[to];
    if (dtype === dtypeAfter) return tensor;
    // What an empty tensor cannot become, no tensor can.
    if (convertWeights(new Uint8Array(0), dtype, to) === undefined) {
      throw new UnsupportedModelError(
        `${file}, tensor ${name}: found ${dtype} weights, which cannot be used as ${to}. ` +
          "Quantised checkpoints are not supported: use the original one.",
        { file, tensors: [name], found: dtype, expected: to },
      );
    }
    return { ...tensor, dtype: dtypeAfter, read: () => convertWeights(tensor.read(), dtype, to)! };
  };
}

/** Drops trailing dims of 1: the `[out, in, 1, 1]` of a 1x1 convolution is the `[out, in]` of a linear layer. */
export const squeeze: WeightTransform = (tensor) => {
  const { shape } = tensor;
  return { ...tensor, shape: shape.slice(0, shape.findLastIndex((dim) => dim !== 1) + 1), read: () => tensor.read() };
};

/**
 * Swaps the two dims of a matrix.
 *
 * Not a view of the bytes: the tensor is read and written anew.
 */
export const transpose: WeightTransform = (tensor, name) => {
  const [rows, columns] = tensor.shape;
  if (rows === undefined || columns === undefined || tensor.shape.length !== 2) {
    return refuse(tensor, name, "two dims");
  }
  return {
    ...tensor,
    shape: [columns, rows],
    read: () => transposed(tensor.read(), rows, columns, weightTypeBytes[tensor.dtype]),
  };
};

/** Keeps the rows (of the first dim) from `begin` up to `end`: one of the layers that a checkpoint holds as one. */
export function rows(begin: number, end: number): WeightTransform {
  return (tensor, name) => {
    const [count = 0, ...rest] = tensor.shape;
    if (tensor.shape.length === 0 || end > count) return refuse(tensor, name, `at least ${end} rows`);
    const rowBytes = rest.reduce((product, dim) => product * dim, weightTypeBytes[tensor.dtype]);
    return {
      ...tensor,
      shape: [end - begin, ...rest],
      read: () => tensor.read().subarray(begin * rowBytes, end * rowBytes),
    };
  };
}

function refuse({ file, shape }: LazyTensor, name: string, expected: string): never {
  const found = `[${shape.join(", ")}]`;
  throw new WeightsMismatchError(`${file}, tensor ${name}: found ${found}, expected ${expected}.`, {
    file,
    tensors: [name],
    found,
    expected,
  });
}

const elements = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array, 8: BigUint64Array } as const;

function transposed(bytes: Uint8Array, rows: number, columns: number, size: number): Uint8Array {
  const type = elements[size as keyof typeof elements];
  const aligned = bytes.byteOffset % size === 0 ? bytes : bytes.slice();
  const from = new type(aligned.buffer as ArrayBuffer, aligned.byteOffset, rows * columns);
  const to = new type(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) to[column * rows + row] = from[row * columns + column]!;
  }
  return new Uint8Array(to.buffer);
}
