import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import type { Generator } from "../generator.ts";
import { Tensor } from "../tensor.ts";
import { type BrownianSeed, BrownianTreeNoiseSampler } from "./brownian_tree.ts";
import { checkSample, checkSteps, checkTensor, entry, stepsNotSet, unknownValue, unsupportedValue } from "./checks.ts";
import { type DPMSolverType, dpmSolverUpdate, type NoiseLevel } from "./dpmsolver_update.ts";
import {
  type EDMConfig,
  exponentialSigmas32,
  preconditionInputs,
  preconditionOutputs,
  rampedSigmas,
  type SigmaLike,
} from "./edm_preconditioning.ts";
import { addNoiseOfSigmas } from "./float32.ts";
import { linspace32 } from "./noise_schedules.ts";
import type { PredictionType, SchedulerOutput, StepOptions } from "./scheduling_utils.ts";
import { checkSigmaBounds } from "./sigmas.ts";
import { IndexedSchedulerMixin } from "./step_index.ts";

/** Config of {@link CosineDPMSolverMultistepScheduler}. */
export interface CosineDPMSolverMultistepSchedulerConfig extends EDMConfig {
  /** The least sigma, above 0. Default 0.3. */
  sigma_min: number;
  /** The largest sigma. Default 500. */
  sigma_max: number;
  /** The standard deviation of the data. Default 1. */
  sigma_data: number;
  /** How sigmas are spaced. Default "exponential". */
  sigma_schedule: "exponential" | "karras" | (string & {});
  /** 1 or 2. Default 2. */
  solver_order: number;
  /** "epsilon" or "v_prediction". Default "v_prediction". */
  prediction_type: PredictionType;
  /** Default "midpoint". */
  solver_type: DPMSolverType | (string & {});
  /** Whether the last step of fewer than 15 is of the first order. Default true. */
  lower_order_final: boolean;
  /** Whether the last step is of the first order. Default false. */
  euler_at_final: boolean;
  /** The sigma that the last step goes to. To "sigma_min" it has no length, and gives NaN. Default "zero". */
  final_sigmas_type: "zero" | "sigma_min" | (string & {});
}

/** What {@link CosineDPMSolverMultistepScheduler.step} takes. */
export type CosineDPMSolverMultistepStepOptions = Pick<StepOptions, "generator">;

const NAME = "CosineDPMSolverMultistepScheduler";

/**
 * DPM-Solver++ for the diffusion SDE in EDM's formulation, with `2 / π * atan(sigma)` for timesteps: Stable Audio's.
 *
 * Its noise comes from a Brownian path in sigma as `DPMSolverSDEScheduler`'s does, from `sigma_max` down to `sigma_min`.
 * The path is seeded by the seed of the generator that the first step of a run is given (of a list, each batch item's by
 * its own), not drawn from it: a generator is left as it was.
 *
 * A seeded run is Python's within 1e-5 of the scale where no sigma is a last bit off torch's, which was so in 131 of 132
 * random runs; such a sigma moves the noise of its step by up to some thousandths.
 *
 * @see Diffusers `CosineDPMSolverMultistepScheduler`; https://huggingface.co/papers/2407.14358;
 * {@link BrownianTreeNoiseSampler}
 */
