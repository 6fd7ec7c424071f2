import { configDefaults } from "../configuration_utils.ts";
import { checkOptions, ValueError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkSample, checkSteps, entry, unknownValue } from "./checks.ts";
import { addNoiseOfSigmas, exp32, log32, mixPerSample, numpyLog32, sqrt32 } from "./float32.ts";
import {
  alphasCumprod,
  type BetaConfig,
  commonBetaSchedules,
  linspace32,
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
} from "./scheduling_utils.ts";
import {
  checkSigmaConfig,
  initialSigma,
  interpolate,
  logSigmas,
  respacedSigmas,
  type SigmaConfig,
  scaledBySigma,
  sigmaToT,
} from "./sigmas.ts";
import { spacedTimesteps } from "./spacing.ts";
import { IndexedSchedulerMixin } from "./step_index.ts";

/** Config of {@link EulerDiscreteScheduler}. */
export interface EulerDiscreteSchedulerConfig extends BetaConfig, SigmaConfig {
  /** Default "epsilon". */
  prediction_type: PredictionType;
  /** How sigmas between the training's are found. Default "linear". */
  interpolation_type: "linear" | "log_linear" | (string & {});
  /** The least sigma of a Karras, exponential or beta spacing; null: that of the schedule. Default null. */
  sigma_min: number | null;
  /** The largest sigma of such a spacing; null: that of the schedule. Default null. */
  sigma_max: number | null;
  /** Default "linspace". */
  timestep_spacing: TimestepSpacing;
  /** "continuous", with v-prediction, gives the model `log(sigma) / 4` as its timestep. Default "discrete". */
  timestep_type: "discrete" | "continuous" | (string & {});
  /** Added to each timestep of "leading" spacing. Default 0. */
  steps_offset: number;
  /** Whether to rescale the betas to end in pure noise. Default false. */
  rescale_betas_zero_snr: boolean;
  /** The sigma that the last step goes to. Default "zero". */
  final_sigmas_type: "zero" | "sigma_min" | (string & {});
}

/** What {@link EulerDiscreteScheduler.step} takes. */
export type EulerDiscreteStepOptions = Pick<StepOptions, "s_churn" | "s_tmin" | "s_tmax" | "s_noise" | "generator">;

const NAME = "EulerDiscreteScheduler";

/**
 * Euler's method on the probability-flow ODE in sigma; the model's input is scaled by {@link scale_model_input}.
 *
 * @see Diffusers `EulerDiscreteScheduler`; https://huggingface.co/papers/2206.00364 (algorithm 2)
 */
