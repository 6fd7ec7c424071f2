import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkOrder, checkSteps, entry, stepsNotSet, unknownValue, unsupportedValue } from "./checks.ts";
import {
  checkSolver,
  type DPMAlgorithmType,
  type DPMSolverType,
  dpmSolverUpdate,
  type NoiseLevel,
} from "./dpmsolver_update.ts";
import {
  type EDMConfig,
  exponentialSigmas32,
  preconditionInputs,
  preconditionNoise,
  preconditionOutputs,
  rampedSigmas,
  type SigmaLike,
} from "./edm_preconditioning.ts";
import { addNoiseOfSigmas } from "./float32.ts";
import { linspace32 } from "./noise_schedules.ts";
import type { SchedulerOutput, StepOptions } from "./scheduling_utils.ts";
import { checkSigmaBounds } from "./sigmas.ts";
import { IndexedSchedulerMixin } from "./step_index.ts";
import { type ThresholdingConfig, thresholdSample } from "./thresholding.ts";

/** Config of {@link EDMDPMSolverMultistepScheduler}; `prediction_type` is "epsilon" or "v_prediction". */
export interface EDMDPMSolverMultistepSchedulerConfig extends EDMConfig, ThresholdingConfig {
  /** 1, 2 (good with guidance) or 3 (good without; not of "sde-dpmsolver++"). Default 2. */
  solver_order: number;
  /** Default "dpmsolver++". */
  algorithm_type: "dpmsolver++" | "sde-dpmsolver++" | (string & {});
  /** Default "midpoint". */
  solver_type: DPMSolverType | (string & {});
  /** Whether the last steps of fewer than 15 are of lower order. Default true. */
  lower_order_final: boolean;
  /** Whether the last step is of the first order. Default false. */
  euler_at_final: boolean;
}

/** What {@link EDMDPMSolverMultistepScheduler.step} takes. */
export type EDMDPMSolverMultistepStepOptions = Pick<StepOptions, "generator">;

const NAME = "EDMDPMSolverMultistepScheduler";

/**
 * DPM-Solver++ in EDM's formulation: the scheduler scales what goes into the model and what comes out of it, and noise is
 * added to the data without shrinking it.
 *
 * @see Diffusers `EDMDPMSolverMultistepScheduler`; https://huggingface.co/papers/2211.01095,
 * https://huggingface.co/papers/2206.00364
 */
