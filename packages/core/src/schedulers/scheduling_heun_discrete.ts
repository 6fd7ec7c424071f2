import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { checkSample, checkSteps, checkStepsOrTimesteps, entry, refuseTimestepsWith } from "./checks.ts";
import { addNoiseOfSigmas } from "./float32.ts";
import {
  alphasCumprod,
  type BetaConfig,
  type BetaSchedule,
  commonBetaSchedules,
  makeBetas,
  sigmasOf,
} from "./noise_schedules.ts";
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
} from "./sigmas.ts";
import { spacedTimesteps, twiceButFirst } from "./spacing.ts";
import { IndexedSchedulerMixin } from "./step_index.ts";
import { clampSample } from "./thresholding.ts";

/** Config of {@link HeunDiscreteScheduler}. */
export interface HeunDiscreteSchedulerConfig extends BetaConfig, SigmaConfig {
  /** The first beta. Default 0.00085. */
  beta_start: number;
  /** The last beta. Default 0.012. */
  beta_end: number;
  /** "linear", "scaled_linear", "squaredcos_cap_v2" or "exp". Default "linear". */
  beta_schedule: BetaSchedule;
  /** Default "epsilon". */
  prediction_type: PredictionType;
  /** Whether to clip the denoised sample. Default false. */
  clip_sample: boolean;
  /** What it is clipped to, on either side of 0. Default 1. */
  clip_sample_range: number;
  /** Default "linspace". */
  timestep_spacing: TimestepSpacing;
  /** Added to each timestep of "leading" spacing. Default 0. */
  steps_offset: number;
}

const NAME = "HeunDiscreteScheduler";

/**
 * Heun's method of the second order on the probability-flow ODE in sigma: an Euler step, then one with the mean of the
 * derivatives at both of its ends. All timesteps but the first come twice, a call of `step` and of the model for each.
 *
 * @see Diffusers `HeunDiscreteScheduler`; https://huggingface.co/papers/2206.00364 (algorithm 1)
 */
