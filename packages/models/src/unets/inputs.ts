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
 * @throws ValueError for a tensor that is neither a single number nor one per item, and for numbers that are not finite.
 */
export function perItem(values: Timestep, batch: number, name: string): number[] {
  if (typeof values !== "number" && !(values instanceof Tensor)) {
    const found = values === null ? "null" : typeof values;
    throw new ValueError(`\`${name}\` must be a number or a Tensor, but is ${found}.`, {
      field: name,
      found,
      expected: "a number or a Tensor",
    });
  }
  const given = typeof values === "number" ? [values] : Array.from(values.to("float64").data);
  const unfit = given.find((value) => !Number.isFinite(value));
  if (unfit !== undefined) {
    throw new ValueError(`\`${name}\` has ${unfit} in it, but finite numbers are expected.`, {
      field: name,
      found: String(unfit),
      expected: "finite numbers",
    });
  }
  const rank = typeof values === "number" ? 0 : values.dims.length;
  if (given.length === 1 && rank <= 1) return new Array<number>(batch).fill(given[0]!);
  if (given.length === batch && rank === 1) return given;
  const { dims } = values as Tensor<DataType>;
  throw new ValueError(`\`${name}\` has dims [${dims}], but the batch has ${batch} items.`, {
    field: name,
    found: `[${dims}]`,
    expected: `[] or [${batch}]`,
  });
}

/**
 * Rows `[batch, dim]` of a tensor that has them, or `[1, dim]` or `[dim]`: the same for all items.
 *
 * @param note what the columns are, for the error
 * @throws ValueError for other dims.
 */
export function itemRows(
  tensor: Tensor<DataType>,
  batch: number,
  dim: number,
  name: string,
  className: string,
  note = "",
): Tensor {
  const { dims } = tensor;
  if (dims.length === 2 && dims[0] === batch && dims[1] === dim) return tensor.to("float32");
  if (dims.at(-1) === dim && tensor.size === dim && dims.length <= 2) {
    const row = tensor.to("float32").reshape(1, dim);
    return Tensor.cat(new Array<Tensor>(batch).fill(row), 0);
  }
  const columns = note === "" ? "" : ` (${note})`;
  throw new ValueError(`${className}: \`${name}\` has dims [${dims}], but [${batch},${dim}] is expected${columns}.`, {
    className,
    field: name,
    found: `[${dims}]`,
    expected: `[${batch},${dim}]`,
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
  checkFloats(sample, name, className);
  if (sample.dims.length === 4 && sample.dims[1] === channels && sample.size > 0) return;
  throw new ValueError(
    `${className} takes a \`${name}\` of dims [batch, ${channels}, height, width], but got [${sample.dims}].`,
    { className, field: name, found: `[${sample.dims}]`, expected: `[batch, ${channels}, height, width]` },
  );
}

/**
 * Checks the text that a model attends to.
 *
 * @throws ValueError unless it is `[batch, length, dim]`.
 */
export function checkText(text: Tensor, batch: number, dim: number, className: string): void {
  checkFloats(text, "encoder_hidden_states", className);
  if (text.dims.length === 3 && text.dims[0] === batch && text.dims[2] === dim && text.size > 0) return;
  const expected = `[${batch}, length, ${dim}]`;
  throw new ValueError(`${className} takes \`encoder_hidden_states\` of dims ${expected}, but got [${text.dims}].`, {
    className,
    field: "encoder_hidden_states",
    found: `[${text.dims}]`,
    expected,
  });
}

/**
 * Checks what is fed to a graph as it is.
 *
 * @throws ValueError unless it is a float32 Tensor.
 */
export function checkFloats(tensor: unknown, name: string, className: string): void {
  if (tensor instanceof Tensor && tensor.type === "float32") return;
  const found = tensor instanceof Tensor ? `a ${tensor.type} Tensor` : tensor === null ? "null" : typeof tensor;
  throw new ValueError(
    `${className} takes a float32 Tensor as \`${name}\`, but got ${found}. Convert a Tensor with \`.to("float32")\`.`,
    { className, field: name, found, expected: "a float32 Tensor" },
  );
}
