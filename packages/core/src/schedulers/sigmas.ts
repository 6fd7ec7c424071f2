import { ValueError } from "../errors.ts";
import { betaQuantile } from "./beta_distribution.ts";
import { numpyLog32 } from "./float32.ts";
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

/**
 * The timestep at which the training had the noise level `sigma`: between two entries of the table by interpolation.
 *
 * @param log_sigmas float32 logarithms of the training's sigmas, ascending
 * @param single whether `sigma` is a float32 number, which numpy then also calculates with
 * @see Diffusers `EulerDiscreteScheduler._sigma_to_t`
 */
export function sigmaToT(sigma: number, log_sigmas: Float32Array, single: boolean = false): number {
  const round = single ? Math.fround : (x: number): number => x;
  const log_sigma = single ? numpyLog32(Math.max(sigma, Math.fround(1e-10))) : Math.log(Math.max(sigma, 1e-10));

  // The last entry that is not above, leaving room for one beyond it.
  let low_idx = 0;
  for (let i = log_sigmas.length - 1; i > 0; i--) {
    if (log_sigma >= log_sigmas[i]!) {
      low_idx = i;
      break;
    }
  }
  low_idx = Math.min(low_idx, log_sigmas.length - 2);
  const low = log_sigmas[low_idx]!;
  const high = log_sigmas[low_idx + 1]!;
  let w = round(round(low - log_sigma) / Math.fround(low - high));
  w = Math.min(Math.max(w, 0), 1);
  return round(1 - w) * low_idx + w * (low_idx + 1);
}

/** Sigmas from `max` down to `min`, evenly spaced in `sigma ** (1 / rho)`. @see https://huggingface.co/papers/2206.00364 (5) */
export function karrasSigmas(min: number, max: number, steps: number, rho: number = 7): Float64Array {
  const min_inv_rho = min ** (1 / rho);
  const max_inv_rho = max ** (1 / rho);
  return linspace(0, 1, steps).map((ramp) => (max_inv_rho + ramp * (min_inv_rho - max_inv_rho)) ** rho);
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
