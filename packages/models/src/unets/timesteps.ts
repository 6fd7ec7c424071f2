import { type DataType, type Tensor, ValueError } from "@diffusers-web/core";

/** A timestep for the whole batch, or one per item. */
export type Timestep = number | Tensor<DataType>;

/**
 * One number per batch item.
 *
 * @throws ValueError for a tensor that is neither a single number nor one per item.
 */
export function perItem(values: Timestep, batch: number, name: string): number[] {
  if (typeof values === "number") return new Array<number>(batch).fill(values);
  const given = Array.from(values.data as ArrayLike<number | bigint>, Number);
  if (values.type === "float16") given.splice(0, given.length, ...(values as Tensor<"float16">).to("float32").data);
  if (given.length === batch && values.dims.length <= 1) return given;
  if (given.length === 1) return new Array<number>(batch).fill(given[0]!);
  throw new ValueError(`\`${name}\` has dims [${values.dims}], but the batch has ${batch} items.`, {
    field: name,
    found: `[${values.dims}]`,
    expected: `[] or [${batch}]`,
  });
}
