import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { checkOrder, checkSample, checkSteps, entry, stepsNotSet, unsupportedValue } from "./checks.ts";
import {
  addNoiseOfLevels,
  lambdaOf,
  type NoiseLevel,
  splitSigma,
  toDataPrediction,
  toNoisePrediction,
} from "./dpmsolver_update.ts";
import { exp32, numpyLog32 } from "./float32.ts";
import { alphasCumprod, type BetaConfig, commonBetaSchedules, makeBetas, sigmasOf } from "./noise_schedules.ts";
import {
  karrasDiffusionFields,
  karrasDiffusionSchedulers,
  type PredictionType,
  type SchedulerOutput,
  type SetTimestepsOptions,
  type TimestepSpacing,
  type Timesteps,
} from "./scheduling_utils.ts";
import {
  checkSigmaConfig,
  flowSigmas,
  interpolate,
  logSigmas,
  respacedSigmas,
  type SigmaConfig,
  shiftOfMu,
  sigmaToT,
} from "./sigmas.ts";
import { roundHalfEven, solverTimesteps } from "./spacing.ts";
import { IndexedSchedulerMixin } from "./step_index.ts";
import { type ThresholdingConfig, thresholdSample } from "./thresholding.ts";

/** Config of {@link DEISMultistepScheduler}. */
export interface DEISMultistepSchedulerConfig extends BetaConfig, ThresholdingConfig, SigmaConfig {
  /** 1, 2 (good with guidance) or 3 (good without). Default 2. */
  solver_order: number;
  /** "epsilon", "sample", "v_prediction" or "flow_prediction". Default "epsilon". */
  prediction_type: PredictionType;
  /** Default "deis"; DPM-Solver's ODE algorithms stand for it. */
  algorithm_type: "deis" | (string & {});
  /** Default "logrho"; the solvers of related classes stand for it. */
  solver_type: "logrho" | (string & {});
  /** Whether the last two steps of fewer than 15 are of lower order. Default true. */
  lower_order_final: boolean;
  /** Whether sigmas are those of flow matching. Default false. */
  use_flow_sigmas: boolean | null;
  /** Shifts flow matching's sigmas towards noise. Default 1. */
  flow_shift: number;
  /** Default "linspace". */
  timestep_spacing: TimestepSpacing;
  /** Added to each timestep of "leading" spacing. Default 0. */
  steps_offset: number;
  /** Whether `set_timesteps` takes `mu`. Default false. */
  use_dynamic_shifting: boolean;
  /** Default "exponential". */
  time_shift_type: "exponential" | (string & {});
}

const NAME = "DEISMultistepScheduler";
const f = Math.fround;

/**
 * DEIS: exponential integration of the diffusion ODE over a polynomial in the logarithm of the noise-to-signal ratio,
 * through the noise predictions of up to three steps.
 *
 * @see Diffusers `DEISMultistepScheduler`; https://huggingface.co/papers/2204.13902
 */
