import { ConfigMixin, type FrozenConfig } from "../configuration_utils.ts";
import type { Generator } from "../generator.ts";
import type { LoadOptions, SourceLike } from "../hub/source.ts";
import type { Tensor } from "../tensor.ts";

/** What `step` returns. */
export interface SchedulerOutput {
  /** The sample of the timestep before, `[batch, channels, ...]`: the next input of the model. */
  prev_sample: Tensor;
  /** The denoised sample that the model's output amounts to, where the class gives it: good for previews. */
  pred_original_sample?: Tensor;
}

/** All that `step` takes in one class or another; `step_options` of a class says which. */
export interface StepOptions {
  /** Where noise is drawn from: one generator, or one per batch item. Without it noise is seeded at random. */
  generator?: Generator | readonly Generator[] | undefined;
  /** DDIM: the weight of the added noise, from 0 (deterministic, default) to 1 (as DDPM). */
  eta?: number | undefined;
  /** DDIM: derive the noise prediction again from the clipped sample. Default false. */
  use_clipped_model_output?: boolean | undefined;
  /** The noise to add, of the sample's shape, in place of drawing it. */
  variance_noise?: Tensor | undefined;
  /** Euler: how much noise is added over the run. Default 0. */
  s_churn?: number | undefined;
  /** Euler: noise is added only where sigma is at least this. Default 0. */
  s_tmin?: number | undefined;
  /** Euler: noise is added only where sigma is at most this. Default Infinity. */
  s_tmax?: number | undefined;
  /** Euler: factor of the added noise. Default 1. */
  s_noise?: number | undefined;
}

/** All that `set_timesteps` takes in one class or another; `set_timesteps_options` of a class says which. */
export interface SetTimestepsOptions {
  /** Timesteps of the caller's own, descending, in place of a number of steps. */
  timesteps?: ArrayLike<number> | undefined;
  /** Sigmas of the caller's own, descending, the last one included, in place of a number of steps. */
  sigmas?: ArrayLike<number> | undefined;
  /** Exponent of the dynamic time shift: `flow_shift` becomes `exp(mu)`. */
  mu?: number | undefined;
}

/** Timesteps in the order they are run: whole numbers for most classes, fractions for those that work on sigmas. */
export type Timesteps = Int32Array | Float32Array;

/** How the model's output is to be read. */
export type PredictionType = "epsilon" | "sample" | "v_prediction" | (string & {});

/** How timesteps are laid out over the training's. @see https://huggingface.co/papers/2305.08891 (Table 2) */
export type TimestepSpacing = "linspace" | "leading" | "trailing" | (string & {});

/** The config field that every scheduler has. */
export interface BaseSchedulerConfig {
  /** Steps of the training's diffusion. Default 1000. */
  num_train_timesteps: number;
}

/**
 * The classes that take each other's configs: any of them is built with `from_config(scheduler.config)` of another.
 *
 * @see Diffusers `KarrasDiffusionSchedulers`
 */
export const karrasDiffusionSchedulers: readonly string[] = [
  "DDIMScheduler",
  "DDPMScheduler",
  "PNDMScheduler",
  "LMSDiscreteScheduler",
  "EulerDiscreteScheduler",
  "HeunDiscreteScheduler",
  "EulerAncestralDiscreteScheduler",
  "DPMSolverMultistepScheduler",
  "DPMSolverSinglestepScheduler",
  "KDPM2DiscreteScheduler",
  "KDPM2AncestralDiscreteScheduler",
  "DEISMultistepScheduler",
  "UniPCMultistepScheduler",
  "DPMSolverSDEScheduler",
  "EDMEulerScheduler",
];

/** The config fields of all those classes together: what one does not take itself stays hidden in its config. */
export const karrasDiffusionFields: readonly string[] = [
  "num_train_timesteps beta_start beta_end beta_schedule trained_betas prediction_type timestep_spacing steps_offset",
  "rescale_betas_zero_snr clip_sample clip_sample_range set_alpha_to_one thresholding dynamic_thresholding_ratio",
  "sample_max_value variance_type skip_prk_steps interpolation_type timestep_type final_sigmas_type sigma_min sigma_max",
  "use_karras_sigmas use_exponential_sigmas use_beta_sigmas use_lu_lambdas use_flow_sigmas flow_shift shift_terminal",
  "use_dynamic_shifting time_shift_type solver_order solver_type algorithm_type lower_order_final euler_at_final",
  "lambda_min_clipped predict_x0 disable_corrector solver_p noise_sampler_seed sigma_data sigma_schedule rho",
].flatMap((line) => line.split(" "));