export class CosineDPMSolverMultistepScheduler extends IndexedSchedulerMixin<CosineDPMSolverMultistepSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<CosineDPMSolverMultistepSchedulerConfig> =
    configDefaults<CosineDPMSolverMultistepSchedulerConfig>({
      sigma_min: 0.3,
      sigma_max: 500,
      sigma_data: float(1),
      sigma_schedule: "exponential",
      num_train_timesteps: 1000,
      solver_order: 2,
      prediction_type: "v_prediction",
      rho: float(7),
      solver_type: "midpoint",
      lower_order_final: true,
      euler_at_final: false,
      final_sigmas_type: "zero",
    });
  static override readonly step_options: readonly string[] = ["generator"];

  timesteps: Float32Array;
  /** The noise level of each timestep, and the one that the last step goes to. */
  sigmas: Float32Array;

  /** The run's noise; made for the shape of its first sample. */
  private noiseSampler: BrownianTreeNoiseSampler | null = null;
  /** The last predictions of x_0, the latest first. */
  private modelOutputs: Float32Array[] = [];

  /**
   * @throws UnsupportedModelError for an unknown `solver_type` or `sigma_schedule`.
   * @throws ValueError for exponential sigmas that are not above 0.
   */
  constructor(config: Partial<CosineDPMSolverMultistepSchedulerConfig> = {}) {
    super(config);
    checkSigmaBounds(NAME, this.config);
    const { solver_type, num_train_timesteps } = this.config;
    // What other classes call their solvers stands for the nearest of this one's.
    if (["logrho", "bh1", "bh2"].includes(solver_type)) this.register_to_config({ solver_type: "midpoint" });
    else if (!["midpoint", "heun"].includes(solver_type)) {
      unsupportedValue(NAME, "solver_type", solver_type, ["midpoint", "heun"]);
    }
    const sigmas = this.spacedSigmas(num_train_timesteps);
    this.timesteps = this.precondition_noise(sigmas);
    this.sigmas = Float32Array.from([...sigmas, 0]);
  }

  /** The standard deviation that initial noise must have. */
  get init_noise_sigma(): number {
    return Math.sqrt(this.config.sigma_max ** 2 + 1);
  }

  /** The model's input: `sample / sqrt(sigma² + sigma_data²)`. */
  precondition_inputs(sample: Tensor, sigma: SigmaLike): Tensor {
    return preconditionInputs(`${NAME}.precondition_inputs`, sample, sigma, this.config.sigma_data);
  }

  /** The model's timestep, 0 to 1: `2 / π * atan(sigma)`. */
  precondition_noise(sigma: SigmaLike): Float32Array {
    const sigmas = Float32Array.from(typeof sigma === "number" ? [sigma] : sigma);
    return sigmas.map((s) => 2 * Math.fround(Math.fround(Math.atan(s)) / Math.fround(Math.PI)));
  }

  /**
   * The denoised sample that the model's output amounts to.
   *
   * @throws ValueError for a `prediction_type` other than "epsilon" and "v_prediction", or shapes that do not fit.
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

  /** {@link precondition_inputs} at the noise level of the timestep. */
  override scale_model_input(sample: Tensor, timestep: number): Tensor {
    return this.precondition_inputs(sample, this.sigmaAt(this.startAt(timestep)));
  }

  /**
   * Lays out the timesteps and sigmas of a run.
   *
   * @param num_inference_steps at least 1
   * @throws ValueError for an unknown `final_sigmas_type`.
   */
  set_timesteps(num_inference_steps: number | null, options: Record<never, never> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, CosineDPMSolverMultistepScheduler.set_timesteps_options);
    checkSteps(NAME, num_inference_steps);
    const sigmas = this.spacedSigmas(num_inference_steps);
    this.num_inference_steps = num_inference_steps;
    this.timesteps = this.precondition_noise(sigmas);
    this.sigmas = Float32Array.from([...sigmas, this.lastSigma()]);
    this.noiseSampler = null;
    this.modelOutputs = [];
    this.resetIndex();
  }

  private spacedSigmas(steps: number): Float32Array {
    const { sigma_schedule } = this.config;
    if (sigma_schedule === "karras") return rampedSigmas(linspace32(0, 1, steps), this.config);
    if (sigma_schedule === "exponential") return exponentialSigmas32(steps, this.config);
    return unsupportedValue(NAME, "sigma_schedule", sigma_schedule, ["exponential", "karras"]);
  }

  private lastSigma(): number {
    const { final_sigmas_type, sigma_min } = this.config;
    if (final_sigmas_type === "sigma_min") return sigma_min;
    if (final_sigmas_type === "zero") return 0;
    return unknownValue(NAME, "final_sigmas_type", final_sigmas_type, ["zero", "sigma_min"]);
  }

  /** A timestep that is not in `timesteps` stands for the last one, as in Diffusers. */
  protected override indexOfUnknown(): number {
    return this.timesteps.length - 1;
  }

  private sigmaAt(index: number): number {
    return entry(this.sigmas, index, NAME, "step");
  }

  /** Samples are not scaled: all of the signal, and noise of sigma. */
  private level(index: number): NoiseLevel {
    return { alpha: 1, sigma: this.sigmaAt(index) };
  }

  private makeNoiseSampler(
    dims: readonly number[],
    generator: Generator | readonly Generator[] | undefined,
  ): BrownianTreeNoiseSampler {
    const { sigma_min, sigma_max } = this.config;
    const seed = Array.isArray(generator)
      ? (generator as readonly Generator[]).map(seedOf)
      : generator && seedOf(generator as Generator);
    return new BrownianTreeNoiseSampler(dims, Math.fround(sigma_min), Math.fround(sigma_max), seed);
  }

  /**
   * Predicts the sample of the timestep before.
   *
   * @param model_output `[batch, channels, ...]`, for the input that {@link scale_model_input} gave
   * @param timestep one of `timesteps`; only the first of a run is looked at
   * @param sample `[batch, channels, ...]`
   * @throws ValueError before `set_timesteps`, for a `prediction_type` that there is not, a shape that does not fit, or
   * generators that are not as many as the batch has items.
   * @throws UnsupportedModelError for a third step of a `solver_order` above 2.
   */
  step(
    model_output: Tensor,
    timestep: number,
    sample: Tensor,
    options: CosineDPMSolverMultistepStepOptions = {},
  ): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, CosineDPMSolverMultistepScheduler.step_options);
    checkSample(`${NAME}.step`, model_output, sample);
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    const { solver_order, solver_type, lower_order_final, euler_at_final, final_sigmas_type } = this.config;
    if (!(solver_order >= 1)) unknownValue(NAME, "solver_order", solver_order, ["1", "2"]);
    const index = this.startAt(timestep);
    const sigma = this.sigmaAt(index);

    // 1. predicted x_0
    const m0 = this.precondition_outputs(sample, model_output, sigma).data;

    // 2. the order: as high as there are outputs, lower at the end where that keeps few steps stable
    const count = this.timesteps.length;
    const few = lower_order_final && count < 15;
    const last = index === count - 1 && (euler_at_final || few || final_sigmas_type === "zero");
    const order = last ? 1 : Math.min(solver_order, this.modelOutputs.length + 1);
    if (order > 2 && !(index === count - 2 && few))
      unsupportedValue(NAME, "solver_order", `${solver_order}`, ["1", "2"]);

    // 3. noise of the path from sigma to the next
    this.noiseSampler ??= this.makeNoiseSampler(sample.dims, options.generator);
    checkTensor(`${NAME}.step`, "sample", sample, this.noiseSampler.dims);
    const noise = this.noiseSampler.noise(sigma, this.sigmaAt(index + 1));

    const outputs = [m0, ...this.modelOutputs].slice(0, Math.min(order, 2));
    const levels = outputs.map((_, i) => this.level(index - i));
    const prev = dpmSolverUpdate(
      "sde-dpmsolver++",
      solver_type,
      sample.data,
      outputs,
      this.level(index + 1),
      levels,
      noise,
    );

    this.modelOutputs = [m0, ...this.modelOutputs].slice(0, 2);
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

/** The seed as torch gives it: of 64 bits, a negative one wrapped around. */
function seedOf(generator: Generator): BrownianSeed {
  const seed = generator.initial_seed();
  return seed < 0 ? BigInt.asUintN(64, BigInt(seed)) : seed;
}
