import { configDefaults } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { checkSample, checkSteps, entry } from "./checks.ts";
import { addNoiseOfSigmas, exp32, log32 } from "./float32.ts";
import { alphasCumprod, type BetaConfig, commonBetaSchedules, makeBetas, sigmasOf } from "./noise_schedules.ts";
import {
  karrasDiffusionFields,
  karrasDiffusionSchedulers,
  type PredictionType,
  type SchedulerOutput,
  type SetTimestepsOptions,
  type TimestepSpacing,
} from "./scheduling_utils.ts";
import {
  checkSigmaConfig,
  denoisedAtSigma,
  initialSigma,
  interpolate,
  logSigmas,
  respacedSigmas,
  type SigmaConfig,
  scaledBySigma,
  sigmaToT,
  sigmaToT32,
} from "./sigmas.ts";
import { interleaved, roundHalfEven, spacedTimesteps, twiceButFirst } from "./spacing.ts";
import { IndexedSchedulerMixin } from "./step_index.ts";

/** Config of {@link KDPM2DiscreteScheduler}. */
export interface KDPM2DiscreteSchedulerConfig extends BetaConfig, SigmaConfig {
  /** The first beta. Default 0.00085. */
  beta_start: number;
  /** The last beta. Default 0.012. */
  beta_end: number;
  /** "epsilon" or "v_prediction". Default "epsilon". */
  prediction_type: PredictionType;
  /** Default "linspace". */
  timestep_spacing: TimestepSpacing;
  /** Added to each timestep of "leading" spacing. Default 0. */
  steps_offset: number;
}

const NAME = "KDPM2DiscreteScheduler";

/**
 * DPM-Solver-2 in sigma: a step to the geometric mean of two noise levels, then the whole one with the derivative there.
 * A timestep of that mean lies between every two, a call of `step` and of the model for each.
 *
 * @see Diffusers `KDPM2DiscreteScheduler`; https://huggingface.co/papers/2206.00927 (algorithm 1),
 * https://huggingface.co/papers/2206.00364 (algorithm 2)
 */
