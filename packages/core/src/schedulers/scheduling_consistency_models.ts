import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import {
  checkCustomTimesteps,
  checkSample,
  checkSteps,
  checkStepsOrTimesteps,
  checkStepsTrained,
  entry,
} from "./checks.ts";
import { addNoiseOfSigmas, sqrt32 } from "./float32.ts";
import type { BaseSchedulerConfig, SchedulerOutput, SetTimestepsOptions, StepOptions } from "./scheduling_utils.ts";
import { checkSigmaBounds, karrasSigmasAt } from "./sigmas.ts";
import { leadingTimesteps, linspace } from "./spacing.ts";
import { IndexedSchedulerMixin, unknownTimestep } from "./step_index.ts";
import { clampSample } from "./thresholding.ts";

/** Config of {@link CMStochasticIterativeScheduler}. */
export interface CMStochasticIterativeSchedulerConfig extends BaseSchedulerConfig {
  /** Noise levels of the training. Default 40. */
  num_train_timesteps: number;
  /** The least sigma. Default 0.002. */
  sigma_min: number;
  /** The largest sigma. Default 80. */
  sigma_max: number;
  /** The standard deviation of the data. Default 0.5. */
  sigma_data: number;
  /** Factor of the added noise, 1 to 1.011. Default 1. */
  s_noise: number;
  /** Exponent of the spacing of sigmas. Default 7. */
  rho: number;
  /** Whether to clip the denoised sample to -1..1. Default true. */
  clip_denoised: boolean;
}

/** What {@link CMStochasticIterativeScheduler.step} takes. */
export type CMStochasticIterativeStepOptions = Pick<StepOptions, "generator">;

const NAME = "CMStochasticIterativeScheduler";

/**
 * One-step and multistep sampling of consistency models; the model's input is scaled by {@link scale_model_input}.
 *
 * @see Diffusers `CMStochasticIterativeScheduler`; https://huggingface.co/papers/2303.01469 (algorithm 1)
 */
