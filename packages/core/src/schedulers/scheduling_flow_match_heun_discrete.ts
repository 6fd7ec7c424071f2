import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions, ValueError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkSample, checkSteps, entry, stepsNotSet } from "./checks.ts";
import { mixPerSample, sqrt32 } from "./float32.ts";
import { shiftedSigmas, trainFlowSigmas } from "./flow_match.ts";
import type { BaseSchedulerConfig, SchedulerOutput, StepOptions } from "./scheduling_utils.ts";
import { linspace } from "./spacing.ts";
import { IndexedSchedulerMixin, refuseStepIndex } from "./step_index.ts";

/** Config of {@link FlowMatchHeunDiscreteScheduler}. */
export interface FlowMatchHeunDiscreteSchedulerConfig extends BaseSchedulerConfig {
  /** Shifts the sigmas towards noise (above 1) or away from it. Default 1. */
  shift: number;
}

/** What {@link FlowMatchHeunDiscreteScheduler.step} takes. */
export type FlowMatchHeunDiscreteStepOptions = Pick<
  StepOptions,
  "s_churn" | "s_tmin" | "s_tmax" | "s_noise" | "generator"
>;

/** What the first half of a step leaves for the second. */
interface HalfStep {
  readonly derivative: Float32Array;
  readonly dt: number;
  /** The sample that the step started from. */
  readonly sample: Float32Array;
}

const NAME = "FlowMatchHeunDiscreteScheduler";

/**
 * Heun's method on a rectified flow: an Euler step, then the same step by the mean of the velocities at its two ends.
 *
 * @see Diffusers `FlowMatchHeunDiscreteScheduler`; https://huggingface.co/papers/2206.00364 (algorithm 1)
 */
