import { Generator, Tensor, ValueError } from "@diffusers-web/core";
import type { OutputType } from "./pipeline_output.ts";

/** @throws ValueError unless `value` is a whole number of at least `least`. */
export function checkWhole(field: string, value: unknown, least = 1): void {
  if (typeof value === "number" && Number.isInteger(value) && value >= least) return;
  const found = typeof value === "number" ? String(value) : `${typeof value} ${JSON.stringify(value)}`;
  const expected = `a whole number of at least ${least}`;
  throw new ValueError(`\`${field}\` is ${found}, expected ${expected}.`, { field, found, expected });
}

/** @throws ValueError unless `value` is a finite number of at least `least`. */
export function checkNumber(field: string, value: unknown, least: number = Number.NEGATIVE_INFINITY): void {
  if (typeof value === "number" && Number.isFinite(value) && value >= least) return;
  const found = typeof value === "number" ? String(value) : `${typeof value} ${JSON.stringify(value)}`;
  const expected = least === Number.NEGATIVE_INFINITY ? "a finite number" : `a number of at least ${least}`;
  throw new ValueError(`\`${field}\` is ${found}, expected ${expected}.`, { field, found, expected });
}

/** @throws ValueError unless `value` is within 0 and 1. */
export function checkShare(field: string, value: unknown): void {
  checkNumber(field, value, 0);
  if ((value as number) <= 1) return;
  const found = String(value);
  throw new ValueError(`\`${field}\` is ${found}, expected a number from 0 to 1.`, {
    field,
    found,
    expected: "0 to 1",
  });
}

/** @throws ValueError unless `value` is a float32 tensor whose dims are `expected`; null there stands for any size. */
export function checkTensor(field: string, value: unknown, expected: readonly (number | null)[]): void {
  const shape = `[${expected.map((size) => size ?? "any").join(", ")}]`;
  const found =
    value instanceof Tensor ? `${(value as Tensor).type} [${(value as Tensor).dims.join(", ")}]` : typeof value;
  const fits =
    value instanceof Tensor &&
    (value as Tensor).type === "float32" &&
    value.dims.length === expected.length &&
    expected.every((size, i) => size === null || size === value.dims[i]);
  if (fits) return;
  throw new ValueError(`\`${field}\` is ${found}, expected a float32 tensor of shape ${shape}.`, {
    field,
    found,
    expected: `float32 ${shape}`,
  });
}

/**
 * @throws ValueError for a list of generators that is not as long as the batch, TypeError for what is no generator.
 */
export function checkGenerator(generator: unknown, batch: number): void {
  if (generator == null || generator instanceof Generator) return;
  if (!Array.isArray(generator) || !generator.every((item) => item instanceof Generator)) {
    throw new TypeError(
      "`generator` is neither a Generator nor a list of them: new Generator().manual_seed(0) makes one.",
    );
  }
  if (generator.length === batch) return;
  throw new ValueError(
    `\`generator\` is a list of ${generator.length}, but the batch is ${batch} pictures. Pass one generator for each, or one for all.`,
    { field: "generator", found: `${generator.length} generators`, expected: `${batch} generators` },
  );
}

const outputTypes: readonly OutputType[] = ["image", "pil", "tensor", "pt", "latent"];

/** @throws ValueError for an unknown `output_type`, or one that this pipeline does not give. */
export function checkOutputType(value: unknown, known: readonly OutputType[] = outputTypes): void {
  if (known.includes(value as OutputType)) return;
  throw new ValueError(`\`output_type\` is ${JSON.stringify(value)}, expected one of ${known.join(", ")}.`, {
    field: "output_type",
    found: JSON.stringify(value),
    expected: known.join(", "),
  });
}

/** @throws TypeError for `return_dict: false`: there are no tuples here. */
export function checkReturnDict(value: unknown): void {
  if (value === undefined || value === true) return;
  throw new TypeError("`return_dict: false` has no equivalent: a pipeline returns { images }.");
}

/**
 * What a callback gave back in place of the tensors it was shown.
 *
 * @throws TypeError for what is no tensor of the same shape.
 */
export function replaced(tensors: Readonly<Record<string, Tensor>>, name: string, current: Tensor): Tensor {
  const value = tensors[name];
  if (value === undefined) return current;
  if (value instanceof Tensor && value.type === "float32" && value.dims.length === current.dims.length) return value;
  throw new TypeError(
    `callback_on_step_end returned \`${name}\` that is no float32 tensor of ${current.dims.length} dimensions.`,
  );
}

/**
 * What a callback gave back in place of a list of tensors that it was shown.
 *
 * @throws TypeError for a list of another length, and for what is no tensor of the same shape.
 */
export function replacedList(
  values: Readonly<Record<string, unknown>>,
  name: string,
  current: readonly Tensor[],
): readonly Tensor[] {
  const value = values[name];
  if (value === undefined) return current;
  if (Array.isArray(value) && value.length === current.length) {
    return current.map((one, i) => replaced({ [name]: value[i] ?? null }, name, one));
  }
  throw new TypeError(`callback_on_step_end returned \`${name}\` that is no list of ${current.length} tensors.`);
}
