import { configDefaults } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkSample, checkSteps, entry } from "./checks.ts";
import { addNoiseOfSigmas, exp32, log32 } from "./float32.ts";
import { alphasCumprod, type BetaConfig, commonBetaSchedules, makeBetas, sigmasOf } from "./noise_schedules.ts";
import {
  karrasDiffusionFields,
  karrasDiffusionSchedulers,
  type PredictionType,
  type SchedulerOutput,
  type SetTimestepsOptions,
  type StepOptions,
  type TimestepSpacing,
} from "./scheduling_utils.ts";
import {
  ancestralSigmas,
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

/** Config of {@link KDPM2AncestralDiscreteScheduler}. */
export interface KDPM2AncestralDiscreteSchedulerConfig extends BetaConfig, SigmaConfig {
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

/** What {@link KDPM2AncestralDiscreteScheduler.step} takes. */
export type KDPM2AncestralDiscreteStepOptions = Pick<StepOptions, "generator">;

const NAME = "KDPM2AncestralDiscreteScheduler";

/**
 * Ancestral sampling with DPM-Solver-2: each step goes below the next noise level by the derivative halfway there, and
 * adds noise to come back to it. A timestep of the halfway level lies between every two, a call of `step` and of the
 * model for each.
 *
 * @see Diffusers `KDPM2AncestralDiscreteScheduler`; https://huggingface.co/papers/2206.00927 (algorithm 1),
 * https://huggingface.co/papers/2206.00364 (algorithm 2)
 */
export class KDPM2AncestralDiscreteScheduler extends IndexedSchedulerMixin<KDPM2AncestralDiscreteSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<KDPM2AncestralDiscreteSchedulerConfig> =
    configDefaults<KDPM2AncestralDiscreteSchedulerConfig>({
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
  static override readonly step_options: readonly string[] = ["generator"];
  static override readonly set_timesteps_options: readonly string[] = ["num_train_timesteps"];

  override readonly order: number = 2;
  timesteps!: Float32Array | Float64Array;
  /** The noise level that each step starts from, with 0 at the end. */
  sigmas!: Float32Array;
  /** The level that each step goes down to before noise is added; 0 at the end. */
  sigmas_down!: Float32Array;
  /** The level of that noise; NaN at the end, where there is no step. */
  sigmas_up!: Float32Array;
  /** The geometric mean of the levels where a step starts and goes down to; 0 for the last step. */
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
  constructor(config: Partial<KDPM2AncestralDiscreteSchedulerConfig> = {}) {
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
    const sigma = this.startSample === null ? this.at(this.sigmas, index) : this.at(this.sigmas_interpol, index - 1);
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
    checkOptions(`${NAME}.set_timesteps`, options, KDPM2AncestralDiscreteScheduler.set_timesteps_options);
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

    // Where each step goes down to and how much noise it adds. From the last sigma, 0, none starts.
    const sigmas = Float32Array.from([...respaced, 0]);
    const last = sigmas.length - 1;
    const levels = Array.from(sigmas, (sigma, i) => ancestralSigmas(sigma, sigmas[i + 1] ?? 0));
    const sigmas_down = Float32Array.from(levels, ([down], i) => (i === last ? 0 : down));
    const sigmas_up = Float32Array.from(levels, ([, up]) => up);
    // Geometric means, of logarithms. The last step goes all the way in its first call.
    const sigmas_interpol = sigmas_down.map((down, i) => {
      const log_down = log32(down);
      return i >= last - 1 ? 0 : exp32(Math.fround(log_down - Math.fround(log_down - log32(sigmas[i]!)) / 2));
    });

    this.num_inference_steps = steps;
    this.sigmas = Float32Array.from([...twiceButFirst(sigmas), 0]);
    this.sigmas_down = Float32Array.from([...twiceButFirst(sigmas_down), 0]);
    this.sigmas_up = Float32Array.from([...twiceButFirst(sigmas_up), Number.NaN]);
    this.sigmas_interpol = Float32Array.from([...twiceButFirst(sigmas_interpol), 0]);
    this.timesteps = interleaved(
      timesteps,
      sigmas_interpol.map((sigma) => sigmaToT32(sigma, log_sigmas)),
    );
    this.startSample = null;
    this.resetIndex();
  }

  private at(sigmas: Float32Array, index: number): number {
    return entry(sigmas, index, NAME, "step");
  }

  /**
   * Predicts the sample: halfway to the level below in one call; down to it, with noise added, in the next.
   *
   * @param model_output `[batch, channels, ...]`, for the input that {@link scale_model_input} gave
   * @param timestep one of `timesteps`; only the first of a run is looked at
   * @param sample `[batch, channels, ...]`
   * @throws ValueError for an unknown `prediction_type`, or a timestep or shape that does not fit.
   * @throws UnsupportedModelError for the `prediction_type` "sample".
   */
  step(
    model_output: Tensor,
    timestep: number,
    sample: Tensor,
    options: KDPM2AncestralDiscreteStepOptions = {},
  ): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, KDPM2AncestralDiscreteScheduler.step_options);
    checkSample(`${NAME}.step`, model_output, sample);
    const index = this.startAt(timestep);
    const start = this.startSample;
    const from = start === null ? index : index - 1;
    const sigma = this.at(this.sigmas, from);
    const sigma_interpol = this.at(this.sigmas_interpol, from);
    const x = sample.data;

    // 1. predicted x_0 from the sigma-scaled prediction
    const sigma_input = start === null ? sigma : sigma_interpol;
    const { prediction_type } = this.config;
    const supported = ["epsilon", "v_prediction"];
    const x0 = denoisedAtSigma(NAME, prediction_type, supported, model_output.data, x, sigma_input);

    // 2. the derivative there, followed to the geometric mean; in the second call, from the start to sigma_down
    const dt = Math.fround((start === null ? sigma_interpol : this.at(this.sigmas_down, from)) - sigma);
    const origin = start ?? x;
    const prev = new Float32Array(x.length);
    for (let i = 0; i < prev.length; i++) {
      const derivative = Math.fround(Math.fround(x[i]! - x0[i]!) / sigma_input);
      prev[i] = origin[i]! + Math.fround(derivative * dt);
    }

    // 3. noise, back up to the next sigma
    if (start !== null) {
      const sigma_up = this.at(this.sigmas_up, from);
      const noise = randn_tensor(sample.dims, { generator: options.generator }).data;
      for (let i = 0; i < prev.length; i++) prev[i]! += Math.fround(noise[i]! * sigma_up);
    }

    this.startSample = start === null ? x.slice() : null;
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
