import { configDefaults } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { checkSample, checkSteps, entry } from "./checks.ts";
import { sin32, sqrt32 } from "./float32.ts";
import { linspace32 } from "./noise_schedules.ts";
import type { BaseSchedulerConfig, SchedulerOutput } from "./scheduling_utils.ts";
import { IndexedSchedulerMixin } from "./step_index.ts";

/** Config of {@link IPNDMScheduler}. */
export interface IPNDMSchedulerConfig extends BaseSchedulerConfig {
  /** The shares of noise of the caller's own, whatever the number of steps, one more than there are. Default null. */
  trained_betas: ArrayLike<number> | null;
}

const NAME = "IPNDMScheduler";
const f = Math.fround;

/**
 * Pseudo linear multistep of the fourth order from the first step on, of as high an order as there are outputs: PNDM
 * without its Runge-Kutta start, on `x_t = alpha * x_0 + beta * noise`.
 *
 * @see Diffusers `IPNDMScheduler`; https://huggingface.co/papers/2202.09778 (9), (12), (13), algorithm 2
 */
export class IPNDMScheduler extends IndexedSchedulerMixin<IPNDMSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<IPNDMSchedulerConfig> = configDefaults<IPNDMSchedulerConfig>({
    num_train_timesteps: 1000,
    trained_betas: null,
  });

  readonly init_noise_sigma: number = 1;
  /** Angles of alpha and beta over a right one, from 1 down. */
  timesteps!: Float32Array;
  /** The share of noise at each timestep, and after the last step. */
  betas!: Float32Array;
  /** The share of the data: `alpha² + beta² = 1`. */
  alphas!: Float32Array;

  /** What the last steps went by, oldest first, at most 4. */
  private ets: Float32Array[] = [];

  constructor(config: Partial<IPNDMSchedulerConfig> = {}) {
    super(config);
    this.set_timesteps(this.config.num_train_timesteps);
  }

  /**
   * Lays out the timesteps of a run, fractions of 1.
   *
   * @param num_inference_steps at least 1
   * @throws ValueError for fewer.
   */
  set_timesteps(num_inference_steps: number | null, options: Record<string, never> = {}): void {
    checkOptions(`${NAME}.set_timesteps`, options, IPNDMScheduler.set_timesteps_options);
    checkSteps(NAME, num_inference_steps);
    const { trained_betas } = this.config;
    this.betas =
      trained_betas === null
        ? linspace32(1, 0, num_inference_steps + 1)
            .map((step) => sin32(f(step * f(Math.PI)) / 2))
            .map((sine) => sine * sine)
        : Float32Array.from(trained_betas);
    // torch's square root has last bits of its own: after some hundred steps they are 1e-5 of a sample.
    this.alphas = this.betas.map((beta) => sqrt32(f(1 - f(beta * beta))));
    this.timesteps = this.betas.map((beta, i) => f(f(Math.atan2(beta, this.alphas[i]!)) / f(Math.PI)) * 2).slice(0, -1);
    this.num_inference_steps = num_inference_steps;
    this.ets = [];
    this.resetIndex();
  }

  /**
   * Predicts the sample of the timestep before.
   *
   * @param model_output `[batch, channels, ...]`
   * @param timestep one of `timesteps`; only the first of a run is looked up
   * @param sample `[batch, channels, ...]`
   * @throws ValueError for a timestep or shape that does not fit.
   */
  step(model_output: Tensor, timestep: number, sample: Tensor, options: Record<string, never> = {}): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, IPNDMScheduler.step_options);
    checkSample(`${NAME}.step`, model_output, sample);
    const index = this.startAt(timestep);
    const beta = entry(this.betas, index, NAME, "step");
    const alpha = entry(this.alphas, index, NAME, "step");
    const next_beta = entry(this.betas, index + 1, NAME, "step");
    const next_alpha = entry(this.alphas, index + 1, NAME, "step");

    // 1. the noise of a model that predicts the velocity
    const x = sample.data;
    const v = model_output.data;
    const e1 = new Float32Array(x.length);
    for (let i = 0; i < e1.length; i++) e1[i] = f(x[i]! * beta) + f(v[i]! * alpha);
    this.ets = [...this.ets.slice(-3), e1];

    // 2. extrapolated by Adams-Bashforth, (12) and (13), of the order that there are outputs for; 3. the step itself, (9)
    const order = this.ets.length;
    const [e2, e3, e4] = [this.ets[order - 2] ?? e1, this.ets[order - 3] ?? e1, this.ets[order - 4] ?? e1];
    const divisor = Math.max(alpha, f(1e-8));
    const prev = new Float32Array(x.length);
    for (let i = 0; i < prev.length; i++) {
      let e = e1[i]!;
      if (order === 2) e = f(f(3 * e) - e2[i]!) / 2;
      else if (order === 3) e = f(f(f(f(23 * e) - f(16 * e2[i]!)) + f(5 * e3[i]!)) / 12);
      else if (order === 4) {
        e = f(f(1 / 24) * f(f(f(f(55 * e) - f(59 * e2[i]!)) + f(37 * e3[i]!)) - f(9 * e4[i]!)));
      }
      const x0 = f(f(x[i]! - f(beta * e)) / divisor);
      prev[i] = f(next_alpha * x0) + f(e * next_beta);
    }

    this.stepIndex = index + 1;
    return { prev_sample: new Tensor("float32", prev, sample.dims) };
  }
}
