import { type DataType, Tensor, ValueError } from "@diffusers-web/core";

/** A timestep for the whole batch, or one per item. */
export type Timestep = number | Tensor<DataType>;

/** The dims of a graph's inputs, by name. */
export type Dims = Readonly<Record<string, readonly number[]>>;

/** The dims of what a graph is fed. */
export function dimsOf(feeds: Readonly<Record<string, Tensor>>): Dims {
  return Object.fromEntries(Object.entries(feeds).map(([name, tensor]) => [name, tensor.dims]));
}

/**
 * One number per batch item.
 *
 * @throws ValueError for a tensor that is neither a single number nor one per item.
 */
export function perItem(values: Timestep, batch: number, name: string): number[] {
  if (typeof values === "number") return new Array<number>(batch).fill(values);
  const given = Array.from(values.to("float64").data);
  if (given.length === 1) return new Array<number>(batch).fill(given[0]!);
  if (given.length === batch && values.dims.length === 1) return given;
  throw new ValueError(`\`${name}\` has dims [${values.dims}], but the batch has ${batch} items.`, {
    field: name,
    found: `[${values.dims}]`,
    expected: `[] or [${batch}]`,
  });
}

/**
 * Rows of a table: what an embedding layer looks up.
 *
 * @throws ValueError for a row that the table does not have.
 */
export function tableRows(table: Float32Array, rows: readonly number[], count: number, dim: number): Tensor {
  const data = new Float32Array(rows.length * dim);
  rows.forEach((row, i) => {
    if (!(Number.isInteger(row) && row >= 0 && row < count)) {
      throw new ValueError(`There is no embedding number ${row}: the model has ${count}, from 0 on.`, {
        found: String(row),
        expected: `0 to ${count - 1}`,
      });
    }
    data.set(table.subarray(row * dim, (row + 1) * dim), i * dim);
  });
  return new Tensor("float32", data, [rows.length, dim]);
}

/**
 * Checks a sample.
 *
 * @throws ValueError unless it is `[batch, channels, height, width]` with the config's channels.
 */
export function checkSample(sample: Tensor, channels: number, className: string, name = "sample"): void {
  if (sample.dims.length === 4 && sample.dims[1] === channels && sample.size > 0) return;
  throw new ValueError(
    `${className} takes a \`${name}\` of dims [batch, ${channels}, height, width], but got [${sample.dims}].`,
    { className, field: name, found: `[${sample.dims}]`, expected: `[batch, ${channels}, height, width]` },
  );
}