export class HeunDiscreteScheduler extends IndexedSchedulerMixin<HeunDiscreteSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<HeunDiscreteSchedulerConfig> =
    configDefaults<HeunDiscreteSchedulerConfig>({
      num_train_timesteps: 1000,
      beta_start: 0.00085,
      beta_end: 0.012,
      beta_schedule: "linear",
      trained_betas: null,
      prediction_type: "epsilon",
      use_karras_sigmas: false,
      use_exponential_sigmas: false,
      use_beta_sigmas: false,
      clip_sample: false,
      clip_sample_range: float(1),
      timestep_spacing: "linspace",
      steps_offset: 0,
    });
  static override readonly compatible_fields: readonly string[] = karrasDiffusionFields;
  static override readonly compatible_classes: readonly string[] = karrasDiffusionSchedulers;
  static override readonly set_timesteps_options: readonly string[] = ["num_train_timesteps", "timesteps"];

  override readonly order: number = 2;
  timesteps!: Float32Array;
  /** The noise level of each timestep, and 0, which the last step goes to. */
  sigmas!: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly betas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas_cumprod: Float32Array;

  /** What an Euler step leaves for the second one; null when the next is an Euler step. */
  private eulerStep: { sample: Float32Array; derivative: Float32Array; dt: number } | null = null;

  /**
   * @throws UnsupportedModelError for an unknown `beta_schedule`.
   * @throws ValueError when more than one spacing of sigmas is asked for, or for an unknown `timestep_spacing`.
   */
  constructor(config: Partial<HeunDiscreteSchedulerConfig> = {}) {
    super(config);
    checkSigmaConfig(NAME, this.config);
    this.betas = makeBetas(NAME, this.config, [...commonBetaSchedules, "exp"]);
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    this.set_timesteps(this.config.num_train_timesteps);
  }

  /** The standard deviation that initial noise must have: the largest sigma, or what keeps the variance with "leading". */
  get init_noise_sigma(): number {
    return initialSigma(this.sigmas, this.config.timestep_spacing);
  }

  /** Whether the next `step` is the Euler step, the first of two. */
  get state_in_first_order(): boolean {
    return this.eulerStep === null;
  }

  /** Divides by `sqrt(sigma² + 1)`. Call it once before each `step`. */
  override scale_model_input(sample: Tensor, timestep: number): Tensor {
    return scaledBySigma(`${NAME}.scale_model_input`, sample, this.sigmaAt(this.startAt(timestep)));
  }

  /**
   * Lays out the timesteps and sigmas of a run.
   *
   * @param num_inference_steps at least 1; null with `timesteps`
   * @throws ValueError unless exactly one of the two is given, for `timesteps` that the config does not go with, or an
   * unknown `timestep_spacing`.
   */
  set_timesteps(
    num_inference_steps: number | null,
    options: Pick<SetTimestepsOptions, "num_train_timesteps" | "timesteps"> = {},
  ): void {
    checkOptions(`${NAME}.set_timesteps`, options, HeunDiscreteScheduler.set_timesteps_options);
    const { timesteps: custom } = options;
    checkStepsOrTimesteps(NAME, num_inference_steps, custom);
    if (custom !== undefined)
      refuseTimestepsWith(NAME, this.config, ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"]);
    const steps = num_inference_steps ?? custom!.length;
    checkSteps(NAME, steps);
    const trainSigmas = sigmasOf(this.alphas_cumprod);
    const log_sigmas = logSigmas(trainSigmas);

    // Python's `or`: 0 stands for the config's, too.
    const num_train_timesteps = options.num_train_timesteps || this.config.num_train_timesteps;
    let timesteps =
      custom === undefined ? spacedTimesteps(NAME, this.config, steps, num_train_timesteps) : Float32Array.from(custom);
    const spaced = Float64Array.from(timesteps, (t) => interpolate(t, trainSigmas));
    const sigmas = respacedSigmas(this.config, spaced, steps);
    if (sigmas !== spaced) timesteps = Float32Array.from(sigmas, (sigma) => sigmaToT(sigma, log_sigmas));

    // The model is called at both ends of a step, except at the end of the last one.
    this.num_inference_steps = steps;
    this.timesteps = twiceButFirst(timesteps);
    this.sigmas = Float32Array.from([...twiceButFirst(Float32Array.from(sigmas)), 0]);
    this.eulerStep = null;
    this.resetIndex();
  }

  private sigmaAt(index: number): number {
    return entry(this.sigmas, index, NAME, "step");
  }

  /**
   * Predicts the sample of the timestep before: by Euler's method in one call, better by Heun's in the next.
   *
   * @param model_output `[batch, channels, ...]`, for the input that {@link scale_model_input} gave
   * @param timestep one of `timesteps`; only the first of a run is looked at
   * @param sample `[batch, channels, ...]`
   * @throws ValueError for an unknown `prediction_type`, or a timestep or shape that does not fit.
   */
  step(model_output: Tensor, timestep: number, sample: Tensor, options: Record<never, never> = {}): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, HeunDiscreteScheduler.step_options);
    checkSample(`${NAME}.step`, model_output, sample);
    const { prediction_type, clip_sample, clip_sample_range } = this.config;
    const index = this.startAt(timestep);
    const first = this.eulerStep;
    const sigma = this.sigmaAt(first === null ? index : index - 1);
    const sigma_next = this.sigmaAt(first === null ? index + 1 : index);
    const sigma_input = first === null ? sigma : sigma_next;
    const x = sample.data;

    // 1. predicted x_0 from the sigma-scaled prediction
    const supported = ["epsilon", "v_prediction", "sample"];
    const x0 = denoisedAtSigma(NAME, prediction_type, supported, model_output.data, x, sigma_input);
    if (clip_sample) clampSample(x0, clip_sample_range);

    const prev = new Float32Array(x.length);
    if (first === null) {
      // 2. the derivative at sigma, followed to sigma_next
      const dt = Math.fround(sigma_next - sigma);
      const derivative = new Float32Array(x.length);
      for (let i = 0; i < prev.length; i++) {
        derivative[i] = Math.fround(x[i]! - x0[i]!) / sigma;
        prev[i] = x[i]! + Math.fround(derivative[i]! * dt);
      }
      this.eulerStep = { sample: x.slice(), derivative, dt };
    } else {
      // 3. the mean of it and of the derivative at sigma_next, followed from where the Euler step came from
      for (let i = 0; i < prev.length; i++) {
        const derivative = Math.fround(Math.fround(x[i]! - x0[i]!) / sigma_next);
        const mean = Math.fround(first.derivative[i]! + derivative) / 2;
        prev[i] = first.sample[i]! + Math.fround(mean * first.dt);
      }
      this.eulerStep = null;
    }

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
    const sigmas = Float32Array.from(this.noiseIndices(timesteps), (index) => this.sigmaAt(index));
    return addNoiseOfSigmas(NAME, original_samples, noise, sigmas);
  }
}