export class KDPM2DiscreteScheduler extends IndexedSchedulerMixin<KDPM2DiscreteSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<KDPM2DiscreteSchedulerConfig> =
    configDefaults<KDPM2DiscreteSchedulerConfig>({
      num_train_timesteps: 1000,
      beta_start: 0.00085,
      beta_end: 0.012,
      beta_schedule: "linear",
      trained_betas: null,
      use_karras_sigmas: false,
      use_exponential_sigmas: false,
      use_beta_sigmas: false,
      prediction_type: "epsilon",
      timestep_spacing: "linspace",
      steps_offset: 0,
    });
  static override readonly compatible_fields: readonly string[] = karrasDiffusionFields;
  static override readonly compatible_classes: readonly string[] = karrasDiffusionSchedulers;
  static override readonly set_timesteps_options: readonly string[] = ["num_train_timesteps"];

  override readonly order: number = 2;
  timesteps!: Float32Array | Float64Array;
  /** The noise level that each step starts from, with 0 at the end. */
  sigmas!: Float32Array;
  /** The geometric mean of each noise level and the one before it; NaN for the first. */
  sigmas_interpol!: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly betas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas_cumprod: Float32Array;

  /** Where the step at hand started; null when the next call is the first of its two. */
  private startSample: Float32Array | null = null;

  /**
   * @throws UnsupportedModelError for an unknown `beta_schedule`.
   * @throws ValueError when more than one spacing of sigmas is asked for, or for an unknown `timestep_spacing`.
   */
  constructor(config: Partial<KDPM2DiscreteSchedulerConfig> = {}) {
    super(config);
    checkSigmaConfig(NAME, this.config);
    this.betas = makeBetas(NAME, this.config, commonBetaSchedules);
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    this.set_timesteps(this.config.num_train_timesteps);
  }

  /** The standard deviation that initial noise must have: the largest sigma, or what keeps the variance with "leading". */
  get init_noise_sigma(): number {
    return initialSigma(this.sigmas, this.config.timestep_spacing);
  }

  /** Whether the next `step` is the first of its two calls. */
  get state_in_first_order(): boolean {
    return this.startSample === null;
  }

  /** Divides by `sqrt(sigma² + 1)`. Call it once before each `step`. */
  override scale_model_input(sample: Tensor, timestep: number): Tensor {
    const index = this.startAt(timestep);
    const sigma = this.at(this.startSample === null ? this.sigmas : this.sigmas_interpol, index);
    return scaledBySigma(`${NAME}.scale_model_input`, sample, sigma);
  }

  /**
   * Lays out the timesteps and sigmas of a run.
   *
   * @param num_inference_steps at least 1
   * @throws ValueError for an unknown `timestep_spacing`.
   */
  set_timesteps(
    num_inference_steps: number | null,
    options: Pick<SetTimestepsOptions, "num_train_timesteps"> = {},
  ): void {
    checkOptions(`${NAME}.set_timesteps`, options, KDPM2DiscreteScheduler.set_timesteps_options);
    checkSteps(NAME, num_inference_steps);
    const steps = num_inference_steps;
    const trainSigmas = sigmasOf(this.alphas_cumprod);
    const log_sigmas = logSigmas(trainSigmas);

    // Python's `or`: 0 stands for the config's, too.
    const num_train_timesteps = options.num_train_timesteps || this.config.num_train_timesteps;
    let timesteps: Float32Array | Float64Array = spacedTimesteps(NAME, this.config, steps, num_train_timesteps);
    const spaced = Float64Array.from(timesteps, (t) => interpolate(t, trainSigmas));
    const respaced = respacedSigmas(this.config, spaced, steps);
    if (respaced !== spaced) timesteps = respaced.map((sigma) => sigmaToT(sigma, log_sigmas));
    if (this.config.use_karras_sigmas) timesteps = timesteps.map(roundHalfEven);

    // Geometric means, of logarithms. The first one wraps around to the last sigma, 0, and is never used.
    const sigmas = Float32Array.from([...respaced, 0]);
    const logs = sigmas.map(log32);
    const sigmas_interpol = logs.map((log, i) => {
      const before = logs.at(i - 1)!;
      return exp32(Math.fround(before - Math.fround(before - log) / 2));
    });

    this.num_inference_steps = steps;
    this.sigmas = Float32Array.from([...twiceButFirst(sigmas), 0]);
    this.sigmas_interpol = Float32Array.from([...twiceButFirst(sigmas_interpol), 0]);
    const midpoints = sigmas_interpol.subarray(1).map((sigma) => sigmaToT32(sigma, log_sigmas));
    this.timesteps = interleaved(timesteps, midpoints);
    this.startSample = null;
    this.resetIndex();
  }

  private at(sigmas: Float32Array, index: number): number {
    return entry(sigmas, index, NAME, "step");
  }

  /**
   * Predicts the sample: halfway to the timestep before in one call, at it in the next.
   *
   * @param model_output `[batch, channels, ...]`, for the input that {@link scale_model_input} gave
   * @param timestep one of `timesteps`; only the first of a run is looked at
   * @param sample `[batch, channels, ...]`
   * @throws ValueError for an unknown `prediction_type`, or a timestep or shape that does not fit.
   * @throws UnsupportedModelError for the `prediction_type` "sample".
   */
  step(model_output: Tensor, timestep: number, sample: Tensor, options: Record<never, never> = {}): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, KDPM2DiscreteScheduler.step_options);
    checkSample(`${NAME}.step`, model_output, sample);
    const index = this.startAt(timestep);
    // The step goes from entry `from` to the one after it.
    const from = this.startSample === null ? index : index - 1;
    const sigma = this.at(this.sigmas, from);
    const sigma_interpol = this.at(this.sigmas_interpol, from + 1);
    const sigma_next = this.at(this.sigmas, from + 1);
    const x = sample.data;

    // 1. predicted x_0 from the sigma-scaled prediction
    const sigma_input = this.startSample === null ? sigma : sigma_interpol;
    const { prediction_type } = this.config;
    const supported = ["epsilon", "v_prediction"];
    const x0 = denoisedAtSigma(NAME, prediction_type, supported, model_output.data, x, sigma_input);

    // 2. the derivative there, followed to the geometric mean; in the second call, from the start to the next sigma
    const dt = Math.fround((this.startSample === null ? sigma_interpol : sigma_next) - sigma);
    const start = this.startSample ?? x;
    const prev = new Float32Array(x.length);
    for (let i = 0; i < prev.length; i++) {
      const derivative = Math.fround(Math.fround(x[i]! - x0[i]!) / sigma_input);
      prev[i] = start[i]! + Math.fround(derivative * dt);
    }

    this.startSample = this.startSample === null ? x.slice() : null;
    this.stepIndex = index + 1;
    return {
      prev_sample: new Tensor("float32", prev, sample.dims),
      pred_original_sample: new Tensor("float32", x0, sample.dims),
    };
  }

  /**
   * Adds noise of the sigma of `timesteps`; after {@link set_begin_index}, of the sigma at which the run is.
   *
   * @param timesteps one for all, or one per batch item
   */
  add_noise(original_samples: Tensor, noise: Tensor, timesteps: ArrayLike<number>): Tensor {
    const sigmas = Float32Array.from(this.noiseIndices(timesteps), (index) => this.at(this.sigmas, index));
    return addNoiseOfSigmas(NAME, original_samples, noise, sigmas);
  }
}