export class EulerDiscreteScheduler extends IndexedSchedulerMixin<EulerDiscreteSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<EulerDiscreteSchedulerConfig> =
    configDefaults<EulerDiscreteSchedulerConfig>({
      num_train_timesteps: 1000,
      beta_start: 0.0001,
      beta_end: 0.02,
      beta_schedule: "linear",
      trained_betas: null,
      prediction_type: "epsilon",
      interpolation_type: "linear",
      use_karras_sigmas: false,
      use_exponential_sigmas: false,
      use_beta_sigmas: false,
      sigma_min: null,
      sigma_max: null,
      timestep_spacing: "linspace",
      timestep_type: "discrete",
      steps_offset: 0,
      rescale_betas_zero_snr: false,
      final_sigmas_type: "zero",
    });
  static override readonly compatible_fields: readonly string[] = karrasDiffusionFields;
  static override readonly compatible_classes: readonly string[] = karrasDiffusionSchedulers;
  static override readonly step_options: readonly string[] = ["s_churn", "s_tmin", "s_tmax", "s_noise", "generator"];
  static override readonly set_timesteps_options: readonly string[] = ["timesteps", "sigmas"];

  timesteps: Float32Array;
  /** The noise level of each timestep, and the one that the last step goes to. */
  sigmas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly betas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas_cumprod: Float32Array;

  private scaleInputCalled = false;

  /**
   * @throws UnsupportedModelError for an unknown `beta_schedule`.
   * @throws ValueError when more than one spacing of sigmas is asked for.
   */
  constructor(config: Partial<EulerDiscreteSchedulerConfig> = {}) {
    super(config);
    checkSigmaConfig(NAME, this.config);
    const { num_train_timesteps, rescale_betas_zero_snr } = this.config;
    const betas = makeBetas(NAME, this.config, commonBetaSchedules);
    this.betas = rescale_betas_zero_snr ? rescaleZeroTerminalSnr(betas) : betas;
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    // The least number that float16 has, so that the first sigma is not infinite.
    if (rescale_betas_zero_snr) this.alphas_cumprod[this.alphas_cumprod.length - 1] = 2 ** -24;

    const sigmas = sigmasOf(this.alphas_cumprod).reverse();
    this.timesteps = this.isContinuous()
      ? continuousTimesteps(sigmas)
      : Float32Array.from({ length: num_train_timesteps }, (_, i) => num_train_timesteps - 1 - i);
    this.sigmas = Float32Array.from([...sigmas, 0]);
  }

  /** The standard deviation that initial noise must have: the largest sigma, or what keeps the variance with "leading". */
  get init_noise_sigma(): number {
    return initialSigma(this.sigmas, this.config.timestep_spacing);
  }

  /** Divides by `sqrt(sigma² + 1)`. Call it once before each `step`. */
  override scale_model_input(sample: Tensor, timestep: number): Tensor {
    this.scaleInputCalled = true;
    return scaledBySigma(`${NAME}.scale_model_input`, sample, this.sigmaAt(this.startAt(timestep)));
  }

  /**
   * Lays out the timesteps and sigmas of a run.
   *
   * @param num_inference_steps at least 1; null with `timesteps` or `sigmas`
   * @throws ValueError unless exactly one of the three is given, for one that the config does not go with, or an unknown
   * `timestep_spacing`, `interpolation_type` or `final_sigmas_type`.
   */
  set_timesteps(
    num_inference_steps: number | null,
    options: Pick<SetTimestepsOptions, "timesteps" | "sigmas"> = {},
  ): void {
    checkOptions(`${NAME}.set_timesteps`, options, EulerDiscreteScheduler.set_timesteps_options);
    const { timesteps: customTimesteps, sigmas: customSigmas } = options;
    const given = [num_inference_steps ?? undefined, customTimesteps, customSigmas].filter((x) => x !== undefined);
    if (given.length !== 1) {
      throw new ValueError("Must pass exactly one of `num_inference_steps`, `timesteps` or `sigmas`.", {
        className: NAME,
        field: "num_inference_steps",
        found: `${given.length} of them`,
      });
    }
    if (customTimesteps !== undefined) this.checkTimestepsAllowed();
    const steps = num_inference_steps ?? customTimesteps?.length ?? customSigmas!.length - 1;
    checkSteps(NAME, steps);

    const trainSigmas = sigmasOf(this.alphas_cumprod);
    const log_sigmas = logSigmas(trainSigmas);
    let timesteps: Float32Array;
    let sigmas: Float32Array;
    if (customSigmas !== undefined) {
      sigmas = Float32Array.from(customSigmas);
      timesteps = sigmas.slice(0, -1).map((sigma) => sigmaToT(sigma, log_sigmas, true));
    } else {
      timesteps =
        customTimesteps === undefined
          ? spacedTimesteps(NAME, this.config, steps, this.config.num_train_timesteps)
          : Float32Array.from(customTimesteps);
      const interpolated = this.interpolatedSigmas(timesteps, trainSigmas, steps);
      const spaced = respacedSigmas(this.config, interpolated, steps);
      if (spaced !== interpolated) timesteps = Float32Array.from(spaced, (sigma) => sigmaToT(sigma, log_sigmas));
      sigmas = Float32Array.from([...spaced, this.lastSigma(trainSigmas)]);
    }

    this.num_inference_steps = steps;
    this.timesteps = this.isContinuous() ? continuousTimesteps(sigmas.subarray(0, -1)) : timesteps;
    this.sigmas = sigmas;
    this.resetIndex();
  }

  private checkTimestepsAllowed(): void {
    const { use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas } = this.config;
    const flags = {
      use_karras_sigmas,
      use_exponential_sigmas,
      use_beta_sigmas,
      "a continuous `timestep_type`": this.isContinuous(),
    };
    for (const [field, on] of Object.entries(flags)) {
      if (!on) continue;
      throw new ValueError(`Cannot set \`timesteps\` with ${field}: the timesteps then follow from the sigmas.`, {
        className: NAME,
        field,
      });
    }
  }

  /** The training's sigmas at `timesteps`, descending. "log_linear" does not look at the timesteps and gives one more. */
  private interpolatedSigmas(timesteps: Float32Array, trainSigmas: Float32Array, steps: number): Float64Array {
    const { interpolation_type } = this.config;
    if (interpolation_type === "linear") return Float64Array.from(timesteps, (t) => interpolate(t, trainSigmas));
    if (interpolation_type === "log_linear") {
      const start = numpyLog32(trainSigmas[trainSigmas.length - 1]!);
      return Float64Array.from(linspace32(start, numpyLog32(trainSigmas[0]!), steps + 1), exp32);
    }
    return unknownValue(NAME, "interpolation_type", interpolation_type, ["linear", "log_linear"]);
  }

  private lastSigma(trainSigmas: Float32Array): number {
    const { final_sigmas_type } = this.config;
    if (final_sigmas_type === "sigma_min") return trainSigmas[0]!;
    if (final_sigmas_type === "zero") return 0;
    return unknownValue(NAME, "final_sigmas_type", final_sigmas_type, ["zero", "sigma_min"]);
  }

  private isContinuous(): boolean {
    return this.config.timestep_type === "continuous" && this.config.prediction_type === "v_prediction";
  }

  private sigmaAt(index: number): number {
    return entry(this.sigmas, index, NAME, "step");
  }

  /**
   * Predicts the sample of the timestep before.
   *
   * @param model_output `[batch, channels, ...]`, for the input that {@link scale_model_input} gave
   * @param timestep one of `timesteps`; only the first of a run is looked at
   * @param sample `[batch, channels, ...]`
   * @throws ValueError for an unknown `prediction_type`, or a timestep or shape that does not fit.
   */
  step(
    model_output: Tensor,
    timestep: number,
    sample: Tensor,
    options: EulerDiscreteStepOptions = {},
  ): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, EulerDiscreteScheduler.step_options);
    checkSample(`${NAME}.step`, model_output, sample);
    const { s_churn = 0, s_tmin = 0, s_tmax = Number.POSITIVE_INFINITY, s_noise = 1 } = options;
    const { prediction_type } = this.config;
    if (!this.scaleInputCalled) {
      console.warn(`${NAME}: call \`scale_model_input\` before \`step\`, or the denoising goes wrong.`);
      this.scaleInputCalled = true;
    }

    const index = this.startAt(timestep);
    const sigma = this.sigmaAt(index);
    const next = this.sigmaAt(index + 1);
    const churn = Math.min(s_churn / (this.sigmas.length - 1), Math.SQRT2 - 1);
    const gamma = Math.fround(s_tmin) <= sigma && sigma <= Math.fround(s_tmax) ? churn : 0;
    const sigma_hat = Math.fround(sigma * Math.fround(gamma + 1));
    const sigma_squared = Math.fround(sigma * sigma);

    // Churn raises the noise level to sigma_hat.
    let x = sample.data;
    if (gamma > 0) {
      const noise = randn_tensor(sample.dims, { generator: options.generator }).data;
      const factor = Math.fround(s_noise);
      const scale = sqrt32(Math.fround(Math.fround(sigma_hat * sigma_hat) - sigma_squared));
      x = new Float32Array(noise.length);
      for (let i = 0; i < x.length; i++) {
        x[i] = sample.data[i]! + Math.fround(Math.fround(noise[i]! * factor) * scale);
      }
    }

    // 1. predicted x_0 from the sigma-scaled prediction
    const e = model_output.data;
    const x0 = new Float32Array(e.length);
    if (prediction_type === "sample" || prediction_type === "original_sample") {
      x0.set(e);
    } else if (prediction_type === "epsilon") {
      for (let i = 0; i < x0.length; i++) x0[i] = x[i]! - Math.fround(sigma_hat * e[i]!);
    } else if (prediction_type === "v_prediction") {
      // c_out * model_output + c_skip * input
      const variance = Math.fround(sigma_squared + 1);
      const c_out = Math.fround(-sigma / sqrt32(variance));
      for (let i = 0; i < x0.length; i++) x0[i] = Math.fround(e[i]! * c_out) + Math.fround(x[i]! / variance);
    } else {
      unknownValue(NAME, "prediction_type", prediction_type, ["epsilon", "sample", "v_prediction"]);
    }

    // 2. the ODE's derivative, followed to the next sigma
    const dt = Math.fround(next - sigma_hat);
    const prev = new Float32Array(e.length);
    for (let i = 0; i < prev.length; i++) {
      const derivative = Math.fround(Math.fround(x[i]! - x0[i]!) / sigma_hat);
      prev[i] = x[i]! + Math.fround(derivative * dt);
    }

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

  /** The velocity that a v-prediction model is trained to give; as in Diffusers, by the place of each timestep. */
  get_velocity(sample: Tensor, noise: Tensor, timesteps: ArrayLike<number>): Tensor {
    const alphas = Float32Array.from(timesteps, (t) =>
      entry(this.alphas_cumprod, this.index_for_timestep(t), NAME, "timestep"),
    );
    const minus_sqrt_one_minus = alphas.map((alpha) => -sqrt32(Math.fround(1 - alpha)));
    return mixPerSample(`${NAME}.get_velocity`, alphas.map(sqrt32), noise, minus_sqrt_one_minus, sample);
  }
}

/** `log(sigma) / 4`: what EDM's models take for a timestep. */
function continuousTimesteps(sigmas: Float32Array): Float32Array {
  return sigmas.map((sigma) => 0.25 * log32(sigma));
}