export class FlowMatchHeunDiscreteScheduler extends IndexedSchedulerMixin<FlowMatchHeunDiscreteSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<FlowMatchHeunDiscreteSchedulerConfig> =
    configDefaults<FlowMatchHeunDiscreteSchedulerConfig>({ num_train_timesteps: 1000, shift: float(1) });
  static override readonly step_options: readonly string[] = ["s_churn", "s_tmin", "s_tmax", "s_noise", "generator"];

  override readonly order: number = 2;
  /** Flow matching starts from plain noise. */
  readonly init_noise_sigma: number = 1;
  timesteps: Float32Array;
  /** The share of noise at each timestep, and after the last step. */
  sigmas: Float32Array;
  /** The training's last sigma. */
  readonly sigma_min: number;
  /** The training's first sigma. */
  readonly sigma_max: number;

  private half: HalfStep | undefined;

  constructor(config: Partial<FlowMatchHeunDiscreteSchedulerConfig> = {}) {
    super(config);
    const { num_train_timesteps, shift } = this.config;
    this.sigmas = trainFlowSigmas(num_train_timesteps, shift);
    this.timesteps = this.sigmas.map((sigma) => sigma * num_train_timesteps);
    this.sigma_max = this.sigmas[0]!;
    this.sigma_min = this.sigmas[num_train_timesteps - 1]!;
  }

  /**
   * Lays out the timesteps and sigmas of a run: all but the first come twice. The training's ends, which are shifted
   * already, are shifted once more.
   *
   * @param num_inference_steps at least 1; the model is called `2 * num_inference_steps - 1` times
   * @throws ValueError for fewer.
   */
  set_timesteps(num_inference_steps: number | null, options: Record<string, never> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, FlowMatchHeunDiscreteScheduler.set_timesteps_options);
    checkSteps(NAME, num_inference_steps);
    const { num_train_timesteps: count, shift } = this.config;
    const spaced = linspace(this.sigma_max * count, this.sigma_min * count, num_inference_steps).map((t) => t / count);
    const [first, ...rest] = Float32Array.from(shiftedSigmas(spaced, shift));
    const sigmas = [first!, ...rest.flatMap((sigma) => [sigma, sigma])];

    this.num_inference_steps = num_inference_steps;
    this.timesteps = Float32Array.from(sigmas, (sigma) => sigma * count);
    this.sigmas = Float32Array.from([...sigmas, 0]);
    this.half = undefined;
    this.resetIndex();
  }

  /** Whether the next step is the first half of one. */
  get state_in_first_order(): boolean {
    return this.half === undefined;
  }

  private sigmaAt(index: number): number {
    return entry(this.sigmas, index, NAME, "step");
  }

  /**
   * Predicts the sample of the timestep before: of each two calls the first one takes a whole step, which the second one
   * takes again.
   *
   * @param model_output `[batch, channels, ...]`, the velocity
   * @param timestep one of `timesteps`; only the first of a run is looked up
   * @param sample `[batch, channels, ...]`
   * @throws ValueError before `set_timesteps`, or for a timestep or shape that does not fit.
   */
  step(
    model_output: Tensor,
    timestep: number,
    sample: Tensor,
    options: FlowMatchHeunDiscreteStepOptions = {},
  ): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, FlowMatchHeunDiscreteScheduler.step_options);
    checkSample(`${NAME}.step`, model_output, sample);
    const { s_churn = 0, s_tmin = 0, s_tmax = Number.POSITIVE_INFINITY, s_noise = 1 } = options;
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    const index = this.startAt(timestep);
    refuseStepIndex(NAME, timestep, index, this.timesteps);
    const { half } = this;
    const sigma = this.sigmaAt(half === undefined ? index : index - 1);
    const sigma_next = this.sigmaAt(half === undefined ? index + 1 : index);

    // Churn raises the noise level to sigma_hat.
    const churned = Math.fround(s_tmin) <= sigma && sigma <= Math.fround(s_tmax);
    const gamma = churned ? Math.min(s_churn / (this.sigmas.length - 1), Math.SQRT2 - 1) : 0;
    const sigma_hat = Math.fround(sigma * Math.fround(gamma + 1));
    const x = sample.data.slice();
    if (gamma > 0) {
      const noise = randn_tensor(sample.dims, { generator: options.generator }).data;
      const factor = Math.fround(s_noise);
      const scale = sqrt32(Math.fround(Math.fround(sigma_hat * sigma_hat) - Math.fround(sigma * sigma)));
      for (let i = 0; i < x.length; i++) x[i] = x[i]! + Math.fround(Math.fround(noise[i]! * factor) * scale);
    }

    const v = model_output.data;
    const prev = new Float32Array(x.length);
    if (half === undefined) {
      // 1. the derivative at sigma, (x - x_0) / sigma_hat, and an Euler step along it
      const dt = Math.fround(sigma_next - sigma_hat);
      const derivative = new Float32Array(x.length);
      for (let i = 0; i < prev.length; i++) {
        const x0 = Math.fround(x[i]! - Math.fround(v[i]! * sigma));
        derivative[i] = Math.fround(x[i]! - x0) / sigma_hat;
        prev[i] = x[i]! + Math.fround(derivative[i]! * dt);
      }
      this.half = { derivative, dt, sample: x };
    } else {
      // 2. the derivative where that step came out, and the step anew along the mean of both
      for (let i = 0; i < prev.length; i++) {
        const x0 = Math.fround(x[i]! - Math.fround(v[i]! * sigma_next));
        const derivative = Math.fround(Math.fround(x[i]! - x0) / sigma_next);
        const mean = 0.5 * Math.fround(half.derivative[i]! + derivative);
        prev[i] = half.sample[i]! + Math.fround(mean * half.dt);
      }
      this.half = undefined;
    }

    this.stepIndex = index + 1;
    return { prev_sample: new Tensor("float32", prev, sample.dims) };
  }

  /**
   * Mixes noise into samples, by the share of noise at which the run is, or begins. As in Diffusers the first call also
   * says where the run begins: at its timestep, or at what {@link set_begin_index} was given.
   *
   * @param sample `[batch, channels, ...]`
   * @param timesteps one timestep
   * @param noise of the shape of `sample`
   * @throws ValueError for a timestep or shape that does not fit.
   */
  scale_noise(sample: Tensor, timesteps: ArrayLike<number>, noise: Tensor): Tensor {
    if (this.stepIndex === null && this.beginIndex === null && timesteps.length !== 1) {
      throw new ValueError(`${NAME}.scale_noise got ${timesteps.length} timesteps: give one for all batch items.`, {
        className: NAME,
        field: "timesteps",
        found: String(timesteps.length),
        expected: "1",
      });
    }
    const sigma = Float32Array.of(this.sigmaAt(this.startAt(timesteps[0]!)));
    const rest = sigma.map((s) => 1 - s);
    return mixPerSample(`${NAME}.scale_noise`, rest, sample, sigma, noise);
  }
}
