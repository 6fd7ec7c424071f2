import { configDefaults } from "../configuration_utils.ts";
import { checkOptions, UnsupportedModelError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkSample, checkSteps, checkTensor, stepsNotSet } from "./checks.ts";
import { sqrt32 } from "./float32.ts";
import { SchedulerMixin, type SchedulerOutput, type StepOptions, type Timesteps } from "./scheduling_utils.ts";

/** Config of {@link KarrasVeScheduler}. */
export interface KarrasVeSchedulerConfig {
  /** The least noise level. Default 0.02. */
  sigma_min: number;
  /** The largest noise level. Default 100. */
  sigma_max: number;
  /** The factor of added noise, a little above 1 to make up for lost detail; 1 to 1.011. Default 1.007. */
  s_noise: number;
  /** How much noise is added over the run, 0 to 100. Default 80. */
  s_churn: number;
  /** Noise is added only where sigma is at least this, 0 to 10. Default 0.05. */
  s_min: number;
  /** Noise is added only where sigma is at most this, 0.2 to 80. Default 50. */
  s_max: number;
}

/** What {@link KarrasVeScheduler.add_noise_to_input} takes. */
export type KarrasVeNoiseOptions = Pick<StepOptions, "generator">;

/** What {@link KarrasVeScheduler.add_noise_to_input} returns. */
export interface KarrasVeNoisyInput {
  /** The sample at the raised noise level, `[batch, channels, ...]`. */
  sample_hat: Tensor;
  /** That noise level. */
  sigma_hat: number;
}

/** What the steps of {@link KarrasVeScheduler} return. */
export interface KarrasVeOutput extends SchedulerOutput {
  /** The derivative of the sample by sigma, `[batch, channels, ...]`, which {@link KarrasVeScheduler.step_correct} takes. */
  derivative: Tensor;
  /** The denoised sample that the model's output amounts to. */
  pred_original_sample: Tensor;
}

const NAME = "KarrasVeScheduler";

/**
 * Heun's method with added noise, for variance-exploding models.
 *
 * At each timestep: {@link add_noise_to_input} raises `schedule[t]` to `sigma_hat`, {@link step} takes Euler's step to
 * `schedule[t - 1]`, or 0, and above 0 {@link step_correct} corrects it.
 *
 * @see Diffusers `KarrasVeScheduler`; https://huggingface.co/papers/2206.00364 (algorithm 2, table 1)
 */
