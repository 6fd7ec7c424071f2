import { ValueError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { checkSample, unknownValue } from "./checks.ts";
import { exp32, log32, mixPerSample, pow32, sqrt32 } from "./float32.ts";
import { linspace32 } from "./noise_schedules.ts";
import type { PredictionType } from "./scheduling_utils.ts";

// The model of Karras et al. sees an input of unit variance, and its output is mixed with that input: so that neither
// grows with the noise level. All of it in float32. https://huggingface.co/papers/2206.00364 (7, table 1)

/** The config fields of the schedulers in EDM's formulation. */
export interface EDMConfig {
  /** The least sigma. Default 0.002. */
  sigma_min: number;
  /** The largest sigma. Default 80. */
  sigma_max: number;
  /** The standard deviation of the data. Default 0.5. */
  sigma_data: number;
  /** How sigmas are spaced. Default "karras". */
  sigma_schedule: "karras" | "exponential" | (string & {});
  /** Sigmas of the schedule before `set_timesteps`. Default 1000. */
  num_train_timesteps: number;
  /** How the model's output is to be read. Default "epsilon". */
  prediction_type: PredictionType;
  /** Exponent of the "karras" spacing. Default 7. */
  rho: number;
  /** The sigma that the last step goes to. Default "zero". */
  final_sigmas_type: "zero" | "sigma_min" | (string & {});
}

/** A noise level for a whole batch, or one for each of its items. */
export type SigmaLike = number | ArrayLike<number>;

const f = Math.fround;

function sigmasFrom(sigma: SigmaLike): Float32Array {
  return typeof sigma === "number" ? Float32Array.of(sigma) : Float32Array.from(sigma);
}

/** `sigma² + sigma_data²` */
function variance(sigma: number, sigma_data: number): number {
  return f(f(sigma * sigma) + f(sigma_data * sigma_data));
}

/** The model's input: `c_in * sample`. @throws ValueError for a number of sigmas that does not fit. */
export function preconditionInputs(where: string, sample: Tensor, sigma: SigmaLike, sigma_data: number): Tensor {
  checkSample(where, sample, sample);
  const c_in = sigmasFrom(sigma).map((s) => 1 / sqrt32(variance(s, sigma_data)));
  if (c_in.length !== 1) return mixPerSample(where, c_in, sample, new Float32Array(c_in.length), sample);
  const scale = c_in[0]!;
  const x = sample.data;
  const scaled = new Float32Array(x.length);
  for (let i = 0; i < x.length; i++) scaled[i] = x[i]! * scale;
  return new Tensor("float32", scaled, sample.dims);
}

/** The model's timestep: `c_noise = ln(sigma) / 4`. */
export function preconditionNoise(sigma: SigmaLike): Float32Array {
  return sigmasFrom(sigma).map((s) => 0.25 * log32(s));
}

/**
 * The denoised sample: `c_skip * sample + c_out * model_output`.
 *
 * @throws ValueError for an unknown `prediction_type`, or shapes or a number of sigmas that do not fit.
 */
export function preconditionOutputs(
  where: string,
  prediction_type: PredictionType,
  sample: Tensor,
  model_output: Tensor,
  sigma: SigmaLike,
  sigma_data: number,
): Tensor {
  checkSample(where, model_output, sample);
  if (prediction_type !== "epsilon" && prediction_type !== "v_prediction") {
    unknownValue(where, "prediction_type", prediction_type, ["epsilon", "v_prediction"]);
  }
  const sigmas = sigmasFrom(sigma);
  const sign = prediction_type === "epsilon" ? 1 : -1;
  const c_skip = sigmas.map((s) => f(1 / variance(s, sigma_data)) * f(sigma_data * sigma_data));
  const c_out = sigmas.map((s) => f(sign * s * f(sigma_data)) / sqrt32(variance(s, sigma_data)));
  return mixPerSample(where, c_skip, sample, c_out, model_output);
}

/**
 * Sigmas of the "karras" spacing: evenly spaced in `sigma ** (1 / rho)`, where `ramp` goes from 0, the largest sigma, to
 * 1, the least. Calculated in the precision of `ramp`.
 *
 * @see https://huggingface.co/papers/2206.00364 (5)
 */
export function rampedSigmas(
  ramp: Float32Array | Float64Array,
  { sigma_min, sigma_max, rho }: Readonly<Pick<EDMConfig, "sigma_min" | "sigma_max" | "rho">>,
): Float32Array {
  const max_inv_rho = sigma_max ** (1 / rho);
  const difference = sigma_min ** (1 / rho) - max_inv_rho;
  if (ramp instanceof Float64Array) return Float32Array.from(ramp, (r) => (max_inv_rho + r * difference) ** rho);
  return ramp.map((r) => pow32(f(f(max_inv_rho) + f(r * f(difference))), f(rho)));
}

/**
 * So many sigmas of the "exponential" spacing: evenly spaced in their logarithm, in float32.
 *
 * @throws ValueError for a sigma that has no logarithm.
 */
export function exponentialSigmas32(
  count: number,
  { sigma_min, sigma_max }: Readonly<Pick<EDMConfig, "sigma_min" | "sigma_max">>,
): Float32Array {
  for (const [field, sigma] of Object.entries({ sigma_min, sigma_max })) {
    if (sigma > 0) continue;
    throw new ValueError(`The "exponential" schedule needs a \`${field}\` above 0, not ${sigma}.`, {
      field,
      found: String(sigma),
      expected: "above 0",
    });
  }
  return linspace32(Math.log(sigma_min), Math.log(sigma_max), count).map(exp32).reverse();
}
