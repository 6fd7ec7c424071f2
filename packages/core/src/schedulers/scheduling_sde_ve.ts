import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions, ValueError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkSample, checkSteps, entry } from "./checks.ts";
import { exp32, mixPerSample, sqrt32 } from "./float32.ts";
import { linspace32 } from "./noise_schedules.ts";
import {
  SchedulerMixin,
  type SchedulerOutput,
  type SetTimestepsOptions,
  type StepOptions,
} from "./scheduling_utils.ts";

/** Config of {@link ScoreSdeVeScheduler}. */
export interface ScoreSdeVeSchedulerConfig {
  /** Steps of the training's diffusion. Default 2000. */
  num_train_timesteps: number;
  /** The signal-to-noise ratio of a corrector step. Default 0.15. */
  snr: number;
  /** The least noise level, that of the data. Default 0.01. */
  sigma_min: number;
  /** The largest noise level. Default 1348. */
  sigma_max: number;
  /** The time of the last step. Default 1e-5. */
  sampling_eps: number;
  /** How many corrector steps a pipeline makes before each predictor step. Default 1. */
  correct_steps: number;
}

/**
 * What {@link ScoreSdeVeScheduler.set_sigmas} takes; default: the config's values. As in Diffusers, `sampling_eps` changes
 * nothing, for there are timesteps already.
 */
export type SetSigmasOptions = Partial<Pick<ScoreSdeVeSchedulerConfig, "sigma_min" | "sigma_max" | "sampling_eps">>;

/** What the steps of {@link ScoreSdeVeScheduler} take. */
export type ScoreSdeVeStepOptions = Pick<StepOptions, "generator">;

/** What a predictor step returns. */
export interface SdeVeOutput {
  /** The sample of the time before, `[batch, channels, ...]`: the next input of the model. */
  prev_sample: Tensor;
  /** The same without the noise of this step: what to show at the end. */
  prev_sample_mean: Tensor;
}

const NAME = "ScoreSdeVeScheduler";

/**
 * Predictor-corrector sampling of the variance-exploding SDE; the model gives the score.
 *
 * Call {@link set_timesteps}, then {@link set_sigmas}; for each timestep {@link step_correct} `correct_steps` times, and
 * {@link step_pred}. Timesteps run from 1 down to `sampling_eps`.
 *
 * @see Diffusers `ScoreSdeVeScheduler`; https://huggingface.co/papers/2011.13456 (algorithms 2 and 4)
 */
