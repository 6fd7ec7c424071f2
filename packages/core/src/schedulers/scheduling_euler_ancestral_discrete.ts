import { configDefaults } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkSample, checkSteps, entry } from "./checks.ts";
import { addNoiseOfSigmas } from "./float32.ts";
import {
  alphasCumprod,
  type BetaConfig,
  commonBetaSchedules,
  makeBetas,
  rescaleZeroTerminalSnr,
  sigmasOf,
} from "./noise_schedules.ts";
import {
  karrasDiffusionFields,
  karrasDiffusionSchedulers,
  type PredictionType,
  type SchedulerOutput,
  type StepOptions,
  type TimestepSpacing,
} from "./scheduling_utils.ts";
import { ancestralSigmas, denoisedAtSigma, initialSigma, interpolate, scaledBySigma } from "./sigmas.ts";
import { linspaceTimesteps, spacedTimesteps } from "./spacing.ts";
import { IndexedSchedulerMixin } from "./step_index.ts";

/** Config of {@link EulerAncestralDiscreteScheduler}. */
export interface EulerAncestralDiscreteSchedulerConfig extends BetaConfig {
  /** "epsilon" or "v_prediction". Default "epsilon". */
  prediction_type: PredictionType;
  /** Default "linspace". */
  timestep_spacing: TimestepSpacing;
  /** Added to each timestep of "leading" spacing. Default 0. */
  steps_offset: number;
  /** Whether to rescale the betas to end in pure noise. Default false. */
  rescale_betas_zero_snr: boolean;
}

/** What {@link EulerAncestralDiscreteScheduler.step} takes. */
export type EulerAncestralDiscreteStepOptions = Pick<StepOptions, "generator">;

const NAME = "EulerAncestralDiscreteScheduler";

/**
 * Ancestral sampling with Euler's method: each step goes below the next noise level, and adds noise to come back to it.
 *
 * @see Diffusers `EulerAncestralDiscreteScheduler`; https://huggingface.co/papers/2206.00364 (section 4)
 */
export class EulerAncestralDiscreteScheduler extends IndexedSchedulerMixin<EulerAncestralDiscreteSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<EulerAncestralDiscreteSchedulerConfig> =
    configDefaults<EulerAncestralDiscreteSchedulerConfig>({
      num_train_timesteps: 1000,
      beta_start: 0.0001,
      beta_end: 0.02,
      beta_schedule: "linear",
      trained_betas: null,
      prediction_type: "epsilon",
      timestep_spacing: "linspace",
      steps_offset: 0,
      rescale_betas_zero_snr: false,
    });
  static override readonly compatible_fields: readonly string[] = karrasDiffusionFields;
  static override readonly compatible_classes: readonly string[] = karrasDiffusionSchedulers;
  static override readonly step_options: readonly string[] = ["generator"];

  timesteps: Float32Array;
  /** The noise level of each timestep, and 0, which the last step goes to. */
  sigmas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly betas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas_cumprod: Float32Array;

  private scaleInputCalled = false;

  /** @throws UnsupportedModelError for an unknown `beta_schedule`. */
  constructor(config: Partial<EulerAncestralDiscreteSchedulerConfig> = {}) {
    super(config);
    const { num_train_timesteps, rescale_betas_zero_snr } = this.config;
    const betas = makeBetas(NAME, this.config, commonBetaSchedules);
    this.betas = rescale_betas_zero_snr ? rescaleZeroTerminalSnr(betas) : betas;
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    // The least number that float16 has, so that the first sigma is not infinite.
    if (rescale_betas_zero_snr) this.alphas_cumprod[this.alphas_cumprod.length - 1] = 2 ** -24;

    this.sigmas = Float32Array.from([...sigmasOf(this.alphas_cumprod).reverse(), 0]);
    this.timesteps = Float32Array.from(linspaceTimesteps(num_train_timesteps - 1, num_train_timesteps));
  }

  /** The standard deviation that initial noise must have: the largest sigma, or what keeps the variance with "leading". */
  get init_noise_sigma(): number {
    return initialSigma(this.sigmas, this.config.timestep_spacing);
  }

  /** Divides by `sqrt(sigma² + 1)`. Call it once before each `step`. */
  override scale_model_input(sample: Tensor, timestep: number): Tensor {
    const scaled = scaledBySigma(`${NAME}.scale_model_input`, sample, this.sigmaAt(this.startAt(timestep)));
    this.scaleInputCalled = true;
    return scaled;
  }

  /**
   * Lays out the timesteps and sigmas of a run.
   *
   * @param num_inference_steps at least 1
   * @throws ValueError for an unknown `timestep_spacing`.
   */
  set_timesteps(num_inference_steps: number | null, options: Record<never, never> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, EulerAncestralDiscreteScheduler.set_timesteps_options);
    checkSteps(NAME, num_inference_steps);
    const timesteps = spacedTimesteps(NAME, this.config, num_inference_steps, this.config.num_train_timesteps);
    const trainSigmas = sigmasOf(this.alphas_cumprod);

    this.num_inference_steps = num_inference_steps;
    this.timesteps = timesteps;
    this.sigmas = Float32Array.from([...Array.from(timesteps, (t) => interpolate(t, trainSigmas)), 0]);
    this.resetIndex();
  }

  private sigmaAt(index: number): number {
    return entry(this.sigmas, index, NAME, "step");
  }

  /**
   * Predicts the sample of the timestep before, and adds noise to it.
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
    options: EulerAncestralDiscreteStepOptions = {},
  ): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, EulerAncestralDiscreteScheduler.step_options);
    checkSample(`${NAME}.step`, model_output, sample);
    if (!this.scaleInputCalled) {
      console.warn(`${NAME}: call \`scale_model_input\` before \`step\`, or the denoising goes wrong.`);
      this.scaleInputCalled = true;
    }
    const index = this.startAt(timestep);
    const sigma = this.sigmaAt(index);
    const x = sample.data;
    const e = model_output.data;

    // 1. predicted x_0 from the sigma-scaled prediction
    const { prediction_type } = this.config;
    const x0 = denoisedAtSigma(NAME, prediction_type, ["epsilon", "v_prediction"], e, x, sigma);

    // 2. the next noise level, split: sigma_to² = sigma_down² + sigma_up²
    const [sigma_down, sigma_up] = ancestralSigmas(sigma, this.sigmaAt(index + 1));

    // 3. the ODE's derivative, followed to sigma_down; then noise
    const dt = Math.fround(sigma_down - sigma);
    const noise = randn_tensor(sample.dims, { generator: options.generator }).data;
    const prev = new Float32Array(e.length);
    for (let i = 0; i < prev.length; i++) {
      const derivative = Math.fround(Math.fround(x[i]! - x0[i]!) / sigma);
      prev[i] = Math.fround(x[i]! + Math.fround(derivative * dt)) + Math.fround(noise[i]! * sigma_up);
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
