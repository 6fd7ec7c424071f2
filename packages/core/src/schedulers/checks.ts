import { UnsupportedModelError, ValueError } from "../errors.ts";
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

/** @throws ValueError unless exactly one of a number of steps and a list of timesteps is given. */
export function checkStepsOrTimesteps(
  where: string,
  steps: number | null,
  timesteps: ArrayLike<number> | undefined,
): void {
  if ((steps === null) !== (timesteps === undefined)) return;
  throw new ValueError(
    `${where}.set_timesteps takes either \`num_inference_steps\` or \`timesteps\`: pass one of them.`,
    {
      className: where,
      field: "timesteps",
      found: timesteps === undefined ? "neither" : "both",
      expected: "one of them",
    },
  );
}

/** @throws ValueError where a field of the config is set with which timesteps follow from the sigmas, and cannot be given. */
export function refuseTimestepsWith<C extends object>(
  where: string,
  config: C,
  fields: readonly (keyof C & string)[],
): void {
  for (const field of fields) {
    if (!config[field]) continue;
    throw new ValueError(`Cannot set \`timesteps\` with \`${field}\`: the timesteps then follow from the sigmas.`, {
      className: where,
      field,
    });
  }
}

/** @throws ValueError for timesteps of the caller's own that do not descend, or begin beyond the training's. */
export function checkCustomTimesteps(where: string, timesteps: ArrayLike<number>, trained: number): void {
  for (let i = 1; i < timesteps.length; i++) {
    if (timesteps[i]! < timesteps[i - 1]!) continue;
    throw new ValueError(
      `\`timesteps\` of ${where} must be in descending order, but ${timesteps[i]} follows ${timesteps[i - 1]}.`,
      { className: where, field: "timesteps", found: `${timesteps[i - 1]}, ${timesteps[i]}`, expected: "descending" },
    );
  }
  if (timesteps[0]! < trained) return;
  throw new ValueError(
    `\`timesteps\` of ${where} must start before \`num_train_timesteps\`: ${trained}, but start at ${timesteps[0]}.`,
    { className: where, field: "timesteps", found: String(timesteps[0]), expected: `below ${trained}` },
  );
}

/** @throws ValueError always: an enum field of the config that has none of its values. */
export function unknownValue(where: string, field: string, found: unknown, expected: readonly string[]): never {
  throw new ValueError(
    `${where}'s \`${field}\` is ${JSON.stringify(found)}, but must be one of ${expected.map((x) => `\`${x}\``).join(", ")}.`,
    { className: where, field, found: String(found), expected: expected.join(", ") },
  );
}

/** @throws UnsupportedModelError always: a field of the config that has none of the values that are implemented. */
export function unsupportedValue(where: string, field: string, found: string, expected: readonly string[]): never {
  throw new UnsupportedModelError(
    `\`${field}\` ${found} is not implemented for ${where}, which has ${expected.join(", ")}.`,
    { className: where, field, found, expected: expected.join(", ") },
  );
}

/** @throws ValueError when a multistep solver comes to an order that it does not have: after the last step it is 0. */
export function checkOrder(where: string, field: string, order: number, most: number = Number.POSITIVE_INFINITY): void {
  if (order > 0 && order <= most) return;
  throw new ValueError(
    `${where} has no step of order ${order}. Choose another \`${field}\`, or call \`set_timesteps\` to start over.`,
    { className: where, field, found: String(order), expected: most < 10 ? `1 to ${most}` : "at least 1" },
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

/** @throws ValueError when `count` values of an argument are neither one for all of the batch nor one for each item. */
export function checkPerItem(where: string, name: string, count: number, batch: number): void {
  if (count === 1 || count === batch) return;
  throw new ValueError(`${where} got ${count} ${name} for a batch of ${batch}: give one, or one per item.`, {
    field: name,
    found: String(count),
    expected: `1 or ${batch}`,
  });
}