export class EDMDPMSolverMultistepScheduler extends IndexedSchedulerMixin<EDMDPMSolverMultistepSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<EDMDPMSolverMultistepSchedulerConfig> =
    configDefaults<EDMDPMSolverMultistepSchedulerConfig>({
      sigma_min: 0.002,
      sigma_max: float(80),
      sigma_data: 0.5,
      sigma_schedule: "karras",
      num_train_timesteps: 1000,
      prediction_type: "epsilon",
      rho: float(7),
      solver_order: 2,
      thresholding: false,
      dynamic_thresholding_ratio: 0.995,
      sample_max_value: float(1),
      algorithm_type: "dpmsolver++",
      solver_type: "midpoint",
      lower_order_final: true,
      euler_at_final: false,
      final_sigmas_type: "zero",
    });
  static override readonly step_options: readonly string[] = ["generator"];

  /** `ln(sigma) / 4` of each sigma but the last. */
  timesteps: Float32Array;
  /** The noise level of each timestep, and the one that the last step goes to. */
  sigmas: Float32Array;

  /** The last denoised samples, the latest first, fewer than `solver_order`. */
  private modelOutputs: Float32Array[] = [];

  /**
   * @throws UnsupportedModelError for an unknown `algorithm_type`, `solver_type` or `sigma_schedule`.
   * @throws ValueError for `final_sigmas_type` "zero" of an algorithm of another class.
   */
  constructor(config: Partial<EDMDPMSolverMultistepSchedulerConfig> = {}) {
    super(config);
    checkSigmaBounds(NAME, this.config);
    this.register_to_config(checkSolver(NAME, this.config, ["dpmsolver++", "sde-dpmsolver++"]));
    const sigmas = this.spacedSigmas(this.config.num_train_timesteps);
    this.timesteps = preconditionNoise(sigmas);
    this.sigmas = Float32Array.from([...sigmas, 0]);
  }

  /** `sqrt(sigma_max² + 1)`: the standard deviation that initial noise must have. */
  get init_noise_sigma(): number {
    return (this.config.sigma_max ** 2 + 1) ** 0.5;
  }

  /** What the model is given of a sample: `sample / sqrt(sigma² + sigma_data²)`. `sigma` is one for all, or one per batch item. */
  precondition_inputs(sample: Tensor, sigma: SigmaLike): Tensor {
    return preconditionInputs(`${NAME}.precondition_inputs`, sample, sigma, this.config.sigma_data);
  }

  /** The timesteps that the model is given for sigmas: `ln(sigma) / 4`. */
  precondition_noise(sigma: SigmaLike): Float32Array {
    return preconditionNoise(sigma);
  }

  /**
   * The denoised sample that a model's output amounts to.
   *
   * @param sigma one for all, or one per batch item
   * @throws ValueError for an unknown `prediction_type`, or a shape that does not fit.
   */
  precondition_outputs(sample: Tensor, model_output: Tensor, sigma: SigmaLike): Tensor {
    const { prediction_type, sigma_data } = this.config;
    return preconditionOutputs(
      `${NAME}.precondition_outputs`,
      prediction_type,
      sample,
      model_output,
      sigma,
      sigma_data,
    );
  }

  /** {@link precondition_inputs} at the sigma of `timestep`. */
  override scale_model_input(sample: Tensor, timestep: number): Tensor {
    return this.precondition_inputs(sample, this.sigmaAt(this.startAt(timestep)));
  }

  /**
   * Lays out the timesteps and sigmas of a run.
   *
   * @param num_inference_steps at least 1
   * @throws ValueError for another number, or an unknown `final_sigmas_type`.
   */
  set_timesteps(num_inference_steps: number | null, options: Record<string, never> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, EDMDPMSolverMultistepScheduler.set_timesteps_options);
    checkSteps(NAME, num_inference_steps);
    const { final_sigmas_type, sigma_min } = this.config;
    const sigmas = this.spacedSigmas(num_inference_steps);
    let sigma_last = 0;
    if (final_sigmas_type === "sigma_min") sigma_last = sigma_min;
    else if (final_sigmas_type !== "zero") {
      unknownValue(NAME, "final_sigmas_type", final_sigmas_type, ["zero", "sigma_min"]);
    }
    this.num_inference_steps = num_inference_steps;
    this.timesteps = preconditionNoise(sigmas);
    this.sigmas = Float32Array.from([...sigmas, sigma_last]);
    this.modelOutputs = [];
    this.resetIndex();
  }

  private spacedSigmas(steps: number): Float32Array {
    const { sigma_schedule } = this.config;
    if (sigma_schedule === "karras") return rampedSigmas(linspace32(0, 1, steps), this.config);
    if (sigma_schedule === "exponential") return exponentialSigmas32(steps, this.config);
    return unsupportedValue(NAME, "sigma_schedule", `"${sigma_schedule}"`, ["karras", "exponential"]);
  }

  /** A timestep that is not in `timesteps` stands for the last one, as in Diffusers. */
  protected override indexOfUnknown(): number {
    return this.timesteps.length - 1;
  }

  private sigmaAt(index: number): number {
    return entry(this.sigmas, index, NAME, "step");
  }

  /** The signal is not shrunk: its part is 1. */
  private level(index: number): NoiseLevel {
    return { alpha: 1, sigma: this.sigmaAt(index) };
  }

  /**
   * Predicts the sample of the timestep before, of as high an order as there are outputs, up to `solver_order`.
   *
   * @param model_output `[batch, channels, ...]`, for the input that {@link scale_model_input} gave
   * @param timestep one of `timesteps`; only the first of a run is looked at
   * @param sample `[batch, channels, ...]`
   * @throws ValueError before `set_timesteps`, for an unknown `prediction_type`, or a shape that does not fit.
   * @throws UnsupportedModelError for the third order of "sde-dpmsolver++", which there is not.
   */
  step(
    model_output: Tensor,
    timestep: number,
    sample: Tensor,
    options: EDMDPMSolverMultistepStepOptions = {},
  ): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, EDMDPMSolverMultistepScheduler.step_options);
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    const { config } = this;
    const { solver_order, lower_order_final, euler_at_final, final_sigmas_type, thresholding } = config;
    const algorithm_type = config.algorithm_type as DPMAlgorithmType;
    checkOrder(NAME, "solver_order", solver_order);

    // 1. predicted x_0
    const index = this.startAt(timestep);
    const m0 = this.precondition_outputs(sample, model_output, this.sigmaAt(index)).data;
    if (thresholding) thresholdSample(m0, sample.dims[0] ?? 1, config);

    // 2. the order: lower ones at the end keep few steps stable
    const count = this.timesteps.length;
    const few = lower_order_final && count < 15;
    let order = Math.min(solver_order, this.modelOutputs.length + 1, 3);
    if (index === count - 1 && (euler_at_final || few || final_sigmas_type === "zero")) order = 1;
    else if (index === count - 2 && few) order = Math.min(order, 2);

    let noise: Float32Array | undefined;
    if (algorithm_type === "sde-dpmsolver++") {
      if (order === 3) unsupportedValue(NAME, "solver_order", "3 of an SDE", ["1", "2"]);
      noise = randn_tensor(sample.dims, { generator: options.generator }).data;
    }

    // 3. the update
    const outputs = [m0, ...this.modelOutputs.slice(0, order - 1)];
    const levels = outputs.map((_, i) => this.level(index - i));
    const t = this.level(index + 1);
    const prev = dpmSolverUpdate(algorithm_type, config.solver_type, sample.data, outputs, t, levels, noise);
    this.modelOutputs = [m0, ...this.modelOutputs].slice(0, solver_order - 1);
    this.stepIndex = index + 1;
    return { prev_sample: new Tensor("float32", prev, sample.dims) };
  }

  /**
   * Adds noise of the sigma of `timesteps`; after {@link set_begin_index}, of the sigma at which the run is.
   *
   * @param timesteps one for all, or one per batch item
   */
  add_noise(original_samples: Tensor, noise: Tensor, timesteps: ArrayLike<number>): Tensor {
    const sigmas = Float32Array.from(this.noiseIndices(timesteps), (index) => this.sigmaAt(index));
    return addNoiseOfSigmas(NAME, original_samples, noise, sigmas);
  }
}
