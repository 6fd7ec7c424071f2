import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkOrder, checkSteps, checkTensor, entry, stepsNotSet, unknownValue, unsupportedValue } from "./checks.ts";
import {
  addNoiseOfLevels,
  checkSolver,
  convertModelOutput,
  type DPMAlgorithmType,
  type DPMSolverType,
  dpmSolverUpdate,
  type NoiseLevel,
  splitSigma,
} from "./dpmsolver_update.ts";
import {
  alphasCumprod,
  type BetaConfig,
  commonBetaSchedules,
  countClipped,
  halfLogSnr,
  makeBetas,
  sigmasOf,
} from "./noise_schedules.ts";
import {
  karrasDiffusionFields,
  karrasDiffusionSchedulers,
  type PredictionType,
  SchedulerMixin,
  type SchedulerOutput,
  type StepOptions,
  type TimestepSpacing,
  type Timesteps,
} from "./scheduling_utils.ts";
import {
  checkSigmaConfig,
  flowSigmas,
  interpolate,
  logSigmas,
  respacedSigmas,
  type SigmaConfig,
  sigmaToT,
} from "./sigmas.ts";
import { leadingTimesteps, linspaceTimesteps, roundHalfEven, trailingTimesteps } from "./spacing.ts";
import { indexForTimestep } from "./step_index.ts";
import type { ThresholdingConfig } from "./thresholding.ts";

/** Config of {@link DPMSolverMultistepInverseScheduler}. */
export interface DPMSolverMultistepInverseSchedulerConfig extends BetaConfig, ThresholdingConfig, SigmaConfig {
  /** 1, 2 (good with guidance) or 3 (good without; not of the "sde-" algorithms). Default 2. */
  solver_order: number;
  /** "flow_prediction" is for the "++" algorithms. Default "epsilon". */
  prediction_type: PredictionType;
  /** Default "dpmsolver++". */
  algorithm_type: DPMAlgorithmType | (string & {});
  /** Default "midpoint". */
  solver_type: DPMSolverType | (string & {});
  /** Whether the last steps of fewer than 15 are of lower order. Default true. */
  lower_order_final: boolean;
  /** Whether the last step is of the first order. Default false. */
  euler_at_final: boolean;
  /** Whether to use flow matching's sigmas; they descend, as they do in Diffusers. Default false. */
  use_flow_sigmas: boolean | null;
  /** Shift of flow matching's sigmas. Default 1. */
  flow_shift: number;
  /** Timesteps whose half log-SNR is less are left out; for "squaredcos_cap_v2" -5.1 is usual. Default -Infinity. */
  lambda_min_clipped: number;
  /** "learned" or "learned_range": the model's output has a variance behind its three channels, which is dropped. Default null. */
  variance_type: "learned" | "learned_range" | (string & {}) | null;
  /** Default "linspace". */
  timestep_spacing: TimestepSpacing;
  /** Added to each timestep of "leading" spacing. Default 0. */
  steps_offset: number;
}

/** What {@link DPMSolverMultistepInverseScheduler.step} takes. */
export type DPMSolverMultistepInverseStepOptions = Pick<StepOptions, "generator" | "variance_noise">;

const NAME = "DPMSolverMultistepInverseScheduler";

/**
 * DPM-Solver run backwards: from a clean sample, over ascending timesteps, to the noise that it comes from (inversion).
 *
 * @see Diffusers `DPMSolverMultistepInverseScheduler`; https://huggingface.co/papers/2211.01095
 */
