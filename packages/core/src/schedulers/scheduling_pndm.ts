import { configDefaults } from "../configuration_utils.ts";
import { checkOptions, ValueError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { checkSample, checkSteps, entry, stepsNotSet, unknownValue } from "./checks.ts";
import { sqrt32 } from "./float32.ts";
import { diffuse } from "./noise_level.ts";
import { alphasCumprod, type BetaConfig, commonBetaSchedules, makeBetas } from "./noise_schedules.ts";
import {
  karrasDiffusionFields,
  karrasDiffusionSchedulers,
  SchedulerMixin,
  type SchedulerOutput,
  type TimestepSpacing,
  type Timesteps,
} from "./scheduling_utils.ts";
import { leadingTimesteps, linspaceTimesteps, roundHalfEven, trailingTimesteps } from "./spacing.ts";

/** Config of {@link PNDMScheduler}. */
export interface PNDMSchedulerConfig extends BetaConfig {
  /** Whether to start with linear multistep at once, without the paper's Runge-Kutta steps. Default false. */
  skip_prk_steps: boolean;
  /** Whether the last step goes to an `alphas_cumprod` of 1, rather than to that of timestep 0. Default false. */
  set_alpha_to_one: boolean;
  /** Default "epsilon". */
  prediction_type: "epsilon" | "v_prediction" | (string & {});
  /** Default "leading". */
  timestep_spacing: TimestepSpacing;
  /** Added to each timestep of "leading" spacing. Default 0. */
  steps_offset: number;
}

const NAME = "PNDMScheduler";
const PNDM_ORDER = 4;

/**
 * Pseudo numerical methods for diffusion models: Runge-Kutta for three steps (unless `skip_prk_steps`), then linear
 * multistep of the fourth order.
 *
 * @see Diffusers `PNDMScheduler`; https://huggingface.co/papers/2202.09778 (formulas 9, 12, 13, algorithm 2)
 */
export class PNDMScheduler extends SchedulerMixin<PNDMSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<PNDMSchedulerConfig> = configDefaults<PNDMSchedulerConfig>({
    num_train_timesteps: 1000,
    beta_start: 0.0001,
    beta_end: 0.02,
    beta_schedule: "linear",
    trained_betas: null,
    skip_prk_steps: false,
    set_alpha_to_one: false,
    prediction_type: "epsilon",
    timestep_spacing: "leading",
    steps_offset: 0,
  });
  static override readonly compatible_fields: readonly string[] = karrasDiffusionFields;
  static override readonly compatible_classes: readonly string[] = karrasDiffusionSchedulers;

  readonly init_noise_sigma: number = 1;
  /** Empty before `set_timesteps`. */
  timesteps: Timesteps = new Int32Array(0);
  /** The timesteps of the Runge-Kutta steps, four model calls each. */
  prk_timesteps: Int32Array = new Int32Array(0);
  /** The timesteps of the linear multistep steps. */
  plms_timesteps: Int32Array = new Int32Array(0);
  /** `[num_train_timesteps]`. */
  readonly betas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas_cumprod: Float32Array;
  /** The `alphas_cumprod` that the last step goes to. */
  readonly final_alpha_cumprod: number;

  private counter = 0;
  /** The last four model outputs, the latest at the end. */
  private ets: Float32Array[] = [];
  /** The sum so far of a Runge-Kutta step's four outputs. */
  private cur_model_output: Float32Array | undefined;
  private cur_sample: Tensor | undefined;

  /** @throws UnsupportedModelError for an unknown `beta_schedule`. */
  constructor(config: Partial<PNDMSchedulerConfig> = {}) {
    super(config);
    this.betas = makeBetas(NAME, this.config, commonBetaSchedules);
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    this.final_alpha_cumprod = this.config.set_alpha_to_one ? 1 : this.alphas_cumprod[0]!;
  }

  /**
   * Lays out the timesteps of a run. The second timestep of linear multistep, and most of Runge-Kutta's, come twice:
   * the model is run once for each.
   *
   * @param num_inference_steps at least 1, at least 4 without `skip_prk_steps`
   * @throws ValueError for fewer, or an unknown `timestep_spacing`.
   */
  set_timesteps(num_inference_steps: number | null, options: Record<string, never> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, PNDMScheduler.set_timesteps_options);
    const { num_train_timesteps, timestep_spacing, steps_offset, skip_prk_steps } = this.config;
    checkSteps(NAME, num_inference_steps);
    const step_ratio = Math.floor(num_train_timesteps / num_inference_steps);

    let spaced: Float64Array;
    if (timestep_spacing === "linspace") {
      spaced = linspaceTimesteps(num_train_timesteps - 1, num_inference_steps).map(roundHalfEven);
    } else if (timestep_spacing === "leading") {
      spaced = leadingTimesteps(step_ratio, num_inference_steps, steps_offset);
    } else if (timestep_spacing === "trailing") {
      spaced = trailingTimesteps(num_train_timesteps, num_train_timesteps / num_inference_steps);
    } else {
      unknownValue(NAME, "timestep_spacing", timestep_spacing, ["linspace", "leading", "trailing"]);
    }

    const descending = Array.from(spaced);
    if (skip_prk_steps) {
      this.prk_timesteps = new Int32Array(0);
      this.plms_timesteps = Int32Array.from([
        ...descending.slice(0, 1),
        ...descending.slice(1, 2),
        ...descending.slice(1),
      ]);
    } else {
      if (descending.length < PNDM_ORDER) {
        throw new ValueError(
          `${NAME} needs at least ${PNDM_ORDER} steps for its Runge-Kutta start, got ${num_inference_steps}. ` +
            "Take more steps, or set `skip_prk_steps`.",
          { className: NAME, field: "num_inference_steps", found: String(num_inference_steps), expected: "at least 4" },
        );
      }
      // Ascending: each of the last four, and half a step later.
      const half = Math.floor(step_ratio / 2);
      const pairs = descending
        .slice(0, PNDM_ORDER)
        .reverse()
        .flatMap((t) => [t, t + half]);
      const doubled = pairs.slice(0, -1).flatMap((t) => [t, t]);
      this.prk_timesteps = Int32Array.from(doubled.slice(1, -1).reverse());
      this.plms_timesteps = Int32Array.from(descending.slice(3));
    }
    this.timesteps = Int32Array.from([...this.prk_timesteps, ...this.plms_timesteps]);
    this.num_inference_steps = num_inference_steps;
    this.ets = [];
    this.counter = 0;
    this.cur_model_output = undefined;
    this.cur_sample = undefined;
  }

  /**
   * Predicts the sample of the timestep before, by {@link step_prk} or {@link step_plms} as the run stands. Model outputs
   * are kept by reference for the steps to come.
   *
   * @param model_output `[batch, channels, ...]`
   * @param timestep one of `timesteps`, in their order
   * @param sample `[batch, channels, ...]`
   * @throws ValueError before `set_timesteps`, for an unknown `prediction_type`, or a timestep or shape that does not fit.
   */
  step(model_output: Tensor, timestep: number, sample: Tensor, options: Record<string, never> = {}): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, PNDMScheduler.step_options);
    if (this.counter < this.prk_timesteps.length && !this.config.skip_prk_steps) {
      return this.step_prk(model_output, timestep, sample);
    }
    return this.step_plms(model_output, timestep, sample);
  }

  /** One of the four parts of a Runge-Kutta step. */
  step_prk(model_output: Tensor, timestep: number, sample: Tensor): SchedulerOutput {
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    checkSample(`${NAME}.step`, model_output, sample);
    const half_ratio = Math.floor(Math.floor(this.config.num_train_timesteps / this.num_inference_steps) / 2);
    const prev_timestep = timestep - (this.counter % 2 === 1 ? 0 : half_ratio);
    const start = entry(this.prk_timesteps, this.counter - (this.counter % 4), NAME, "Runge-Kutta step");

    const part = this.counter % 4;
    if (part === 0) {
      this.ets.push(model_output.data);
      this.cur_sample = sample;
    }
    // Parts weigh 1/6, 1/3, 1/3, 1/6. The last one goes by their sum, the others by their own output.
    const weight = Math.fround(part === 0 || part === 3 ? 1 / 6 : 1 / 3);
    const e = model_output.data;
    const sum = this.cur_model_output ?? new Float32Array(e.length);
    for (let i = 0; i < e.length; i++) sum[i] = sum[i]! + Math.fround(weight * e[i]!);
    this.cur_model_output = part === 3 ? undefined : sum;

    const prev_sample = this.getPrevSample(this.cur_sample ?? sample, start, prev_timestep, [part === 3 ? sum : e]);
    this.counter += 1;
    return { prev_sample };
  }

  /** A step of linear multistep, of as high an order as there are outputs, up to 4. */
  step_plms(model_output: Tensor, timestep: number, sample: Tensor): SchedulerOutput {
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    checkSample(`${NAME}.step`, model_output, sample);
    if (!this.config.skip_prk_steps && this.ets.length < 3) {
      throw new ValueError(`${NAME} can take linear multistep steps only after 12 Runge-Kutta ones: call \`step\`.`, {
        className: NAME,
        field: "skip_prk_steps",
      });
    }
    const step_ratio = Math.floor(this.config.num_train_timesteps / this.num_inference_steps);
    let from = timestep;
    let prev_timestep = timestep - step_ratio;
    if (this.counter !== 1) {
      this.ets = this.ets.slice(-3);
      this.ets.push(model_output.data);
    } else {
      prev_timestep = timestep;
      from = timestep + step_ratio;
    }

    // Adams-Bashforth of the outputs so far, formula (9); the second call corrects the first step with both outputs.
    const { ets, counter } = this;
    let start = sample;
    let outputs = ets.slice().reverse();
    if (ets.length === 1 && counter === 0) {
      this.cur_sample = sample;
    } else if (ets.length === 1 && counter === 1) {
      outputs = [model_output.data, ...outputs];
      start = this.cur_sample ?? sample;
      this.cur_sample = undefined;
    }
    const corrects = counter === 1 && ets.length === 1;

    const prev_sample = this.getPrevSample(start, from, prev_timestep, outputs, corrects);
    this.counter += 1;
    return { prev_sample };
  }

  /**
   * x_(t-δ) of x_t, formula (9).
   *
   * @param outputs the model's, the latest first: as many as the order of the multistep, 1 to 4
   * @param average whether two outputs are averaged, rather than extrapolated
   */
  private getPrevSample(
    sample: Tensor,
    timestep: number,
    prev_timestep: number,
    outputs: readonly Float32Array[],
    average: boolean = false,
  ): Tensor {
    const { prediction_type } = this.config;
    const alpha_prod_t = entry(this.alphas_cumprod, timestep, NAME, "timestep");
    const alpha_prod_t_prev =
      prev_timestep >= 0 ? entry(this.alphas_cumprod, prev_timestep, NAME, "timestep") : this.final_alpha_cumprod;
    const beta_prod_t = Math.fround(1 - alpha_prod_t);
    const beta_prod_t_prev = Math.fround(1 - alpha_prod_t_prev);
    if (prediction_type !== "epsilon" && prediction_type !== "v_prediction") {
      unknownValue(NAME, "prediction_type", prediction_type, ["epsilon", "v_prediction"]);
    }

    const sample_coeff = sqrt32(Math.fround(alpha_prod_t_prev / alpha_prod_t));
    const denominator = Math.fround(
      Math.fround(alpha_prod_t * sqrt32(beta_prod_t_prev)) +
        sqrt32(Math.fround(Math.fround(alpha_prod_t * beta_prod_t) * alpha_prod_t_prev)),
    );
    const difference = Math.fround(alpha_prod_t_prev - alpha_prod_t);
    const sqrt_alpha = sqrt32(alpha_prod_t);
    const sqrt_beta = sqrt32(beta_prod_t);
    const order = average ? 0 : outputs.length;
    const [e1, e2, e3, e4] = [
      outputs[0]!,
      outputs[1] ?? outputs[0]!,
      outputs[2] ?? outputs[0]!,
      outputs[3] ?? outputs[0]!,
    ];
    const f = Math.fround;
    const x = sample.data;
    const prev = new Float32Array(x.length);
    for (let i = 0; i < prev.length; i++) {
      let e = e1[i]!;
      if (order === 0) e = f(e + e2[i]!) / 2;
      else if (order === 2) e = f(f(3 * e) - e2[i]!) / 2;
      else if (order === 3) e = f(f(f(f(23 * e) - f(16 * e2[i]!)) + f(5 * e3[i]!)) / 12);
      else if (order === 4) {
        e = f(f(1 / 24) * f(f(f(f(55 * e) - f(59 * e2[i]!)) + f(37 * e3[i]!)) - f(9 * e4[i]!)));
      }
      if (prediction_type === "v_prediction") e = f(f(sqrt_alpha * e) + f(sqrt_beta * x[i]!));
      prev[i] = f(sample_coeff * x[i]!) - f(f(difference * e) / denominator);
    }
    return new Tensor("float32", prev, sample.dims);
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
