import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions, ValueError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { checkOrder, checkSample, checkSteps, entry, stepsNotSet, unknownValue, unsupportedValue } from "./checks.ts";
import {
  addNoiseOfLevels,
  type NoiseLevel,
  splitSigma,
  toDataPrediction,
  toNoisePrediction,
} from "./dpmsolver_update.ts";
import {
  alphasCumprod,
  type BetaConfig,
  commonBetaSchedules,
  makeBetas,
  rescaleZeroTerminalSnr,
  sigmasOf,
} from "./noise_schedules.ts";
import {
  karrasDiffusionFields,
  karrasDiffusionSchedulers,
  type PredictionType,
  type Scheduler,
  type SchedulerOutput,
  type SetTimestepsOptions,
  type TimestepSpacing,
  type Timesteps,
} from "./scheduling_utils.ts";
import { checkSigmaConfig, interpolate, logSigmas, respacedSigmas, type SigmaConfig, sigmaToT } from "./sigmas.ts";
import { linspace, roundHalfEven, solverTimesteps } from "./spacing.ts";
import { IndexedSchedulerMixin } from "./step_index.ts";
import { type ThresholdingConfig, thresholdSample } from "./thresholding.ts";
import { type UniPCSolverType, uniPCUpdate } from "./unipc_update.ts";

/** Config of {@link UniPCMultistepScheduler}. */
export interface UniPCMultistepSchedulerConfig extends BetaConfig, ThresholdingConfig, SigmaConfig {
  /** At least 1; with the corrector, accuracy is of one order more. 2 is good with guidance, 3 without. Default 2. */
  solver_order: number;
  /** "epsilon", "sample", "v_prediction", or with `predict_x0` "flow_prediction". Default "epsilon". */
  prediction_type: PredictionType;
  /** Whether to integrate the data prediction, not the noise prediction. Default true. */
  predict_x0: boolean;
  /** "bh1" (good for few steps without guidance) or "bh2"; the solvers of related classes stand for "bh2". Default "bh2". */
  solver_type: UniPCSolverType | (string & {});
  /** Whether the last steps are of lower order. Default true. */
  lower_order_final: boolean;
  /** The steps, counted from 0, after which the corrector is not used: early ones with strong guidance. Default []. */
  disable_corrector: readonly number[];
  /** A scheduler that predicts in the place of UniP; the corrector stays UniC. Default null. */
  solver_p: Scheduler | null;
  /** Whether sigmas are those of flow matching. Default false. */
  use_flow_sigmas: boolean | null;
  /** Shifts flow matching's sigmas towards noise. Default 1. */
  flow_shift: number;
  /** Default "linspace". */
  timestep_spacing: TimestepSpacing;
  /** Added to each timestep of "leading" spacing. Default 0. */
  steps_offset: number;
  /** The sigma that the last step goes to. Default "zero". */
  final_sigmas_type: "zero" | "sigma_min" | (string & {});
  /** Whether to rescale the betas to end in pure noise. Default false. */
  rescale_betas_zero_snr: boolean;
  /** Whether flow matching's sigmas are shifted by the `mu` of `set_timesteps`, which it then needs. Default false. */
  use_dynamic_shifting: boolean;
  /** How `mu` shifts: by its exponential, or "linear" as it is. Default "exponential". */
  time_shift_type: "exponential" | "linear" | (string & {});
  /** The least sigma of Karras', exponential and beta spacing. Default null: the training's. */
  sigma_min: number | null;
  /** The largest sigma of those spacings. Default null: the training's. */
  sigma_max: number | null;
  /** Stretches flow matching's sigmas to end at this one. Default null. */
  shift_terminal: number | null;
}

const NAME = "UniPCMultistepScheduler";

/**
 * UniPC: a predictor (UniP) and a corrector (UniC) of any order for the diffusion ODE, at one model call per step.
 *
 * @see Diffusers `UniPCMultistepScheduler`; https://huggingface.co/papers/2302.04867
 */
