import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkSteps, entry, unknownValue } from "./checks.ts";
import { exp32, log32, sqrt32 } from "./float32.ts";
import { learnedRange, missingVariance, splitVariance } from "./learned_variance.ts";
import { diffuse, noiseLevel, predictOriginal } from "./noise_level.ts";
import { alphasCumprod, type BetaSchedule, betasForAlphaBar } from "./noise_schedules.ts";
import {
  type BaseSchedulerConfig,
  type PredictionType,
  SchedulerMixin,
  type SchedulerOutput,
  type StepOptions,
  type Timesteps,
} from "./scheduling_utils.ts";
import { roundHalfEven } from "./spacing.ts";
import { clampSample } from "./thresholding.ts";

/** Config of {@link UnCLIPScheduler}. */
export interface UnCLIPSchedulerConfig extends BaseSchedulerConfig {
  /** The variance of the added noise; "learned_range" reads it from the model's second half of channels. Default "fixed_small_log". */
  variance_type: "fixed_small_log" | "learned_range" | (string & {});
  /** Whether to clip the predicted sample. Default true. */
  clip_sample: boolean;
  /** Where it is clipped. Default 1. */
  clip_sample_range: number;
  /** "epsilon" or "sample". Default "epsilon". */
  prediction_type: PredictionType;
  /** Only "squaredcos_cap_v2", which is the default. */
  beta_schedule: BetaSchedule;
}

/** What {@link UnCLIPScheduler.step} takes. */
export type UnCLIPStepOptions = Pick<StepOptions, "prev_timestep" | "generator">;

const NAME = "UnCLIPScheduler";
const PREDICTIONS: readonly PredictionType[] = ["epsilon", "sample"];
const VARIANCES: readonly string[] = ["fixed_small_log", "learned_range"];

/**
 * DDPM as the Karlo unCLIP models take it: its timesteps reach both ends of the training's, and `step` is told where the
 * step goes to.
 *
 * @see Diffusers `UnCLIPScheduler`; https://huggingface.co/papers/2204.06125
 */