export class DPMSolverMultistepInverseScheduler extends SchedulerMixin<DPMSolverMultistepInverseSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<DPMSolverMultistepInverseSchedulerConfig> =
    configDefaults<DPMSolverMultistepInverseSchedulerConfig>({
      num_train_timesteps: 1000,
      beta_start: 0.0001,
      beta_end: 0.02,
      beta_schedule: "linear",
      trained_betas: null,
      solver_order: 2,
      prediction_type: "epsilon",
      thresholding: false,
      dynamic_thresholding_ratio: 0.995,
      sample_max_value: float(1),
      algorithm_type: "dpmsolver++",
      solver_type: "midpoint",
      lower_order_final: true,
      euler_at_final: false,
      use_karras_sigmas: false,
      use_exponential_sigmas: false,
      use_beta_sigmas: false,
      use_flow_sigmas: false,
      flow_shift: float(1),
      lambda_min_clipped: float(Number.NEGATIVE_INFINITY),
      variance_type: null,
      timestep_spacing: "linspace",
      steps_offset: 0,
    });
  static override readonly compatible_fields: readonly string[] = karrasDiffusionFields;
  static override readonly compatible_classes: readonly string[] = karrasDiffusionSchedulers;
  static override readonly step_options: readonly string[] = ["generator", "variance_noise"];

  readonly init_noise_sigma: number = 1;
  timesteps: Timesteps;
  /** The noise level of each timestep, and the one that the last step goes to. */
  sigmas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly betas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas_cumprod: Float32Array;
  /** Half the log-SNR of the training's timesteps, `[num_train_timesteps]`. */
  readonly lambda_t: Float32Array;
  /** The timestep that inversion goes up to; null before `set_timesteps`. */
  noisiest_timestep: number | null = null;

  private stepIndex: number | null = null;
  /** The last converted model outputs, the latest first, fewer than `solver_order`. */
  private modelOutputs: Float32Array[] = [];

  /**
   * @throws UnsupportedModelError for an unknown `beta_schedule`, `algorithm_type` or `solver_type`.
   * @throws ValueError when more than one spacing of sigmas is asked for.
   */
  constructor(config: Partial<DPMSolverMultistepInverseSchedulerConfig> = {}) {
    super(config);
    checkSigmaConfig(NAME, this.config);
    this.betas = makeBetas(NAME, this.config, commonBetaSchedules);
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    this.lambda_t = halfLogSnr(this.alphas_cumprod);
    this.sigmas = sigmasOf(this.alphas_cumprod);
    this.timesteps = Int32Array.from({ length: this.config.num_train_timesteps }, (_, i) => i);
    const algorithms: DPMAlgorithmType[] = ["dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"];
    this.register_to_config(checkSolver(NAME, this.config, algorithms));
  }

  /** The index of the next step; null before the first. */
  get step_index(): number | null {
    return this.stepIndex;
  }

  /**
   * Lays out the timesteps, ascending and each once, and the sigmas of a run.
   *
   * @param num_inference_steps at least 1; where timesteps coincide there are fewer
   * @throws ValueError for another number, or an unknown `timestep_spacing`.
   */
  set_timesteps(num_inference_steps: number | null, options: Record<string, never> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, DPMSolverMultistepInverseScheduler.set_timesteps_options);
    checkSteps(NAME, num_inference_steps);
    const { config } = this;
    const noisiest = config.num_train_timesteps - 1 - countClipped(this.lambda_t, config.lambda_min_clipped);
    let timesteps = this.spacedTimesteps(num_inference_steps, noisiest + 1);
    const trainSigmas = sigmasOf(this.alphas_cumprod);
    const log_sigmas = logSigmas(trainSigmas);

    let sigmas: Float64Array;
    let sigma_last: number | undefined;
    if (config.use_karras_sigmas || config.use_exponential_sigmas || config.use_beta_sigmas) {
      // Of ascending sigmas the least and the largest change places.
      sigmas = respacedSigmas(config, Float64Array.from(trainSigmas), num_inference_steps);
      timesteps = sigmas.map((sigma) => sigmaToT(sigma, log_sigmas));
      if (config.use_karras_sigmas) timesteps = timesteps.map(roundHalfEven);
    } else if (config.use_flow_sigmas) {
      sigmas = flowSigmas(config.num_train_timesteps, config.flow_shift, num_inference_steps);
      timesteps = sigmas.map((sigma) => sigma * config.num_train_timesteps);
    } else {
      sigmas = timesteps.map((t) => interpolate(t, trainSigmas));
      sigma_last = entry(trainSigmas, noisiest, NAME, "timestep");
    }

    this.noisiest_timestep = noisiest;
    // The last step of the others stays where it is, as it does in Diffusers.
    this.sigmas = Float32Array.from([...sigmas, sigma_last ?? sigmas[sigmas.length - 1]!]);
    this.timesteps = Int32Array.from(new Set(timesteps));
    this.num_inference_steps = this.timesteps.length;
    this.modelOutputs = [];
    this.stepIndex = null;
  }

  /** Ascending timesteps below `count`. */
  private spacedTimesteps(steps: number, count: number): Float64Array {
    const { num_train_timesteps, timestep_spacing, steps_offset } = this.config;
    switch (timestep_spacing) {
      // "linspace" and "leading" lay out one more step, the one that the last timestep goes to.
      case "linspace":
        return linspaceTimesteps(count - 1, steps + 1)
          .map(roundHalfEven)
          .reverse()
          .slice(0, -1);
      case "leading":
        return leadingTimesteps(Math.floor(count / (steps + 1)), steps + 1, steps_offset)
          .reverse()
          .slice(0, -1);
      case "trailing":
        return trailingTimesteps(count, num_train_timesteps / steps).reverse();
      default:
        return unknownValue(NAME, "timestep_spacing", timestep_spacing, ["linspace", "leading", "trailing"]);
    }
  }

  /** Where a timestep is in `timesteps`: of one that is not there the last place. */
  private indexOf(timestep: number): number {
    const index = indexForTimestep(this.timesteps, timestep);
    return index < 0 ? this.timesteps.length - 1 : index;
  }

  private level(index: number): NoiseLevel {
    return splitSigma(entry(this.sigmas, index, NAME, "step"), this.config.use_flow_sigmas);
  }

  /**
   * Predicts the noisier sample of the timestep after, of as high an order as there are outputs, up to `solver_order`.
   *
   * @param model_output `[batch, channels, ...]`
   * @param timestep one of `timesteps`; only the first of a run is looked at
   * @param sample `[batch, channels, ...]`
   * @returns `prev_sample` is the sample of the next, noisier timestep
   * @throws ValueError before `set_timesteps`, for an unknown `prediction_type`, a shape that does not fit, or the third
   * order of "sde-dpmsolver++".
   * @throws UnsupportedModelError for the third order of "sde-dpmsolver", which there is not.
   */
  step(
    model_output: Tensor,
    timestep: number,
    sample: Tensor,
    options: DPMSolverMultistepInverseStepOptions = {},
  ): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, DPMSolverMultistepInverseScheduler.step_options);
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    const { solver_order, lower_order_final, euler_at_final, solver_type } = this.config;
    const algorithm_type = this.config.algorithm_type as DPMAlgorithmType;
    checkOrder(NAME, "solver_order", solver_order);
    this.stepIndex ??= this.indexOf(timestep);
    const index = this.stepIndex;
    const sigma = entry(this.sigmas, index, NAME, "step");
    const m0 = convertModelOutput(NAME, this.config, model_output, sample, this.level(index), sigma);

    // Lower orders at the end keep few steps stable.
    const count = this.timesteps.length;
    const few = lower_order_final && count < 15;
    let order = Math.min(solver_order, this.modelOutputs.length + 1, 3);
    if (index === count - 1 && (euler_at_final || few)) order = 1;
    else if (index === count - 2 && few) order = Math.min(order, 2);

    let noise: Float32Array | undefined;
    if (algorithm_type.startsWith("sde-")) {
      if (order === 3) {
        // Of the one there is no such update; the other's is not passed its noise, and fails.
        if (algorithm_type === "sde-dpmsolver") unsupportedValue(NAME, "solver_order", "3 of an SDE", ["1", "2"]);
        unknownValue(NAME, "solver_order", 3, ["1", "2"]);
      }
      const drawn = options.variance_noise ?? randn_tensor(sample.dims, { generator: options.generator });
      checkTensor(`${NAME}.step`, "variance_noise", drawn, sample.dims);
      noise = drawn.data;
    }

    const outputs = [m0, ...this.modelOutputs.slice(0, order - 1)];
    const levels = outputs.map((_, i) => this.level(index - i));
    const t = this.level(index + 1);
    const next = dpmSolverUpdate(algorithm_type, solver_type, sample.data, outputs, t, levels, noise);
    this.modelOutputs = [m0, ...this.modelOutputs].slice(0, solver_order - 1);
    this.stepIndex = index + 1;
    return { prev_sample: new Tensor("float32", next, sample.dims) };
  }

  /**
   * Diffuses samples to the noise level of `timesteps`.
   *
   * @param timesteps one for all, or one per batch item; one that is not in the schedule stands for the last
   */
  add_noise(original_samples: Tensor, noise: Tensor, timesteps: ArrayLike<number>): Tensor {
    const levels = Array.from(timesteps, (t) => this.level(this.indexOf(t)));
    return addNoiseOfLevels(NAME, original_samples, noise, levels);
  }
}