export class ScoreSdeVeScheduler extends SchedulerMixin<ScoreSdeVeSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<ScoreSdeVeSchedulerConfig> =
    configDefaults<ScoreSdeVeSchedulerConfig>({
      num_train_timesteps: 2000,
      snr: 0.15,
      sigma_min: 0.01,
      sigma_max: float(1348),
      sampling_eps: 1e-5,
      correct_steps: 1,
    });
  static override readonly step_options: readonly string[] = ["generator"];
  static override readonly set_timesteps_options: readonly string[] = ["sampling_eps"];

  readonly init_noise_sigma: number;
  timesteps: Float32Array;
  /** The noise level of each of the `timesteps` that there were at the last {@link set_sigmas}: what the model is given. */
  sigmas: Float32Array = new Float32Array(0);
  /** As many noise levels as {@link set_sigmas} was told, ascending: what the steps go by. */
  discrete_sigmas: Float32Array = new Float32Array(0);

  /** @throws ValueError for a `sigma_min` or `sigma_max` that is not above 0. */
  constructor(config: Partial<ScoreSdeVeSchedulerConfig> = {}) {
    super(config);
    const { num_train_timesteps, sigma_max, sampling_eps } = this.config;
    this.init_noise_sigma = sigma_max;
    this.timesteps = linspace32(1, sampling_eps, num_train_timesteps);
    this.set_sigmas(num_train_timesteps);
  }

  /**
   * Lays out the times of a run, from 1 down to `sampling_eps`. The sigmas stay: call {@link set_sigmas} next.
   *
   * @param num_inference_steps at least 1
   * @throws ValueError for another number of steps.
   */
  set_timesteps(num_inference_steps: number | null, options: Pick<SetTimestepsOptions, "sampling_eps"> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, ScoreSdeVeScheduler.set_timesteps_options);
    checkSteps(NAME, num_inference_steps);
    const { sampling_eps = this.config.sampling_eps } = options;
    this.num_inference_steps = num_inference_steps;
    this.timesteps = linspace32(1, sampling_eps, num_inference_steps);
  }

  /**
   * Lays out the noise levels of a run, geometrically from `sigma_min` to `sigma_max`.
   *
   * @param num_inference_steps as many as `set_timesteps` was told
   * @throws ValueError for another number of steps, or a `sigma_min` or `sigma_max` that is not above 0.
   */
  set_sigmas(num_inference_steps: number, options: SetSigmasOptions = {}): void {
    checkOptions(`${NAME}.set_sigmas`, options, ["sigma_min", "sigma_max", "sampling_eps"]);
    checkSteps(NAME, num_inference_steps);
    const { sigma_min = this.config.sigma_min, sigma_max = this.config.sigma_max } = options;
    for (const [field, value] of Object.entries({ sigma_min, sigma_max })) {
      if (value > 0) continue;
      throw new ValueError(`${NAME}'s \`${field}\` must be above 0, but is ${value}.`, {
        className: NAME,
        field,
        found: String(value),
        expected: "above 0",
      });
    }
    const [first, ratio] = [Math.fround(sigma_min), Math.fround(sigma_max / sigma_min)];
    this.sigmas = this.timesteps.map((t) => first * Math.fround(ratio ** t));
    this.discrete_sigmas = linspace32(Math.log(sigma_min), Math.log(sigma_max), num_inference_steps).map(exp32);
  }

  /** The noise level before each of these places in `discrete_sigmas`: 0 before the first. */
  get_adjacent_sigma(timesteps: ArrayLike<number>): Float32Array {
    return Float32Array.from(timesteps, (t) => (t === 0 ? 0 : entry(this.discrete_sigmas, t - 1, NAME, "timestep")));
  }

  /**
   * The predictor: goes to the time before along the reverse SDE.
   *
   * @param model_output the score at `sample`, `[batch, channels, ...]`
   * @param timestep one of `timesteps`, 0 to 1
   * @param sample `[batch, channels, ...]`
   * @throws ValueError for a timestep or shape that does not fit.
   * @see https://huggingface.co/papers/2011.13456 ((6) and (47))
   */
  step_pred(model_output: Tensor, timestep: number, sample: Tensor, options: ScoreSdeVeStepOptions = {}): SdeVeOutput {
    checkOptions(`${NAME}.step_pred`, options, ScoreSdeVeScheduler.step_options);
    checkSample(`${NAME}.step_pred`, model_output, sample);
    const index = Math.trunc(Math.fround(Math.fround(timestep) * (this.timesteps.length - 1)));
    const sigma = entry(this.discrete_sigmas, index, NAME, "timestep");
    const adjacent_sigma = this.get_adjacent_sigma([index])[0]!;
    const diffusion = sqrt32(Math.fround(Math.fround(sigma * sigma) - Math.fround(adjacent_sigma * adjacent_sigma)));

    const squared = Math.fround(diffusion * diffusion);
    const noise = randn_tensor(sample.dims, options).data;
    const x = sample.data;
    const score = model_output.data;
    const mean = new Float32Array(x.length);
    const prev = new Float32Array(x.length);
    for (let i = 0; i < x.length; i++) {
      // The reverse SDE has no drift of its own, and time runs backwards.
      mean[i] = x[i]! + Math.fround(squared * score[i]!);
      prev[i] = mean[i]! + Math.fround(diffusion * noise[i]!);
    }
    return {
      prev_sample: new Tensor("float32", prev, sample.dims),
      prev_sample_mean: new Tensor("float32", mean, sample.dims),
    };
  }

  /**
   * The corrector: a step of Langevin dynamics at the same noise level, as long as the config's `snr` says.
   *
   * @param model_output the score at `sample`, `[batch, channels, ...]`
   * @param sample `[batch, channels, ...]`
   * @throws ValueError for a shape that does not fit.
   * @see https://huggingface.co/papers/2011.13456 (algorithm 4)
   */
  step_correct(model_output: Tensor, sample: Tensor, options: ScoreSdeVeStepOptions = {}): SchedulerOutput {
    checkOptions(`${NAME}.step_correct`, options, ScoreSdeVeScheduler.step_options);
    checkSample(`${NAME}.step_correct`, model_output, sample);
    const noise = randn_tensor(sample.dims, options).data;
    const x = sample.data;
    const score = model_output.data;
    const batch = sample.dims[0] ?? 1;
    const ratio = Math.fround(
      Math.fround(Math.fround(this.config.snr) * meanNorm(noise, batch)) / meanNorm(score, batch),
    );
    const step_size = Math.fround(2 * Math.fround(ratio * ratio));

    const noise_scale = sqrt32(Math.fround(2 * step_size));
    const prev = new Float32Array(x.length);
    for (let i = 0; i < x.length; i++) {
      prev[i] = Math.fround(x[i]! + Math.fround(step_size * score[i]!)) + Math.fround(noise_scale * noise[i]!);
    }
    return { prev_sample: new Tensor("float32", prev, sample.dims) };
  }

  /**
   * Adds noise of the noise levels at `timesteps`.
   *
   * @param noise of the samples' shape; null: drawn at random
   * @param timesteps places in `discrete_sigmas`, one for all or one per batch item
   */
  add_noise(original_samples: Tensor, noise: Tensor | null, timesteps: ArrayLike<number>): Tensor {
    const sigmas = Float32Array.from(timesteps, (t) => entry(this.discrete_sigmas, t, NAME, "timestep"));
    const ones = sigmas.map(() => 1);
    return mixPerSample(
      `${NAME}.add_noise`,
      ones,
      original_samples,
      sigmas,
      noise ?? randn_tensor(original_samples.dims),
    );
  }
}

/** The Euclidean norm of each batch item, averaged. */
function meanNorm(values: Float32Array, batch: number): number {
  const count = values.length / batch;
  let total = 0;
  for (let b = 0; b < batch; b++) {
    let squares = 0;
    for (let i = b * count; i < (b + 1) * count; i++) squares += values[i]! * values[i]!;
    total += Math.fround(Math.sqrt(squares));
  }
  return Math.fround(total / batch);
}
