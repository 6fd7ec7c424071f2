import type { Tensor } from "../tensor.ts";
import { entry, unknownValue } from "./checks.ts";
import { mixPerSample, sqrt32 } from "./float32.ts";
import type { PredictionType } from "./scheduling_utils.ts";

// A sample of the variance-preserving diffusion is x_t = sqrt(alpha) * x_0 + sqrt(beta) * epsilon, of which alpha is
// `alphas_cumprod[t]` and beta is 1 - alpha. All of it in float32.

/** How much of a sample is picture, and how much is noise. */
export interface NoiseLevel {
  readonly sqrt_alpha: number;
  readonly sqrt_beta: number;
}

/** The noise level that an entry of `alphas_cumprod` stands for. */
export function noiseLevel(alpha: number): NoiseLevel {
  return { sqrt_alpha: sqrt32(alpha), sqrt_beta: sqrt32(Math.fround(1 - alpha)) };
}

/**
 * Predicted x_0: the denoised sample that the model's output amounts to.
 *
 * @param supported the prediction types that the class `where` has
 * @param e the model's output
 * @param x the sample at noise level `from`
 * @param out where x_0 is written; may be `x`
 * @throws ValueError for an unknown `prediction_type`.
 * @see https://huggingface.co/papers/2010.02502 (12); https://huggingface.co/papers/2202.00512 (appendix D)
 */
export function predictOriginal(
  where: string,
  prediction_type: PredictionType,
  supported: readonly PredictionType[],
  e: Float32Array,
  x: Float32Array,
  from: NoiseLevel,
  out: Float32Array,
): void {
  const { sqrt_alpha, sqrt_beta } = from;
  if (!supported.includes(prediction_type)) unknownValue(where, "prediction_type", prediction_type, supported);
  if (prediction_type === "epsilon") {
    for (let i = 0; i < out.length; i++) out[i] = Math.fround(x[i]! - Math.fround(sqrt_beta * e[i]!)) / sqrt_alpha;
  } else if (prediction_type === "sample") {
    out.set(e);
  } else {
    for (let i = 0; i < out.length; i++) out[i] = Math.fround(sqrt_alpha * x[i]!) - Math.fround(sqrt_beta * e[i]!);
  }
}

/**
 * The sample at another noise level: x_0 and the predicted noise mixed anew.
 *
 * @param prediction_type how to read the noise off `e`; of "sample", `e` is an x_0, clipped or not
 * @param x0 the predicted x_0
 * @param e the model's output
 * @param x the sample at noise level `from`
 * @param to where it goes
 * @param out where the result is written; may be `x0`
 */
export function moveToLevel(
  prediction_type: PredictionType,
  x0: Float32Array,
  e: Float32Array,
  x: Float32Array,
  from: NoiseLevel,
  to: NoiseLevel,
  out: Float32Array,
): void {
  const { sqrt_alpha, sqrt_beta } = from;
  const { sqrt_alpha: to_alpha, sqrt_beta: to_beta } = to;
  if (prediction_type === "epsilon") {
    for (let i = 0; i < out.length; i++) out[i] = Math.fround(to_alpha * x0[i]!) + Math.fround(to_beta * e[i]!);
  } else if (prediction_type === "sample") {
    for (let i = 0; i < out.length; i++) {
      const epsilon = Math.fround(Math.fround(x[i]! - Math.fround(sqrt_alpha * e[i]!)) / sqrt_beta);
      out[i] = Math.fround(to_alpha * x0[i]!) + Math.fround(to_beta * epsilon);
    }
  } else {
    for (let i = 0; i < out.length; i++) {
      const epsilon = Math.fround(Math.fround(sqrt_alpha * e[i]!) + Math.fround(sqrt_beta * x[i]!));
      out[i] = Math.fround(to_alpha * x0[i]!) + Math.fround(to_beta * epsilon);
    }
  }
}

/**
 * `add_noise`: samples diffused to the noise level of `timesteps`.
 *
 * @param timesteps one for all, or one per batch item
 * @throws ValueError for a timestep or a number of timesteps that does not fit.
 */
export function diffuse(
  where: string,
  alphas_cumprod: Float32Array,
  original_samples: Tensor,
  noise: Tensor,
  timesteps: ArrayLike<number>,
): Tensor {
  const alphas = Float32Array.from(timesteps, (t) => entry(alphas_cumprod, t, where, "timestep"));
  const sqrt_one_minus = alphas.map((alpha) => sqrt32(Math.fround(1 - alpha)));
  return mixPerSample(`${where}.add_noise`, alphas.map(sqrt32), original_samples, sqrt_one_minus, noise);
}

/** `get_velocity`: what a v-prediction model is trained to give; `timesteps` as in {@link diffuse}. */
export function velocity(
  where: string,
  alphas_cumprod: Float32Array,
  sample: Tensor,
  noise: Tensor,
  timesteps: ArrayLike<number>,
): Tensor {
  const alphas = Float32Array.from(timesteps, (t) => entry(alphas_cumprod, t, where, "timestep"));
  const minus_sqrt_one_minus = alphas.map((alpha) => -sqrt32(Math.fround(1 - alpha)));
  return mixPerSample(`${where}.get_velocity`, alphas.map(sqrt32), noise, minus_sqrt_one_minus, sample);
}
