import { type ConfigDict, float } from "../configuration_utils.ts";
import { ValueError } from "../errors.ts";
import { checkSteps, unknownValue } from "./checks.ts";
import type { BaseSchedulerConfig, SetTimestepsOptions } from "./scheduling_utils.ts";
import { checkSigmaConfig, respacedSigmas, type SigmaConfig } from "./sigmas.ts";
import { linspace } from "./spacing.ts";

/** How flow matching's sigmas are shifted with the size of the picture. */
export type TimeShiftType = "exponential" | "linear" | (string & {});

/** The config fields that flow matching's sigmas are made of. */
export interface FlowMatchConfig extends BaseSchedulerConfig, SigmaConfig {
  /** Shifts the sigmas towards noise (above 1) or away from it. Default 1. */
  shift: number;
  /** Whether to shift by the `mu` that `set_timesteps` is given, in place of `shift`. Default false. */
  use_dynamic_shifting: boolean;
  /** What pipelines calculate `mu` from: its value for the shortest sequence. Default 0.5. */
  base_shift: number | null;
  /** `mu` for the longest sequence. Default 1.15. */
  max_shift: number | null;
  /** The length of the shortest sequence. Default 256. */
  base_image_seq_len: number;
  /** The length of the longest sequence. Default 4096. */
  max_image_seq_len: number;
  /** Whether sigmas run from 0 to 1. Default false. */
  invert_sigmas: boolean;
  /** The last sigma above 0, which the shifted ones are stretched to end at. Default null. */
  shift_terminal: number | null;
  /** Default "exponential". */
  time_shift_type: TimeShiftType;
}

/** The defaults, in Python's order, which `configDefaults` takes. */
export const flowMatchDefaults: Readonly<FlowMatchConfig> = {
  num_train_timesteps: 1000,
  shift: float(1),
  use_dynamic_shifting: false,
  base_shift: 0.5,
  max_shift: 1.15,
  base_image_seq_len: 256,
  max_image_seq_len: 4096,
  invert_sigmas: false,
  shift_terminal: null,
  use_karras_sigmas: false,
  use_exponential_sigmas: false,
  use_beta_sigmas: false,
  time_shift_type: "exponential",
};

/** @throws ValueError when more than one spacing of sigmas is asked for, or for an unknown `time_shift_type`. */
export function checkFlowMatchConfig(where: string, config: Readonly<FlowMatchConfig>): void {
  checkSigmaConfig(where, config);
  const known = ["exponential", "linear"];
  if (!known.includes(config.time_shift_type)) unknownValue(where, "time_shift_type", config.time_shift_type, known);
}

/** Sigmas as numpy has them: of a caller's lists and timesteps it makes float32 arrays, and then calculates in float32. */
type Sigmas = Float32Array | Float64Array;

function roundingOf(sigmas: Sigmas): (x: number) => number {
  return sigmas instanceof Float32Array ? Math.fround : (x: number): number => x;
}

function mapped<S extends Sigmas>(sigmas: S, value: (x: number, round: (x: number) => number) => number): S {
  const round = roundingOf(sigmas);
  return (sigmas as Float64Array).map((x) => value(x, round)) as Sigmas as S;
}

/** `shift * s / (1 + (shift - 1) * s)`. @see https://huggingface.co/papers/2403.03206 (23) */
export function shiftedSigmas<S extends Sigmas>(sigmas: S, shift: number): S {
  return mapped(sigmas, (s, r) => r(r(shift) * s) / r(1 + r(r(shift - 1) * s)));
}

/** The training's sigmas in float32, descending from 1. */
export function trainFlowSigmas(num_train_timesteps: number, shift: number = 1): Float32Array {
  const count = num_train_timesteps;
  return shiftedSigmas(
    Float32Array.from({ length: count }, (_, i) => (count - i) / count),
    shift,
  );
}

/**
 * Shifts times between 0 and 1 by `mu`, which grows with the picture.
 *
 * @param sigma the exponent, 1 everywhere in Diffusers
 * @param t a Float32Array is calculated with in float32
 * @see Diffusers `FlowMatchEulerDiscreteScheduler.time_shift`; https://huggingface.co/papers/2403.03206 (23)
 */
export function timeShift<S extends Sigmas>(type: TimeShiftType, mu: number, sigma: number, t: S): S {
  const shift = type === "exponential" ? Math.exp(mu) : mu;
  return mapped(t, (x, r) => r(shift) / r(r(shift) + r(r(r(1 / x) - 1) ** r(sigma))));
}