/** The static side of a scheduler: what {@link schedulerRegistry} holds. */
export interface SchedulerClass<T extends SchedulerMixin<BaseSchedulerConfig> = SchedulerMixin<BaseSchedulerConfig>> {
  new (config?: never): T;
  readonly name: string;
  readonly config_name: string;
  readonly config_defaults: object;
  readonly compatible_fields: readonly string[];
  readonly compatible_classes: readonly string[];
  readonly step_options: readonly string[];
  readonly set_timesteps_options: readonly string[];
  readonly from_config: typeof ConfigMixin.from_config;
  from_pretrained(source: SourceLike, options?: LoadOptions & object): Promise<T>;
}

/**
 * What all schedulers share: loading, saving, and the methods that pipelines call.
 *
 * What `step` changes is private and reset by `set_timesteps`.
 *
 * @see Diffusers `SchedulerMixin`
 */
export abstract class SchedulerMixin<C extends BaseSchedulerConfig> extends ConfigMixin<C> {
  static override readonly name: string = "SchedulerMixin";
  static override readonly config_name: string = "scheduler_config.json";
  /** The names of the classes that take this one's config. */
  static readonly compatible_classes: readonly string[] = [];
  /** The names of the options that `step` takes. */
  static readonly step_options: readonly string[] = [];
  /** The names of the options that `set_timesteps` takes. */
  static readonly set_timesteps_options: readonly string[] = [];

  /** How many times the model is run per step. */
  readonly order: number = 1;
  /** The number of steps of the last `set_timesteps`; null before. */
  num_inference_steps: number | null = null;
  /** The timesteps to run, in order. */
  abstract timesteps: Timesteps;
  /** The standard deviation that initial noise must have. */
  abstract readonly init_noise_sigma: number;

  /** The number of training timesteps, as Python's `len(scheduler)`. */
  get length(): number {
    return (this.config as FrozenConfig<BaseSchedulerConfig>).num_train_timesteps;
  }

  /** The names of the classes that `from_config(scheduler.config)` may build in place of this one. */
  get compatibles(): readonly string[] {
    return (this.constructor as unknown as SchedulerClass).compatible_classes;
  }

  /** Lays out the timesteps of a run, and forgets the run before. */
  abstract set_timesteps(num_inference_steps: number | null, options?: SetTimestepsOptions): void;

  /** Steps back in time from `sample` at `timestep`, by what the model said of it. */
  abstract step(model_output: Tensor, timestep: number, sample: Tensor, options?: StepOptions): SchedulerOutput;

  /** Diffuses samples to the noise level of `timesteps`, one for all or one per batch item. */
  abstract add_noise(original_samples: Tensor, noise: Tensor, timesteps: ArrayLike<number>): Tensor;

  /** For classes that count steps: where a run that starts midway (image to image) begins. */
  set_begin_index?(begin_index?: number): void;

  /** What to give the model for `sample`; the same tensor unless the class scales. */
  scale_model_input(sample: Tensor, _timestep?: number): Tensor {
    return sample;
  }

  /**
   * Loads `scheduler_config.json` of a repository, URL or folder.
   *
   * @param source a hub id, a URL, or a path in Node
   * @param options how to load, and config fields to override
   * @throws ModelNotFoundError when the file is not there.
   * @see Diffusers `SchedulerMixin.from_pretrained`
   */
  static async from_pretrained<T extends SchedulerMixin<BaseSchedulerConfig>>(
    this: SchedulerClass<T>,
    source: SourceLike,
    options: LoadOptions & object = {},
  ): Promise<T> {
    return this.from_config(source as object, options);
  }

  /** Writes `scheduler_config.json` into a folder: a path in Node, or a directory handle in a page. */
  save_pretrained(directory: string | FileSystemDirectoryHandle): Promise<void> {
    return this.save_config(directory);
  }
}
