import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions, ValueError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkSample, entry, stepsNotSet } from "./checks.ts";
import { distillationTimesteps, distilledRun, multiples } from "./distilled_timesteps.ts";
import { sqrt32 } from "./float32.ts";
import { diffuse, moveToLevel, noiseLevel, predictOriginal, velocity } from "./noise_level.ts";
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
import type { ThresholdingConfig } from "./thresholding.ts";

/** Config of {@link TCDScheduler}. */
export interface TCDSchedulerConfig extends BetaConfig, ThresholdingConfig {
  /** The first beta. Default 0.00085. */
  beta_start: number;
  /** The last beta. Default 0.012. */
  beta_end: number;
  /** Steps of the schedule that the model was distilled with. Default 50. */
  original_inference_steps: number;
  /** Not used, in Diffusers neither. Default false. */
  clip_sample: boolean;
  /** Not used, in Diffusers neither. Default 1. */
  clip_sample_range: number;
  /** Whether a step to a timestep below 0 goes to an `alphas_cumprod` of 1, rather than to that of timestep 0. Default true. */
  set_alpha_to_one: boolean;
  /** Not used, in Diffusers neither. Default 0. */
  steps_offset: number;
  /** Default "epsilon". */
  prediction_type: PredictionType;
  /** Not used, in Diffusers neither. Default false. */
  thresholding: boolean;
  /** Not used, in Diffusers neither. Default "leading". */
  timestep_spacing: TimestepSpacing;
  /** Not used, in Diffusers neither. Default 10. */
  timestep_scaling: number;
  /** Whether to rescale the betas to end in pure noise. Default false. */
  rescale_betas_zero_snr: boolean;
}

/** What {@link TCDScheduler.step} takes. */
export type TCDStepOptions = Pick<StepOptions, "eta" | "generator">;

/** What {@link TCDScheduler.set_timesteps} takes. */
export type TCDSetTimestepsOptions = Pick<SetTimestepsOptions, "original_inference_steps" | "timesteps" | "strength">;

const NAME = "TCDScheduler";
const PREDICTIONS: readonly PredictionType[] = ["epsilon", "sample", "v_prediction"];

/**
 * Strategic stochastic sampling of trajectory consistency models: each step goes below the next noise level, by `eta`,
 * and adds noise up to it.
 *
 * @see Diffusers `TCDScheduler`; https://huggingface.co/papers/2402.19159
 */
export class TCDScheduler extends IndexedSchedulerMixin<TCDSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<TCDSchedulerConfig> = configDefaults<TCDSchedulerConfig>({
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
  static override readonly step_options: readonly string[] = ["eta", "generator"];
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
  constructor(config: Partial<TCDSchedulerConfig> = {}) {
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
   * Lays out the timesteps of a run: some of those that the model was distilled with, or, where
   * `original_inference_steps` is given here, some of all of the training's.
   *
   * @param num_inference_steps at most `original_inference_steps` (x `strength`); null with `timesteps`
   * @throws ValueError for both or neither, too many steps, or custom timesteps that do not descend or begin too high.
   */
  set_timesteps(num_inference_steps: number | null, options: TCDSetTimestepsOptions = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, TCDScheduler.set_timesteps_options);
    const { num_train_timesteps } = this.config;
    const { original_inference_steps: original_steps = this.config.original_inference_steps, strength = 1 } = options;
    const origin =
      options.original_inference_steps === undefined
        ? distillationTimesteps(NAME, num_train_timesteps, original_steps, strength)
        : multiples(Math.trunc(num_train_timesteps * strength));
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
   * Goes down the trajectory to timestep s, and adds noise up to the next timestep but in the last step.
   *
   * @param model_output `[batch, channels, ...]`
   * @param timestep one of `timesteps`
   * @param sample `[batch, channels, ...]`
   * @param options `eta`, the paper's gamma: 0 (deterministic) to 1 (as LCM's multistep sampling), default 0.3
   * @returns `prev_sample`, and `pred_noised_sample`, which without noise are one
   * @throws ValueError before `set_timesteps`, for an `eta` outside of 0..1, an unknown `prediction_type`, or a timestep
   * or shape that does not fit.
   */
  step(model_output: Tensor, timestep: number, sample: Tensor, options: TCDStepOptions = {}): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, TCDScheduler.step_options);
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    checkSample(`${NAME}.step`, model_output, sample);
    const { eta = 0.3, generator } = options;
    if (!(eta >= 0 && eta <= 1)) {
      throw new ValueError(`\`eta\` of ${NAME}.step is ${eta}, but must be in the range of 0 to 1.`, {
        className: NAME,
        field: "eta",
        found: String(eta),
        expected: "0 to 1",
      });
    }

    // 1. the timestep t' that the step goes to, and s = (1 - gamma) t' below it, algorithm 4
    const index = this.startAt(timestep);
    const prev_timestep = this.timesteps[index + 1] ?? 0;
    const timestep_s = Math.floor(Math.fround(Math.fround(1 - eta) * prev_timestep));

    // 2. alphas and betas
    const alpha_prod_t = entry(this.alphas_cumprod, timestep, NAME, "timestep");
    const alpha_prod_t_prev =
      prev_timestep >= 0 ? entry(this.alphas_cumprod, prev_timestep, NAME, "timestep") : this.final_alpha_cumprod;
    const alpha_prod_s = entry(this.alphas_cumprod, timestep_s, NAME, "timestep");

    // 3. predicted x_0, and x_s of it, formula (12)
    const { prediction_type } = this.config;
    const x = sample.data;
    const e = model_output.data;
    const level = noiseLevel(alpha_prod_t);
    const noised = new Float32Array(sample.size);
    predictOriginal(NAME, prediction_type, PREDICTIONS, e, x, level, noised);
    moveToLevel(prediction_type, noised, e, x, level, noiseLevel(alpha_prod_s), noised);

    // 4. noise from s up to t', formula (13), but in the last step
    let prev = noised;
    if (eta > 0 && index !== this.num_inference_steps - 1) {
      const noise = randn_tensor(sample.dims, { generator }).data;
      const ratio = Math.fround(alpha_prod_t_prev / alpha_prod_s);
      const sqrt_ratio = sqrt32(ratio);
      const sqrt_rest = sqrt32(Math.fround(1 - ratio));
      prev = new Float32Array(sample.size);
      for (let i = 0; i < prev.length; i++) {
        prev[i] = Math.fround(sqrt_ratio * noised[i]!) + Math.fround(sqrt_rest * noise[i]!);
      }
    }

    this.stepIndex = index + 1;
    const pred_noised_sample = new Tensor("float32", noised, sample.dims);
    const prev_sample = prev === noised ? pred_noised_sample : new Tensor("float32", prev, sample.dims);
    return { prev_sample, pred_noised_sample };
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
