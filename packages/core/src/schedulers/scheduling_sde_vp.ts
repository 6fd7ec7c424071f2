import { configDefaults } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkPerItem, checkSample, checkSteps, stepsNotSet } from "./checks.ts";
import { exp32, sqrt32 } from "./float32.ts";
import { linspace32 } from "./noise_schedules.ts";
import type { SdeVeOutput } from "./scheduling_sde_ve.ts";
import { SchedulerMixin, type StepOptions } from "./scheduling_utils.ts";

/** Config of {@link ScoreSdeVpScheduler}. */
export interface ScoreSdeVpSchedulerConfig {
  /** Steps of the training's diffusion. Default 2000. */
  num_train_timesteps: number;
  /** The rate of noise at time 0. Default 0.1. */
  beta_min: number;
  /** The rate of noise at time 1. Default 20. */
  beta_max: number;
  /** The time of the last step. Default 0.001. */
  sampling_eps: number;
}

/** What {@link ScoreSdeVpScheduler.step_pred} takes. */
export type ScoreSdeVpStepOptions = Pick<StepOptions, "generator">;

const NAME = "ScoreSdeVpScheduler";

/**
 * Euler-Maruyama sampling of the variance-preserving SDE.
 *
 * Timesteps run from 1 down to `sampling_eps`.
 *
 * @see Diffusers `ScoreSdeVpScheduler`; https://huggingface.co/papers/2011.13456 ((6) and (11))
 */
export class ScoreSdeVpScheduler extends SchedulerMixin<ScoreSdeVpSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<ScoreSdeVpSchedulerConfig> =
    configDefaults<ScoreSdeVpSchedulerConfig>({
      num_train_timesteps: 2000,
      beta_min: 0.1,
      beta_max: 20,
      sampling_eps: 0.001,
    });
  static override readonly step_options: readonly string[] = ["generator"];

  /** Variance is preserved, so it is 1 from the start (Diffusers does not say). */
  readonly init_noise_sigma: number = 1;
  /** Empty before {@link set_timesteps}. */
  timesteps: Float32Array = new Float32Array(0);

  /**
   * Lays out the times of a run, from 1 down to `sampling_eps`.
   *
   * @param num_inference_steps at least 1
   * @throws ValueError for another number of steps.
   */
  set_timesteps(num_inference_steps: number | null, options: Record<string, never> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, ScoreSdeVpScheduler.set_timesteps_options);
    checkSteps(NAME, num_inference_steps);
    this.num_inference_steps = num_inference_steps;
    this.timesteps = linspace32(1, this.config.sampling_eps, num_inference_steps);
  }

  /**
   * Goes to the time before along the reverse SDE.
   *
   * @param score the model's prediction of the noise, `[batch, channels, ...]`, of which the score is made here
   * @param x the sample, `[batch, channels, ...]`
   * @param t the time, above 0 to 1: one for all, or one per batch item
   * @throws ValueError before `set_timesteps`, or for a shape or number of times that does not fit.
   */
  step_pred(score: Tensor, x: Tensor, t: number | ArrayLike<number>, options: ScoreSdeVpStepOptions = {}): SdeVeOutput {
    checkOptions(`${NAME}.step_pred`, options, ScoreSdeVpScheduler.step_options);
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    checkSample(`${NAME}.step_pred`, score, x);
    const times = Float32Array.from(typeof t === "number" ? [t] : t);
    checkPerItem(`${NAME}.step_pred`, "t", times.length, x.dims[0] ?? 1);

    const { beta_min, beta_max } = this.config;
    const [low, range] = [Math.fround(beta_min), Math.fround(beta_max - beta_min)];
    const dt = -1 / this.timesteps.length;
    const [dt32, sqrt_dt] = [Math.fround(dt), Math.fround(Math.sqrt(-dt))];
    const noise = randn_tensor(x.dims, options).data;
    const mean = new Float32Array(x.size);
    const prev = new Float32Array(x.size);
    const count = x.size / times.length;
    for (const [k, time] of times.entries()) {
      // The standard deviation of x given the data, formula (29), by which the model's noise becomes the score.
      const quadratic = Math.fround(Math.fround(-0.25 * Math.fround(time * time)) * range);
      const log_mean_coeff = Math.fround(quadratic - Math.fround(Math.fround(0.5 * time) * low));
      const std = sqrt32(Math.fround(1 - exp32(2 * log_mean_coeff)));

      // The reverse SDE, formula (6), of the forward drift -beta(t) x / 2 and diffusion sqrt(beta(t)), formula (11).
      const beta_t = Math.fround(low + Math.fround(time * range));
      const diffusion = sqrt32(beta_t);
      const squared = Math.fround(diffusion * diffusion);
      const half_beta = Math.fround(-0.5 * beta_t);
      const noise_scale = Math.fround(diffusion * sqrt_dt);
      for (let i = k * count; i < (k + 1) * count; i++) {
        const scaled = Math.fround(-score.data[i]! / std);
        const drift = Math.fround(Math.fround(half_beta * x.data[i]!) - Math.fround(squared * scaled));
        mean[i] = x.data[i]! + Math.fround(drift * dt32);
        prev[i] = mean[i]! + Math.fround(noise_scale * noise[i]!);
      }
    }
    return {
      prev_sample: new Tensor("float32", prev, x.dims),
      prev_sample_mean: new Tensor("float32", mean, x.dims),
    };
  }
}