export class CMStochasticIterativeScheduler extends IndexedSchedulerMixin<CMStochasticIterativeSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<CMStochasticIterativeSchedulerConfig> =
    configDefaults<CMStochasticIterativeSchedulerConfig>({
      num_train_timesteps: 40,
      sigma_min: 0.002,
      sigma_max: float(80),
      sigma_data: 0.5,
      s_noise: float(1),
      rho: float(7),
      clip_denoised: true,
    });
  static override readonly step_options: readonly string[] = ["generator"];
  static override readonly set_timesteps_options: readonly string[] = ["timesteps"];

  /** The sigmas' logarithms, scaled, which the model is given: in float32, as models take them. */
  timesteps: Float32Array;
  /** The noise level of each timestep, and after `set_timesteps` `sigma_min`, which the last step goes to. */
  sigmas: Float32Array;
  readonly init_noise_sigma: number;

  private scaleInputCalled = false;

  /** @throws ValueError for a `sigma_min` or `sigma_max` that is no number (other classes' configs may hold null). */
  constructor(config: Partial<CMStochasticIterativeSchedulerConfig> = {}) {
    super(config);
    checkSigmaBounds(NAME, this.config);
    const sigmas = this.karrasSigmas(linspace(0, 1, this.config.num_train_timesteps));
    this.init_noise_sigma = this.config.sigma_max;
    this.timesteps = Float32Array.from(sigmas, this.sigma_to_t);
    this.sigmas = Float32Array.from(sigmas);
  }

  private karrasSigmas(ramp: Float64Array): Float64Array {
    const { sigma_min, sigma_max, rho } = this.config;
    return karrasSigmasAt(ramp, sigma_min, sigma_max, rho);
  }

  /** Divides by `sqrt(sigma² + sigma_data²)`. Call it once before each `step`. */
  override scale_model_input(sample: Tensor, timestep: number): Tensor {
    checkSample(`${NAME}.scale_model_input`, sample, sample);
    const scale = sqrt32(this.variance(entry(this.sigmas, this.startAt(timestep), NAME, "step")));
    this.scaleInputCalled = true;
    const x = sample.data;
    const scaled = new Float32Array(x.length);
    for (let i = 0; i < x.length; i++) scaled[i] = x[i]! / scale;
    return new Tensor("float32", scaled, sample.dims);
  }

  /** The timestep that the model is given for a noise level. */
  sigma_to_t(sigma: number): number {
    return 1000 * 0.25 * Math.log(sigma + 1e-44);
  }

  /**
   * Lays out the timesteps and sigmas of a run.
   *
   * @param num_inference_steps 1 to `num_train_timesteps`; null with `timesteps`
   * @param options `timesteps`: indices of the training's noise levels, descending, below `num_train_timesteps`
   * @throws ValueError for both or neither, too many steps, or timesteps that do not descend or begin too high.
   */
  set_timesteps(num_inference_steps: number | null, options: Pick<SetTimestepsOptions, "timesteps"> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, CMStochasticIterativeScheduler.set_timesteps_options);
    const { num_train_timesteps, sigma_min } = this.config;
    const { timesteps: customTimesteps } = options;
    checkStepsOrTimesteps(NAME, num_inference_steps, customTimesteps);
    let indices: Float64Array;
    if (customTimesteps !== undefined) {
      checkCustomTimesteps(NAME, customTimesteps, num_train_timesteps);
      indices = Float64Array.from(customTimesteps, Math.trunc);
    } else {
      checkSteps(NAME, num_inference_steps);
      checkStepsTrained(NAME, num_inference_steps, num_train_timesteps);
      indices = leadingTimesteps(Math.floor(num_train_timesteps / num_inference_steps), num_inference_steps, 0);
      this.num_inference_steps = num_inference_steps;
    }

    // Index 0 is the largest sigma.
    const sigmas = this.karrasSigmas(indices.reverse().map((index) => index / (num_train_timesteps - 1)));
    this.timesteps = Float32Array.from(sigmas, this.sigma_to_t);
    this.sigmas = Float32Array.from([...sigmas, sigma_min]);
    this.resetIndex();
  }

  private variance(sigma: number): number {
    return Math.fround(Math.fround(sigma * sigma) + Math.fround(this.config.sigma_data ** 2));
  }

  /**
   * The boundary condition: what of the sample and of the model's output makes the denoised sample, so that at `sigma_min`
   * it is the sample itself.
   *
   * @see https://huggingface.co/papers/2303.01469 (appendix C)
   */
  get_scalings_for_boundary_condition(sigma: number): [c_skip: number, c_out: number] {
    const { sigma_min, sigma_data } = this.config;
    const above = Math.fround(sigma - Math.fround(sigma_min));
    // torch divides a number by a tensor as the number times the tensor's reciprocal.
    const c_skip = Math.fround(Math.fround(1 / this.variance(above)) * Math.fround(sigma_data ** 2));
    const c_out = Math.fround(Math.fround(above * Math.fround(sigma_data)) / sqrt32(this.variance(sigma)));
    return [c_skip, c_out];
  }

  /**
   * Denoises the sample, and adds noise of the next sigma where the run has more than one step.
   *
   * @param model_output `[batch, channels, ...]`, for the input that {@link scale_model_input} gave
   * @param timestep one of `timesteps`; only the first of a run is looked at
   * @param sample `[batch, channels, ...]`
   * @throws ValueError for an index in place of a timestep, or a timestep or shape that does not fit.
   */
  step(
    model_output: Tensor,
    timestep: number,
    sample: Tensor,
    options: CMStochasticIterativeStepOptions = {},
  ): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, CMStochasticIterativeScheduler.step_options);
    checkSample(`${NAME}.step`, model_output, sample);
    if (Number.isInteger(timestep) && !this.timesteps.includes(timestep)) unknownTimestep(NAME, timestep);
    const { num_train_timesteps, sigma_min, sigma_max, s_noise, clip_denoised } = this.config;
    if (!this.scaleInputCalled) {
      console.warn(`${NAME}: call \`scale_model_input\` before \`step\`, or the denoising goes wrong.`);
      this.scaleInputCalled = true;
    }

    const index = this.startAt(timestep);
    const sigma = entry(this.sigmas, index, NAME, "step");
    const sigma_next = entry(this.sigmas, index + 1 < num_train_timesteps ? index + 1 : -1, NAME, "step");
    const [c_skip, c_out] = this.get_scalings_for_boundary_condition(sigma);

    // 1. the denoised sample f(x, t), formula (5)
    const e = model_output.data;
    const x = sample.data;
    const prev = new Float32Array(sample.size);
    for (let i = 0; i < prev.length; i++) prev[i] = Math.fround(c_out * e[i]!) + Math.fround(c_skip * x[i]!);
    if (clip_denoised) clampSample(prev, 1);

    // 2. noise z, and 3. as much of it as brings the sample from eps = sigma_min up to tau = the next sigma
    if (this.timesteps.length > 1) {
      const noise = randn_tensor(sample.dims, options).data;
      const factor = Math.fround(s_noise);
      const sigma_hat = Math.min(Math.max(sigma_next, Math.fround(sigma_min)), Math.fround(sigma_max));
      // At sigma_min it is 0 but for rounding, of which Diffusers makes NaN for half of all sigma_min.
      const added = Math.fround(Math.fround(sigma_hat * sigma_hat) - Math.fround(sigma_min ** 2));
      const std = sqrt32(Math.max(added, 0));
      for (let i = 0; i < prev.length; i++) prev[i] = prev[i]! + Math.fround(Math.fround(noise[i]! * factor) * std);
    }

    this.stepIndex = index + 1;
    return { prev_sample: new Tensor("float32", prev, sample.dims) };
  }

  /**
   * Adds noise of the sigma of `timesteps`; after {@link set_begin_index}, of the sigma at which the run is.
   *
   * @param timesteps one for all, or one per batch item
   */
  add_noise(original_samples: Tensor, noise: Tensor, timesteps: ArrayLike<number>): Tensor {
    const sigmas = Float32Array.from(this.noiseIndices(timesteps), (index) => entry(this.sigmas, index, NAME, "step"));
    return addNoiseOfSigmas(NAME, original_samples, noise, sigmas);
  }
}
