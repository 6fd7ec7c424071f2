import { configDefaults } from "../configuration_utils.ts";
import { checkOptions, ValueError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkSample, checkSteps, checkStepsTrained, entry, stepsNotSet, unknownValue } from "./checks.ts";
import { cos32, sin32 } from "./float32.ts";
import { linspace32 } from "./noise_schedules.ts";
import type {
  BaseSchedulerConfig,
  SchedulerOutput,
  SetTimestepsOptions,
  StepOptions,
  Timesteps,
} from "./scheduling_utils.ts";
import { IndexedSchedulerMixin } from "./step_index.ts";

/** Config of {@link SCMScheduler}. */
export interface SCMSchedulerConfig extends BaseSchedulerConfig {
  /** "trigflow", the only one there is. Default "trigflow". */
  prediction_type: "trigflow" | (string & {});
  /** The standard deviation of the data, and of the noise that steps add. Default 0.5. */
  sigma_data: number;
}

/** What {@link SCMScheduler.step} takes. */
export type SCMStepOptions = Pick<StepOptions, "generator">;

const NAME = "SCMScheduler";

/**
 * Sampling of continuous-time consistency models (SANA-Sprint) in TrigFlow: `x_t = cos(t) * x_0 + sin(t) * z`, time in
 * radians; to the data in one step, and back to the next time with noise anew.
 *
 * @see Diffusers `SCMScheduler`; https://huggingface.co/papers/2410.11081 (sCM), https://huggingface.co/papers/2503.09641
 */
export class SCMScheduler extends IndexedSchedulerMixin<SCMSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<SCMSchedulerConfig> = configDefaults<SCMSchedulerConfig>({
    num_train_timesteps: 1000,
    prediction_type: "trigflow",
    sigma_data: 0.5,
  });
  static override readonly step_options: readonly string[] = ["generator"];
  static override readonly set_timesteps_options: readonly string[] = [
    "timesteps",
    "max_timesteps",
    "intermediate_timesteps",
  ];

  readonly init_noise_sigma: number = 1;
  /** Times in radians, one more than steps: the last one is where the last step goes to. */
  timesteps: Timesteps;

  constructor(config: Partial<SCMSchedulerConfig> = {}) {
    super(config);
    const { num_train_timesteps } = this.config;
    this.timesteps = Int32Array.from({ length: num_train_timesteps }, (_, i) => num_train_timesteps - 1 - i);
  }

  /**
   * Lays out the times of a run: the caller's, or from `max_timesteps` through `intermediate_timesteps` to 0, or evenly
   * spaced ones.
   *
   * @param num_inference_steps at least 1; 2, unless `intermediate_timesteps` is null
   * @param options `timesteps`, with `max_timesteps: null`: one more than steps
   * @throws ValueError for options that do not go together, or more steps than the training had.
   */
  set_timesteps(
    num_inference_steps: number | null,
    options: Pick<SetTimestepsOptions, "timesteps" | "max_timesteps" | "intermediate_timesteps"> = {},
  ): void {
    checkOptions(`${NAME}.set_timesteps`, options, SCMScheduler.set_timesteps_options);
    const { timesteps, max_timesteps = 1.5708, intermediate_timesteps = 1.3 } = options;
    checkSteps(NAME, num_inference_steps);
    checkStepsTrained(NAME, num_inference_steps, this.config.num_train_timesteps);
    if (timesteps !== undefined && timesteps.length !== num_inference_steps + 1) {
      throw new ValueError(
        `${NAME}.set_timesteps got ${timesteps.length} \`timesteps\` for ${num_inference_steps} steps: give one more.`,
        {
          className: NAME,
          field: "timesteps",
          found: String(timesteps.length),
          expected: String(num_inference_steps + 1),
        },
      );
    }
    if ((timesteps !== undefined) === (max_timesteps !== null)) {
      throw new ValueError("Must pass exactly one of `timesteps` (with `max_timesteps: null`) and `max_timesteps`.", {
        className: NAME,
        field: "max_timesteps",
      });
    }
    if (intermediate_timesteps !== null && num_inference_steps !== 2) {
      throw new ValueError(
        `${NAME} has an intermediate timestep in runs of 2 steps only, got ${num_inference_steps}: ` +
          "pass `intermediate_timesteps: null`.",
        {
          className: NAME,
          field: "intermediate_timesteps",
          found: String(intermediate_timesteps),
          expected: "null",
        },
      );
    }

    if (timesteps !== undefined) this.timesteps = Float32Array.from(timesteps);
    else if (intermediate_timesteps !== null)
      this.timesteps = Float32Array.of(max_timesteps!, intermediate_timesteps, 0);
    else this.timesteps = linspace32(max_timesteps!, 0, num_inference_steps + 1);
    this.num_inference_steps = num_inference_steps;
    this.resetIndex();
  }

  /**
   * Predicts the sample of the time before.
   *
   * @param model_output `[batch, channels, ...]`
   * @param timestep one of `timesteps`; only the first of a run is looked up
   * @param sample `[batch, channels, ...]`
   * @throws ValueError before `set_timesteps`, for an unknown `prediction_type`, or a timestep or shape that does not fit.
   */
  step(model_output: Tensor, timestep: number, sample: Tensor, options: SCMStepOptions = {}): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, SCMScheduler.step_options);
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    checkSample(`${NAME}.step`, model_output, sample);
    const { prediction_type } = this.config;
    const index = this.startAt(timestep);
    const t = entry(this.timesteps, index + 1, NAME, "step");
    const s = entry(this.timesteps, index, NAME, "step");
    if (prediction_type !== "trigflow") unknownValue(NAME, "prediction_type", prediction_type, ["trigflow"]);

    // From time s to the data, x_0 = cos(s) * x_s - sin(s) * F, and from there with noise z to time t.
    const [cos_s, sin_s, cos_t, sin_t] = [cos32(s), sin32(s), cos32(t), sin32(t)];
    const sigma_data = Math.fround(this.config.sigma_data);
    const z = randn_tensor(sample.dims, { generator: options.generator }).data;
    const x = sample.data;
    const F = model_output.data;
    const x0 = new Float32Array(x.length);
    const prev = new Float32Array(x.length);
    for (let i = 0; i < x0.length; i++) {
      x0[i] = Math.fround(cos_s * x[i]!) - Math.fround(sin_s * F[i]!);
      prev[i] = Math.fround(cos_t * x0[i]!) + Math.fround(sin_t * Math.fround(z[i]! * sigma_data));
    }

    this.stepIndex = index + 1;
    return {
      prev_sample: new Tensor("float32", prev, sample.dims),
      pred_original_sample: new Tensor("float32", x0, sample.dims),
    };
  }
}
