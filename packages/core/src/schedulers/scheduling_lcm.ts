import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkSample, entry, stepsNotSet } from "./checks.ts";
import { distillationTimesteps, distilledRun } from "./distilled_timesteps.ts";
import { sqrt32 } from "./float32.ts";
import { diffuse, noiseLevel, predictOriginal, velocity } from "./noise_level.ts";
import {
  alphasCumprod,
  type BetaConfig,
  commonBetaSchedules,
  makeBetas,
  rescaleZeroTerminalSnr,
} from "./noise_schedules.ts";
import type {
  PredictionType,
  SchedulerOutput,
  SetTimestepsOptions,
  StepOptions,
  TimestepSpacing,
  Timesteps,
} from "./scheduling_utils.ts";
import { IndexedSchedulerMixin, previousTimestep } from "./step_index.ts";
import { clampSample, type ThresholdingConfig, thresholdSample } from "./thresholding.ts";

/** Config of {@link LCMScheduler}. */
export interface LCMSchedulerConfig extends BetaConfig, ThresholdingConfig {
  /** The first beta. Default 0.00085. */
  beta_start: number;
  /** The last beta. Default 0.012. */
  beta_end: number;
  /** Steps of the schedule that the model was distilled with. Default 50. */
  original_inference_steps: number;
  /** Whether to clip the predicted sample. Default false. */
  clip_sample: boolean;
  /** Where it is clipped. Default 1. */
  clip_sample_range: number;
  /** Whether a step to a timestep below 0 goes to an `alphas_cumprod` of 1, rather than to that of timestep 0. Default true. */
  set_alpha_to_one: boolean;
  /** Not used, in Diffusers neither. Default 0. */
  steps_offset: number;
  /** Default "epsilon". */
  prediction_type: PredictionType;
  /** Not used, in Diffusers neither. Default "leading". */
  timestep_spacing: TimestepSpacing;
  /** Factor of the timestep in the boundary condition. Default 10. */
  timestep_scaling: number;
  /** Whether to rescale the betas to end in pure noise. Default false. */
  rescale_betas_zero_snr: boolean;
}

/** What {@link LCMScheduler.step} takes. */
export type LCMStepOptions = Pick<StepOptions, "generator">;

/** What {@link LCMScheduler.set_timesteps} takes. */
export type LCMSetTimestepsOptions = Pick<SetTimestepsOptions, "original_inference_steps" | "timesteps" | "strength">;

const NAME = "LCMScheduler";
const PREDICTIONS: readonly PredictionType[] = ["epsilon", "sample", "v_prediction"];

/**
 * Multistep sampling of latent consistency models: each step denoises fully, then adds noise of the next level.
 *
 * @see Diffusers `LCMScheduler`; https://huggingface.co/papers/2310.04378
 */
