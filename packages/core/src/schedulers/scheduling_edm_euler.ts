import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkSample, checkSteps, checkTensor, entry, unknownValue } from "./checks.ts";
import {
  type EDMConfig,
  exponentialSigmas32,
  preconditionInputs,
  preconditionNoise,
  preconditionOutputs,
  rampedSigmas,
  type SigmaLike,
} from "./edm_preconditioning.ts";
import { addNoiseOfSigmas, sqrt32 } from "./float32.ts";
import type { SchedulerOutput, SetTimestepsOptions, StepOptions } from "./scheduling_utils.ts";
import { checkSigmaBounds } from "./sigmas.ts";
import { linspace } from "./spacing.ts";
import { IndexedSchedulerMixin, unknownTimestep } from "./step_index.ts";

/** Config of {@link EDMEulerScheduler}; `prediction_type` is "epsilon" or "v_prediction". */
export interface EDMEulerSchedulerConfig extends EDMConfig {}

/** What {@link EDMEulerScheduler.step} takes. */
export type EDMEulerStepOptions = Pick<
  StepOptions,
  "s_churn" | "s_tmin" | "s_tmax" | "s_noise" | "generator" | "pred_original_sample"
>;

const NAME = "EDMEulerScheduler";

/**
 * Euler's method in EDM's formulation: the scheduler scales what goes into the model and what comes out of it.
 *
 * @see Diffusers `EDMEulerScheduler`; https://huggingface.co/papers/2206.00364 (algorithm 2)
 */
export class EDMEulerScheduler extends IndexedSchedulerMixin<EDMEulerSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<EDMEulerSchedulerConfig> = configDefaults<EDMEulerSchedulerConfig>(
    {
      sigma_min: 0.002,
      sigma_max: float(80),
      sigma_data: 0.5,
      sigma_schedule: "karras",
      num_train_timesteps: 1000,
      prediction_type: "epsilon",
      rho: float(7),
      final_sigmas_type: "zero",
    },
  );
  static override readonly step_options: readonly string[] = [
    "s_churn",
    "s_tmin",
    "s_tmax",
    "s_noise",
    "generator",
    "pred_original_sample",
  ];
  static override readonly set_timesteps_options: readonly string[] = ["sigmas"];

  /** `ln(sigma) / 4` of each sigma but the last. */
  timesteps: Float32Array;
  /** The noise level of each timestep, and the one that the last step goes to. */
  sigmas: Float32Array;

  private scaleInputCalled = false;

  /** @throws ValueError for an unknown `sigma_schedule` or `final_sigmas_type`, or sigmas that are no numbers. */
  constructor(config: Partial<EDMEulerSchedulerConfig> = {}) {
    super(config);
    checkSigmaBounds(NAME, this.config);
    const { sigma_schedule, num_train_timesteps } = this.config;
    if (!["karras", "exponential"].includes(sigma_schedule)) {
      unknownValue(NAME, "sigma_schedule", sigma_schedule, ["karras", "exponential"]);
    }
    const ramp = Float64Array.from({ length: num_train_timesteps + 1 }, (_, i) => i / num_train_timesteps);
    const sigmas = this.spacedSigmas(ramp);
    this.timesteps = preconditionNoise(sigmas);
    this.sigmas = this.withLast(sigmas);
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

  /** {@link precondition_inputs} at the sigma of `timestep`. Call it once before each `step`. */
  override scale_model_input(sample: Tensor, timestep: number): Tensor {
    const scaled = this.precondition_inputs(sample, this.sigmaAt(this.startAt(timestep)));
    this.scaleInputCalled = true;
    return scaled;
  }

  /**
   * Lays out the timesteps and sigmas of a run.
   *
   * @param num_inference_steps at least 1; null with `sigmas`
   * @param options `sigmas` are no sigmas but, as in Diffusers, places on the way from `sigma_max` (0) to `sigma_min` (1);
   * of "exponential" only their number counts
   * @throws ValueError for another number.
   */
  set_timesteps(num_inference_steps: number | null, options: Pick<SetTimestepsOptions, "sigmas"> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, EDMEulerScheduler.set_timesteps_options);
    let ramp: Float64Array;
    if (options.sigmas === undefined) {
      checkSteps(NAME, num_inference_steps);
      ramp = linspace(0, 1, num_inference_steps);
    } else {
      checkSteps(NAME, options.sigmas.length);
      ramp = Float64Array.from(options.sigmas);
    }
    const sigmas = this.spacedSigmas(ramp);
    this.num_inference_steps = num_inference_steps;
    this.timesteps = preconditionNoise(sigmas);
    this.sigmas = this.withLast(sigmas);
    this.resetIndex();
  }

  private spacedSigmas(ramp: Float64Array): Float32Array {
    const { config } = this;
    return config.sigma_schedule === "karras" ? rampedSigmas(ramp, config) : exponentialSigmas32(ramp.length, config);
  }

  private withLast(sigmas: Float32Array): Float32Array {
    const { final_sigmas_type } = this.config;
    if (final_sigmas_type === "zero") return Float32Array.from([...sigmas, 0]);
    if (final_sigmas_type === "sigma_min") return Float32Array.from([...sigmas, sigmas[sigmas.length - 1]!]);
    return unknownValue(NAME, "final_sigmas_type", final_sigmas_type, ["zero", "sigma_min"]);
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
   * @param options with `pred_original_sample` the model's output is not looked at
   * @throws ValueError for an unknown `prediction_type`, an index in place of a timestep, or a shape that does not fit.
   */
  step(model_output: Tensor, timestep: number, sample: Tensor, options: EDMEulerStepOptions = {}): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, EDMEulerScheduler.step_options);
    checkSample(`${NAME}.step`, model_output, sample);
    const { s_churn = 0, s_tmin = 0, s_tmax = Number.POSITIVE_INFINITY, s_noise = 1, pred_original_sample } = options;
    if (pred_original_sample !== undefined) {
      checkTensor(`${NAME}.step`, "pred_original_sample", pred_original_sample, sample.dims);
    }
    if (Number.isInteger(timestep) && !this.timesteps.includes(timestep)) unknownTimestep(NAME, timestep);
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

    // Churn raises the noise level to sigma_hat.
    let noisy = sample;
    if (gamma > 0) {
      const noise = randn_tensor(sample.dims, { generator: options.generator }).data;
      const factor = Math.fround(s_noise);
      const scale = sqrt32(Math.fround(Math.fround(sigma_hat * sigma_hat) - Math.fround(sigma * sigma)));
      const raised = new Float32Array(noise.length);
      for (let i = 0; i < raised.length; i++) {
        raised[i] = sample.data[i]! + Math.fround(Math.fround(noise[i]! * factor) * scale);
      }
      noisy = new Tensor("float32", raised, sample.dims);
    }

    // 1. predicted x_0 from the preconditioned output
    const original = pred_original_sample ?? this.precondition_outputs(noisy, model_output, sigma_hat);

    // 2. the ODE's derivative, followed to the next sigma
    const x = noisy.data;
    const x0 = original.data;
    const dt = Math.fround(next - sigma_hat);
    const prev = new Float32Array(x.length);
    for (let i = 0; i < prev.length; i++) {
      const derivative = Math.fround(Math.fround(x[i]! - x0[i]!) / sigma_hat);
      prev[i] = x[i]! + Math.fround(derivative * dt);
    }

    this.stepIndex = index + 1;
    return { prev_sample: new Tensor("float32", prev, sample.dims), pred_original_sample: original };
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
