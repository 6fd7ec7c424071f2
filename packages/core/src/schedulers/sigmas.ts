import type { ConfigDict } from "../configuration_utils.ts";
import { ValueError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { betaQuantile } from "./beta_distribution.ts";
import { checkSample, unknownValue, unsupportedValue } from "./checks.ts";
import { numpyLog32, sqrt32 } from "./float32.ts";
import type { PredictionType, TimestepSpacing } from "./scheduling_utils.ts";
import { linspace } from "./spacing.ts";

/** The config fields that choose how sigmas are spaced; at most one of the three may be set. */
export interface SigmaConfig {
  /** Whether to space sigmas as Karras et al. Default false. */
  use_karras_sigmas: boolean | null;
  /** Whether to space sigmas exponentially. Default false. */
  use_exponential_sigmas: boolean | null;
  /** Whether to space sigmas by quantiles of a beta distribution. Default false. */
  use_beta_sigmas: boolean | null;
}

/** @throws ValueError when more than one spacing of sigmas is asked for. */
export function checkSigmaConfig(where: string, config: Readonly<SigmaConfig>): void {
  const { use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas } = config;
  if (Number(use_karras_sigmas) + Number(use_exponential_sigmas) + Number(use_beta_sigmas) <= 1) return;
  throw new ValueError("Only one of `use_beta_sigmas`, `use_exponential_sigmas`, `use_karras_sigmas` can be set.", {
    className: where,
    field: "use_karras_sigmas",
  });
}

/** @throws ValueError for a `sigma_min` or `sigma_max` that is no number: another class's config may hold null. */
export function checkSigmaBounds(where: string, config: Readonly<{ sigma_min: number; sigma_max: number }>): void {
  for (const field of ["sigma_min", "sigma_max"] as const) {
    const sigma: unknown = config[field];
    if (typeof sigma !== "number") unknownValue(where, field, sigma, ["a number"]);
  }
}

/**
 * `numpy.interp(x, arange(table.length), table)`: between the entries of a table linearly, its ends beyond.
 *
 * @see numpy `interp`
 */
export function interpolate(x: number, table: ArrayLike<number>): number {
  const last = table.length - 1;
  if (Number.isNaN(x)) return x;
  if (x >= last) return table[last]!;
  if (x < 0) return table[0]!;
  const i = Math.floor(x);
  return x === i ? table[i]! : (table[i + 1]! - table[i]!) * (x - i) + table[i]!;
}

/** Logarithms of a table of float32 sigmas, as numpy takes them. */
export function logSigmas(sigmas: Float32Array): Float32Array {
  return sigmas.map(numpyLog32);
}

/** Logarithms of sigmas: float32 ones of the training's, or of a caller's sigmas in double precision. */
type LogTable = Float32Array | Float64Array;

/** Where `sigma` lies in a table of logarithms: after entry `low`, at the share `w` of the way to the next. */
function placeOf(sigma: number, log_sigmas: LogTable, single: boolean): { low: number; w: number } {
  const round = single ? Math.fround : (x: number): number => x;
  const log_sigma = single ? numpyLog32(Math.max(sigma, Math.fround(1e-10))) : Math.log(Math.max(sigma, 1e-10));

  // The last entry that is not above, leaving room for one beyond it.
  let low = 0;
  for (let i = log_sigmas.length - 1; i > 0; i--) {
    if (log_sigma >= log_sigmas[i]!) {
      low = i;
      break;
    }
  }
  low = Math.min(low, log_sigmas.length - 2);
  const log_low = log_sigmas[low]!;
  const gap = log_low - log_sigmas[low + 1]!;
  const w = round(round(log_low - log_sigma) / (log_sigmas instanceof Float32Array ? Math.fround(gap) : gap));
  return { low, w: Math.min(Math.max(w, 0), 1) };
}

/**
 * The timestep at which the training had the noise level `sigma`: between two entries of the table by interpolation.
 *
 * @param log_sigmas logarithms of the training's sigmas, ascending, or of a caller's
 * @param single whether `sigma` is a float32 number, which numpy then also calculates with
 * @see Diffusers `EulerDiscreteScheduler._sigma_to_t`
 */
export function sigmaToT(sigma: number, log_sigmas: LogTable, single: boolean = false): number {
  const { low, w } = placeOf(sigma, log_sigmas, single);
  return (single ? Math.fround(1 - w) : 1 - w) * low + w * (low + 1);
}

/** {@link sigmaToT} as it comes out where `sigma` is a float32 tensor of torch's: float32 to the end. */
export function sigmaToT32(sigma: number, log_sigmas: Float32Array): number {
  const { low, w } = placeOf(sigma, log_sigmas, true);
  return Math.fround(Math.fround(Math.fround(1 - w) * low) + Math.fround(w * (low + 1)));
}

/** Sigmas from `max` down to `min`, evenly spaced in `sigma ** (1 / rho)`. @see https://huggingface.co/papers/2206.00364 (5) */
export function karrasSigmas(min: number, max: number, steps: number, rho: number = 7): Float64Array {
  return karrasSigmasAt(linspace(0, 1, steps), min, max, rho);
}

/** As {@link karrasSigmas}, at given places: 0 is `max`, 1 is `min`. */
export function karrasSigmasAt(ramp: Float64Array, min: number, max: number, rho: number): Float64Array {
  const min_inv_rho = min ** (1 / rho);
  const max_inv_rho = max ** (1 / rho);
  return ramp.map((at) => (max_inv_rho + at * (min_inv_rho - max_inv_rho)) ** rho);
}

/** Sigmas from `max` down to `min`, evenly spaced in their logarithm. */
export function exponentialSigmas(min: number, max: number, steps: number): Float64Array {
  return linspace(Math.log(max), Math.log(min), steps).map(Math.exp);
}

/** Sigmas from `max` down to `min`, spaced by quantiles of Beta(alpha, beta). @see https://huggingface.co/papers/2407.12173 */
export function betaSigmas(
  min: number,
  max: number,
  steps: number,
  alpha: number = 0.6,
  beta: number = 0.6,
): Float64Array {
  return linspace(0, 1, steps).map((t) => min + betaQuantile(1 - t, alpha, beta) * (max - min));
}

/** Sigmas evenly spaced in the log-SNR, given the table's ends as logarithms. @see https://huggingface.co/papers/2206.00927 */
export function luSigmas(log_min: number, log_max: number, steps: number): Float64Array {
  return linspace(0, 1, steps).map((ramp) => Math.exp(log_max + ramp * (log_min - log_max)));
}

/** Sigmas of flow matching, shifted by `shift`, the final 0 left out. @see https://huggingface.co/papers/2403.03206 (23) */
export function flowSigmas(num_train_timesteps: number, shift: number, steps: number): Float64Array {
  return linspace(1, 1 / num_train_timesteps, steps + 1)
    .map((alpha) => 1 - alpha)
    .map((sigma) => (shift * sigma) / (1 + (shift - 1) * sigma))
    .reverse()
    .slice(0, -1);
}

/** The shift of flow matching's sigmas that `mu` stands for. @throws ValueError where the config does not go with it. */
export function shiftOfMu(
  where: string,
  config: { readonly use_dynamic_shifting: boolean; readonly time_shift_type: string },
  mu: number,
): number {
  if (config.use_dynamic_shifting && config.time_shift_type === "exponential") return Math.exp(mu);
  throw new ValueError('`mu` needs `use_dynamic_shifting` and a `time_shift_type` of "exponential".', {
    className: where,
    field: "mu",
  });
}

/**
 * The sigmas of a schedule spaced anew, as the config asks for: Karras', exponential or beta, of as many steps.
 *
 * @param config may hold `sigma_min` and `sigma_max`; of another class's config they are heeded although hidden
 * @param sigmas descending; as they are where the config asks for no other spacing
 * @see Diffusers `_convert_to_karras`, `_convert_to_exponential`, `_convert_to_beta`
 */
export function respacedSigmas(
  config: Readonly<SigmaConfig> & ConfigDict,
  sigmas: Float64Array,
  steps: number,
): Float64Array {
  const { use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas } = config;
  const { sigma_min, sigma_max } = config as { sigma_min?: number | null; sigma_max?: number | null };
  const min = sigma_min ?? sigmas[sigmas.length - 1]!;
  const max = sigma_max ?? sigmas[0]!;
  if (use_karras_sigmas) return karrasSigmas(min, max, steps);
  if (use_exponential_sigmas) return exponentialSigmas(min, max, steps);
  if (use_beta_sigmas) return betaSigmas(min, max, steps);
  return sigmas;
}

/** The standard deviation of initial noise: the largest sigma, or what keeps the variance with "leading". */
export function initialSigma(sigmas: Float32Array, timestep_spacing: TimestepSpacing): number {
  const max_sigma = sigmas.reduce((a, b) => Math.max(a, b));
  if (timestep_spacing === "linspace" || timestep_spacing === "trailing") return max_sigma;
  return sqrt32(Math.fround(Math.fround(max_sigma * max_sigma) + 1));
}

/** `sample / sqrt(sigma² + 1)`: what the model is given, which was trained on samples of this variance. */
export function scaledBySigma(where: string, sample: Tensor, sigma: number): Tensor {
  checkSample(where, sample, sample);
  const scale = sqrt32(Math.fround(Math.fround(sigma * sigma) + 1));
  const x = sample.data;
  const scaled = new Float32Array(x.length);
  for (let i = 0; i < x.length; i++) scaled[i] = x[i]! / scale;
  return new Tensor("float32", scaled, sample.dims);
}

/**
 * A step down from `sigma` to `next` with noise, in two: down to a level below, then noise of the second level is added.
 *
 * Both come out of differences of squares: where `next` is far below `sigma`, the last bits of the first are noise.
 *
 * @returns float32 `[sigma_down, sigma_up]`, of which `sigma_down² + sigma_up² = next²`
 */
export function ancestralSigmas(sigma: number, next: number): [sigma_down: number, sigma_up: number] {
  const variance = Math.fround(sigma * sigma);
  const nextVariance = Math.fround(next * next);
  const product = Math.fround(nextVariance * Math.fround(variance - nextVariance));
  const sigma_up = sqrt32(Math.fround(product / variance));
  const sigma_down = sqrt32(Math.fround(nextVariance - Math.fround(sigma_up * sigma_up)));
  return [sigma_down, sigma_up];
}

/**
 * The denoised sample that a model's output amounts to at the noise level `sigma`, in float32.
 *
 * @param supported the prediction types that the class `where` has
 * @param e the model's output
 * @param x the sample, not scaled
 * @throws UnsupportedModelError for "sample" where the class does not have it.
 * @throws ValueError for an unknown `prediction_type`.
 */
export function denoisedAtSigma(
  where: string,
  prediction_type: PredictionType,
  supported: readonly PredictionType[],
  e: Float32Array,
  x: Float32Array,
  sigma: number,
): Float32Array {
  if (!supported.includes(prediction_type)) {
    if (prediction_type === "sample") unsupportedValue(where, "prediction_type", '"sample"', supported);
    unknownValue(where, "prediction_type", prediction_type, supported);
  }
  if (prediction_type === "sample") return e.slice();
  const x0 = new Float32Array(e.length);
  if (prediction_type === "epsilon") {
    for (let i = 0; i < x0.length; i++) x0[i] = x[i]! - Math.fround(sigma * e[i]!);
    return x0;
  }
  // v-prediction: c_out * output + c_skip * input
  const variance = Math.fround(Math.fround(sigma * sigma) + 1);
  const c_out = Math.fround(-sigma / sqrt32(variance));
  for (let i = 0; i < x0.length; i++) x0[i] = Math.fround(e[i]! * c_out) + Math.fround(x[i]! / variance);
  return x0;
}