export class DEISMultistepScheduler extends IndexedSchedulerMixin<DEISMultistepSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<DEISMultistepSchedulerConfig> =
    configDefaults<DEISMultistepSchedulerConfig>({
      num_train_timesteps: 1000,
      beta_start: 0.0001,
      beta_end: 0.02,
      beta_schedule: "linear",
      trained_betas: null,
      solver_order: 2,
      prediction_type: "epsilon",
      thresholding: false,
      dynamic_thresholding_ratio: 0.995,
      sample_max_value: float(1),
      algorithm_type: "deis",
      solver_type: "logrho",
      lower_order_final: true,
      use_karras_sigmas: false,
      use_exponential_sigmas: false,
      use_beta_sigmas: false,
      use_flow_sigmas: false,
      flow_shift: float(1),
      timestep_spacing: "linspace",
      steps_offset: 0,
      use_dynamic_shifting: false,
      time_shift_type: "exponential",
    });
  static override readonly compatible_fields: readonly string[] = karrasDiffusionFields;
  static override readonly compatible_classes: readonly string[] = karrasDiffusionSchedulers;
  static override readonly set_timesteps_options: readonly string[] = ["mu"];

  readonly init_noise_sigma: number = 1;
  timesteps: Timesteps;
  /** The noise level of each timestep, and the one that the last step goes to. */
  sigmas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly betas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas_cumprod: Float32Array;

  /** `flow_shift`, or `exp(mu)` since `set_timesteps` was last given one. */
  private flowShift: number;
  /** The last noise predictions, the latest first, fewer than `solver_order`. */
  private modelOutputs: Float32Array[] = [];

  /**
   * @throws UnsupportedModelError for an unknown `beta_schedule`, `algorithm_type` or `solver_type`.
   * @throws ValueError when more than one spacing of sigmas is asked for.
   */
  constructor(config: Partial<DEISMultistepSchedulerConfig> = {}) {
    super(config);
    checkSigmaConfig(NAME, this.config);
    const { num_train_timesteps, algorithm_type, solver_type, flow_shift } = this.config;
    this.betas = makeBetas(NAME, this.config, commonBetaSchedules);
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    this.sigmas = sigmasOf(this.alphas_cumprod);
    this.flowShift = flow_shift;
    this.timesteps = Int32Array.from({ length: num_train_timesteps }, (_, i) => num_train_timesteps - 1 - i);

    // What other classes of the family call their algorithms and solvers stands for this one's.
    if (["dpmsolver", "dpmsolver++"].includes(algorithm_type)) this.register_to_config({ algorithm_type: "deis" });
    else if (algorithm_type !== "deis") unsupportedValue(NAME, "algorithm_type", algorithm_type, ["deis"]);
    if (["midpoint", "heun", "bh1", "bh2"].includes(solver_type)) this.register_to_config({ solver_type: "logrho" });
    else if (solver_type !== "logrho") unsupportedValue(NAME, "solver_type", solver_type, ["logrho"]);
  }

  /**
   * Lays out the timesteps and sigmas of a run.
   *
   * @param num_inference_steps at least 1
   * @throws ValueError for another number, an unknown `timestep_spacing`, or `mu` without dynamic shifting.
   */
  set_timesteps(num_inference_steps: number | null, options: Pick<SetTimestepsOptions, "mu"> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, DEISMultistepScheduler.set_timesteps_options);
    const { config } = this;
    const { mu } = options;
    if (mu !== undefined) this.flowShift = shiftOfMu(NAME, config, mu);
    checkSteps(NAME, num_inference_steps);

    let timesteps = solverTimesteps(NAME, config, num_inference_steps);
    const trainSigmas = sigmasOf(this.alphas_cumprod);
    let sigmas: Float64Array;
    let sigma_last: number | undefined;
    if (config.use_karras_sigmas || config.use_exponential_sigmas || config.use_beta_sigmas) {
      const log_sigmas = logSigmas(trainSigmas);
      sigmas = respacedSigmas(config, Float64Array.from(trainSigmas).reverse(), num_inference_steps);
      timesteps = sigmas.map((sigma) => sigmaToT(sigma, log_sigmas));
      if (config.use_karras_sigmas) timesteps = timesteps.map(roundHalfEven);
    } else if (config.use_flow_sigmas) {
      sigmas = flowSigmas(config.num_train_timesteps, this.flowShift, num_inference_steps);
      timesteps = sigmas.map((sigma) => sigma * config.num_train_timesteps);
    } else {
      sigmas = timesteps.map((t) => interpolate(t, trainSigmas));
      sigma_last = trainSigmas[0]!;
    }

    // The logarithm of a sigma of 0 is no number: the run ends at the training's least, or at a standstill.
    this.sigmas = Float32Array.of(...sigmas, sigma_last ?? sigmas[sigmas.length - 1]!);
    this.timesteps = Int32Array.from(timesteps);
    this.num_inference_steps = timesteps.length;
    this.modelOutputs = [];
    this.resetIndex();
  }

  /** A timestep that is not in `timesteps` stands for the last one, as in Diffusers. */
  protected override indexOfUnknown(): number {
    return this.timesteps.length - 1;
  }

  private level(index: number): NoiseLevel {
    return splitSigma(entry(this.sigmas, index, NAME, "step"), this.config.use_flow_sigmas);
  }

  /**
   * Predicts the sample of the timestep before, of as high an order as there are outputs, up to `solver_order`.
   *
   * @param model_output `[batch, channels, ...]`
   * @param timestep one of `timesteps`; only the first of a run is looked at
   * @param sample `[batch, channels, ...]`
   * @throws ValueError before `set_timesteps` and after the last step, for an unknown `prediction_type`, or a shape that
   * does not fit.
   */
  step(model_output: Tensor, timestep: number, sample: Tensor, options: Record<never, never> = {}): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, DEISMultistepScheduler.step_options);
    checkSample(`${NAME}.step`, model_output, sample);
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    const { solver_order, lower_order_final } = this.config;
    const index = this.startAt(timestep);
    const m0 = this.noisePrediction(model_output, sample, index);

    // Lower orders at the end keep few steps stable.
    const count = this.timesteps.length;
    const few = lower_order_final && count < 15;
    let order = Math.min(solver_order, this.modelOutputs.length + 1, 3);
    if (few && index >= count - 2) order = Math.min(order, count - index);
    checkOrder(NAME, "solver_order", order);

    const outputs = [m0, ...this.modelOutputs.slice(0, order - 1)];
    const levels = outputs.map((_, i) => this.level(index - i));
    const prev = deisUpdate(sample.data, outputs, levels, this.level(index + 1));
    this.modelOutputs = [m0, ...this.modelOutputs].slice(0, Math.max(solver_order - 1, 0));
    this.stepIndex = index + 1;
    return { prev_sample: new Tensor("float32", prev, sample.dims) };
  }

  /** The noise prediction, always by way of the data prediction, so that thresholding can act on it. */
  private noisePrediction(model_output: Tensor, sample: Tensor, index: number): Float32Array {
    const { prediction_type, thresholding } = this.config;
    const level = this.level(index);
    const sigma = entry(this.sigmas, index, NAME, "step");
    const x0 = toDataPrediction(NAME, prediction_type, model_output.data, sample.data, level, sigma);
    if (thresholding) thresholdSample(x0, sample.dims[0] ?? 1, this.config);
    // With "flow_prediction" Diffusers divides by the sigma of flow matching, whatever the schedule.
    const back = prediction_type === "flow_prediction" ? { alpha: level.alpha, sigma } : level;
    return toNoisePrediction(NAME, "sample", x0, sample.data, back);
  }

  /**
   * Diffuses samples to the noise level of `timesteps`; after {@link set_begin_index}, to that at which the run is.
   *
   * @param timesteps one for all, or one per batch item
   */
  add_noise(original_samples: Tensor, noise: Tensor, timesteps: ArrayLike<number>): Tensor {
    const levels = this.noiseIndices(timesteps).map((index) => this.level(index));
    return addNoiseOfLevels(NAME, original_samples, noise, levels);
  }
}

