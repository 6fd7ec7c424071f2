import { configDefaults } from "../configuration_utils.ts";
import { checkOptions, ValueError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { checkSample, checkSteps, entry } from "./checks.ts";
import { addNoiseOfSigmas } from "./float32.ts";
import { gaussKronrod21 } from "./gauss_kronrod.ts";
import { alphasCumprod, type BetaConfig, commonBetaSchedules, makeBetas, sigmasOf } from "./noise_schedules.ts";
import {
  karrasDiffusionFields,
  karrasDiffusionSchedulers,
  type PredictionType,
  type SchedulerOutput,
  type StepOptions,
  type TimestepSpacing,
} from "./scheduling_utils.ts";
import {
  checkSigmaConfig,
  denoisedAtSigma,
  initialSigma,
  interpolate,
  karrasSigmas,
  logSigmas,
  respacedSigmas,
  type SigmaConfig,
  scaledBySigma,
  sigmaToT,
} from "./sigmas.ts";
import { spacedTimesteps } from "./spacing.ts";
import { IndexedSchedulerMixin } from "./step_index.ts";

/** Config of {@link LMSDiscreteScheduler}. */
export interface LMSDiscreteSchedulerConfig extends BetaConfig, SigmaConfig {
  /** Default "epsilon". */
  prediction_type: PredictionType;
  /** Default "linspace". */
  timestep_spacing: TimestepSpacing;
  /** Added to each timestep of "leading" spacing. Default 0. */
  steps_offset: number;
}

/** What {@link LMSDiscreteScheduler.step} takes. */
export type LMSDiscreteStepOptions = Pick<StepOptions, "order">;

const NAME = "LMSDiscreteScheduler";

/**
 * A linear multistep method (Adams-Bashforth over uneven steps) on the probability-flow ODE in sigma.
 *
 * @see Diffusers `LMSDiscreteScheduler`; https://huggingface.co/papers/2206.00364 (the ODE)
 */
export class LMSDiscreteScheduler extends IndexedSchedulerMixin<LMSDiscreteSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<LMSDiscreteSchedulerConfig> =
    configDefaults<LMSDiscreteSchedulerConfig>({
      num_train_timesteps: 1000,
      beta_start: 0.0001,
      beta_end: 0.02,
      beta_schedule: "linear",
      trained_betas: null,
      use_karras_sigmas: false,
      use_exponential_sigmas: false,
      use_beta_sigmas: false,
      prediction_type: "epsilon",
      timestep_spacing: "linspace",
      steps_offset: 0,
    });
  static override readonly compatible_fields: readonly string[] = karrasDiffusionFields;
  static override readonly compatible_classes: readonly string[] = karrasDiffusionSchedulers;
  static override readonly step_options: readonly string[] = ["order"];

  timesteps!: Float32Array;
  /** The noise level of each timestep, and 0, which the last step goes to. */
  sigmas!: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly betas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas_cumprod: Float32Array;

  /** The ODE's derivatives at the last steps, the oldest first. */
  private derivatives: Float32Array[] = [];
  private scaleInputCalled = false;

  /**
   * @throws UnsupportedModelError for an unknown `beta_schedule`.
   * @throws ValueError when more than one spacing of sigmas is asked for, or for an unknown `timestep_spacing`.
   */
  constructor(config: Partial<LMSDiscreteSchedulerConfig> = {}) {
    super(config);
    checkSigmaConfig(NAME, this.config);
    this.betas = makeBetas(NAME, this.config, commonBetaSchedules);
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    this.set_timesteps(this.config.num_train_timesteps);
  }

  /** The standard deviation that initial noise must have: the largest sigma, or what keeps the variance with "leading". */
  get init_noise_sigma(): number {
    return initialSigma(this.sigmas, this.config.timestep_spacing);
  }

  /** Divides by `sqrt(sigma² + 1)`. Call it once before each `step`. */
  override scale_model_input(sample: Tensor, timestep: number): Tensor {
    const scaled = scaledBySigma(`${NAME}.scale_model_input`, sample, this.sigmaAt(this.startAt(timestep)));
    this.scaleInputCalled = true;
    return scaled;
  }

  /**
   * Lays out the timesteps and sigmas of a run.
   *
   * @param num_inference_steps at least 1
   * @throws ValueError for an unknown `timestep_spacing`.
   */
  set_timesteps(num_inference_steps: number | null, options: Record<never, never> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, LMSDiscreteScheduler.set_timesteps_options);
    checkSteps(NAME, num_inference_steps);
    const steps = num_inference_steps;
    const trainSigmas = sigmasOf(this.alphas_cumprod);
    const log_sigmas = logSigmas(trainSigmas);

    let timesteps = spacedTimesteps(NAME, this.config, steps, this.config.num_train_timesteps);
    const spaced = Float64Array.from(timesteps, (t) => interpolate(t, trainSigmas));
    // Karras' spacing does not look at another class's `sigma_min` and `sigma_max`; the other two do.
    const sigmas = this.config.use_karras_sigmas
      ? karrasSigmas(spaced[spaced.length - 1]!, spaced[0]!, steps)
      : respacedSigmas(this.config, spaced, steps);
    if (sigmas !== spaced) timesteps = Float32Array.from(sigmas, (sigma) => sigmaToT(sigma, log_sigmas));

    this.num_inference_steps = steps;
    this.timesteps = timesteps;
    this.sigmas = Float32Array.from([...sigmas, 0]);
    this.derivatives = [];
    this.resetIndex();
  }

  private sigmaAt(index: number): number {
    return entry(this.sigmas, index, NAME, "step");
  }

  /**
   * The weight of a derivative in a step: the integral, over the step, of the polynomial that is 1 at its sigma and 0 at
   * those of the others.
   *
   * @param order how many derivatives there are
   * @param t the index of the step, at least `order - 1`
   * @param current_order which derivative, 0 for the newest
   */
  get_lms_coefficient(order: number, t: number, current_order: number): number {
    const nodes = Array.from({ length: order }, (_, k) => this.sigmaAt(t - k));
    const own = this.sigmaAt(t - current_order);
    const others = nodes.filter((_, k) => k !== current_order);
    // In float32, whose rounding shows where the weights cancel each other.
    const lagrange = (tau: number): number =>
      others.reduce((product, node) => {
        const factor = Math.fround(Math.fround(Math.fround(tau) - node) / Math.fround(own - node));
        return Math.fround(product * factor);
      }, 1);
    return gaussKronrod21(lagrange, this.sigmaAt(t), this.sigmaAt(t + 1));
  }

  /**
   * Predicts the sample of the timestep before, from this output and those of the steps before it.
   *
   * @param model_output `[batch, channels, ...]`, for the input that {@link scale_model_input} gave
   * @param timestep one of `timesteps`; only the first of a run is looked at
   * @param sample `[batch, channels, ...]`
   * @throws ValueError for an unknown `prediction_type`, or an order, timestep or shape that does not fit.
   */
  step(model_output: Tensor, timestep: number, sample: Tensor, options: LMSDiscreteStepOptions = {}): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, LMSDiscreteScheduler.step_options);
    checkSample(`${NAME}.step`, model_output, sample);
    const { order: max_order = 4 } = options;
    if (!this.scaleInputCalled) {
      console.warn(`${NAME}: call \`scale_model_input\` before \`step\`, or the denoising goes wrong.`);
      this.scaleInputCalled = true;
    }
    const index = this.startAt(timestep);
    const sigma = this.sigmaAt(index);
    const x = sample.data;

    // 1. predicted x_0 from the sigma-scaled prediction
    const supported = ["epsilon", "v_prediction", "sample"];
    const x0 = denoisedAtSigma(NAME, this.config.prediction_type, supported, model_output.data, x, sigma);

    // 2. the ODE's derivative
    const derivative = new Float32Array(x.length);
    for (let i = 0; i < x.length; i++) derivative[i] = Math.fround(x[i]! - x0[i]!) / sigma;
    const derivatives = [...this.derivatives, derivative];
    if (derivatives.length > max_order) derivatives.shift();

    // 3. the derivatives' polynomial, integrated over the step. A run that starts midway has fewer of them than its order.
    const order = Math.min(index + 1, max_order);
    if (!Number.isInteger(order)) {
      throw new ValueError(`${NAME}.step needs \`order\` to be a whole number, got ${order}.`, {
        className: NAME,
        field: "order",
        found: String(order),
        expected: "a whole number",
      });
    }
    const prev = new Float32Array(x.length);
    for (let k = 0; k < Math.min(order, derivatives.length); k++) {
      const coefficient = Math.fround(this.get_lms_coefficient(order, index, k));
      const d = derivatives[derivatives.length - 1 - k]!;
      for (let i = 0; i < prev.length; i++) prev[i]! += Math.fround(coefficient * d[i]!);
    }
    for (let i = 0; i < prev.length; i++) prev[i]! += x[i]!;

    this.derivatives = derivatives;
    this.stepIndex = index + 1;
    return {
      prev_sample: new Tensor("float32", prev, sample.dims),
      pred_original_sample: new Tensor("float32", x0, sample.dims),
    };
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
