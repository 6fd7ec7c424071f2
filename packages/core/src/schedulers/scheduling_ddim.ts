import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions, ValueError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkSample, checkSteps, checkStepsTrained, checkTensor, entry, stepsNotSet, unknownValue } from "./checks.ts";
import { sqrt32 } from "./float32.ts";
import { diffuse, moveToLevel, noiseLevel, predictOriginal, velocity } from "./noise_level.ts";
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
  type StepOptions,
  type TimestepSpacing,
  type Timesteps,
} from "./scheduling_utils.ts";
import { leadingTimesteps, linspaceTimesteps, roundHalfEven, trailingTimesteps } from "./spacing.ts";
import { clampSample, type ThresholdingConfig, thresholdSample } from "./thresholding.ts";

/** Config of {@link DDIMScheduler}. */
export interface DDIMSchedulerConfig extends BetaConfig, ThresholdingConfig {
  /** Whether to clip the predicted sample. Default true. */
  clip_sample: boolean;
  /** Whether the last step goes to an `alphas_cumprod` of 1, rather than to that of timestep 0. Default true. */
  set_alpha_to_one: boolean;
  /** Added to each timestep of "leading" spacing. Default 0. */
  steps_offset: number;
  /** Default "epsilon". */
  prediction_type: PredictionType;
  /** Where it is clipped. Default 1. */
  clip_sample_range: number;
  /** Default "leading". */
  timestep_spacing: TimestepSpacing;
  /** Whether to rescale the betas to end in pure noise. Default false. */
  rescale_betas_zero_snr: boolean;
}

/** What {@link DDIMScheduler.step} takes. */
export type DDIMStepOptions = Pick<StepOptions, "eta" | "use_clipped_model_output" | "generator" | "variance_noise">;

const NAME = "DDIMScheduler";
const PREDICTIONS: readonly PredictionType[] = ["epsilon", "sample", "v_prediction"];

/**
 * Denoising diffusion implicit models: non-Markovian, thus deterministic with few steps unless `eta` adds noise.
 *
 * @see Diffusers `DDIMScheduler`; https://huggingface.co/papers/2010.02502
 */
