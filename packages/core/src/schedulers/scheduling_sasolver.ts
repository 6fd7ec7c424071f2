import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkOrder, checkSteps, entry, stepsNotSet, unsupportedValue } from "./checks.ts";
import { convertModelOutput, type NoiseLevel, splitSigma } from "./dpmsolver_update.ts";
import { diffuse } from "./noise_level.ts";
import {
  alphasCumprod,
  type BetaConfig,
  commonBetaSchedules,
  countClipped,
  halfLogSnr,
  makeBetas,
  sigmasOf,
} from "./noise_schedules.ts";
import { type SAAlgorithmType, saSolverUpdate } from "./sasolver_update.ts";
import {
  karrasDiffusionFields,
  karrasDiffusionSchedulers,
  type PredictionType,
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
import { roundHalfEven, solverTimesteps } from "./spacing.ts";
import { IndexedSchedulerMixin } from "./step_index.ts";
import type { ThresholdingConfig } from "./thresholding.ts";

/** Config of {@link SASolverScheduler}. */
export interface SASolverSchedulerConfig extends BetaConfig, ThresholdingConfig, SigmaConfig {
  /** 1 to 4; 2 is good with guidance, 3 without. Default 2. */
  predictor_order: number;
  /** 1 to 4; 2 is good with guidance, 3 without. Default 2. */
  corrector_order: number;
  /** "epsilon", "sample", "v_prediction", or with "data_prediction" "flow_prediction". Default "epsilon". */
  prediction_type: PredictionType;
  /** How stochastic the step at a timestep is: 0 for the ODE, 1 for the SDE. Default null: 1 from 200 to 800, else 0. */
  tau_func: ((timestep: number) => number) | null;
  /** What to integrate: the model's prediction of the data or of the noise. Default "data_prediction". */
  algorithm_type: SAAlgorithmType | (string & {});
  /** Whether the last steps are of lower order. Default true. */
  lower_order_final: boolean | null;
  /** Whether sigmas are those of flow matching. Default false. */
  use_flow_sigmas: boolean | null;
  /** Shifts flow matching's sigmas towards noise. Default 1. */
  flow_shift: number;
  /** Training timesteps whose half log-SNR is below are left out: cosine betas need -5.1. Default -Infinity. */
  lambda_min_clipped: number;
  /** "learned" or "learned_range": the model's output has a variance behind its three channels, which is dropped. Default null. */
  variance_type: "learned" | "learned_range" | (string & {}) | null;
  /** Default "linspace". */
  timestep_spacing: TimestepSpacing;
  /** Added to each timestep of "leading" spacing. Default 0. */
  steps_offset: number;
}

/** What {@link SASolverScheduler.step} takes. */
export type SASolverStepOptions = Pick<StepOptions, "generator">;

const NAME = "SASolverScheduler";

/**
 * SA-Solver: stochastic Adams predictor and corrector of up to the fourth order for the diffusion SDE, at one model call
 * per step.
 *
 * @see Diffusers `SASolverScheduler`; https://huggingface.co/papers/2309.05019
 */
export class SASolverScheduler extends IndexedSchedulerMixin<SASolverSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<SASolverSchedulerConfig> = configDefaults<SASolverSchedulerConfig>(
    {
      num_train_timesteps: 1000,
      beta_start: 0.0001,
      beta_end: 0.02,
      beta_schedule: "linear",
      trained_betas: null,
      predictor_order: 2,
      corrector_order: 2,
      prediction_type: "epsilon",
      tau_func: null,
      thresholding: false,
      dynamic_thresholding_ratio: 0.995,
      sample_max_value: float(1),
      algorithm_type: "data_prediction",
      lower_order_final: true,
      use_karras_sigmas: false,
      use_exponential_sigmas: false,
      use_beta_sigmas: false,
      use_flow_sigmas: false,
      flow_shift: float(1),
      lambda_min_clipped: float(Number.NEGATIVE_INFINITY),
      variance_type: null,
      timestep_spacing: "linspace",
      steps_offset: 0,
    },
  );
  static override readonly compatible_fields: readonly string[] = karrasDiffusionFields;
  static override readonly compatible_classes: readonly string[] = karrasDiffusionSchedulers;
  static override readonly step_options: readonly string[] = ["generator"];

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
  /** How stochastic the step at a timestep is. */
  readonly tau_func: (timestep: number) => number;

  /** The last converted model outputs, the latest first, as many as the orders ask for. */
  private modelOutputs: Float32Array[] = [];
  /** What the last step was made of: its sample, corrected, its noise, its tau, and the order of its corrector. */
  private last: { sample: Float32Array; noise: Float32Array; tau: number; correctorOrder: number } | null = null;

  /**
   * @throws UnsupportedModelError for an unknown `beta_schedule` or `algorithm_type`.
   * @throws ValueError when more than one spacing of sigmas is asked for.
   */
  constructor(config: Partial<SASolverSchedulerConfig> = {}) {
    super(config);
    checkSigmaConfig(NAME, this.config);
    const { num_train_timesteps, algorithm_type, tau_func } = this.config;
    this.betas = makeBetas(NAME, this.config, commonBetaSchedules);
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    this.lambda_t = halfLogSnr(this.alphas_cumprod);
    this.sigmas = sigmasOf(this.alphas_cumprod);
    this.timesteps = Int32Array.from({ length: num_train_timesteps }, (_, i) => num_train_timesteps - 1 - i);
    this.tau_func = tau_func ?? ((timestep) => (timestep >= 200 && timestep <= 800 ? 1 : 0));
    const algorithms: SAAlgorithmType[] = ["data_prediction", "noise_prediction"];
    if (!(algorithms as string[]).includes(algorithm_type)) {
      unsupportedValue(NAME, "algorithm_type", algorithm_type, algorithms);
    }
  }

  /**
   * Lays out the timesteps and sigmas of a run.
   *
   * @param num_inference_steps at least 1
   * @throws ValueError for another number, or an unknown `timestep_spacing`.
   */
  set_timesteps(num_inference_steps: number | null, options: Record<never, never> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, SASolverScheduler.set_timesteps_options);
    checkSteps(NAME, num_inference_steps);
    const { config } = this;
    const last_timestep = config.num_train_timesteps - countClipped(this.lambda_t, config.lambda_min_clipped);
    let timesteps = solverTimesteps(NAME, config, num_inference_steps, last_timestep);
    const trainSigmas = sigmasOf(this.alphas_cumprod);
    let sigmas: Float64Array;
    let sigma_last: number | undefined;
    if (config.use_karras_sigmas || config.use_exponential_sigmas || config.use_beta_sigmas) {
      const log_sigmas = logSigmas(trainSigmas);
      sigmas = respacedSigmas(config, Float64Array.from(trainSigmas).reverse(), num_inference_steps);
      timesteps = sigmas.map((sigma) => sigmaToT(sigma, log_sigmas));
      if (config.use_karras_sigmas) timesteps = timesteps.map(roundHalfEven);
    } else if (config.use_flow_sigmas) {
      sigmas = flowSigmas(config.num_train_timesteps, config.flow_shift, num_inference_steps);
      timesteps = sigmas.map((sigma) => sigma * config.num_train_timesteps);
    } else {
      sigmas = timesteps.map((t) => interpolate(t, trainSigmas));
      sigma_last = trainSigmas[0]!;
    }

    // The logarithm of a sigma of 0 is no number: the run ends at the training's least, or at a standstill.
    this.sigmas = Float32Array.of(...sigmas, sigma_last ?? sigmas[sigmas.length - 1]!);
    this.timesteps = Int32Array.from(timesteps);
    this.num_inference_steps = timesteps.length;
    this.modelOutputs = [];
    this.last = null;
    this.resetIndex();
  }

  /** A timestep that is not in `timesteps` stands for the last one, as in Diffusers. */
  protected override indexOfUnknown(): number {
    return this.timesteps.length - 1;
  }

  private level(index: number): NoiseLevel {
    return splitSigma(entry(this.sigmas, index, NAME, "step"), this.config.use_flow_sigmas);
  }

  /**
   * Corrects `sample` by what the model said of it, and predicts the sample of the timestep before.
   *
   * @param model_output `[batch, channels, ...]`
   * @param timestep one of `timesteps`; where a run starts is found by it, and tau is that of it
   * @param sample `[batch, channels, ...]`
   * @throws ValueError before `set_timesteps` and after the last step, for an unknown `prediction_type`, an order that
   * there is not, or a shape that does not fit.
   */
  step(model_output: Tensor, timestep: number, sample: Tensor, options: SASolverStepOptions = {}): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, SASolverScheduler.step_options);
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    const { predictor_order, corrector_order, lower_order_final } = this.config;
    const algorithm_type = this.config.algorithm_type as SAAlgorithmType;
    const index = this.startAt(timestep);
    const sigma = entry(this.sigmas, index, NAME, "step");
    const level = this.level(index);
    // The predictions are those of DPM-Solver: of the data ("++"), or of the noise. So is what Diffusers means with a
    // learned variance, or thresholding of the noise prediction, of which its own SA-Solver fails.
    const conversion = {
      ...this.config,
      algorithm_type: algorithm_type === "data_prediction" ? "dpmsolver++" : "dpmsolver",
    };
    const m_t = convertModelOutput(NAME, conversion, model_output, sample, level, sigma);
    const previous = this.modelOutputs;
    this.modelOutputs = [m_t, ...previous].slice(0, Math.max(predictor_order, corrector_order - 1));

    // 1. SA-Corrector: the last step again, now that the output at its end is known
    let x: Float32Array;
    if (index > 0 && this.last !== null) {
      const { tau, noise, correctorOrder } = this.last;
      checkOrder(NAME, "corrector_order", correctorOrder, 4);
      const outputs = [m_t, ...previous].slice(0, correctorOrder);
      const levels = outputs.map((_, i) => this.level(index - i));
      const s = this.level(index - 1);
      x = saSolverUpdate(algorithm_type, true, tau, this.last.sample, outputs, levels, s, level, noise);
    } else {
      x = sample.data.slice();
    }

    // 2. the orders: as many outputs as there are, fewer towards the end
    const stepsLeft = lower_order_final ? this.timesteps.length - index : Number.POSITIVE_INFINITY;
    const predictorOrder = Math.min(predictor_order, stepsLeft, previous.length + 1);
    const correctorOrder = Math.min(corrector_order, stepsLeft + 1, previous.length + 2);
    checkOrder(NAME, "predictor_order", predictorOrder, 4);
    checkOrder(NAME, "corrector_order", correctorOrder);

    // 3. SA-Predictor
    const noise = randn_tensor(sample.dims, { generator: options.generator }).data;
    const tau = this.tau_func(timestep);
    this.last = { sample: x, noise, tau, correctorOrder };
    const outputs = this.modelOutputs.slice(0, predictorOrder);
    const levels = outputs.map((_, i) => this.level(index - i));
    const t = this.level(index + 1);
    const prev = saSolverUpdate(algorithm_type, false, tau, x, outputs, levels, level, t, noise);
    this.stepIndex = index + 1;
    return { prev_sample: new Tensor("float32", prev, sample.dims) };
  }

  /**
   * Diffuses samples to the noise level of `timesteps` of the training.
   *
   * @param timesteps one for all, or one per batch item; whole numbers
   */
  add_noise(original_samples: Tensor, noise: Tensor, timesteps: ArrayLike<number>): Tensor {
    return diffuse(NAME, this.alphas_cumprod, original_samples, noise, timesteps);
  }
}
