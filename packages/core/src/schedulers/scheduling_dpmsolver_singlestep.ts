import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions, ValueError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import {
  checkSteps,
  checkStepsOrTimesteps,
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
  dpmSolverSinglestepUpdate,
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
  type SchedulerOutput,
  type SetTimestepsOptions,
  type StepOptions,
  type Timesteps,
} from "./scheduling_utils.ts";
import {
  checkSigmaConfig,
  flowSigmas,
  interpolate,
  logSigmas,
  respacedSigmas,
  type SigmaConfig,
  shiftOfMu,
  sigmaToT,
} from "./sigmas.ts";
import { linspaceTimesteps, roundHalfEven } from "./spacing.ts";
import { IndexedSchedulerMixin } from "./step_index.ts";
import type { ThresholdingConfig } from "./thresholding.ts";

/** Config of {@link DPMSolverSinglestepScheduler}. */
export interface DPMSolverSinglestepSchedulerConfig extends BetaConfig, ThresholdingConfig, SigmaConfig {
  /** 1, 2 (good with guidance) or 3 (good without). Default 2. */
  solver_order: number;
  /** "flow_prediction" is for the "++" algorithms. Default "epsilon". */
  prediction_type: PredictionType;
  /** Default "dpmsolver++". */
  algorithm_type: Exclude<DPMAlgorithmType, "sde-dpmsolver"> | (string & {});
  /** Default "midpoint". */
  solver_type: DPMSolverType | (string & {});
  /**
   * Whether the last steps are of lower order, whatever their number. `set_timesteps` turns it on for good where the
   * steps are no multiple of `solver_order` or end in sigma 0. Default false.
   */
  lower_order_final: boolean;
  /** Whether to use flow matching's sigmas. Default false. */
  use_flow_sigmas: boolean | null;
  /** Shift of flow matching's sigmas. Default 1. */
  flow_shift: number;
  /** The sigma that the last step goes to. "zero" is for the "++" algorithms. Default "zero". */
  final_sigmas_type: "zero" | "sigma_min" | (string & {});
  /** Timesteps whose half log-SNR is less are left out; for "squaredcos_cap_v2" -5.1 is usual. Default -Infinity. */
  lambda_min_clipped: number;
  /** "learned" or "learned_range": the model's output has a variance behind its three channels, which is dropped. Default null. */
  variance_type: "learned" | "learned_range" | (string & {}) | null;
  /** Whether `set_timesteps` takes `mu`. Default false. */
  use_dynamic_shifting: boolean;
  /** Default "exponential". */
  time_shift_type: "exponential" | (string & {});
}

/** What {@link DPMSolverSinglestepScheduler.step} takes. */
export type DPMSolverSinglestepStepOptions = Pick<StepOptions, "generator">;

const NAME = "DPMSolverSinglestepScheduler";

/**
 * DPM-Solver and DPM-Solver++ of up to the third order as singlestep solvers: two or three steps make one leap, each of
 * them taken anew from where the leap began.
 *
 * @see Diffusers `DPMSolverSinglestepScheduler`; https://huggingface.co/papers/2206.00927
 */
