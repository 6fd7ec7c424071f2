import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import {
  checkCustomTimesteps,
  checkSteps,
  checkStepsOrTimesteps,
  checkStepsTrained,
  entry,
  unknownValue,
} from "./checks.ts";
import { exp32, log32, sqrt32 } from "./float32.ts";
import { learnedRange, missingVariance, splitVariance } from "./learned_variance.ts";
import { diffuse, noiseLevel, predictOriginal, velocity } from "./noise_level.ts";
import {
  alphasCumprod,
  type BetaConfig,
  commonBetaSchedules,
  makeBetas,
  rescaleZeroTerminalSnr,
} from "./noise_schedules.ts";
import {
  karrasDiffusionFields,
  karrasDiffusionSchedulers,
  type PredictionType,
  SchedulerMixin,
  type SchedulerOutput,
  type SetTimestepsOptions,
  type StepOptions,
  type TimestepSpacing,
  type Timesteps,
} from "./scheduling_utils.ts";
import { leadingTimesteps, linspaceTimesteps, roundHalfEven, trailingTimesteps } from "./spacing.ts";
import { previousTimestep } from "./step_index.ts";
import { clampSample, type ThresholdingConfig, thresholdSample } from "./thresholding.ts";

/** The variance of the noise that a DDPM step adds. */
export type DDPMVarianceType =
  | "fixed_small"
  | "fixed_small_log"
  | "fixed_large"
  | "fixed_large_log"
  | "learned"
  | "learned_range";

/** Config of {@link DDPMScheduler}. */
export interface DDPMSchedulerConfig extends BetaConfig, ThresholdingConfig {
  /** The variance of the added noise. "learned" and "learned_range" read it from the model's second half of channels. Default "fixed_small". */
  variance_type: DDPMVarianceType | (string & {});
  /** Whether to clip the predicted sample. Default true. */
  clip_sample: boolean;
  /** Default "epsilon". */
  prediction_type: PredictionType;
  /** Where it is clipped. Default 1. */
  clip_sample_range: number;
  /** Default "leading". */
  timestep_spacing: TimestepSpacing;
  /** Added to each timestep of "leading" spacing. Default 0. */
  steps_offset: number;
  /** Whether to rescale the betas to end in pure noise. Default false. */
  rescale_betas_zero_snr: boolean;
}

/** What {@link DDPMScheduler.step} takes. */
export type DDPMStepOptions = Pick<StepOptions, "generator">;

const NAME = "DDPMScheduler";
const PREDICTIONS: readonly PredictionType[] = ["epsilon", "sample", "v_prediction"];

/**
 * Denoising diffusion probabilistic models: ancestral sampling by Langevin dynamics.
 *
 * @see Diffusers `DDPMScheduler`; https://huggingface.co/papers/2006.11239
 */
