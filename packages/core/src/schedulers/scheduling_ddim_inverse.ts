import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { checkSample, checkSteps, checkStepsTrained, entry, stepsNotSet, unknownValue } from "./checks.ts";
import { moveToLevel, noiseLevel, predictOriginal } from "./noise_level.ts";
import {
  alphasCumprod,
  type BetaConfig,
  commonBetaSchedules,
  makeBetas,
  rescaleZeroTerminalSnr,
} from "./noise_schedules.ts";
import {
  type PredictionType,
  SchedulerMixin,
  type SchedulerOutput,
  type TimestepSpacing,
  type Timesteps,
} from "./scheduling_utils.ts";
import { leadingTimesteps, trailingTimesteps } from "./spacing.ts";
import { clampSample } from "./thresholding.ts";

/** Config of {@link DDIMInverseScheduler}. */
export interface DDIMInverseSchedulerConfig extends BetaConfig {
  /** Whether to clip the predicted sample. Default true. */
  clip_sample: boolean;
  /** Whether the first step starts from an `alphas_cumprod` of 1, rather than from that of timestep 0. Default true. */
  set_alpha_to_one: boolean;
  /** Added to each timestep of "leading" spacing. Default 0. */
  steps_offset: number;
  /** Default "epsilon". */
  prediction_type: PredictionType;
  /** Where it is clipped. Default 1. */
  clip_sample_range: number;
  /** "leading" or "trailing". Default "leading". */
  timestep_spacing: TimestepSpacing;
  /** Whether to rescale the betas to end in pure noise. Default false. */
  rescale_betas_zero_snr: boolean;
}

/** What the constructor of {@link DDIMInverseScheduler} takes besides its config. */
export interface DDIMInverseSchedulerDeprecated {
  /** @deprecated The old name of `set_alpha_to_one`, over which it goes unless null. */
  set_alpha_to_zero?: boolean | null;
}

const NAME = "DDIMInverseScheduler";
const PREDICTIONS: readonly PredictionType[] = ["epsilon", "sample", "v_prediction"];

/**
 * DDIM run backwards: from a picture to the noise that DDIM would make it of. Its timesteps ascend.
 *
 * @see Diffusers `DDIMInverseScheduler`; https://huggingface.co/papers/2010.02502
 */
export class DDIMInverseScheduler extends SchedulerMixin<DDIMInverseSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<DDIMInverseSchedulerConfig> =
    configDefaults<DDIMInverseSchedulerConfig>({
      num_train_timesteps: 1000,
      beta_start: 0.0001,
      beta_end: 0.02,
      beta_schedule: "linear",
      trained_betas: null,
      clip_sample: true,
      set_alpha_to_one: true,
      steps_offset: 0,
      prediction_type: "epsilon",
      clip_sample_range: float(1),
      timestep_spacing: "leading",
      rescale_betas_zero_snr: false,
    });
  static override readonly deprecated_fields: readonly string[] = ["set_alpha_to_zero"];

  readonly init_noise_sigma: number = 1;
  timesteps: Timesteps;
  /** `[num_train_timesteps]`. */
  readonly betas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas_cumprod: Float32Array;
  /** The `alphas_cumprod` that the first step starts from. */
  readonly initial_alpha_cumprod: number;

  /** @throws UnsupportedModelError for an unknown `beta_schedule`. */
  constructor(config: Partial<DDIMInverseSchedulerConfig> & DDIMInverseSchedulerDeprecated = {}) {
    super(config);
    const { num_train_timesteps, rescale_betas_zero_snr } = this.config;
    let { set_alpha_to_one } = this.config;
    if (config.set_alpha_to_zero !== undefined && config.set_alpha_to_zero !== null) {
      console.warn(`${NAME}: \`set_alpha_to_zero\` is deprecated. Pass it as \`set_alpha_to_one\`.`);
      set_alpha_to_one = config.set_alpha_to_zero;
    }
    const betas = makeBetas(NAME, this.config, commonBetaSchedules);
    this.betas = rescale_betas_zero_snr ? rescaleZeroTerminalSnr(betas) : betas;
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    this.initial_alpha_cumprod = set_alpha_to_one ? 1 : this.alphas_cumprod[0]!;
    this.timesteps = Int32Array.from({ length: num_train_timesteps }, (_, i) => i);
  }

  /**
   * Lays out the timesteps of a run, ascending.
   *
   * @param num_inference_steps 1 to `num_train_timesteps`
   * @throws ValueError for another number of steps, or a `timestep_spacing` that is neither "leading" nor "trailing".
   */
  set_timesteps(num_inference_steps: number | null, options: Record<string, never> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, DDIMInverseScheduler.set_timesteps_options);
    const { num_train_timesteps, timestep_spacing, steps_offset } = this.config;
    checkSteps(NAME, num_inference_steps);
    checkStepsTrained(NAME, num_inference_steps, num_train_timesteps);

    let descending: Float64Array;
    if (timestep_spacing === "leading") {
      const step_ratio = Math.floor(num_train_timesteps / num_inference_steps);
      descending = leadingTimesteps(step_ratio, num_inference_steps, steps_offset);
    } else if (timestep_spacing === "trailing") {
      descending = trailingTimesteps(num_train_timesteps, num_train_timesteps / num_inference_steps);
    } else {
      unknownValue(NAME, "timestep_spacing", timestep_spacing, ["leading", "trailing"]);
    }
    this.num_inference_steps = num_inference_steps;
    this.timesteps = Int32Array.from(descending.reverse());
  }

  /**
   * Goes to the sample at `timestep` from that of the timestep before it, a step's length lower.
   *
   * @param model_output `[batch, channels, ...]`
   * @param timestep one of `timesteps`: where the step goes to
   * @param sample `[batch, channels, ...]`
   * @throws ValueError before `set_timesteps`, for an unknown `prediction_type`, or a timestep or shape that does not fit.
   */
  step(model_output: Tensor, timestep: number, sample: Tensor, options: Record<string, never> = {}): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, DDIMInverseScheduler.step_options);
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    checkSample(`${NAME}.step`, model_output, sample);
    const { prediction_type, clip_sample, clip_sample_range, num_train_timesteps } = this.config;

    // 1. the timestep that the sample is at; as in Diffusers, `prev` is what the step leads to
    const prev_timestep = timestep;
    const step_ratio = Math.floor(num_train_timesteps / this.num_inference_steps);
    const t = Math.min(timestep - step_ratio, num_train_timesteps - 1);

    // 2. alphas and betas
    const alpha_prod_t = t >= 0 ? entry(this.alphas_cumprod, t, NAME, "timestep") : this.initial_alpha_cumprod;
    const alpha_prod_t_prev = entry(this.alphas_cumprod, prev_timestep, NAME, "timestep");
    const level = noiseLevel(alpha_prod_t);

    // 3. predicted x_0, formula (12), and 4. clip it
    const x = sample.data;
    const e = model_output.data;
    const x0 = new Float32Array(sample.size);
    predictOriginal(NAME, prediction_type, PREDICTIONS, e, x, level, x0);
    if (clip_sample) clampSample(x0, clip_sample_range);

    // 5. the direction pointing to x_t, and 6. x_t, formula (12). The first step of a "sample" prediction divides by the
    // noise of a sample that has none: 0 with `set_alpha_to_one`, in Diffusers too.
    const prev = new Float32Array(sample.size);
    moveToLevel(prediction_type, x0, e, x, level, noiseLevel(alpha_prod_t_prev), prev);

    return {
      prev_sample: new Tensor("float32", prev, sample.dims),
      pred_original_sample: new Tensor("float32", x0, sample.dims),
    };
  }
}
