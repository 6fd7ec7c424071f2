import { ValueError } from "../errors.ts";
import { checkCustomTimesteps, checkSteps, checkStepsOrTimesteps, checkStepsTrained } from "./checks.ts";
import type { SetTimestepsOptions } from "./scheduling_utils.ts";

/** The timesteps of a run, and the number of steps that it counts as: more than there are, where `strength` cut some off. */
export interface DistilledRun {
  readonly num_inference_steps: number;
  readonly timesteps: Int32Array;
}

/**
 * The timesteps that a consistency model was distilled with: each k-th of the training's, ascending.
 *
 * @param original_steps how many there are at a `strength` of 1
 * @throws ValueError for none, or more than the training had.
 * @see https://huggingface.co/papers/2310.04378 (4.3)
 */
export function distillationTimesteps(
  where: string,
  num_train_timesteps: number,
  original_steps: number | null,
  strength: number,
): number[] {
  if (original_steps === null || original_steps === 0 || !(original_steps <= num_train_timesteps)) {
    const expected = `1 to \`num_train_timesteps\`: ${num_train_timesteps}`;
    throw new ValueError(`${where}'s \`original_inference_steps\` is ${original_steps}, but must be ${expected}.`, {
      className: where,
      field: "original_inference_steps",
      found: String(original_steps),
      expected,
    });
  }
  const k = Math.floor(num_train_timesteps / original_steps);
  return multiples(Math.trunc(original_steps * strength)).map((i) => (i + 1) * k - 1);
}

/** `0, 1, ... count - 1`; none for a negative count. */
export function multiples(count: number): number[] {
  return Array.from({ length: Math.max(count, 0) }, (_, i) => i);
}

/**
 * The timesteps of a run: so many of the distillation's, evenly spaced in their index, or the caller's own.
 *
 * @param origin the timesteps to choose from, ascending
 * @param original_steps how many there were in the distillation
 * @param options `timesteps` in place of `num_inference_steps`, and `strength`, the share of them that is run
 * @throws ValueError for both or neither, too many steps, or timesteps that do not descend or begin too high.
 * @see Diffusers `LCMScheduler.set_timesteps`, `TCDScheduler.set_timesteps`
 */
export function distilledRun(
  where: string,
  num_train_timesteps: number,
  origin: readonly number[],
  original_steps: number,
  num_inference_steps: number | null,
  options: Pick<SetTimestepsOptions, "timesteps" | "strength">,
): DistilledRun {
  const { timesteps, strength = 1 } = options;
  checkStepsOrTimesteps(where, num_inference_steps, timesteps);
  if (timesteps !== undefined) {
    checkCustomTimesteps(where, timesteps, num_train_timesteps);
    warnOfCustom(where, num_train_timesteps, origin, original_steps, timesteps, strength);
    const init_timestep = Math.min(Math.trunc(timesteps.length * strength), timesteps.length);
    const t_start = Math.max(timesteps.length - init_timestep, 0);
    return { num_inference_steps: timesteps.length, timesteps: Int32Array.from(timesteps).slice(t_start) };
  }

  checkSteps(where, num_inference_steps);
  checkStepsTrained(where, num_inference_steps, num_train_timesteps);
  const most = Math.min(origin.length, original_steps);
  if (num_inference_steps > most) {
    throw new ValueError(
      `\`num_inference_steps\`: ${num_inference_steps} cannot be larger than ${most}, since the timesteps of ${where} ` +
        `are some of the distillation's: \`original_inference_steps\` ${original_steps} x \`strength\` ${strength}.`,
      { className: where, field: "num_inference_steps", found: `${num_inference_steps}`, expected: `at most ${most}` },
    );
  }
  const spacing = origin.length / num_inference_steps;
  return {
    num_inference_steps,
    timesteps: Int32Array.from(
      { length: num_inference_steps },
      (_, i) => origin[origin.length - 1 - Math.floor(i * spacing)]!,
    ),
  };
}

/** What a model was not distilled for is run all the same. */
function warnOfCustom(
  where: string,
  num_train_timesteps: number,
  origin: readonly number[],
  original_steps: number,
  timesteps: ArrayLike<number>,
  strength: number,
): void {
  const warn = (what: string): void => console.warn(`${where}: the custom \`timesteps\` ${what}. Expect odd results.`);
  const last = num_train_timesteps - 1;
  if (strength === 1 && timesteps[0] !== last) warn(`start at ${timesteps[0]}, not at the training's last, ${last}`);
  const distilled = new Set(origin);
  // As in Diffusers, the first is not looked at.
  const foreign = Array.from(timesteps)
    .slice(1)
    .filter((t) => !distilled.has(t));
  if (foreign.length > 0) warn(`hold some that the model was not distilled with: ${foreign.join(", ")}`);
  if (timesteps.length > original_steps)
    warn(`are ${timesteps.length}, more than the distillation's ${original_steps}`);
}
