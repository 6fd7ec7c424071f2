import { configDefaults } from "../configuration_utils.ts";
import { checkOptions, ValueError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkSample, checkTensor, entry } from "./checks.ts";
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
import type { SchedulerOutput, SetTimestepsOptions, StepOptions } from "./scheduling_utils.ts";
import { IndexedSchedulerMixin, refuseStepIndex } from "./step_index.ts";

/** Config of {@link FlowMatchEulerDiscreteScheduler}. */
export interface FlowMatchEulerDiscreteSchedulerConfig extends FlowMatchConfig {
  /** Whether each step adds noise anew to the predicted sample, in place of following the flow. Default false. */
  stochastic_sampling: boolean;
}

/** What {@link FlowMatchEulerDiscreteScheduler.step} takes. Those that begin with `s_` change nothing, as in Diffusers. */
export type FlowMatchEulerDiscreteStepOptions = Pick<
  StepOptions,
  "s_churn" | "s_tmin" | "s_tmax" | "s_noise" | "generator" | "per_token_timesteps"
>;

const NAME = "FlowMatchEulerDiscreteScheduler";

/** The sigmas that a step goes from and to, which `tokenAt` says of each row of `channels` numbers. */
interface Levels {
  readonly current: Float32Array;
  readonly next: Float32Array;
  readonly dt: Float32Array;
  readonly channels: number;
  readonly tokenAt: (row: number) => number;
}

/**
 * Euler's method on a rectified flow, `x_sigma = (1 - sigma) * x_0 + sigma * noise`, whose velocity the model gives.
 *
 * @see Diffusers `FlowMatchEulerDiscreteScheduler`; https://huggingface.co/papers/2403.03206
 */