export class DDPMScheduler extends SchedulerMixin<DDPMSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<DDPMSchedulerConfig> = configDefaults<DDPMSchedulerConfig>({
    num_train_timesteps: 1000,
    beta_start: 0.0001,
    beta_end: 0.02,
    beta_schedule: "linear",
    trained_betas: null,
    variance_type: "fixed_small",
    clip_sample: true,
    prediction_type: "epsilon",
    thresholding: false,
    dynamic_thresholding_ratio: 0.995,
    clip_sample_range: float(1),
    sample_max_value: float(1),
    timestep_spacing: "leading",
    steps_offset: 0,
    rescale_betas_zero_snr: false,
  });
  static override readonly compatible_fields: readonly string[] = karrasDiffusionFields;
  static override readonly compatible_classes: readonly string[] = karrasDiffusionSchedulers;
  static override readonly step_options: readonly string[] = ["generator"];
  static override readonly set_timesteps_options: readonly string[] = ["timesteps"];

  readonly init_noise_sigma: number = 1;
  timesteps: Timesteps;
  /** `[num_train_timesteps]`. */
  readonly betas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas_cumprod: Float32Array;
  private custom_timesteps = false;

  /** @throws UnsupportedModelError for an unknown `beta_schedule`. */
  constructor(config: Partial<DDPMSchedulerConfig> = {}) {
    super(config);
    const { num_train_timesteps, rescale_betas_zero_snr } = this.config;
    const betas = makeBetas(this.constructor.name, this.config, [...commonBetaSchedules, "laplace", "sigmoid"]);
    this.betas = rescale_betas_zero_snr ? rescaleZeroTerminalSnr(betas) : betas;
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    this.timesteps = Int32Array.from({ length: num_train_timesteps }, (_, i) => num_train_timesteps - 1 - i);
  }

  /**
   * Lays out the timesteps of a run.
   *
   * @param num_inference_steps at most `num_train_timesteps`; null with `timesteps`
   * @throws ValueError for both or neither, too many steps, or custom timesteps that do not descend.
   */
  set_timesteps(num_inference_steps: number | null, options: Pick<SetTimestepsOptions, "timesteps"> = {}): void {
    const where = this.constructor.name;
    checkOptions(`${where}.set_timesteps`, options, DDPMScheduler.set_timesteps_options);
    const { num_train_timesteps, timestep_spacing, steps_offset } = this.config;
    const { timesteps } = options;
    checkStepsOrTimesteps(where, num_inference_steps, timesteps);
    if (timesteps !== undefined) {
      checkCustomTimesteps(where, timesteps, num_train_timesteps);
      this.timesteps = Int32Array.from(timesteps);
      this.custom_timesteps = true;
      return;
    }
    checkSteps(where, num_inference_steps);
    checkStepsTrained(where, num_inference_steps, num_train_timesteps);

    let spaced: Float64Array;
    if (timestep_spacing === "linspace") {
      spaced = linspaceTimesteps(num_train_timesteps - 1, num_inference_steps).map(roundHalfEven);
    } else if (timestep_spacing === "leading") {
      const step_ratio = Math.floor(num_train_timesteps / num_inference_steps);
      spaced = leadingTimesteps(step_ratio, num_inference_steps, steps_offset);
    } else if (timestep_spacing === "trailing") {
      spaced = trailingTimesteps(num_train_timesteps, num_train_timesteps / num_inference_steps);
    } else {
      unknownValue(where, "timestep_spacing", timestep_spacing, ["linspace", "leading", "trailing"]);
    }
    this.num_inference_steps = num_inference_steps;
    this.custom_timesteps = false;
    this.timesteps = Int32Array.from(spaced);
  }

  /** The timestep that a step from `timestep` goes to; -1 at the end. */
  previous_timestep(timestep: number): number {
    if (!this.custom_timesteps && this.num_inference_steps === null) return timestep - 1;
    return previousTimestep(this.constructor.name, this.timesteps, timestep);
  }

  /**
   * Predicts the sample of the timestep before.
   *
   * @param model_output `[batch, channels, ...]`; twice the channels where the variance is learned
   * @param timestep one of `timesteps`
   * @param sample `[batch, channels, ...]`
   * @throws ValueError for an unknown `prediction_type`, a timestep or shape that does not fit, or a missing learned variance.
   */
  step(model_output: Tensor, timestep: number, sample: Tensor, options: DDPMStepOptions = {}): SchedulerOutput {
    const where = this.constructor.name;
    checkOptions(`${where}.step`, options, DDPMScheduler.step_options);
    const { prediction_type, variance_type, thresholding, clip_sample, clip_sample_range } = this.config;
    const t = timestep;
    const prev_t = this.previous_timestep(t);
    const learns = variance_type === "learned" || variance_type === "learned_range";
    const { prediction: e, variance: predicted_variance } = splitVariance(
      `${where}.step`,
      learns,
      model_output,
      sample,
    );

    // 1. alphas and betas
    const alpha_prod_t = entry(this.alphas_cumprod, t, where, "timestep");
    const alpha_prod_t_prev = prev_t >= 0 ? entry(this.alphas_cumprod, prev_t, where, "timestep") : 1;
    const beta_prod_t = Math.fround(1 - alpha_prod_t);
    const beta_prod_t_prev = Math.fround(1 - alpha_prod_t_prev);
    const current_alpha_t = Math.fround(alpha_prod_t / alpha_prod_t_prev);
    const current_beta_t = Math.fround(1 - current_alpha_t);

    // 2. predicted x_0, formula (15), and 3. clip or threshold it
    const x = sample.data;
    const x0 = new Float32Array(sample.size);
    predictOriginal(where, prediction_type, PREDICTIONS, e, x, noiseLevel(alpha_prod_t), x0);
    if (thresholding) thresholdSample(x0, sample.dims[0] ?? 1, this.config);
    else if (clip_sample) clampSample(x0, clip_sample_range);

    // 4. and 5. the mean µ_t of the previous sample, formula (7)
    const x0_coeff = Math.fround(Math.fround(sqrt32(alpha_prod_t_prev) * current_beta_t) / beta_prod_t);
    const x_coeff = Math.fround(Math.fround(sqrt32(current_alpha_t) * beta_prod_t_prev) / beta_prod_t);
    const prev = new Float32Array(sample.size);
    for (let i = 0; i < prev.length; i++) {
      prev[i] = Math.fround(x0_coeff * x0[i]!) + Math.fround(x_coeff * x[i]!);
    }

    // 6. noise of the variance β_t, formulas (6) and (7)
    if (t > 0) {
      const noise = randn_tensor(sample.dims, options).data;
      // The logarithm of the variance is taken, so it must not be 0.
      const variance = Math.max(
        Math.fround(Math.fround(beta_prod_t_prev / beta_prod_t) * current_beta_t),
        Math.fround(1e-20),
      );
      if (learns) {
        const v = predicted_variance ?? missingVariance(where, variance_type, model_output, sample);
        const min_log = log32(variance);
        const max_log = log32(current_beta_t);
        for (let i = 0; i < prev.length; i++) {
          const std = variance_type === "learned" ? sqrt32(v[i]!) : exp32(0.5 * learnedRange(v[i]!, min_log, max_log));
          prev[i] = prev[i]! + Math.fround(std * noise[i]!);
        }
      } else {
        const std = fixedStd(variance_type, variance, current_beta_t);
        for (let i = 0; i < prev.length; i++) prev[i] = prev[i]! + Math.fround(std * noise[i]!);
      }
    }

    return {
      prev_sample: new Tensor("float32", prev, sample.dims),
      pred_original_sample: new Tensor("float32", x0, sample.dims),
    };
  }

  /**
   * Diffuses samples to the noise level of `timesteps`.
   *
   * @param timesteps one for all, or one per batch item
   */
  add_noise(original_samples: Tensor, noise: Tensor, timesteps: ArrayLike<number>): Tensor {
    return diffuse(this.constructor.name, this.alphas_cumprod, original_samples, noise, timesteps);
  }

  /** The velocity that a v-prediction model is trained to give for `sample` and `noise`. */
  get_velocity(sample: Tensor, noise: Tensor, timesteps: ArrayLike<number>): Tensor {
    return velocity(this.constructor.name, this.alphas_cumprod, sample, noise, timesteps);
  }
}

/** The standard deviation of the added noise. "fixed_large_log" is the root of a logarithm, thus NaN, in Diffusers too. */
function fixedStd(variance_type: string, variance: number, current_beta_t: number): number {
  if (variance_type === "fixed_small_log") return exp32(0.5 * log32(variance));
  if (variance_type === "fixed_large") return sqrt32(current_beta_t);
  if (variance_type === "fixed_large_log") return sqrt32(log32(current_beta_t));
  return sqrt32(variance);
}
