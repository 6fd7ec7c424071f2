import { UnsupportedModelError } from "../errors.ts";
import { exp32, fma32, log32, sqrt32 } from "./float32.ts";

/** How betas run from `beta_start` to `beta_end`. */
export type BetaSchedule = "linear" | "scaled_linear" | "squaredcos_cap_v2" | "laplace" | "sigmoid" | (string & {});

/** The config fields that betas are made of. */
export interface BetaConfig {
  /** Steps of the training's diffusion. Default 1000. */
  num_train_timesteps: number;
  /** The first beta. Default 0.0001. */
  beta_start: number;
  /** The last beta. Default 0.02. */
  beta_end: number;
  /** How betas run from the first to the last. Default "linear". */
  beta_schedule: BetaSchedule;
  /** Betas of the caller's own, which replace all of the above. Default null. */
  trained_betas: ArrayLike<number> | null;
}

/** The schedules that most classes have. */
export const commonBetaSchedules: readonly BetaSchedule[] = ["linear", "scaled_linear", "squaredcos_cap_v2"];

/**
 * The betas of a config, in float32.
 *
 * @param schedules the schedules that the class `where` has
 * @throws UnsupportedModelError for another schedule.
 */
export function makeBetas(where: string, config: BetaConfig, schedules: readonly BetaSchedule[]): Float32Array {
  const { num_train_timesteps: count, beta_start, beta_end, beta_schedule, trained_betas } = config;
  if (trained_betas !== null) return Float32Array.from(trained_betas);
  if (schedules.includes(beta_schedule)) {
    switch (beta_schedule) {
      case "linear":
        return linspace32(beta_start, beta_end, count);
      case "scaled_linear":
        return linspace32(Math.sqrt(beta_start), Math.sqrt(beta_end), count).map((x) => x * x);
      case "squaredcos_cap_v2":
        return betasForAlphaBar(count);
      case "laplace":
        return betasForAlphaBar(count, "laplace");
      case "exp":
        return betasForAlphaBar(count, "exp");
      case "sigmoid": {
        const range = Math.fround(beta_end - beta_start);
        const sigmoid = linspace32(-6, 6, count).map((x) => 1 / Math.fround(1 + exp32(-x)));
        return sigmoid.map((x) => Math.fround(x * range) + Math.fround(beta_start));
      }
    }
  }
  throw new UnsupportedModelError(
    `\`beta_schedule\` ${JSON.stringify(beta_schedule)} is not implemented for ${where}, which has ${schedules.join(", ")}.`,
    { className: where, field: "beta_schedule", found: String(beta_schedule), expected: schedules.join(", ") },
  );
}

/**
 * `torch.linspace` in float32, to the bit: counted from both ends, each product and sum rounded once.
 *
 * @see torch `linspace`
 */
export function linspace32(start: number, end: number, count: number): Float32Array {
  const first = Math.fround(start);
  const last = Math.fround(end);
  const values = new Float32Array(count).fill(first);
  if (count === 1) return values;
  const step = Math.fround(Math.fround(last - first) / Math.fround(count - 1));
  const half = Math.floor(count / 2);
  for (let i = 0; i < count; i++) {
    values[i] = i < half ? fma32(step, i, first) : fma32(-step, count - 1 - i, last);
  }
  return values;
}

const alphaBars = {
  cosine: (t: number): number => Math.cos((((t + 0.008) / 1.008) * Math.PI) / 2) ** 2,
  laplace: (t: number): number => {
    const lambda = -0.5 * (0.5 - t < 0 ? -1 : 1) * Math.log(1 - 2 * Math.abs(0.5 - t) + 1e-6);
    const snr = Math.exp(lambda);
    return Math.sqrt(snr / (1 + snr));
  },
  exp: (t: number): number => Math.exp(t * -12),
} as const;

/**
 * Betas whose `1 - beta` multiply up to a given function of time.
 *
 * @param maxBeta no beta is larger, which keeps the end of the schedule stable
 * @see Diffusers `betas_for_alpha_bar`; https://huggingface.co/papers/2102.09672 (17)
 */
export function betasForAlphaBar(
  count: number,
  type: keyof typeof alphaBars = "cosine",
  maxBeta: number = 0.999,
): Float32Array {
  const alphaBar = alphaBars[type];
  return Float32Array.from({ length: count }, (_, i) =>
    Math.min(1 - alphaBar((i + 1) / count) / alphaBar(i / count), maxBeta),
  );
}

/** The cumulative product of `1 - beta`. torch multiplies up in double precision and rounds what it stores. */
export function alphasCumprod(betas: Float32Array): Float32Array {
  let product = 1;
  return betas.map((beta) => {
    product *= Math.fround(1 - beta);
    return product;
  });
}

/**
 * Betas that end in pure noise: the last `alphas_cumprod` becomes 0.
 *
 * @see https://huggingface.co/papers/2305.08891 (Algorithm 1)
 */
export function rescaleZeroTerminalSnr(betas: Float32Array): Float32Array {
  const bars = alphasCumprod(betas).map(Math.sqrt);
  const first = bars[0]!;
  const last = bars[bars.length - 1]!;
  // Shifted so that the last is 0, scaled so that the first is what it was.
  const scale = Math.fround(first / Math.fround(first - last));
  const alphaBar = bars.map((x) => Math.fround(x - last) * scale).map((x) => x * x);
  return alphaBar.map((x, i) => 1 - (i === 0 ? x : Math.fround(x / alphaBar[i - 1]!)));
}

/** `sqrt((1 - alphas_cumprod) / alphas_cumprod)`: the noise levels of the variance-exploding view, ascending. */
export function sigmasOf(alphas_cumprod: Float32Array): Float32Array {
  return alphas_cumprod.map((alpha) => sqrt32(Math.fround(Math.fround(1 - alpha) / alpha)));
}

/** Half the log-SNR of a variance-preserving schedule, descending. */
export function halfLogSnr(alphas_cumprod: Float32Array): Float32Array {
  return alphas_cumprod.map((alpha) => log32(sqrt32(alpha)) - log32(sqrt32(Math.fround(1 - alpha))));
}

/** How many of the last timesteps have a half log-SNR, which descends, below `least`. */
export function countClipped(lambda_t: Float32Array, least: number): number {
  let clipped = 0;
  while (clipped < lambda_t.length && lambda_t[lambda_t.length - 1 - clipped]! < Math.fround(least)) clipped += 1;
  return clipped;
}
