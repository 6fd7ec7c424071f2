import { type ConfigClass, ConfigMixin, type FrozenConfig, type InstanceOf } from "../configuration_utils.ts";
import type { Generator } from "../generator.ts";
import type { LoadOptions, SourceLike } from "../hub/source.ts";
import type { Tensor } from "../tensor.ts";

/** What `step` returns. */
export interface SchedulerOutput {
  /** The sample of the timestep before, `[batch, channels, ...]`: the next input of the model. */
  prev_sample: Tensor;
  /** The denoised sample that the model's output amounts to, where the class gives it: good for previews. */
  pred_original_sample?: Tensor;
  /** LCM: the denoised sample by the consistency function's boundary condition. */
  denoised?: Tensor;
  /** TCD: the sample at the noise level that the step aims at, before noise is added again. */
  pred_noised_sample?: Tensor;
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
  /** Euler's kind: how much noise is added over the run. Default 0. */
  s_churn?: number | undefined;
  /** Euler's kind: noise is added only where sigma is at least this. Default 0. */
  s_tmin?: number | undefined;
  /** Euler's kind: noise is added only where sigma is at most this. Default Infinity. */
  s_tmax?: number | undefined;
  /** Euler's kind and DPM-Solver SDE: factor of the added noise. Default 1. */
  s_noise?: number | undefined;
  /** LMS: how many outputs a step looks back on. Default 4. */
  order?: number | undefined;
  /** UnCLIP: the timestep to go to. Default `timestep - 1`. */
  prev_timestep?: number | undefined;
  /** EDM Euler: the denoised sample, where the caller has it already. */
  pred_original_sample?: Tensor | undefined;
  /** Flow matching: a timestep for each token of the sample. */
  per_token_timesteps?: Tensor | undefined;
}

/** All that `set_timesteps` takes in one class or another; `set_timesteps_options` of a class says which. */
export interface SetTimestepsOptions {
  /** Timesteps of the caller's own, descending, in place of a number of steps. */
  timesteps?: ArrayLike<number> | undefined;
  /** Sigmas of the caller's own, descending, the last one included, in place of a number of steps. */
  sigmas?: ArrayLike<number> | undefined;
  /** Exponent of the dynamic time shift: `flow_shift` becomes `exp(mu)`. */
  mu?: number | undefined;
  /** Heun, KDPM2 and DPM-Solver SDE: lay out the timesteps over so many, not over the config's. */
  num_train_timesteps?: number | undefined;
  /** LCM and TCD: the steps of the schedule that the model was distilled with. */
  original_inference_steps?: number | undefined;
  /** LCM and TCD: the share of the schedule that is run, 0 to 1. Default 1. */
  strength?: number | undefined;
  /** Score SDE: the time of the last step, above 0. */
  sampling_eps?: number | undefined;
  /** RePaint: how many steps one jump goes back. Default 10. */
  jump_length?: number | undefined;
  /** RePaint: how often each jump is made. Default 10. */
  jump_n_sample?: number | undefined;
  /** SCM: the first time, in radians. Default 1.5708; null with `timesteps`. */
  max_timesteps?: number | null | undefined;
  /** SCM: the time between, in radians, of a run of two steps. Default 1.3; null for none. */
  intermediate_timesteps?: number | null | undefined;
}

/** Timesteps in the order they are run: whole numbers for most classes, fractions for those that work on sigmas. */
export type Timesteps = Int32Array | Float32Array | Float64Array;

/** How the model's output is to be read. */
export type PredictionType = "epsilon" | "sample" | "v_prediction" | (string & {});

/** How timesteps are laid out over the training's. @see https://huggingface.co/papers/2305.08891 (Table 2) */
export type TimestepSpacing = "linspace" | "leading" | "trailing" | (string & {});

/** The config field that nearly every scheduler has. */
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

/** The static side of a scheduler: what `schedulerRegistry` holds. */
export interface SchedulerClass<T extends SchedulerMixin<object> = Scheduler> {
  new (config?: never): T;
  readonly name: string;
  readonly config_name: string;
  readonly config_defaults: object;
  readonly compatible_fields: readonly string[];
  readonly compatible_classes: readonly string[];
  readonly step_options: readonly string[];
  readonly set_timesteps_options: readonly string[];
  readonly from_config: typeof ConfigMixin.from_config;
  readonly from_pretrained: typeof SchedulerMixin.from_pretrained;
}

/**
 * What all schedulers share: loading, saving, and the methods that pipelines call.
 *
 * What `step` changes is private and reset by `set_timesteps`.
 *
 * @see Diffusers `SchedulerMixin`
 */
export abstract class SchedulerMixin<C extends object> extends ConfigMixin<C> {
  static override readonly name: string = "SchedulerMixin";
  static override readonly config_name: string = "scheduler_config.json";
  /** The names of the classes that take this one's config, besides itself. */
  static readonly compatible_classes: readonly string[] = [];
  /** The names of the options that `step` takes. */
  static readonly step_options: readonly string[] = [];
  /** The names of the options that `set_timesteps` takes. */
  static readonly set_timesteps_options: readonly string[] = [];

  /** How many timesteps one step of the solver takes up. */
  readonly order: number = 1;
  /** The number of steps of the last `set_timesteps`; null before. */
  num_inference_steps: number | null = null;
  /** The timesteps to run, in order. */
  abstract timesteps: Timesteps;
  /** The standard deviation that initial noise must have. */
  abstract readonly init_noise_sigma: number;

  /** The number of training timesteps, as Python's `len(scheduler)`; NaN where there is none. */
  get length(): number {
    return (this.config as FrozenConfig<Partial<BaseSchedulerConfig>>).num_train_timesteps ?? Number.NaN;
  }

  /** The names of the classes that `from_config(scheduler.config)` may build, this one among them. */
  get compatibles(): readonly string[] {
    const { name, compatible_classes } = this.constructor as unknown as SchedulerClass;
    return compatible_classes.includes(name) ? compatible_classes : [name, ...compatible_classes];
  }

  /** Lays out the timesteps of a run, and forgets the run before. */
  abstract set_timesteps(num_inference_steps: number | null, options?: SetTimestepsOptions): void;

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
  static from_pretrained<S extends ConfigClass<SchedulerMixin<object>>>(
    this: S,
    source: SourceLike,
    options: LoadOptions & object = {},
  ): Promise<InstanceOf<S>> {
    const { from_config } = this as unknown as {
      from_config(source: SourceLike, kwargs: object): Promise<InstanceOf<S>>;
    };
    return from_config.call(this, source, options);
  }

  /** Writes `scheduler_config.json` into a folder: a path in Node, or a directory handle in a page. */
  save_pretrained(directory: string | FileSystemDirectoryHandle): Promise<void> {
    return this.save_config(directory);
  }
}

/**
 * A scheduler that a pipeline's loop can run: all but those whose step has a form of its own (KarrasVe, RePaint,
 * ScoreSdeVe, ScoreSdeVp).
 */
export interface Scheduler extends SchedulerMixin<BaseSchedulerConfig> {
  /** Steps back in time from `sample` at `timestep`, by what the model said of it. */
  step(model_output: Tensor, timestep: number, sample: Tensor, options?: StepOptions): SchedulerOutput;

  /** Diffuses samples to the noise level of `timesteps`, one for all or one per batch item. Not in every class. */
  add_noise?(original_samples: Tensor, noise: Tensor, timesteps: ArrayLike<number>): Tensor;

  /** For classes that count steps: where a run that starts midway (image to image) begins. */
  set_begin_index?(begin_index?: number): void;
}