export class LCMScheduler extends IndexedSchedulerMixin<LCMSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<LCMSchedulerConfig> = configDefaults<LCMSchedulerConfig>({
    num_train_timesteps: 1000,
    beta_start: 0.00085,
    beta_end: 0.012,
    beta_schedule: "scaled_linear",
    trained_betas: null,
    original_inference_steps: 50,
    clip_sample: false,
    clip_sample_range: float(1),
    set_alpha_to_one: true,
    steps_offset: 0,
    prediction_type: "epsilon",
    thresholding: false,
    dynamic_thresholding_ratio: 0.995,
    sample_max_value: float(1),
    timestep_spacing: "leading",
    timestep_scaling: float(10),
    rescale_betas_zero_snr: false,
  });
  static override readonly step_options: readonly string[] = ["generator"];
  static override readonly set_timesteps_options: readonly string[] = [
    "original_inference_steps",
    "timesteps",
    "strength",
  ];

  readonly init_noise_sigma: number = 1;
  timesteps: Timesteps;
  /** `[num_train_timesteps]`. */
  readonly betas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas_cumprod: Float32Array;
  /** The `alphas_cumprod` of a timestep below 0. */
  readonly final_alpha_cumprod: number;

  /** @throws UnsupportedModelError for an unknown `beta_schedule`. */
  constructor(config: Partial<LCMSchedulerConfig> = {}) {
    super(config);
    const { num_train_timesteps, rescale_betas_zero_snr, set_alpha_to_one } = this.config;
    const betas = makeBetas(NAME, this.config, commonBetaSchedules);
    this.betas = rescale_betas_zero_snr ? rescaleZeroTerminalSnr(betas) : betas;
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    this.final_alpha_cumprod = set_alpha_to_one ? 1 : this.alphas_cumprod[0]!;
    this.timesteps = Int32Array.from({ length: num_train_timesteps }, (_, i) => num_train_timesteps - 1 - i);
  }

  /**
   * Lays out the timesteps of a run: some of those that the model was distilled with.
   *
   * @param num_inference_steps at most `original_inference_steps` x `strength`; null with `timesteps`
   * @throws ValueError for both or neither, too many steps, or custom timesteps that do not descend or begin too high.
   */
  set_timesteps(num_inference_steps: number | null, options: LCMSetTimestepsOptions = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, LCMScheduler.set_timesteps_options);
    const { num_train_timesteps } = this.config;
    const { original_inference_steps: original_steps = this.config.original_inference_steps, strength = 1 } = options;
    const origin = distillationTimesteps(NAME, num_train_timesteps, original_steps, strength);
    const run = distilledRun(NAME, num_train_timesteps, origin, original_steps, num_inference_steps, options);
    this.num_inference_steps = run.num_inference_steps;
    this.timesteps = run.timesteps;
    this.resetIndex();
  }

  /** The timestep that a step from `timestep` goes to; -1 at the end. */
  previous_timestep(timestep: number): number {
    return this.num_inference_steps === null ? timestep - 1 : previousTimestep(NAME, this.timesteps, timestep);
  }

  /**
   * The boundary condition: what of the sample and of the predicted x_0 makes the denoised sample, so that at timestep 0
   * it is the sample itself.
   *
   * @see https://huggingface.co/papers/2310.04378 (7)
   */
  get_scalings_for_boundary_condition_discrete(timestep: number): [c_skip: number, c_out: number] {
    const sigma_data = 0.5;
    const scaled_timestep = Math.fround(timestep * Math.fround(this.config.timestep_scaling));
    const variance = Math.fround(Math.fround(scaled_timestep * scaled_timestep) + sigma_data ** 2);
    return [Math.fround(sigma_data ** 2 / variance), Math.fround(scaled_timestep / sqrt32(variance))];
  }

  /**
   * Denoises the sample, and adds noise of the next timestep but in the last step.
   *
   * @param model_output `[batch, channels, ...]`
   * @param timestep one of `timesteps`
   * @param sample `[batch, channels, ...]`
   * @returns `prev_sample`, and `denoised`, which in the last step are one
   * @throws ValueError before `set_timesteps`, for an unknown `prediction_type`, or a timestep or shape that does not fit.
   */
  step(model_output: Tensor, timestep: number, sample: Tensor, options: LCMStepOptions = {}): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, LCMScheduler.step_options);
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    checkSample(`${NAME}.step`, model_output, sample);
    const { prediction_type, thresholding, clip_sample, clip_sample_range } = this.config;

    // 1. the timestep that the step goes to
    const index = this.startAt(timestep);
    const prev_timestep = this.timesteps[index + 1] ?? timestep;

    // 2. alphas and betas
    const alpha_prod_t = entry(this.alphas_cumprod, timestep, NAME, "timestep");
    const alpha_prod_t_prev =
      prev_timestep >= 0 ? entry(this.alphas_cumprod, prev_timestep, NAME, "timestep") : this.final_alpha_cumprod;

    // 3. the boundary condition's scalings
    const [c_skip, c_out] = this.get_scalings_for_boundary_condition_discrete(timestep);

    // 4. predicted x_0, and 5. clip or threshold it
    const x = sample.data;
    const denoised = new Float32Array(sample.size);
    predictOriginal(NAME, prediction_type, PREDICTIONS, model_output.data, x, noiseLevel(alpha_prod_t), denoised);
    if (thresholding) thresholdSample(denoised, sample.dims[0] ?? 1, this.config);
    else if (clip_sample) clampSample(denoised, clip_sample_range);

    // 6. the denoised sample f(x_t, t), formula (7)
    for (let i = 0; i < denoised.length; i++) {
      denoised[i] = Math.fround(c_out * denoised[i]!) + Math.fround(c_skip * x[i]!);
    }

    // 7. noise of the next level, but in the last step. Of custom timesteps that `strength` shortened Diffusers does not
    // know the last one: that too gets noise, of its own level.
    let prev = denoised;
    if (index !== this.num_inference_steps - 1) {
      const noise = randn_tensor(sample.dims, options).data;
      const { sqrt_alpha, sqrt_beta } = noiseLevel(alpha_prod_t_prev);
      prev = new Float32Array(sample.size);
      for (let i = 0; i < prev.length; i++) {
        prev[i] = Math.fround(sqrt_alpha * denoised[i]!) + Math.fround(sqrt_beta * noise[i]!);
      }
    }

    this.stepIndex = index + 1;
    const denoised_sample = new Tensor("float32", denoised, sample.dims);
    const prev_sample = prev === denoised ? denoised_sample : new Tensor("float32", prev, sample.dims);
    return { prev_sample, denoised: denoised_sample };
  }

  /**
   * Diffuses samples to the noise level of `timesteps`.
   *
   * @param timesteps one for all, or one per batch item
   */
  add_noise(original_samples: Tensor, noise: Tensor, timesteps: ArrayLike<number>): Tensor {
    return diffuse(NAME, this.alphas_cumprod, original_samples, noise, timesteps);
  }

  /** The velocity that a v-prediction model is trained to give for `sample` and `noise`. */
  get_velocity(sample: Tensor, noise: Tensor, timesteps: ArrayLike<number>): Tensor {
    return velocity(NAME, this.alphas_cumprod, sample, noise, timesteps);
  }
}