export class UnCLIPScheduler extends SchedulerMixin<UnCLIPSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<UnCLIPSchedulerConfig> = configDefaults<UnCLIPSchedulerConfig>({
    num_train_timesteps: 1000,
    variance_type: "fixed_small_log",
    clip_sample: true,
    clip_sample_range: float(1),
    prediction_type: "epsilon",
    beta_schedule: "squaredcos_cap_v2",
  });
  static override readonly step_options: readonly string[] = ["prev_timestep", "generator"];

  readonly init_noise_sigma: number = 1;
  timesteps: Timesteps;
  /** `[num_train_timesteps]`. */
  readonly betas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas_cumprod: Float32Array;

  /** @throws ValueError for another `beta_schedule` than "squaredcos_cap_v2". */
  constructor(config: Partial<UnCLIPSchedulerConfig> = {}) {
    super(config);
    const { num_train_timesteps, beta_schedule } = this.config;
    if (beta_schedule !== "squaredcos_cap_v2") {
      unknownValue(NAME, "beta_schedule", beta_schedule, ["squaredcos_cap_v2"]);
    }
    this.betas = betasForAlphaBar(num_train_timesteps);
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    this.timesteps = Int32Array.from({ length: num_train_timesteps }, (_, i) => num_train_timesteps - 1 - i);
  }

  /**
   * Lays out the timesteps of a run, from the training's last down to 0, both included.
   *
   * @param num_inference_steps at least 2; beyond `num_train_timesteps` some timesteps come twice
   * @throws ValueError for another number of steps.
   */
  set_timesteps(num_inference_steps: number | null, options: Record<string, never> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, UnCLIPScheduler.set_timesteps_options);
    checkSteps(NAME, num_inference_steps);
    if (num_inference_steps === 1) unknownValue(NAME, "num_inference_steps", 1, ["2 or more"]);
    const step_ratio = (this.config.num_train_timesteps - 1) / (num_inference_steps - 1);
    this.num_inference_steps = num_inference_steps;
    this.timesteps = Int32Array.from({ length: num_inference_steps }, (_, i) =>
      roundHalfEven((num_inference_steps - 1 - i) * step_ratio),
    );
  }

  /**
   * Predicts the sample of `prev_timestep`.
   *
   * @param model_output `[batch, channels, ...]`; twice the channels where the variance is learned
   * @param timestep 0 to `num_train_timesteps - 1`
   * @param sample `[batch, channels, ...]`
   * @param options `prev_timestep`: where the step goes to, default `timestep - 1`; below 0 it is the sample without noise
   * @throws ValueError for an unknown `prediction_type` or `variance_type`, a timestep or shape that does not fit, or a
   * missing learned variance.
   */
  step(model_output: Tensor, timestep: number, sample: Tensor, options: UnCLIPStepOptions = {}): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, UnCLIPScheduler.step_options);
    const { prediction_type, variance_type, clip_sample, clip_sample_range } = this.config;
    const t = timestep;
    const { prev_timestep = t - 1, generator } = options;
    const { prediction: e, variance: predicted_variance } = splitVariance(
      `${NAME}.step`,
      variance_type === "learned_range",
      model_output,
      sample,
    );

    // 1. alphas and betas; those of a longer step are of all the timesteps that it takes
    const alpha_prod_t = entry(this.alphas_cumprod, t, NAME, "timestep");
    const alpha_prod_t_prev = prev_timestep >= 0 ? entry(this.alphas_cumprod, prev_timestep, NAME, "timestep") : 1;
    const beta_prod_t = Math.fround(1 - alpha_prod_t);
    const beta_prod_t_prev = Math.fround(1 - alpha_prod_t_prev);
    const single = prev_timestep === t - 1;
    const beta = single
      ? entry(this.betas, t, NAME, "timestep")
      : Math.fround(1 - Math.fround(alpha_prod_t / alpha_prod_t_prev));
    const alpha = single ? entry(this.alphas, t, NAME, "timestep") : Math.fround(1 - beta);

    // 2. predicted x_0, formula (15) of https://huggingface.co/papers/2006.11239, and 3. clip it
    const x = sample.data;
    const x0 = new Float32Array(sample.size);
    predictOriginal(NAME, prediction_type, PREDICTIONS, e, x, noiseLevel(alpha_prod_t), x0);
    if (clip_sample) clampSample(x0, clip_sample_range);

    // 4. and 5. the mean µ_t of the previous sample, formula (7)
    const x0_coeff = Math.fround(Math.fround(sqrt32(alpha_prod_t_prev) * beta) / beta_prod_t);
    const x_coeff = Math.fround(Math.fround(sqrt32(alpha) * beta_prod_t_prev) / beta_prod_t);
    const prev = new Float32Array(sample.size);
    for (let i = 0; i < prev.length; i++) {
      prev[i] = Math.fround(x0_coeff * x0[i]!) + Math.fround(x_coeff * x[i]!);
    }

    // 6. noise of the variance β_t, formulas (6) and (7)
    if (t > 0) {
      if (!VARIANCES.includes(variance_type)) unknownValue(NAME, "variance_type", variance_type, VARIANCES);
      const noise = randn_tensor(sample.dims, { generator }).data;
      const variance = Math.fround(Math.fround(beta_prod_t_prev / beta_prod_t) * beta);
      if (variance_type === "learned_range") {
        const v = predicted_variance ?? missingVariance(NAME, variance_type, model_output, sample);
        const min_log = log32(variance);
        const max_log = log32(beta);
        for (let i = 0; i < prev.length; i++) {
          prev[i] = prev[i]! + Math.fround(exp32(0.5 * learnedRange(v[i]!, min_log, max_log)) * noise[i]!);
        }
      } else {
        // Not 0, since its logarithm is taken.
        const std = exp32(0.5 * log32(Math.max(variance, Math.fround(1e-20))));
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
    return diffuse(NAME, this.alphas_cumprod, original_samples, noise, timesteps);
  }
}