export class DDIMScheduler extends SchedulerMixin<DDIMSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<DDIMSchedulerConfig> = configDefaults<DDIMSchedulerConfig>({
    num_train_timesteps: 1000,
    beta_start: 0.0001,
    beta_end: 0.02,
    beta_schedule: "linear",
    trained_betas: null,
    clip_sample: true,
    set_alpha_to_one: true,
    steps_offset: 0,
    prediction_type: "epsilon",
    thresholding: false,
    dynamic_thresholding_ratio: 0.995,
    clip_sample_range: float(1),
    sample_max_value: float(1),
    timestep_spacing: "leading",
    rescale_betas_zero_snr: false,
  });
  static override readonly compatible_fields: readonly string[] = karrasDiffusionFields;
  static override readonly compatible_classes: readonly string[] = karrasDiffusionSchedulers;
  static override readonly step_options: readonly string[] = [
    "eta",
    "use_clipped_model_output",
    "generator",
    "variance_noise",
  ];

  readonly init_noise_sigma: number = 1;
  timesteps: Timesteps;
  /** `[num_train_timesteps]`. */
  readonly betas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas_cumprod: Float32Array;
  /** The `alphas_cumprod` that the last step goes to. */
  readonly final_alpha_cumprod: number;

  /** @throws UnsupportedModelError for an unknown `beta_schedule`. */
  constructor(config: Partial<DDIMSchedulerConfig> = {}) {
    super(config);
    const { num_train_timesteps, rescale_betas_zero_snr, set_alpha_to_one } = this.config;
    const betas = makeBetas(this.constructor.name, this.config, commonBetaSchedules);
    this.betas = rescale_betas_zero_snr ? rescaleZeroTerminalSnr(betas) : betas;
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    this.final_alpha_cumprod = set_alpha_to_one ? 1 : this.alphas_cumprod[0]!;
    this.timesteps = Int32Array.from({ length: num_train_timesteps }, (_, i) => num_train_timesteps - 1 - i);
  }

  /**
   * Lays out the timesteps of a run.
   *
   * @param num_inference_steps 1 to `num_train_timesteps`
   * @throws ValueError for another number of steps, or an unknown `timestep_spacing`.
   */
  set_timesteps(num_inference_steps: number | null, options: Record<string, never> = {}): void {
    const where = this.constructor.name;
    checkOptions(`${where}.set_timesteps`, options, DDIMScheduler.set_timesteps_options);
    const { num_train_timesteps, timestep_spacing, steps_offset } = this.config;
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
    this.timesteps = Int32Array.from(spaced);
  }

  /**
   * Predicts the sample of the timestep before.
   *
   * @param model_output `[batch, channels, ...]`
   * @param timestep one of `timesteps`
   * @param sample `[batch, channels, ...]`
   * @throws ValueError before `set_timesteps`, for an unknown `prediction_type`, a timestep or shape that does not fit,
   * or both `generator` and `variance_noise`.
   */
  step(model_output: Tensor, timestep: number, sample: Tensor, options: DDIMStepOptions = {}): SchedulerOutput {
    const where = this.constructor.name;
    checkOptions(`${where}.step`, options, DDIMScheduler.step_options);
    if (this.num_inference_steps === null) stepsNotSet(where);
    checkSample(`${where}.step`, model_output, sample);
    const { prediction_type, thresholding, clip_sample, clip_sample_range, num_train_timesteps } = this.config;
    const { eta = 0, use_clipped_model_output = false, generator, variance_noise } = options;

    // The paper's names: model_output e_theta(x_t, t), pred_original_sample f_theta(x_t, t), std_dev_t sigma_t.
    // 1. the timestep before
    const prev_timestep = timestep - Math.floor(num_train_timesteps / this.num_inference_steps);

    // 2. alphas and betas
    const alpha_prod_t = entry(this.alphas_cumprod, timestep, where, "timestep");
    const alpha_prod_t_prev =
      prev_timestep >= 0 ? entry(this.alphas_cumprod, prev_timestep, where, "timestep") : this.final_alpha_cumprod;
    const beta_prod_t = Math.fround(1 - alpha_prod_t);
    const beta_prod_t_prev = Math.fround(1 - alpha_prod_t_prev);

    // 3. predicted x_0, formula (12), and 4. clip or threshold it
    const x = sample.data;
    const e = model_output.data;
    const level = noiseLevel(alpha_prod_t);
    const x0 = new Float32Array(sample.size);
    predictOriginal(where, prediction_type, PREDICTIONS, e, x, level, x0);
    if (thresholding) thresholdSample(x0, sample.dims[0] ?? 1, this.config);
    else if (clip_sample) clampSample(x0, clip_sample_range);

    // 5. the variance sigma_t(eta), formula (16)
    const variance = Math.fround(
      Math.fround(beta_prod_t_prev / beta_prod_t) * Math.fround(1 - Math.fround(alpha_prod_t / alpha_prod_t_prev)),
    );
    const std_dev_t = Math.fround(Math.fround(eta) * sqrt32(variance));

    // 6. the direction pointing to x_t, and 7. x_t-1 without noise, formula (12)
    // Up to eta = 1 it is not negative but for rounding, of which the last step up to pure noise makes NaN in Diffusers.
    const direction_variance = Math.fround(Math.fround(1 - alpha_prod_t_prev) - Math.fround(std_dev_t * std_dev_t));
    const direction_coeff = sqrt32(eta <= 1 ? Math.max(direction_variance, 0) : direction_variance);
    const prev_level = { sqrt_alpha: sqrt32(alpha_prod_t_prev), sqrt_beta: direction_coeff };
    const prev = new Float32Array(sample.size);
    if (use_clipped_model_output) moveToLevel("sample", x0, x0, x, level, prev_level, prev);
    else moveToLevel(prediction_type, x0, e, x, level, prev_level, prev);

    if (eta > 0) {
      if (variance_noise !== undefined && generator !== undefined) {
        throw new ValueError(
          `Cannot pass both \`generator\` and \`variance_noise\` to ${where}.step: pass one of them.`,
          {
            className: where,
            field: "variance_noise",
          },
        );
      }
      const noise = variance_noise ?? randn_tensor(sample.dims, { generator });
      checkTensor(`${where}.step`, "variance_noise", noise, sample.dims);
      for (let i = 0; i < prev.length; i++) prev[i] = prev[i]! + Math.fround(std_dev_t * noise.data[i]!);
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
