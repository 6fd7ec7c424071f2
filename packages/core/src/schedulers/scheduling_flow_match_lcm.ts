import { configDefaults } from "../configuration_utils.ts";
import { checkOptions, ValueError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkSample, entry } from "./checks.ts";
import { mixPerSample } from "./float32.ts";
import {
  checkFlowMatchConfig,
  type FlowMatchConfig,
  flowMatchDefaults,
  flowMatchSchedule,
  stretchedToTerminal,
  timeShift,
  trainFlowSigmas,
} from "./flow_match.ts";
import { type InterpolationMode, interpolateTo } from "./interpolate.ts";
import type { SchedulerOutput, SetTimestepsOptions, StepOptions } from "./scheduling_utils.ts";
import { roundHalfEven } from "./spacing.ts";
import { IndexedSchedulerMixin, refuseStepIndex } from "./step_index.ts";

/** Config of {@link FlowMatchLCMScheduler}. */
export interface FlowMatchLCMSchedulerConfig extends FlowMatchConfig {
  /** Generation scale by scale: the size of the sample after each step but the last, over the first one. Default null. */
  scale_factors: readonly number[] | null;
  /** How the predicted sample is resized to those scales. Default "bicubic". */
  upscale_mode: InterpolationMode | (string & {});
}

/** What {@link FlowMatchLCMScheduler.step} takes. */
export type FlowMatchLCMStepOptions = Pick<StepOptions, "generator">;

const NAME = "FlowMatchLCMScheduler";

/**
 * Multistep consistency sampling on a rectified flow: to the data in one step, and back to the next sigma with noise
 * anew; from scale to scale where `scale_factors` are set.
 *
 * @see Diffusers `FlowMatchLCMScheduler`; https://huggingface.co/papers/2310.04378 (algorithm 3),
 * https://huggingface.co/papers/2503.16397
 */
