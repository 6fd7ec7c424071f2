import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import {
  checkOrder,
  checkSteps,
  checkStepsOrTimesteps,
  checkTensor,
  entry,
  refuseTimestepsWith,
  stepsNotSet,
  unknownValue,
  unsupportedValue,
} from "./checks.ts";
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
  rescaleZeroTerminalSnr,
  sigmasOf,
} from "./noise_schedules.ts";
import {
  karrasDiffusionFields,
  karrasDiffusionSchedulers,
  type PredictionType,
  type SchedulerOutput,
  type SetTimestepsOptions,
  type StepOptions,
  type TimestepSpacing,
  type Timesteps,
} from "./scheduling_utils.ts";
import {
  checkSigmaConfig,
  flowSigmas,
  interpolate,
  logSigmas,
  luSigmas,
  respacedSigmas,
  type SigmaConfig,
  shiftOfMu,
  sigmaToT,
} from "./sigmas.ts";
import { roundHalfEven, solverTimesteps } from "./spacing.ts";
import { IndexedSchedulerMixin } from "./step_index.ts";
import type { ThresholdingConfig } from "./thresholding.ts";

/** Config of {@link DPMSolverMultistepScheduler}. */
export interface DPMSolverMultistepSchedulerConfig extends BetaConfig, ThresholdingConfig, SigmaConfig {
  /** 1, 2 (good with guidance) or 3 (good without). Default 2. */
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
  /** Whether to space sigmas evenly in the log-SNR. Default false. */
  use_lu_lambdas: boolean | null;
  /** Whether sigmas are those of flow matching. Default false. */
  use_flow_sigmas: boolean | null;
  /** Shifts flow matching's sigmas towards noise. Default 1. */
  flow_shift: number;
  /** The sigma that the last step goes to. Default "zero". */
  final_sigmas_type: "zero" | "sigma_min" | (string & {});
  /** Training timesteps whose log-SNR is below are left out: cosine betas need -5.1. Default -Infinity. */
  lambda_min_clipped: number;
  /** "learned" or "learned_range": the model's output has a variance behind its three channels, which is dropped. Default null. */
  variance_type: "learned" | "learned_range" | (string & {}) | null;
  /** Default "linspace". */
  timestep_spacing: TimestepSpacing;
  /** Added to each timestep of "leading" spacing. Default 0. */
  steps_offset: number;
  /** Whether to rescale the betas to end in pure noise. Default false. */
  rescale_betas_zero_snr: boolean;
  /** Whether `set_timesteps` takes `mu`. Default false. */
  use_dynamic_shifting: boolean;
  /** Default "exponential". */
  time_shift_type: "exponential" | (string & {});
}

/** What {@link DPMSolverMultistepScheduler.step} takes. */
export type DPMSolverMultistepStepOptions = Pick<StepOptions, "generator" | "variance_noise">;

const NAME = "DPMSolverMultistepScheduler";

/**
 * DPM-Solver and DPM-Solver++: fast multistep solvers of up to the third order for the diffusion ODE, and their SDE
 * variants.
 *
 * @see Diffusers `DPMSolverMultistepScheduler`; https://huggingface.co/papers/2211.01095
 */