export class KarrasVeScheduler extends SchedulerMixin<KarrasVeSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<KarrasVeSchedulerConfig> = configDefaults<KarrasVeSchedulerConfig>(
    {
      sigma_min: 0.02,
      sigma_max: 100,
      s_noise: 1.007,
      s_churn: 80,
      s_min: 0.05,
      s_max: 50,
    },
  );

  override readonly order: number = 2;
  readonly init_noise_sigma: number;
  /** The places in `schedule`, descending; empty before {@link set_timesteps}. */
  timesteps: Timesteps = new Int32Array(0);
  /**
   * The noise levels, ascending from `sigma_min` to `sigma_max`, both squared (Diffusers takes the paper's times for
   * sigmas); null before {@link set_timesteps}.
   */
  schedule: Float32Array | null = null;

  constructor(config: Partial<KarrasVeSchedulerConfig> = {}) {
    super(config);
    this.init_noise_sigma = this.config.sigma_max;
  }

  /**
   * Lays out the timesteps of a run and their sigmas.
   *
   * @param num_inference_steps at least 2; the sigma of a single step is NaN, as in Diffusers
   * @throws ValueError for less than 1.
   */
  set_timesteps(num_inference_steps: number | null, options: Record<string, never> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, KarrasVeScheduler.set_timesteps_options);
    checkSteps(NAME, num_inference_steps);
    const { sigma_min, sigma_max } = this.config;
    const steps = num_inference_steps;
    this.num_inference_steps = steps;
    this.timesteps = Int32Array.from({ length: steps }, (_, i) => steps - 1 - i);
    const [first, ratio] = [Math.fround(sigma_max ** 2), Math.fround(sigma_min ** 2 / sigma_max ** 2)];
    this.schedule = Float32Array.from(
      this.timesteps,
      (i) => first * Math.fround(ratio ** Math.fround(i / (steps - 1))),
    );
  }

  /**
   * Adds noise that raises the noise level from `sigma` to `sigma_hat`.
   *
   * @param sample `[batch, channels, ...]`
   * @param sigma one of `schedule`
   * @throws ValueError before `set_timesteps`, or for a tensor that does not fit.
   * @see https://huggingface.co/papers/2206.00364 (algorithm 2, lines 4 to 6)
   */
  add_noise_to_input(sample: Tensor, sigma: number, options: KarrasVeNoiseOptions = {}): KarrasVeNoisyInput {
    checkOptions(`${NAME}.add_noise_to_input`, options, ["generator"]);
    checkTensor(`${NAME}.add_noise_to_input`, "sample", sample, sample.dims);
    const { s_min, s_max, s_churn, s_noise } = this.config;
    const sigma_i = Math.fround(sigma);
    const churned = Math.fround(s_min) <= sigma_i && sigma_i <= Math.fround(s_max);
    const gamma = churned ? Math.min(s_churn / (this.num_inference_steps ?? stepsNotSet(NAME)), Math.SQRT2 - 1) : 0;

    const sigma_hat = Math.fround(sigma_i + Math.fround(Math.fround(gamma) * sigma_i));
    const scale = sqrt32(Math.fround(Math.fround(sigma_hat * sigma_hat) - Math.fround(sigma_i * sigma_i)));
    const factor = Math.fround(s_noise);
    const noise = randn_tensor(sample.dims, options).data;
    const hat = new Float32Array(noise.length);
    for (let i = 0; i < hat.length; i++) {
      hat[i] = sample.data[i]! + Math.fround(scale * Math.fround(factor * noise[i]!));
    }
    return { sample_hat: new Tensor("float32", hat, sample.dims), sigma_hat };
  }

  /**
   * Euler's step from `sigma_hat` to `sigma_prev`.
   *
   * @param model_output `[batch, channels, ...]`, at `sample_hat`: the denoised sample is `sample_hat + sigma_hat * model_output`
   * @param sigma_hat the noise level of `sample_hat`
   * @param sigma_prev the noise level to go to
   * @param sample_hat `[batch, channels, ...]`
   * @throws ValueError for a shape that does not fit.
   * @see https://huggingface.co/papers/2206.00364 (algorithm 2, lines 7 and 8)
   */
  step(model_output: Tensor, sigma_hat: number, sigma_prev: number, sample_hat: Tensor): KarrasVeOutput {
    checkSample(`${NAME}.step`, model_output, sample_hat);
    const sigma = Math.fround(sigma_hat);
    const dt = Math.fround(Math.fround(sigma_prev) - sigma);
    const x = sample_hat.data;
    const e = model_output.data;
    const x0 = new Float32Array(x.length);
    const d = new Float32Array(x.length);
    const prev = new Float32Array(x.length);
    for (let i = 0; i < x.length; i++) {
      x0[i] = x[i]! + Math.fround(sigma * e[i]!);
      d[i] = Math.fround(x[i]! - x0[i]!) / sigma;
      prev[i] = x[i]! + Math.fround(dt * d[i]!);
    }
    return {
      prev_sample: new Tensor("float32", prev, sample_hat.dims),
      derivative: new Tensor("float32", d, sample_hat.dims),
      pred_original_sample: new Tensor("float32", x0, sample_hat.dims),
    };
  }

  /**
   * Heun's correction: the step again, with the mean of the derivatives at its two ends.
   *
   * @param model_output `[batch, channels, ...]`, at `sample_prev`
   * @param sigma_hat the noise level of `sample_hat`
   * @param sigma_prev the noise level of `sample_prev`, above 0
   * @param sample_hat `[batch, channels, ...]`
   * @param sample_prev what {@link step} gave
   * @param derivative what {@link step} gave, and what is given back
   * @throws ValueError for a shape that does not fit.
   * @see https://huggingface.co/papers/2206.00364 (algorithm 2, lines 10 and 11)
   */
  step_correct(
    model_output: Tensor,
    sigma_hat: number,
    sigma_prev: number,
    sample_hat: Tensor,
    sample_prev: Tensor,
    derivative: Tensor,
  ): KarrasVeOutput {
    checkSample(`${NAME}.step_correct`, model_output, sample_hat);
    checkTensor(`${NAME}.step_correct`, "sample_prev", sample_prev, sample_hat.dims);
    checkTensor(`${NAME}.step_correct`, "derivative", derivative, sample_hat.dims);
    const sigma = Math.fround(sigma_prev);
    const dt = Math.fround(sigma - Math.fround(sigma_hat));
    const x = sample_prev.data;
    const e = model_output.data;
    const x0 = new Float32Array(x.length);
    const prev = new Float32Array(x.length);
    for (let i = 0; i < x.length; i++) {
      x0[i] = x[i]! + Math.fround(sigma * e[i]!);
      const corrected = Math.fround(Math.fround(x[i]! - x0[i]!) / sigma);
      const mean = Math.fround(Math.fround(0.5 * derivative.data[i]!) + Math.fround(0.5 * corrected));
      prev[i] = sample_hat.data[i]! + Math.fround(dt * mean);
    }
    return {
      prev_sample: new Tensor("float32", prev, sample_hat.dims),
      derivative,
      pred_original_sample: new Tensor("float32", x0, sample_hat.dims),
    };
  }

  /** @throws UnsupportedModelError always: Diffusers has none for this class either. */
  add_noise(): never {
    throw new UnsupportedModelError(`${NAME} has no add_noise. Use add_noise_to_input with a sigma of its schedule.`, {
      className: NAME,
      field: "add_noise",
    });
  }
}