export class UniPCMultistepScheduler extends IndexedSchedulerMixin<UniPCMultistepSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<UniPCMultistepSchedulerConfig> =
    configDefaults<UniPCMultistepSchedulerConfig>({
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
      predict_x0: true,
      solver_type: "bh2",
      lower_order_final: true,
      disable_corrector: [],
      solver_p: null,
      use_karras_sigmas: false,
      use_exponential_sigmas: false,
      use_beta_sigmas: false,
      use_flow_sigmas: false,
      flow_shift: float(1),
      timestep_spacing: "linspace",
      steps_offset: 0,
      final_sigmas_type: "zero",
      rescale_betas_zero_snr: false,
      use_dynamic_shifting: false,
      time_shift_type: "exponential",
      sigma_min: null,
      sigma_max: null,
      shift_terminal: null,
    });
  static override readonly compatible_fields: readonly string[] = karrasDiffusionFields;
  static override readonly compatible_classes: readonly string[] = karrasDiffusionSchedulers;
  static override readonly set_timesteps_options: readonly string[] = ["sigmas", "mu"];

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

  /** The last converted model outputs, the latest first, up to `solver_order`. */
  private modelOutputs: Float32Array[] = [];
  /** The sample that the last step started from, corrected. */
  private lastSample: Float32Array | null = null;
  /** The order of the last step's predictor, which its corrector shares. */
  private lastOrder = 0;

  /**
   * @throws UnsupportedModelError for an unknown `beta_schedule` or `solver_type`.
   * @throws ValueError when more than one spacing of sigmas is asked for, or `shift_terminal` without `use_flow_sigmas`.
   */
  constructor(config: Partial<UniPCMultistepSchedulerConfig> = {}) {
    super(config);
    checkSigmaConfig(NAME, this.config);
    const { num_train_timesteps, rescale_betas_zero_snr, solver_type, shift_terminal } = this.config;
    const betas = makeBetas(NAME, this.config, commonBetaSchedules);
    if (shift_terminal !== null && !this.config.use_flow_sigmas) {
      throw new ValueError("`shift_terminal` needs `use_flow_sigmas`.", { className: NAME, field: "shift_terminal" });
    }
    this.betas = rescale_betas_zero_snr ? rescaleZeroTerminalSnr(betas) : betas;
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    // The least number that float16 has, so that the first sigma is not infinite.
    if (rescale_betas_zero_snr) this.alphas_cumprod[this.alphas_cumprod.length - 1] = 2 ** -24;
    this.sigmas = sigmasOf(this.alphas_cumprod);
    this.timesteps = Int32Array.from({ length: num_train_timesteps }, (_, i) => num_train_timesteps - 1 - i);

    // What other classes of the family call their solvers stands for the better of this one's.
    if (["midpoint", "heun", "logrho"].includes(solver_type)) this.register_to_config({ solver_type: "bh2" });
    else if (!["bh1", "bh2"].includes(solver_type)) unsupportedValue(NAME, "solver_type", solver_type, ["bh1", "bh2"]);
  }

  /**
   * Lays out the timesteps and sigmas of a run, and those of `solver_p`.
   *
   * @param num_inference_steps at least 1; null with `sigmas`, which are for `use_flow_sigmas`, without the last one
   * @throws ValueError for another number, an unknown `timestep_spacing`, `final_sigmas_type` or `time_shift_type`,
   * `sigmas` without `use_flow_sigmas`, or `use_dynamic_shifting` without `mu`.
   */
  set_timesteps(num_inference_steps: number | null, options: Pick<SetTimestepsOptions, "sigmas" | "mu"> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, UniPCMultistepScheduler.set_timesteps_options);
    const { config } = this;
    const { sigmas: custom, mu } = options;
    if (config.use_dynamic_shifting && mu === undefined) {
      throw new ValueError("`mu` must be passed where `use_dynamic_shifting` is set.", {
        className: NAME,
        field: "mu",
      });
    }
    if (custom !== undefined && !config.use_flow_sigmas) {
      throw new ValueError("`sigmas` can be passed only with `use_flow_sigmas`.", { className: NAME, field: "sigmas" });
    }
    const steps = custom?.length ?? num_inference_steps;
    checkSteps(NAME, steps);

    let timesteps = solverTimesteps(NAME, config, steps);
    const trainSigmas = sigmasOf(this.alphas_cumprod);
    let sigmas: Float64Array;
    let sigma_min: number | undefined;
    if (config.use_karras_sigmas || config.use_exponential_sigmas || config.use_beta_sigmas) {
      // Sigmas of the caller's own stand in for the training's, and are reversed likewise.
      sigmas = respacedSigmas(config, Float64Array.from(custom ?? trainSigmas).reverse(), steps);
      if (config.use_karras_sigmas && config.use_flow_sigmas) {
        sigmas = sigmas.map((sigma) => sigma / (sigma + 1));
        timesteps = sigmas.map((sigma) => sigma * config.num_train_timesteps);
      } else {
        const log_sigmas = custom === undefined ? logSigmas(trainSigmas) : Float64Array.from(custom, Math.log);
        timesteps = sigmas.map((sigma) => sigmaToT(sigma, log_sigmas));
        if (config.use_karras_sigmas) timesteps = timesteps.map(roundHalfEven);
      }
    } else if (config.use_flow_sigmas) {
      sigmas = this.flowSigmas(custom ?? linspace(1, 1 / config.num_train_timesteps, steps + 1).subarray(0, -1), mu);
      timesteps = sigmas.map((sigma) => sigma * config.num_train_timesteps);
    } else {
      sigmas = timesteps.map((t) => interpolate(t, trainSigmas));
      sigma_min = trainSigmas[0]!;
    }

    let sigma_last = 0;
    if (config.final_sigmas_type === "sigma_min") sigma_last = sigma_min ?? sigmas[sigmas.length - 1]!;
    else if (config.final_sigmas_type !== "zero") {
      unknownValue(NAME, "final_sigmas_type", config.final_sigmas_type, ["zero", "sigma_min"]);
    }

    this.sigmas = Float32Array.of(...sigmas, sigma_last);
    this.timesteps = Int32Array.from(timesteps);
    this.num_inference_steps = timesteps.length;
    this.modelOutputs = [];
    this.lastSample = null;
    config.solver_p?.set_timesteps(this.num_inference_steps);
    this.resetIndex();
  }

  /** Flow matching's sigmas: shifted, stretched to end at `shift_terminal`, and kept below 1, where there is no log-SNR. */
  private flowSigmas(unshifted: ArrayLike<number>, mu: number | undefined): Float64Array {
    const { flow_shift, use_dynamic_shifting, time_shift_type, shift_terminal } = this.config;
    let sigmas = Float64Array.from(unshifted);
    if (use_dynamic_shifting) {
      if (time_shift_type !== "exponential" && time_shift_type !== "linear") {
        unknownValue(NAME, "time_shift_type", time_shift_type, ["exponential", "linear"]);
      }
      const shift = time_shift_type === "exponential" ? Math.exp(mu!) : mu!;
      sigmas = sigmas.map((sigma) => shift / (shift + (1 / sigma - 1)));
    } else {
      sigmas = sigmas.map((sigma) => (flow_shift * sigma) / (1 + (flow_shift - 1) * sigma));
    }
    if (shift_terminal) {
      const scale = (1 - sigmas[sigmas.length - 1]!) / (1 - shift_terminal);
      sigmas = sigmas.map((sigma) => 1 - (1 - sigma) / scale);
    }
    const eps = 1e-6;
    if (Math.abs(sigmas[0]! - 1) < eps) sigmas[0]! -= eps;
    return sigmas;
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
   * @param timestep one of `timesteps`; only the first of a run is looked at
   * @param sample `[batch, channels, ...]`
   * @throws ValueError before `set_timesteps` and after the last step, for an unknown `prediction_type`, or a shape that
   * does not fit.
   */
  step(model_output: Tensor, timestep: number, sample: Tensor, options: Record<never, never> = {}): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, UniPCMultistepScheduler.step_options);
    checkSample(`${NAME}.step`, model_output, sample);
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    const { solver_order, predict_x0, lower_order_final, disable_corrector, solver_p } = this.config;
    const solver_type = this.config.solver_type as UniPCSolverType;
    const index = this.startAt(timestep);
    const m_t = this.convertModelOutput(model_output, sample, index);

    // 1. UniC: the last step again, now that the output at its end is known
    const { lastSample } = this;
    let x: Float32Array;
    if (index > 0 && lastSample !== null && !disable_corrector.includes(index - 1)) {
      const outputs = this.modelOutputs.slice(0, this.lastOrder);
      const levels = outputs.map((_, i) => this.level(index - 1 - i));
      x = uniPCUpdate(solver_type, predict_x0, lastSample, outputs, levels, this.level(index), m_t);
    } else {
      x = sample.data.slice();
    }

    // 2. the order: as many outputs as there are, fewer towards the end
    this.modelOutputs = [m_t, ...this.modelOutputs].slice(0, solver_order);
    const stepsLeft = this.timesteps.length - index;
    const order = Math.min(
      lower_order_final ? Math.min(solver_order, stepsLeft) : solver_order,
      this.modelOutputs.length,
    );
    checkOrder(NAME, "solver_order", order);
    this.lastSample = x;
    this.lastOrder = order;

    // 3. UniP, or the predictor in its place, which is given the model's output as it is
    let prev_sample: Tensor;
    if (solver_p !== null) {
      ({ prev_sample } = solver_p.step(model_output, timestep, new Tensor("float32", x, sample.dims)));
    } else {
      const outputs = this.modelOutputs.slice(0, order);
      const levels = outputs.map((_, i) => this.level(index - i));
      const prev = uniPCUpdate(solver_type, predict_x0, x, outputs, levels, this.level(index + 1));
      prev_sample = new Tensor("float32", prev, sample.dims);
    }
    this.stepIndex = index + 1;
    return { prev_sample };
  }

  /** The data prediction, or without `predict_x0` the noise prediction, which is not thresholded. */
  private convertModelOutput(model_output: Tensor, sample: Tensor, index: number): Float32Array {
    const { predict_x0, prediction_type, thresholding } = this.config;
    const level = this.level(index);
    if (!predict_x0) return toNoisePrediction(NAME, prediction_type, model_output.data, sample.data, level);
    const sigma = entry(this.sigmas, index, NAME, "step");
    const x0 = toDataPrediction(NAME, prediction_type, model_output.data, sample.data, level, sigma);
    if (thresholding) thresholdSample(x0, sample.dims[0] ?? 1, this.config);
    return x0;
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