/** Stretches descending times, none of them moved past 1, so that the last one is `terminal`. */
export function stretchedToTerminal<S extends Sigmas>(t: S, terminal: number): S {
  const round = roundingOf(t);
  const scale_factor = round(round(1 - t[t.length - 1]!) / round(1 - terminal));
  return mapped(t, (x, r) => 1 - r(r(1 - x) / scale_factor));
}

/** What a run of flow matching is laid out by, besides the config: a scheduler's own. */
export interface FlowMatchRange {
  readonly shift: number;
  /** The training's last sigma. */
  readonly sigma_min: number;
  /** The training's first sigma. */
  readonly sigma_max: number;
}

/** What {@link flowMatchSchedule} lays out. */
export interface FlowMatchSchedule {
  readonly timesteps: Float32Array;
  /** One more than timesteps. */
  readonly sigmas: Float32Array;
}

/**
 * The timesteps and sigmas of a run. Sigmas of the training's ends, which are shifted already, are shifted once more.
 *
 * @param num_inference_steps null with `sigmas` or `timesteps`
 * @throws ValueError without `mu` where the config asks for it, for lists of another length than the steps, for no
 * steps, or for exponential spacing down to 0.
 * @see Diffusers `FlowMatchEulerDiscreteScheduler.set_timesteps`
 */
export function flowMatchSchedule(
  where: string,
  config: Readonly<FlowMatchConfig> & ConfigDict,
  { shift, sigma_min, sigma_max }: FlowMatchRange,
  num_inference_steps: number | null,
  { sigmas: customSigmas, mu, timesteps: customTimesteps }: SetTimestepsOptions,
): FlowMatchSchedule {
  const count = config.num_train_timesteps;
  if (config.use_dynamic_shifting && mu === undefined) {
    throw new ValueError(`${where}.set_timesteps needs \`mu\`, since \`use_dynamic_shifting\` is set.`, {
      className: where,
      field: "mu",
    });
  }
  const steps = num_inference_steps ?? customSigmas?.length ?? customTimesteps?.length ?? null;
  checkSteps(where, steps);
  for (const [field, list] of Object.entries({ sigmas: customSigmas, timesteps: customTimesteps })) {
    if (list === undefined || list.length === steps) continue;
    throw new ValueError(`${where}.set_timesteps got ${list.length} \`${field}\`, but runs ${steps} steps.`, {
      className: where,
      field,
      found: String(list.length),
      expected: String(steps),
    });
  }

  // 1. the caller's sigmas, those of the caller's timesteps, or evenly spaced ones
  const given = customTimesteps === undefined ? undefined : Float32Array.from(customTimesteps);
  let sigmas: Sigmas;
  if (customSigmas !== undefined) sigmas = Float32Array.from(customSigmas);
  else if (given !== undefined) sigmas = given.map((t) => t / Math.fround(count));
  else sigmas = linspace(sigma_max * count, sigma_min * count, steps).map((t) => t / count);

  // 2. shifted by the size of the picture, or by a constant
  if (config.use_dynamic_shifting) sigmas = timeShift(config.time_shift_type, mu!, 1, sigmas);
  else sigmas = shiftedSigmas(sigmas, shift);

  // 3. stretched to end where the config says, 0 standing for nowhere
  if (config.shift_terminal) sigmas = stretchedToTerminal(sigmas, config.shift_terminal);

  // 4. spaced anew between their ends
  if (config.use_exponential_sigmas) checkPositive(where, config, sigmas);
  let rounded = Float32Array.from(respacedSigmas(config, Float64Array.from(sigmas), steps));

  // 5. The caller's timesteps stay as they are, unless sigmas are inverted; the last step goes to where the data are.
  if (config.invert_sigmas) rounded = rounded.map((sigma) => 1 - sigma);
  const timesteps = given !== undefined && !config.invert_sigmas ? given : rounded.map((sigma) => sigma * count);
  return { timesteps, sigmas: Float32Array.from([...rounded, config.invert_sigmas ? 1 : 0]) };
}

/** @throws ValueError when sigmas whose logarithms are spaced are not above 0 at their ends. */
function checkPositive(where: string, config: ConfigDict, sigmas: Sigmas): void {
  const { sigma_min, sigma_max } = config as { sigma_min?: number | null; sigma_max?: number | null };
  for (const sigma of [sigma_max ?? sigmas[0]!, sigma_min ?? sigmas[sigmas.length - 1]!]) {
    if (!(sigma <= 0)) continue;
    throw new ValueError(`${where} cannot space sigmas exponentially from or to ${sigma}: give sigmas above 0.`, {
      className: where,
      field: "use_exponential_sigmas",
      found: String(sigma),
      expected: "a number above 0",
    });
  }
}