export class DPMSolverSinglestepScheduler extends IndexedSchedulerMixin<DPMSolverSinglestepSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<DPMSolverSinglestepSchedulerConfig> =
    configDefaults<DPMSolverSinglestepSchedulerConfig>({
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
      lower_order_final: false,
      use_karras_sigmas: false,
      use_exponential_sigmas: false,
      use_beta_sigmas: false,
      use_flow_sigmas: false,
      flow_shift: float(1),
      final_sigmas_type: "zero",
      lambda_min_clipped: float(Number.NEGATIVE_INFINITY),
      variance_type: null,
      use_dynamic_shifting: false,
      time_shift_type: "exponential",
    });
  static override readonly compatible_fields: readonly string[] = karrasDiffusionFields;
  static override readonly compatible_classes: readonly string[] = karrasDiffusionSchedulers;
  static override readonly step_options: readonly string[] = ["generator"];
  static override readonly set_timesteps_options: readonly string[] = ["mu", "timesteps"];

  readonly init_noise_sigma: number = 1;
  timesteps: Timesteps;
  /** The noise level of each timestep, and the one that the last step goes to. */
  sigmas: Float32Array;
  /** The order of each step. */
  order_list: readonly number[];
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
  /** The last converted model outputs, the latest first, fewer than `solver_order`. */
  private modelOutputs: Float32Array[] = [];
  /** The sample at which the leap at hand began. */
  private sample: Float32Array = new Float32Array();

  /**
   * @throws UnsupportedModelError for an unknown `beta_schedule`, `algorithm_type` or `solver_type`.
   * @throws ValueError when more than one spacing of sigmas is asked for, `final_sigmas_type` "zero" of an algorithm
   * without "++", or a `solver_order` above 3.
   */
  constructor(config: Partial<DPMSolverSinglestepSchedulerConfig> = {}) {
    super(config);
    checkSigmaConfig(NAME, this.config);
    const { num_train_timesteps, flow_shift } = this.config;
    this.betas = makeBetas(NAME, this.config, commonBetaSchedules);
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    this.lambda_t = halfLogSnr(this.alphas_cumprod);
    this.sigmas = sigmasOf(this.alphas_cumprod);
    this.flowShift = flow_shift;
    this.register_to_config(checkSolver(NAME, this.config, ["dpmsolver", "dpmsolver++", "sde-dpmsolver++"]));
    this.timesteps = Int32Array.from({ length: num_train_timesteps }, (_, i) => num_train_timesteps - 1 - i);
    this.order_list = this.get_order_list(num_train_timesteps);
  }

  /**
   * The order of each of so many steps: 1, 2, 3, 1, 2, 3, ... up to `solver_order`, with lower orders at the end where
   * `lower_order_final` asks for them.
   *
   * @throws ValueError for a `solver_order` above 3, or too few steps for it.
   * @throws UnsupportedModelError for a `solver_order` below 1.
   */
  get_order_list(num_inference_steps: number): number[] {
    const { solver_order, lower_order_final, final_sigmas_type } = this.config;
    if (solver_order > 3) unknownValue(NAME, "solver_order", solver_order, ["1", "2", "3"]);
    if (![1, 2, 3].includes(solver_order)) unsupportedValue(NAME, "solver_order", `${solver_order}`, ["1", "2", "3"]);
    const leaps = Math.floor(num_inference_steps / solver_order);
    const left = num_inference_steps % solver_order;
    const leap = [1, 2, 3].slice(0, solver_order);
    const repeat = (count: number): number[] => Array.from({ length: count }, () => leap).flat();

    let orders = repeat(leaps);
    if (lower_order_final && solver_order > 1) {
      // The last leap is cut short, or split: [1, 2, 3] into [1, 2], [1] and [1, 2] into [1], [1].
      orders = left === 0 ? [...repeat(leaps - 1), ...leap.slice(0, -1), 1] : [...orders, ...leap.slice(0, left)];
    }
    if (final_sigmas_type === "zero") {
      if (orders.length === 0) {
        throw new ValueError(`${NAME} needs at least ${solver_order} steps for \`solver_order\` ${solver_order}.`, {
          className: NAME,
          field: "solver_order",
          found: `${num_inference_steps} steps`,
          expected: `at least ${solver_order}`,
        });
      }
      orders[orders.length - 1] = 1;
    }
    return orders;
  }

  /**
   * Lays out the timesteps and sigmas of a run.
   *
   * @param num_inference_steps at least 1; null with `timesteps`
   * @throws ValueError unless exactly one of the two is given, for what the config does not go with, or an unknown
   * `final_sigmas_type`.
   */
  set_timesteps(num_inference_steps: number | null, options: Pick<SetTimestepsOptions, "mu" | "timesteps"> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, DPMSolverSinglestepScheduler.set_timesteps_options);
    const { config } = this;
    const { mu, timesteps: custom } = options;
    if (mu !== undefined) this.flowShift = shiftOfMu(NAME, config, mu);
    checkStepsOrTimesteps(NAME, num_inference_steps, custom);
    if (custom !== undefined)
      refuseTimestepsWith(NAME, this.config, ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"]);
    const steps = num_inference_steps ?? custom?.length ?? null;
    checkSteps(NAME, steps);

    let timesteps = custom === undefined ? this.spacedTimesteps(steps) : Float64Array.from(custom, Math.trunc);
    const trainSigmas = sigmasOf(this.alphas_cumprod);
    const log_sigmas = logSigmas(trainSigmas);

    let sigmas: Float64Array;
    if (config.use_karras_sigmas || config.use_exponential_sigmas || config.use_beta_sigmas) {
      sigmas = respacedSigmas(config, Float64Array.from(trainSigmas).reverse(), steps);
      timesteps = sigmas.map((sigma) => sigmaToT(sigma, log_sigmas));
      if (config.use_karras_sigmas) timesteps = timesteps.map(roundHalfEven);
    } else if (config.use_flow_sigmas) {
      // Of timesteps of the caller's own only the number counts then.
      sigmas = flowSigmas(config.num_train_timesteps, this.flowShift, steps);
      timesteps = sigmas.map((sigma) => sigma * config.num_train_timesteps);
    } else {
      sigmas = timesteps.map((t) => interpolate(t, trainSigmas));
    }

    let sigma_last = 0;
    if (config.final_sigmas_type === "sigma_min") sigma_last = trainSigmas[0]!;
    else if (config.final_sigmas_type !== "zero") {
      unknownValue(NAME, "final_sigmas_type", config.final_sigmas_type, ["zero", "sigma_min"]);
    }

    if (!config.lower_order_final && (steps % config.solver_order !== 0 || config.final_sigmas_type === "zero")) {
      console.warn(
        `${NAME}: ${steps} steps of \`solver_order\` ${config.solver_order} with \`final_sigmas_type\` ` +
          `"${config.final_sigmas_type}" need \`lower_order_final\`, which is set to true from here on.`,
      );
      this.register_to_config({ lower_order_final: true });
    }
    this.order_list = this.get_order_list(steps);
    this.sigmas = Float32Array.from([...sigmas, sigma_last]);
    this.timesteps = Int32Array.from(timesteps);
    this.num_inference_steps = steps;
    this.modelOutputs = [];
    this.sample = new Float32Array();
    this.resetIndex();
  }

  /** "linspace" with one more step, which is left out: that to the first timestep. */
  private spacedTimesteps(steps: number): Float64Array {
    const { num_train_timesteps, lambda_min_clipped } = this.config;
    const noisiest = num_train_timesteps - 1 - countClipped(this.lambda_t, lambda_min_clipped);
    return linspaceTimesteps(noisiest, steps + 1)
      .map(roundHalfEven)
      .slice(0, -1);
  }

  /** A timestep that is not in `timesteps` stands for the last one, as in Diffusers. */
  protected override indexOfUnknown(): number {
    return this.timesteps.length - 1;
  }

  private level(index: number): NoiseLevel {
    return splitSigma(entry(this.sigmas, index, NAME, "step"), this.config.use_flow_sigmas);
  }

  /**
   * Predicts the sample of the timestep before: a step of order 1 starts a leap, those of higher order take the leap
   * anew from its start, with all that the model said since.
   *
   * @param model_output `[batch, channels, ...]`
   * @param timestep one of `timesteps`; only the first of a run is looked at
   * @param sample `[batch, channels, ...]`
   * @throws ValueError before `set_timesteps`, for an unknown `prediction_type`, a shape that does not fit, or
   * `thresholding` with "dpmsolver".
   */
  step(
    model_output: Tensor,
    timestep: number,
    sample: Tensor,
    options: DPMSolverSinglestepStepOptions = {},
  ): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, DPMSolverSinglestepScheduler.step_options);
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    const { solver_order, solver_type, thresholding } = this.config;
    const algorithm_type = this.config.algorithm_type as DPMAlgorithmType;
    if (thresholding && algorithm_type === "dpmsolver") {
      // Diffusers takes the levels of all timesteps at once here, whose shape fits no sample.
      throw new ValueError(`\`thresholding\` does not work with \`algorithm_type\` "dpmsolver" of ${NAME}.`, {
        className: NAME,
        field: "thresholding",
        found: "true",
        expected: 'false, or "dpmsolver++"',
      });
    }
    const index = this.startAt(timestep);
    const sigma = entry(this.sigmas, index, NAME, "step");
    const m0 = convertModelOutput(NAME, this.config, model_output, sample, this.level(index), sigma);
    const outputs = [m0, ...this.modelOutputs];
    const noise =
      algorithm_type === "sde-dpmsolver++"
        ? randn_tensor(sample.dims, { generator: options.generator }).data
        : undefined;

    // A run that starts midway may start with a step whose leap has no beginning.
    const order = Math.min(entry(this.order_list, index, NAME, "step"), outputs.length);
    const x = order === 1 ? sample.data : this.sample;
    if (order === 1 && solver_order > 1) this.sample = x.slice();
    const used = outputs.slice(0, order);
    const levels = used.map((_, i) => this.level(index - i));
    const t = this.level(index + 1);
    const prev = dpmSolverSinglestepUpdate(algorithm_type, solver_type, x, used, t, levels, noise);

    this.modelOutputs = outputs.slice(0, solver_order - 1);
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