/**
 * One update from `levels[0]` to `t`, of as high an order as there are outputs: `x / alpha` changes by the integral of
 * their interpolation over rho, the noise-to-signal ratio. Of the third order the coefficients are differences of nearly
 * equal float32 numbers, as they are in Diffusers: with many steps torch's own last bits show in them.
 */
function deisUpdate(
  x: Float32Array,
  outputs: readonly Float32Array[],
  levels: readonly NoiseLevel[],
  t: NoiseLevel,
): Float32Array {
  const [m0, m1, m2] = outputs as [Float32Array, Float32Array?, Float32Array?];
  const [rho_s0, rho_s1, rho_s2] = levels.map(rhoOf) as [number, number, number];
  const s0 = levels[0]!;
  const prev = new Float32Array(x.length);
  if (m1 === undefined) {
    // Order 1 is DDIM: alpha_t / alpha_s * x - sigma_t * (e ** h - 1) * m0
    const ratio = f(t.alpha / s0.alpha);
    const growth = f(t.sigma * f(exp32(f(lambdaOf(t) - lambdaOf(s0))) - 1));
    for (let i = 0; i < prev.length; i++) prev[i] = f(ratio * x[i]!) - f(growth * m0[i]!);
    return prev;
  }

  // The coefficient of an output is the integral from rho_s0 to rho_t of its basis polynomial.
  const rho_t = rhoOf(t);
  if (m2 === undefined) {
    const coef1 = f(integral2(rho_t, rho_s0, rho_s1) - integral2(rho_s0, rho_s0, rho_s1));
    const coef2 = f(integral2(rho_t, rho_s1, rho_s0) - integral2(rho_s0, rho_s1, rho_s0));
    for (let i = 0; i < prev.length; i++) {
      prev[i] = t.alpha * f(f(f(x[i]! / s0.alpha) + f(coef1 * m0[i]!)) + f(coef2 * m1[i]!));
    }
    return prev;
  }
  const coef1 = f(integral3(rho_t, rho_s0, rho_s1, rho_s2) - integral3(rho_s0, rho_s0, rho_s1, rho_s2));
  const coef2 = f(integral3(rho_t, rho_s1, rho_s2, rho_s0) - integral3(rho_s0, rho_s1, rho_s2, rho_s0));
  const coef3 = f(integral3(rho_t, rho_s2, rho_s0, rho_s1) - integral3(rho_s0, rho_s2, rho_s0, rho_s1));
  for (let i = 0; i < prev.length; i++) {
    const sum = f(f(f(x[i]! / s0.alpha) + f(coef1 * m0[i]!)) + f(coef2 * m1[i]!));
    prev[i] = t.alpha * f(sum + f(coef3 * m2[i]!));
  }
  return prev;
}

function rhoOf({ alpha, sigma }: NoiseLevel): number {
  return f(sigma / alpha);
}

/** The antiderivative in t of `(log t - log c) / (log b - log c)`. Logarithms are numpy's. */
function integral2(t: number, b: number, c: number): number {
  const log_c = numpyLog32(c);
  const numerator = f(t * f(f(numpyLog32(t) - log_c) - 1));
  return f(numerator / f(numpyLog32(b) - log_c));
}

/** The antiderivative in t of `(log t - log c)(log t - log d) / ((log b - log c)(log b - log d))`. */
function integral3(t: number, b: number, c: number, d: number): number {
  const [log_t, log_b, log_c, log_d] = [t, b, c, d].map(numpyLog32) as [number, number, number, number];
  let sum = f(log_c * f(f(log_d - log_t) + 1));
  sum = f(f(sum - f(log_d * log_t)) + log_d);
  sum = f(f(f(sum + f(log_t * log_t)) - 2 * log_t) + 2);
  return f(f(t * sum) / f(f(log_b - log_c) * f(log_b - log_d)));
}
