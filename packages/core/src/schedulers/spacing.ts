import { unknownValue } from "./checks.ts";
import type { TimestepSpacing } from "./scheduling_utils.ts";

/** Rounds to the nearest whole number, halves to the even one, as Python and numpy do. */
export function roundHalfEven(x: number): number {
  const rounded = Math.round(x);
  return Math.abs(x % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

/**
 * `numpy.linspace(start, stop, count)`: `count` evenly spaced numbers, both ends included, to the bit.
 *
 * @see numpy `linspace`
 */
export function linspace(start: number, stop: number, count: number): Float64Array {
  const delta = stop - start;
  const step = delta / (count - 1);
  const values = new Float64Array(count);
  // A step that underflows to zero is avoided by dividing first.
  for (let i = 0; i < count; i++) values[i] = (step === 0 ? (i / (count - 1)) * delta : i * step) + start;
  if (count === 1) values[0] = start;
  if (count > 1) values[count - 1] = stop;
  return values;
}

/**
 * `numpy.arange(start, stop, step)` of floats, to the bit: rounding may put one more number at its end than expected.
 *
 * @see numpy `arange`
 */
export function arange(start: number, stop: number, step: number): Float64Array {
  const values = new Float64Array(Math.max(0, Math.ceil((stop - start) / step)));
  const delta = start + step - start;
  for (let i = 0; i < values.length; i++) values[i] = start + i * delta;
  if (values.length > 1) values[1] = start + step;
  return values;
}

/** "linspace": `count` timesteps from `last` down to 0, not yet rounded. */
export function linspaceTimesteps(last: number, count: number): Float64Array {
  return linspace(0, last, count).reverse();
}

/** "leading": multiples of `ratio` from `(count - 1) * ratio` down to 0, plus `offset`. */
export function leadingTimesteps(ratio: number, count: number, offset: number): Float64Array {
  return Float64Array.from({ length: count }, (_, i) => (count - 1 - i) * ratio + offset);
}

/** "trailing": from `from - 1` down in steps of `ratio`, each rounded. */
export function trailingTimesteps(from: number, ratio: number): Float64Array {
  return arange(from, 0, -ratio).map((t) => roundHalfEven(t) - 1);
}

/**
 * The timesteps of the schedulers that work on sigmas, which read sigmas between the training's off a fraction: only
 * "trailing" rounds.
 *
 * @param config how to space; `steps_offset` goes with "leading"
 * @param num_train_timesteps how many timesteps to lay them out over
 * @throws ValueError for an unknown `timestep_spacing`.
 * @see Diffusers `DPMSolverSDEScheduler.set_timesteps`
 */
export function spacedTimesteps64(
  where: string,
  config: { readonly timestep_spacing: TimestepSpacing; readonly steps_offset: number },
  steps: number,
  num_train_timesteps: number,
): Float64Array {
  const { timestep_spacing, steps_offset } = config;
  switch (timestep_spacing) {
    case "linspace":
      return linspaceTimesteps(num_train_timesteps - 1, steps);
    case "leading":
      return leadingTimesteps(Math.floor(num_train_timesteps / steps), steps, steps_offset);
    case "trailing":
      return trailingTimesteps(num_train_timesteps, num_train_timesteps / steps);
    default:
      return unknownValue(where, "timestep_spacing", timestep_spacing, ["linspace", "leading", "trailing"]);
  }
}

/** {@link spacedTimesteps64} of the schedulers that keep them in float32. @see Diffusers `LMSDiscreteScheduler.set_timesteps` */
export function spacedTimesteps(...args: Parameters<typeof spacedTimesteps64>): Float32Array {
  return Float32Array.from(spacedTimesteps64(...args));
}

/**
 * The timesteps of the solvers of DPM-Solver's kind, whole numbers below `last_timestep`: "linspace" and "leading" lay
 * out one more, and leave out the last.
 *
 * @param last_timestep the training's timesteps from here on are left out
 * @throws ValueError for an unknown `timestep_spacing`.
 * @see Diffusers `DPMSolverMultistepScheduler.set_timesteps`
 */
export function solverTimesteps(
  where: string,
  config: {
    readonly num_train_timesteps: number;
    readonly timestep_spacing: TimestepSpacing;
    readonly steps_offset: number;
  },
  steps: number,
  last_timestep: number = config.num_train_timesteps,
): Float64Array {
  const { num_train_timesteps, timestep_spacing, steps_offset } = config;
  switch (timestep_spacing) {
    case "linspace":
      return linspaceTimesteps(last_timestep - 1, steps + 1)
        .map(roundHalfEven)
        .slice(0, -1);
    case "leading":
      return leadingTimesteps(Math.floor(last_timestep / (steps + 1)), steps + 1, steps_offset).slice(0, -1);
    case "trailing":
      return trailingTimesteps(last_timestep, num_train_timesteps / steps);
    default:
      return unknownValue(where, "timestep_spacing", timestep_spacing, ["linspace", "leading", "trailing"]);
  }
}

/** The first value once, each other one twice in a row: the schedule of a solver that calls the model twice a step. */
export function twiceButFirst(values: Float32Array): Float32Array {
  return Float32Array.from({ length: 2 * values.length - 1 }, (_, i) => values[(i + 1) >> 1]!);
}

/** The values with `midpoints` between them, one fewer, in the precision of the values. */
export function interleaved<T extends Float32Array | Float64Array>(values: T, midpoints: ArrayLike<number>): T {
  const all = (
    values instanceof Float64Array ? new Float64Array(2 * values.length - 1) : new Float32Array(2 * values.length - 1)
  ) as T;
  return all.map((_, i) => (i % 2 === 0 ? values : midpoints)[i >> 1]!) as T;
}
