import { configDefaults, float } from "../configuration_utils.ts";
import { checkOptions, UnsupportedModelError, ValueError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { randn_tensor } from "../torch_utils.ts";
import { checkSample, checkSteps, checkTensor, entry, stepsNotSet } from "./checks.ts";
import { sqrt32 } from "./float32.ts";
import { alphasCumprod, type BetaConfig, commonBetaSchedules, makeBetas } from "./noise_schedules.ts";
import {
  SchedulerMixin,
  type SchedulerOutput,
  type SetTimestepsOptions,
  type StepOptions,
  type Timesteps,
} from "./scheduling_utils.ts";
import { clampSample } from "./thresholding.ts";

/** Config of {@link RePaintScheduler}. */
export interface RePaintSchedulerConfig extends BetaConfig {
  /** The weight of the added noise, from 0 (as DDIM) to 1 (as DDPM). Default 0. */
  eta: number;
  /** Whether to clip the predicted sample to -1..1. Default true. */
  clip_sample: boolean;
}

/** What {@link RePaintScheduler.step} and {@link RePaintScheduler.undo_step} take. */
export type RePaintStepOptions = Pick<StepOptions, "generator">;

const NAME = "RePaintScheduler";

/**
 * Inpainting with a model that was never trained for it: at each step the known part comes from the picture, diffused
 * to the step's noise level, and the rest from the model. Jumps back in time let the two grow together.
 *
 * Where a timestep is larger than the one before it, the loop calls {@link undo_step}, otherwise {@link step}.
 *
 * @see Diffusers `RePaintScheduler`; https://huggingface.co/papers/2201.09865 (algorithm 1)
 */
export class RePaintScheduler extends SchedulerMixin<RePaintSchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<RePaintSchedulerConfig> = configDefaults<RePaintSchedulerConfig>({
    num_train_timesteps: 1000,
    beta_start: 0.0001,
    beta_end: 0.02,
    beta_schedule: "linear",
    eta: float(0),
    trained_betas: null,
    clip_sample: true,
  });
  static override readonly step_options: readonly string[] = ["generator"];
  static override readonly set_timesteps_options: readonly string[] = ["jump_length", "jump_n_sample"];

  readonly init_noise_sigma: number = 1;
  timesteps: Timesteps;
  /** The weight of the added noise; a pipeline may set it. Default: the config's. */
  eta: number;
  /** `[num_train_timesteps]`. */
  readonly betas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas_cumprod: Float32Array;
  /** The `alphas_cumprod` that the last step goes to. */
  readonly final_alpha_cumprod: number = 1;

  /** @throws UnsupportedModelError for an unknown `beta_schedule`. */
  constructor(config: Partial<RePaintSchedulerConfig> = {}) {
    super(config);
    const { num_train_timesteps, eta } = this.config;
    this.betas = makeBetas(NAME, this.config, [...commonBetaSchedules, "sigmoid"]);
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    this.timesteps = Int32Array.from({ length: num_train_timesteps }, (_, i) => num_train_timesteps - 1 - i);
    this.eta = eta;
  }

  /**
   * Lays out the timesteps of a run, those of its jumps back included.
   *
   * @param num_inference_steps at least 1; more than `num_train_timesteps` are as many
   * @throws ValueError for another number of steps, a jump of no length, or numbers that are not whole.
   * @see https://huggingface.co/papers/2201.09865 (figures 9 and 10)
   */
  set_timesteps(
    num_inference_steps: number | null,
    options: Pick<SetTimestepsOptions, "jump_length" | "jump_n_sample"> = {},
  ): void {
    checkOptions(`${NAME}.set_timesteps`, options, RePaintScheduler.set_timesteps_options);
    checkSteps(NAME, num_inference_steps);
    const { jump_length = 10, jump_n_sample = 10 } = options;
    checkJumps(jump_length, jump_n_sample);
    const { num_train_timesteps } = this.config;
    const steps = Math.min(num_train_timesteps, num_inference_steps);
    const ratio = Math.floor(num_train_timesteps / steps);

    // How often a jump is still to be made from each of its starts.
    const jumps = new Map<number, number>();
    if (jump_length > 0) {
      for (let start = 0; start < steps - jump_length; start += jump_length) jumps.set(start, jump_n_sample - 1);
    }
    const timesteps: number[] = [];
    let t = steps;
    while (t >= 1) {
      t -= 1;
      timesteps.push(t * ratio);
      const left = jumps.get(t) ?? 0;
      if (left <= 0) continue;
      jumps.set(t, left - 1);
      for (let i = 1; i <= jump_length; i++) timesteps.push((t + i) * ratio);
      t += jump_length;
    }
    this.num_inference_steps = steps;
    this.timesteps = Int32Array.from(timesteps);
  }

  /**
   * Predicts the sample of the timestep before, with the known part of the picture put in.
   *
   * @param model_output the predicted noise, `[batch, channels, ...]`
   * @param timestep one of `timesteps`
   * @param sample `[batch, channels, ...]`
   * @param original_image the picture, of a shape that broadcasts to the sample's
   * @param mask 1 where the picture is known and 0 where it is to be painted, of a shape that broadcasts likewise
   * @throws ValueError before `set_timesteps`, or for a timestep or shape that does not fit.
   */
  step(
    model_output: Tensor,
    timestep: number,
    sample: Tensor,
    original_image: Tensor,
    mask: Tensor,
    options: RePaintStepOptions = {},
  ): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, RePaintScheduler.step_options);
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    checkSample(`${NAME}.step`, model_output, sample);
    const known = broadcast("original_image", original_image, sample.dims);
    const m = broadcast("mask", mask, sample.dims);
    const { num_train_timesteps, clip_sample } = this.config;
    const { eta } = this;
    const prev_timestep = timestep - Math.floor(num_train_timesteps / this.num_inference_steps);

    // 1. alphas and betas
    const alpha_prod_t = entry(this.alphas_cumprod, timestep, NAME, "timestep");
    const alpha_prod_t_prev =
      prev_timestep >= 0 ? entry(this.alphas_cumprod, prev_timestep, NAME, "timestep") : this.final_alpha_cumprod;
    const beta_prod_t = Math.fround(1 - alpha_prod_t);
    const beta_prod_t_prev = Math.fround(1 - alpha_prod_t_prev);
    const sqrt_alpha = sqrt32(alpha_prod_t);
    const sqrt_beta = sqrt32(beta_prod_t);
    const sqrt_alpha_prev = sqrt32(alpha_prod_t_prev);
    const sqrt_beta_prev = sqrt32(beta_prod_t_prev);

    // 5. and 6. coefficients of DDIM's formulas (16) and (12), which take the place of DDPM's (7) for the unknown part
    const variance = Math.fround(
      Math.fround(beta_prod_t_prev / beta_prod_t) * Math.fround(1 - Math.fround(alpha_prod_t / alpha_prod_t_prev)),
    );
    const std_dev_t = Math.fround(Math.fround(eta) * sqrt32(variance));
    const std = timestep > 0 && eta > 0 ? std_dev_t : 0;
    const direction_variance = Math.fround(beta_prod_t_prev - Math.fround(std_dev_t * std_dev_t));
    // Up to eta = 1 it is not negative but for rounding, of which Diffusers makes NaN.
    const direction_coeff = sqrt32(eta <= 1 ? Math.max(direction_variance, 0) : direction_variance);

    // 2. predicted x_0, and 3. clip it
    const x = sample.data;
    const e = model_output.data;
    const x0 = new Float32Array(x.length);
    for (let i = 0; i < x0.length; i++) x0[i] = Math.fround(x[i]! - Math.fround(sqrt_beta * e[i]!)) / sqrt_alpha;
    if (clip_sample) clampSample(x0, 1);

    const noise = randn_tensor(sample.dims, options).data;
    const prev = new Float32Array(x.length);
    for (let i = 0; i < prev.length; i++) {
      // 5. to 7. the unknown part of x_t-1
      const mean = Math.fround(Math.fround(sqrt_alpha_prev * x0[i]!) + Math.fround(direction_coeff * e[i]!));
      const unknown_part = Math.fround(mean + Math.fround(std * noise[i]!));

      // 8. the known part, of the same noise: the picture diffused by formula (8a); line 5 forgets a square root
      const known_part = Math.fround(
        Math.fround(sqrt_alpha_prev * known[i]!) + Math.fround(sqrt_beta_prev * noise[i]!),
      );

      // 9. line 8: each where it belongs
      prev[i] = Math.fround(m[i]! * known_part) + Math.fround(Math.fround(1 - m[i]!) * unknown_part);
    }
    return {
      prev_sample: new Tensor("float32", prev, sample.dims),
      pred_original_sample: new Tensor("float32", x0, sample.dims),
    };
  }

  /**
   * Diffuses a sample by one step, forward in time.
   *
   * @param sample `[batch, channels, ...]` at `timestep`
   * @param timestep the timestep to go on from
   * @throws ValueError before `set_timesteps`, or where the schedule has no such timesteps.
   * @see https://huggingface.co/papers/2201.09865 (algorithm 1, line 10)
   */
  undo_step(sample: Tensor, timestep: number, options: RePaintStepOptions = {}): Tensor {
    checkOptions(`${NAME}.undo_step`, options, RePaintScheduler.step_options);
    if (this.num_inference_steps === null) stepsNotSet(NAME);
    checkTensor(`${NAME}.undo_step`, "sample", sample, sample.dims);
    // One step of the run is several of the training's.
    const count = Math.floor(this.config.num_train_timesteps / this.num_inference_steps);
    const betas = Array.from({ length: count }, (_, i) => entry(this.betas, timestep + i, NAME, "timestep"));
    const x = sample.data.slice();
    for (const beta of betas) {
      const noise = randn_tensor(sample.dims, options).data;
      const sqrt_alpha = sqrt32(Math.fround(1 - beta));
      const sqrt_beta = sqrt32(beta);
      for (let i = 0; i < x.length; i++) x[i] = Math.fround(sqrt_alpha * x[i]!) + Math.fround(sqrt_beta * noise[i]!);
    }
    return new Tensor("float32", x, sample.dims);
  }

  /** @throws UnsupportedModelError always: nothing is trained with this scheduler. */
  add_noise(): never {
    throw new UnsupportedModelError(`${NAME} has no add_noise. Use DDPMScheduler.add_noise of the same config.`, {
      className: NAME,
      field: "add_noise",
    });
  }
}

function checkJumps(jump_length: number, jump_n_sample: number): void {
  for (const [field, value] of Object.entries({ jump_length, jump_n_sample })) {
    if (Number.isInteger(value) && (field !== "jump_length" || value !== 0)) continue;
    const expected = field === "jump_length" ? "a whole number, not 0" : "a whole number";
    throw new ValueError(`${NAME}.set_timesteps needs \`${field}\` to be ${expected}, got ${value}.`, {
      className: NAME,
      field,
      found: String(value),
      expected,
    });
  }
}

/** The values of a tensor, repeated to fill `dims`. @throws ValueError for a shape that does not broadcast. */
function broadcast(name: string, tensor: Tensor, dims: readonly number[]): Float32Array {
  checkTensor(`${NAME}.step`, name, tensor, tensor.dims);
  const same = tensor.dims.length === dims.length && tensor.dims.every((size, i) => size === dims[i]);
  return same ? tensor.data : tensor.expand(...dims).data;
}