export class FlowMatchEulerDiscreteScheduler extends IndexedSchedulerMixin<FlowMatchEulerDiscreteSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<FlowMatchEulerDiscreteSchedulerConfig> =
    configDefaults<FlowMatchEulerDiscreteSchedulerConfig>({ ...flowMatchDefaults, stochastic_sampling: false });
  static override readonly step_options: readonly string[] = [
    "s_churn",
    "s_tmin",
    "s_tmax",
    "s_noise",
    "generator",
    "per_token_timesteps",
  ];
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

  /** @throws ValueError when more than one spacing of sigmas is asked for, or for an unknown `time_shift_type`. */
  constructor(config: Partial<FlowMatchEulerDiscreteSchedulerConfig> = {}) {
    super(config);
    checkFlowMatchConfig(NAME, this.config);
    const { num_train_timesteps, shift, use_dynamic_shifting } = this.config;
    this.sigmas = trainFlowSigmas(num_train_timesteps, use_dynamic_shifting ? 1 : shift);
    this.timesteps = this.sigmas.map((sigma) => sigma * num_train_timesteps);
    this.sigma_max = this.sigmas[0]!;
    this.sigma_min = this.sigmas[num_train_timesteps - 1]!;
    this.currentShift = shift;
  }

  /** The shift that the next `set_timesteps` uses. */
  get shift(): number {
    return this.currentShift;
  }

  /** Sets {@link shift}, in place of the config's. */
  set_shift(shift: number): void {
    this.currentShift = shift;
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
    checkOptions(`${NAME}.set_timesteps`, options, FlowMatchEulerDiscreteScheduler.set_timesteps_options);
    const { timesteps, sigmas } = flowMatchSchedule(NAME, this.config, this, num_inference_steps, options);
    if (options.timesteps !== undefined && options.sigmas === undefined) {
      console.warn(
        `${NAME}: \`timesteps\` without \`sigmas\` stay as they are, while the sigmas made of them are shifted: ` +
          "the two may not go together. Pass `sigmas`, or both.",
      );
    }
    this.num_inference_steps = timesteps.length;
    this.timesteps = timesteps;
    this.sigmas = sigmas;
    this.resetIndex();
  }

  private sigmaAt(index: number): number {
    return entry(this.sigmas, index, NAME, "step");
  }

  /**
   * Predicts the sample of the timestep before.
   *
   * @param model_output `[batch, channels, ...]`, the velocity
   * @param timestep one of `timesteps`; only the first of a run is looked up
   * @param sample `[batch, channels, ...]`, or `[batch, tokens, channels]` with `per_token_timesteps`
   * @param options `per_token_timesteps`: `[batch, tokens]`, each token then goes to the next of `sigmas` below its own
   * @throws ValueError for a timestep or shape that does not fit.
   */
  step(
    model_output: Tensor,
    timestep: number,
    sample: Tensor,
    options: FlowMatchEulerDiscreteStepOptions = {},
  ): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, FlowMatchEulerDiscreteScheduler.step_options);
    checkSample(`${NAME}.step`, model_output, sample);
    const index = this.startAt(timestep);
    refuseStepIndex(NAME, timestep, index, this.timesteps);

    // 1. the sigmas to go from and to: of the whole sample, or of each token
    const { current, next, dt, channels, tokenAt } =
      options.per_token_timesteps === undefined
        ? this.levelOfAll(index, sample.size)
        : this.levelsOfTokens(options.per_token_timesteps, sample);

    // 2. along the velocity, or to the data and back to the next sigma with noise anew
    const v = model_output.data;
    const x = sample.data;
    const prev = new Float32Array(x.length);
    const noise = this.config.stochastic_sampling
      ? randn_tensor(sample.dims, { generator: options.generator }).data
      : undefined;
    for (let row = 0; row * channels < x.length; row++) {
      const token = tokenAt(row);
      const end = (row + 1) * channels;
      if (noise === undefined) {
        const dt_i = dt[token]!;
        for (let i = row * channels; i < end; i++) prev[i] = x[i]! + Math.fround(dt_i * v[i]!);
      } else {
        const sigma = current[token]!;
        const sigma_next = next[token]!;
        const rest = Math.fround(1 - sigma_next);
        for (let i = row * channels; i < end; i++) {
          const x0 = Math.fround(x[i]! - Math.fround(sigma * v[i]!));
          prev[i] = Math.fround(rest * x0) + Math.fround(sigma_next * noise[i]!);
        }
      }
    }

    this.stepIndex = index + 1;
    return { prev_sample: new Tensor("float32", prev, sample.dims) };
  }

  private levelOfAll(index: number, size: number): Levels {
    const current = this.sigmaAt(index);
    const next = this.sigmaAt(index + 1);
    const [currents, nexts, dt] = [current, next, next - current].map((x) => Float32Array.of(x));
    return { current: currents!, next: nexts!, dt: dt!, channels: size, tokenAt: () => 0 };
  }

  private levelsOfTokens(timesteps: Tensor, sample: Tensor): Levels {
    const tokenAt = tokensOf(timesteps, sample);
    const current = timesteps.data.map((t) => t / Math.fround(this.config.num_train_timesteps));
    // The largest sigma below, 0 where none is.
    const next = current.map((sigma) => {
      const bound = Math.fround(sigma - Math.fround(1e-6));
      return this.sigmas.reduce((least, other) => (other < bound && other > least ? other : least), 0);
    });
    // The other way round than for the whole sample, as in Diffusers: LTX's pipelines negate the model's output.
    const dt = current.map((sigma, i) => sigma - next[i]!);
    return { current, next, dt, channels: sample.dims[sample.dims.length - 1]!, tokenAt };
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

/**
 * Which entry of `per_token_timesteps` a row of channels goes by. One batch item, or one token, stands for all.
 *
 * @param timesteps `[batch, tokens]`, or `[tokens]`
 * @param sample `[..., batch, tokens, channels]`
 */
function tokensOf(timesteps: Tensor, sample: Tensor): (row: number) => number {
  const { dims } = sample;
  const [batch = 1, tokens = 1] = dims.slice(-3);
  const size = timesteps instanceof Tensor && timesteps.dims.length === 1 ? [1, ...timesteps.dims] : timesteps?.dims;
  checkTensor(`${NAME}.step`, "per_token_timesteps", timesteps, timesteps?.dims ?? []);
  const [rows = 0, columns = 0] = size;
  const fits = [1, batch].includes(rows) && [1, tokens].includes(columns);
  if (dims.length < 3 || size.length !== 2 || !fits) {
    throw new ValueError(
      `${NAME}.step got \`per_token_timesteps\` of shape [${timesteps.dims}] for a [${dims}] sample.`,
      {
        className: NAME,
        field: "per_token_timesteps",
        found: `[${timesteps.dims}]`,
        expected: "[batch, tokens] for a sample of shape [batch, tokens, channels]",
      },
    );
  }
  return (row) => (rows === 1 ? 0 : (Math.floor(row / tokens) % batch) * columns) + (columns === 1 ? 0 : row % tokens);
}
