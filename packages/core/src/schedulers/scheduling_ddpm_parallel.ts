import { Tensor } from "../tensor.ts";
import { checkPerItem, entry } from "./checks.ts";
import { sqrt32 } from "./float32.ts";
import { splitVariance } from "./learned_variance.ts";
import { noiseLevel, predictOriginal } from "./noise_level.ts";
import { DDPMScheduler, type DDPMSchedulerConfig, type DDPMStepOptions } from "./scheduling_ddpm.ts";
import type { PredictionType } from "./scheduling_utils.ts";
import { clampSample, thresholdSample } from "./thresholding.ts";

/** Config of {@link DDPMParallelScheduler}, which is DDPM's. */
export type DDPMParallelSchedulerConfig = DDPMSchedulerConfig;

/** What {@link DDPMParallelScheduler.step} takes. */
export type DDPMParallelStepOptions = DDPMStepOptions;

const NAME = "DDPMParallelScheduler";
const PREDICTIONS: readonly PredictionType[] = ["epsilon", "sample", "v_prediction"];

/**
 * DDPM for parallel sampling, which runs a window of timesteps as one batch and repeats it until it agrees with itself.
 *
 * Everything is DDPM's but for {@link batch_step_no_noise}.
 *
 * @see Diffusers `DDPMParallelScheduler`; https://huggingface.co/papers/2305.16317 (algorithm 1)
 */
export class DDPMParallelScheduler extends DDPMScheduler {
  static override readonly name: string = NAME;

  /**
   * A step of many samples, each at its own timestep, without the noise: the mean of the samples before.
   *
   * It goes back by an even spacing, whatever that of `timesteps` is; without `set_timesteps`, by one timestep.
   *
   * @param model_output `[batch, channels, ...]`; twice the channels where the variance is learned
   * @param timesteps one for all, or one per batch item
   * @param sample `[batch, channels, ...]`
   * @throws ValueError for an unknown `prediction_type`, or timesteps or shapes that do not fit.
   */
  batch_step_no_noise(model_output: Tensor, timesteps: ArrayLike<number>, sample: Tensor): Tensor {
    const where = `${NAME}.batch_step_no_noise`;
    const { num_train_timesteps, prediction_type, variance_type, thresholding, clip_sample, clip_sample_range } =
      this.config;
    const learns = variance_type === "learned" || variance_type === "learned_range";
    const { prediction } = splitVariance(where, learns, model_output, sample);
    const batch = sample.dims[0] ?? 1;
    checkPerItem(where, "timesteps", timesteps.length, batch);

    const parts = timesteps.length;
    const x0 = new Float32Array(sample.size / parts);
    const prev = new Float32Array(sample.size);
    for (let k = 0; k < parts; k++) {
      const begin = k * x0.length;
      const e = prediction.subarray(begin, begin + x0.length);
      const x = sample.data.subarray(begin, begin + x0.length);
      const t = timesteps[k]!;
      const prev_t = t - Math.floor(num_train_timesteps / (this.num_inference_steps ?? num_train_timesteps));

      // 1. alphas and betas
      const alpha_prod_t = entry(this.alphas_cumprod, t, NAME, "timestep");
      const alpha_prod_t_prev = prev_t >= 0 ? entry(this.alphas_cumprod, prev_t, NAME, "timestep") : 1;
      const beta_prod_t = Math.fround(1 - alpha_prod_t);
      const beta_prod_t_prev = Math.fround(1 - alpha_prod_t_prev);
      const current_alpha_t = Math.fround(alpha_prod_t / alpha_prod_t_prev);
      const current_beta_t = Math.fround(1 - current_alpha_t);

      // 2. predicted x_0, formula (15) of DDPM, and 3. clip or threshold it
      predictOriginal(NAME, prediction_type, PREDICTIONS, e, x, noiseLevel(alpha_prod_t), x0);
      if (thresholding) thresholdSample(x0, batch / parts, this.config);
      else if (clip_sample) clampSample(x0, clip_sample_range);

      // 4. and 5. the mean µ_t of the previous sample, formula (7)
      const x0_coeff = Math.fround(Math.fround(sqrt32(alpha_prod_t_prev) * current_beta_t) / beta_prod_t);
      const x_coeff = Math.fround(Math.fround(sqrt32(current_alpha_t) * beta_prod_t_prev) / beta_prod_t);
      for (let i = 0; i < x0.length; i++) {
        prev[begin + i] = Math.fround(x0_coeff * x0[i]!) + Math.fround(x_coeff * x[i]!);
      }
    }
    return new Tensor("float32", prev, sample.dims);
  }
}