export class DPMSolverMultistepScheduler extends IndexedSchedulerMixin<DPMSolverMultistepSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<DPMSolverMultistepSchedulerConfig> =
    configDefaults<DPMSolverMultistepSchedulerConfig>({
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
      use_lu_lambdas: false,
      use_flow_sigmas: false,
      flow_shift: float(1),
      final_sigmas_type: "zero",
      lambda_min_clipped: float(Number.NEGATIVE_INFINITY),
      variance_type: null,
      timestep_spacing: "linspace",
      steps_offset: 0,
      rescale_betas_zero_snr: false,
      use_dynamic_shifting: false,
      time_shift_type: "exponential",
    });
  static override readonly compatible_fields: readonly string[] = karrasDiffusionFields;
  static override readonly compatible_classes: readonly string[] = karrasDiffusionSchedulers;
  static override readonly step_options: readonly string[] = ["generator", "variance_noise"];
  static override readonly set_timesteps_options: readonly string[] = ["mu", "timesteps"];

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

  /** `flow_shift`, or `exp(mu)` since `set_timesteps` was last given one. */
  private flowShift: number;
  /** The last converted model outputs, the latest first, up to `solver_order`. */
  private modelOutputs: Float32Array[] = [];

  /**
   * @throws UnsupportedModelError for an unknown `beta_schedule`, `algorithm_type` or `solver_type`.
   * @throws ValueError when more than one spacing of sigmas is asked for, or `final_sigmas_type` "zero" of an algorithm
   * without "++".
   */
  constructor(config: Partial<DPMSolverMultistepSchedulerConfig> = {}) {
    super(config);
    checkSigmaConfig(NAME, this.config);
    const { num_train_timesteps, rescale_betas_zero_snr, flow_shift } = this.config;
    const betas = makeBetas(NAME, this.config, commonBetaSchedules);
    this.betas = rescale_betas_zero_snr ? rescaleZeroTerminalSnr(betas) : betas;
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    // The least number that float16 has, so that the first sigma is not infinite.
    if (rescale_betas_zero_snr) this.alphas_cumprod[this.alphas_cumprod.length - 1] = 2 ** -24;
    this.lambda_t = halfLogSnr(this.alphas_cumprod);
    this.sigmas = sigmasOf(this.alphas_cumprod);
    this.flowShift = flow_shift;
    this.timesteps = Int32Array.from({ length: num_train_timesteps }, (_, i) => num_train_timesteps - 1 - i);
    const algorithms: DPMAlgorithmType[] = ["dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"];
    this.register_to_config(checkSolver(NAME, this.config, algorithms));
  }

  /**
   * Lays out the timesteps and sigmas of a run.
   *
   * @param num_inference_steps at least 1; null with `timesteps`
   * @throws ValueError unless exactly one of the two is given, for what the config does not go with, or an unknown
   * `timestep_spacing` or `final_sigmas_type`.
   */
  set_timesteps(num_inference_steps: number | null, options: Pick<SetTimestepsOptions, "mu" | "timesteps"> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, DPMSolverMultistepScheduler.set_timesteps_options);
    const { config } = this;
    const { mu, timesteps: custom } = options;
    if (mu !== undefined) this.flowShift = shiftOfMu(NAME, config, mu);
    checkStepsOrTimesteps(NAME, num_inference_steps, custom);
    if (custom !== undefined) this.checkTimestepsAllowed();
    else checkSteps(NAME, num_inference_steps);

    const last_timestep = config.num_train_timesteps - countClipped(this.lambda_t, config.lambda_min_clipped);
    let timesteps: ArrayLike<number> = custom ?? solverTimesteps(NAME, config, num_inference_steps!, last_timestep);
    const count = num_inference_steps ?? timesteps.length;
    const trainSigmas = sigmasOf(this.alphas_cumprod);
    const log_sigmas = logSigmas(trainSigmas);

    let sigmas: Float64Array;
    const { use_karras_sigmas, use_lu_lambdas } = config;
    if (use_karras_sigmas || use_lu_lambdas || config.use_exponential_sigmas || config.use_beta_sigmas) {
      sigmas =
        use_lu_lambdas && !use_karras_sigmas
          ? luSigmas(log_sigmas[0]!, log_sigmas[log_sigmas.length - 1]!, count)
          : respacedSigmas(config, Float64Array.from(trainSigmas).reverse(), count);
      timesteps = sigmas.map((sigma) => sigmaToT(sigma, log_sigmas));
      const whole = (use_karras_sigmas || use_lu_lambdas) && config.beta_schedule !== "squaredcos_cap_v2";
      if (whole) timesteps = Float64Array.from(timesteps, roundHalfEven);
    } else if (config.use_flow_sigmas) {
      sigmas = flowSigmas(config.num_train_timesteps, this.flowShift, count);
      timesteps = sigmas.map((sigma) => sigma * config.num_train_timesteps);
    } else {
      sigmas = Float64Array.from(timesteps, (t) => interpolate(Math.trunc(t), trainSigmas));
    }

    let sigma_last = 0;
    if (config.final_sigmas_type === "sigma_min") sigma_last = trainSigmas[0]!;
    else if (config.final_sigmas_type !== "zero") {
      unknownValue(NAME, "final_sigmas_type", config.final_sigmas_type, ["zero", "sigma_min"]);
    }

    this.sigmas = Float32Array.from([...sigmas, sigma_last]);
    this.timesteps = Int32Array.from(timesteps);
    this.num_inference_steps = timesteps.length;
    this.modelOutputs = [];
    this.resetIndex();
  }

  private checkTimestepsAllowed(): void {
    const fields = [
      "use_karras_sigmas",
      "use_lu_lambdas",
      "use_exponential_sigmas",
      "use_beta_sigmas",
      "use_flow_sigmas",
    ] as const;
    refuseTimestepsWith(NAME, this.config, fields);
  }

  /** A timestep that is not in `timesteps` stands for the last one, as in Diffusers. */
  protected override indexOfUnknown(): number {
    return this.timesteps.length - 1;
  }

  private level(index: number): NoiseLevel {
    return splitSigma(entry(this.sigmas, index, NAME, "step"), this.config.use_flow_sigmas);
  }

  /**
   * Predicts the sample of the timestep before, of as high an order as there are outputs, up to `solver_order`.
   *
   * @param model_output `[batch, channels, ...]`
   * @param timestep one of `timesteps`; only the first of a run is looked at
   * @param sample `[batch, channels, ...]`
   * @throws ValueError before `set_timesteps`, for an unknown `prediction_type`, or a shape that does not fit.
   * @throws UnsupportedModelError for "sde-dpmsolver" of the third order, which there is not.
   */
  step(
    model_output: Tensor,
    timestep: number,
    sample: Tensor,
    options: DPMSolverMultistepStepOptions = {},
  ): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, DPMSolverMultistepScheduler.step_options);
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    const { solver_order, lower_order_final, euler_at_final, final_sigmas_type, solver_type } = this.config;
    const algorithm_type = this.config.algorithm_type as DPMAlgorithmType;
    checkOrder(NAME, "solver_order", solver_order);
    const index = this.startAt(timestep);
    const sigma = entry(this.sigmas, index, NAME, "step");
    const m0 = convertModelOutput(NAME, this.config, model_output, sample, this.level(index), sigma);

    // Lower orders at the end keep few steps stable.
    const count = this.timesteps.length;
    const few = lower_order_final && count < 15;
    let order = Math.min(solver_order, this.modelOutputs.length + 1, 3);
    if (index === count - 1 && (euler_at_final || few || final_sigmas_type === "zero")) order = 1;
    else if (index === count - 2 && few) order = Math.min(order, 2);
    if (order === 3 && algorithm_type === "sde-dpmsolver") {
      unsupportedValue(NAME, "solver_order", `3 with algorithm_type "sde-dpmsolver"`, ["1", "2"]);
    }

    let noise: Float32Array | undefined;
    if (algorithm_type.startsWith("sde-")) {
      const drawn = options.variance_noise ?? randn_tensor(sample.dims, { generator: options.generator });
      checkTensor(`${NAME}.step`, "variance_noise", drawn, sample.dims);
      noise = drawn.data;
    }

    const outputs = [m0, ...this.modelOutputs.slice(0, order - 1)];
    const levels = outputs.map((_, i) => this.level(index - i));
    const prev = dpmSolverUpdate(
      algorithm_type,
      solver_type,
      sample.data,
      outputs,
      this.level(index + 1),
      levels,
      noise,
    );
    this.modelOutputs = [m0, ...this.modelOutputs].slice(0, solver_order - 1);
    this.stepIndex = index + 1;
    return { prev_sample: new Tensor("float32", prev, sample.dims) };
  }

  /**
   * Diffuses samples to the noise level of `timesteps`; after {@link set_begin_index}, to that at which the run is.
   *
   * @param timesteps one for all, or one per batch item
   */
  add_noise(original_samples: Tensor, noise: Tensor, timesteps: ArrayLike<number>): Tensor {
    const levels = this.noiseIndices(timesteps).map((index) => this.level(index));
    return addNoiseOfLevels(NAME, original_samples, noise, levels);
  }
}