export class FlowMatchLCMScheduler extends IndexedSchedulerMixin<FlowMatchLCMSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<FlowMatchLCMSchedulerConfig> =
    configDefaults<FlowMatchLCMSchedulerConfig>({
      ...flowMatchDefaults,
      scale_factors: null,
      upscale_mode: "bicubic",
    });
  static override readonly step_options: readonly string[] = ["generator"];
  static override readonly set_timesteps_options: readonly string[] = ["sigmas", "mu", "timesteps"];

  /** Flow matching starts from plain noise. */
  readonly init_noise_sigma: number = 1;
  timesteps: Float32Array;
  /** The share of noise at each timestep, and after the last step. */
  sigmas: Float32Array;
  /** The training's last sigma. */
  readonly sigma_min: number;
  /** The training's first sigma. */
  readonly sigma_max: number;

  private currentShift: number;
  private scaleFactors: readonly number[];
  private upscaleMode: string;
  /** The spatial dimensions of the run's first sample. */
  private initSize: readonly number[] = [];

  /** @throws ValueError when more than one spacing of sigmas is asked for, or for an unknown `time_shift_type`. */
  constructor(config: Partial<FlowMatchLCMSchedulerConfig> = {}) {
    super(config);
    checkFlowMatchConfig(NAME, this.config);
    const { num_train_timesteps, shift, use_dynamic_shifting, scale_factors, upscale_mode } = this.config;
    this.sigmas = trainFlowSigmas(num_train_timesteps, use_dynamic_shifting ? 1 : shift);
    this.timesteps = this.sigmas.map((sigma) => sigma * num_train_timesteps);
    this.sigma_max = this.sigmas[0]!;
    this.sigma_min = this.sigmas[num_train_timesteps - 1]!;
    this.currentShift = shift;
    this.scaleFactors = scale_factors ?? [];
    this.upscaleMode = upscale_mode;
  }

  /** The shift that the next `set_timesteps` uses. */
  get shift(): number {
    return this.currentShift;
  }

  /** Sets {@link shift}, in place of the config's. */
  set_shift(shift: number): void {
    this.currentShift = shift;
  }

  /** Sets the scales of the steps but the last, and how to get to them, in place of the config's. */
  set_scale_factors(scale_factors: readonly number[], upscale_mode: string): void {
    this.scaleFactors = [...scale_factors];
    this.upscaleMode = upscale_mode;
  }

  /** Shifts times between 0 and 1 by `mu`, as `time_shift_type` says; `sigma` is an exponent, 1 in `set_timesteps`. */
  time_shift<T extends Float32Array | Float64Array>(mu: number, sigma: number, t: T): T {
    return timeShift(this.config.time_shift_type, mu, sigma, t);
  }

  /** Stretches descending times so that the last one is `shift_terminal`. */
  stretch_shift_to_terminal<T extends Float32Array | Float64Array>(t: T): T {
    return stretchedToTerminal(t, this.config.shift_terminal ?? 0);
  }

  /**
   * Lays out the timesteps and sigmas of a run.
   *
   * @param num_inference_steps at least 1; null with `sigmas` or `timesteps`, of which there are as many
   * @param options `sigmas` are shifted, their final 0 left out; `timesteps` alone are not, but their sigmas are
   * @throws ValueError for lists of another length, no steps, or no `mu` with `use_dynamic_shifting`.
   */
  set_timesteps(
    num_inference_steps: number | null,
    options: Pick<SetTimestepsOptions, "sigmas" | "mu" | "timesteps"> = {},
  ): void {
    checkOptions(`${NAME}.set_timesteps`, options, FlowMatchLCMScheduler.set_timesteps_options);
    const { timesteps, sigmas } = flowMatchSchedule(NAME, this.config, this, num_inference_steps, options);
    this.num_inference_steps = timesteps.length;
    this.timesteps = timesteps;
    this.sigmas = sigmas;
    this.resetIndex();
  }

  private sigmaAt(index: number): number {
    return entry(this.sigmas, index, NAME, "step");
  }

  /**
   * Predicts the sample of the timestep before, of the next scale where there are scale factors.
   *
   * @param model_output `[batch, channels, ...]`, the velocity
   * @param timestep one of `timesteps`; only the first of a run is looked up
   * @param sample `[batch, channels, ...]`
   * @throws ValueError for a timestep, a shape or a number of scale factors that does not fit.
   * @throws UnsupportedModelError for an `upscale_mode` that is not for samples of this rank.
   */
  step(model_output: Tensor, timestep: number, sample: Tensor, options: FlowMatchLCMStepOptions = {}): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, FlowMatchLCMScheduler.step_options);
    checkSample(`${NAME}.step`, model_output, sample);
    const scales = this.upscaleMode === "" ? [] : this.scaleFactors;
    if (scales.length > 0 && scales.length !== this.timesteps.length - 1) {
      throw new ValueError(`${NAME} has ${scales.length} scale factors for a run of ${this.timesteps.length} steps.`, {
        className: NAME,
        field: "scale_factors",
        found: String(scales.length),
        expected: `${this.timesteps.length - 1}, one less than the steps`,
      });
    }
    if (this.stepIndex === null) this.initSize = sample.dims.slice(2);
    const index = this.startAt(timestep);
    refuseStepIndex(NAME, timestep, index, this.timesteps);
    const sigma = this.sigmaAt(index);
    const sigma_next = this.sigmaAt(index + 1);

    // 1. the predicted sample x_0
    const v = model_output.data;
    const predicted = new Float32Array(v.length);
    for (let i = 0; i < predicted.length; i++) predicted[i] = sample.data[i]! - Math.fround(sigma * v[i]!);
    let x0 = new Tensor("float32", predicted, sample.dims);

    // 2. the next scale
    const scale = scales[index];
    if (scale !== undefined) {
      const size = this.initSize.map((n) => roundHalfEven(scale * n));
      x0 = interpolateTo(`${NAME}.step`, x0, size, this.upscaleMode);
    }

    // 3. noise of the next sigma
    const noise = randn_tensor(x0.dims, { generator: options.generator }).data;
    const rest = Math.fround(1 - sigma_next);
    const prev = new Float32Array(x0.size);
    for (let i = 0; i < prev.length; i++)
      prev[i] = Math.fround(rest * x0.data[i]!) + Math.fround(sigma_next * noise[i]!);

    this.stepIndex = index + 1;
    return { prev_sample: new Tensor("float32", prev, x0.dims) };
  }

  /**
   * Mixes noise into samples, by the share of noise at `timesteps`; after {@link set_begin_index}, at which the run is.
   *
   * @param sample `[batch, channels, ...]`
   * @param timesteps one for all, or one per batch item
   * @param noise of the shape of `sample`
   * @throws ValueError for a timestep or shape that does not fit.
   */
  scale_noise(sample: Tensor, timesteps: ArrayLike<number>, noise: Tensor): Tensor {
    const sigmas = Float32Array.from(this.noiseIndices(timesteps), (index) => this.sigmaAt(index));
    const rest = sigmas.map((sigma) => 1 - sigma);
    return mixPerSample(`${NAME}.scale_noise`, rest, sample, sigmas, noise);
  }
}
