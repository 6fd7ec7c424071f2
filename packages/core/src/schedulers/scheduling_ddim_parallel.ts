import { checkOptions, ValueError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { checkPerItem, checkSample, entry, stepsNotSet } from "./checks.ts";
import { moveToLevel, noiseLevel, predictOriginal } from "./noise_level.ts";
import { DDIMScheduler, type DDIMSchedulerConfig, type DDIMStepOptions } from "./scheduling_ddim.ts";
import type { PredictionType } from "./scheduling_utils.ts";
import { clampSample, thresholdSample } from "./thresholding.ts";

/** Config of {@link DDIMParallelScheduler}, which is DDIM's. */
export type DDIMParallelSchedulerConfig = DDIMSchedulerConfig;

/** What {@link DDIMParallelScheduler.step} takes. */
export type DDIMParallelStepOptions = DDIMStepOptions;

/** What {@link DDIMParallelScheduler.batch_step_no_noise} takes. */
export type DDIMParallelBatchOptions = Pick<DDIMStepOptions, "eta" | "use_clipped_model_output">;

const NAME = "DDIMParallelScheduler";
const PREDICTIONS: readonly PredictionType[] = ["epsilon", "sample", "v_prediction"];

/**
 * DDIM for parallel sampling, which runs a window of timesteps as one batch and repeats it until it agrees with itself.
 *
 * Everything is DDIM's but for {@link batch_step_no_noise}.
 *
 * @see Diffusers `DDIMParallelScheduler`; https://huggingface.co/papers/2305.16317 (algorithm 1)
 */
export class DDIMParallelScheduler extends DDIMScheduler {
  static override readonly name: string = NAME;

  /**
   * A step of many samples, each at its own timestep, without noise: `eta` can only be 0.
   *
   * Below the first timestep `alphas_cumprod` is 1 here, also where `set_alpha_to_one` is false.
   *
   * @param model_output `[batch, channels, ...]`
   * @param timesteps one for all, or one per batch item
   * @param sample `[batch, channels, ...]`
   * @throws ValueError before `set_timesteps`, for another `eta`, an unknown `prediction_type`, or timesteps or shapes
   * that do not fit.
   */
  batch_step_no_noise(
    model_output: Tensor,
    timesteps: ArrayLike<number>,
    sample: Tensor,
    options: DDIMParallelBatchOptions = {},
  ): Tensor {
    const where = `${NAME}.batch_step_no_noise`;
    checkOptions(where, options, ["eta", "use_clipped_model_output"]);
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    checkSample(where, model_output, sample);
    const { eta = 0, use_clipped_model_output = false } = options;
    if (eta !== 0) {
      const details = { className: NAME, field: "eta", found: String(eta), expected: "0" };
      throw new ValueError(`${where} adds no noise: \`eta\` must be 0, but is ${eta}.`, details);
    }
    const batch = sample.dims[0] ?? 1;
    checkPerItem(where, "timesteps", timesteps.length, batch);
    const { num_train_timesteps, prediction_type, thresholding, clip_sample, clip_sample_range } = this.config;

    const parts = timesteps.length;
    const count = sample.size / parts;
    const prev = new Float32Array(sample.size);
    for (let k = 0; k < parts; k++) {
      const [begin, end] = [k * count, (k + 1) * count];
      const e = model_output.data.subarray(begin, end);
      const x = sample.data.subarray(begin, end);
      const x0 = prev.subarray(begin, end);

      // 1. the timestep before, and 2. noise levels
      const t = timesteps[k]!;
      const prev_t = t - Math.floor(num_train_timesteps / this.num_inference_steps);
      const level = noiseLevel(entry(this.alphas_cumprod, t, NAME, "timestep"));
      const prev_level = noiseLevel(prev_t >= 0 ? entry(this.alphas_cumprod, prev_t, NAME, "timestep") : 1);

      // 3. predicted x_0, formula (12), and 4. clip or threshold it
      predictOriginal(NAME, prediction_type, PREDICTIONS, e, x, level, x0);
      if (thresholding) thresholdSample(x0, batch / parts, this.config);
      else if (clip_sample) clampSample(x0, clip_sample_range);

      // 6. and 7. x_t-1, which takes its place, by formula (12) where sigma is 0
      if (use_clipped_model_output) moveToLevel("sample", x0, x0, x, level, prev_level, x0);
      else moveToLevel(prediction_type, x0, e, x, level, prev_level, x0);
    }
    return new Tensor("float32", prev, sample.dims);
  }
}
