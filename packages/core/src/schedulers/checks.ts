import { ValueError } from "../errors.ts";
import { Tensor } from "../tensor.ts";

/** @throws ValueError when `num_inference_steps` is no positive whole number. */
export function checkSteps(where: string, steps: number | null): asserts steps is number {
  if (steps !== null && Number.isInteger(steps) && steps > 0) return;
  throw new ValueError(`${where}.set_timesteps needs \`num_inference_steps\` to be a positive integer, got ${steps}.`, {
    className: where,
    field: "num_inference_steps",
    found: String(steps),
    expected: "a positive integer",
  });
}

/** @throws ValueError when there are more steps than the training had. */
export function checkStepsTrained(where: string, steps: number, trained: number): void {
  if (steps <= trained) return;
  throw new ValueError(
    `\`num_inference_steps\`: ${steps} cannot be larger than \`num_train_timesteps\`: ${trained}, ` +
      `since the model of this ${where} was trained with no more timesteps.`,
    { className: where, field: "num_inference_steps", found: String(steps), expected: `at most ${trained}` },
  );
}

/** @throws ValueError always: an enum field of the config that has none of its values. */
export function unknownValue(where: string, field: string, found: unknown, expected: readonly string[]): never {
  throw new ValueError(
    `${where}'s \`${field}\` is ${JSON.stringify(found)}, but must be one of ${expected.map((x) => `\`${x}\``).join(", ")}.`,
    { className: where, field, found: String(found), expected: expected.join(", ") },
  );
}

/** @throws ValueError always: `step` came before `set_timesteps`. */
export function stepsNotSet(where: string): never {
  throw new ValueError(`${where} has no number of inference steps yet: call \`set_timesteps\` before \`step\`.`, {
    className: where,
    field: "num_inference_steps",
    found: "null",
    expected: "a number of steps",
  });
}

/**
 * `table[index]` as Python counts: a negative index is from the end.
 *
 * @throws ValueError when the table has no such entry.
 */
export function entry(table: ArrayLike<number>, index: number, where: string, what: string): number {
  const value = table[index < 0 ? index + table.length : index];
  if (value === undefined) {
    throw new ValueError(`${where} has no ${what} ${index}: there are ${table.length}.`, {
      className: where,
      field: what,
      found: String(index),
      expected: `a whole number below ${table.length}`,
    });
  }
  return value;
}

/**
 * Checks a tensor that `step` or its kin is given.
 *
 * @throws TypeError for what is not a float32 tensor.
 * @throws ValueError for another shape than `dims`.
 */
export function checkTensor(where: string, name: string, tensor: Tensor, dims: readonly number[]): void {
  if (!(tensor instanceof Tensor) || tensor.type !== "float32") {
    const found = tensor instanceof Tensor ? `a ${(tensor as Tensor).type} tensor` : typeof tensor;
    throw new TypeError(`${where} needs \`${name}\` to be a float32 Tensor, got ${found}.`);
  }
  if (tensor.dims.length === dims.length && tensor.dims.every((size, i) => size === dims[i])) return;
  throw new ValueError(`${where} got \`${name}\` of shape [${tensor.dims}], but the sample's asks for [${dims}].`, {
    field: name,
    found: `[${tensor.dims}]`,
    expected: `[${dims}]`,
  });
}

/** Checks that `step` is given two float32 tensors of one shape, as {@link checkTensor} does. */
export function checkSample(where: string, model_output: Tensor, sample: Tensor): void {
  checkTensor(where, "sample", sample, sample.dims);
  checkTensor(where, "model_output", model_output, sample.dims);
}
