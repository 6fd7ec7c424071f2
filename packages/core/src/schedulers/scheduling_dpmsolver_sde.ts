import { configDefaults } from "../configuration_utils.ts";
import { checkOptions } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { BrownianTreeNoiseSampler } from "./brownian_tree.ts";
import { checkSample, checkSteps, checkTensor, entry } from "./checks.ts";
import { addNoiseOfSigmas, exp32, expm1_32, log32, sqrt32 } from "./float32.ts";
import { alphasCumprod, type BetaConfig, commonBetaSchedules, makeBetas, sigmasOf } from "./noise_schedules.ts";
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
import { interleaved, spacedTimesteps64, twiceButFirst } from "./spacing.ts";
import { IndexedSchedulerMixin } from "./step_index.ts";

/** Config of {@link DPMSolverSDEScheduler}. */
export interface DPMSolverSDESchedulerConfig extends BetaConfig, SigmaConfig {
  /** The first beta. Default 0.00085. */
  beta_start: number;
  /** The last beta. Default 0.012. */
  beta_end: number;
  /** "epsilon" or "v_prediction". Default "epsilon". */
  prediction_type: PredictionType;
  /** What seeds the noise: a whole number from 0, or one per batch item; null: at random, anew for each run. Default null. */
  noise_sampler_seed: number | readonly number[] | null;
  /** Default "linspace". */
  timestep_spacing: TimestepSpacing;
  /** Added to each timestep of "leading" spacing. Default 0. */
  steps_offset: number;
}

/** What {@link DPMSolverSDEScheduler.step} takes. */
export type DPMSolverSDEStepOptions = Pick<StepOptions, "s_noise">;

const NAME = "DPMSolverSDEScheduler";
const f = Math.fround;

/**
 * DPM-Solver++ of the second order for the diffusion SDE: a step to the midpoint in `-log(sigma)`, then one over the
 * whole of it with what the model says there. All timesteps but the last take two calls of `step` and of the model.
 *
 * Its noise is not drawn step by step but read off a Brownian path in sigma that `noise_sampler_seed` determines, so
 * that more steps refine the picture of fewer. The path is a dyadic tree from the least to the largest sigma. The noise
 * of each node is `torch.randn`'s, seeded by numpy's `SeedSequence` with the seed for its entropy, and the node's place
 * and depth for its spawn key. As in Python the path is of the whole sample, or with a list of seeds of each batch item.
 *
 * How close a seeded run is to Python's: between equal sigmas, increments of the path are the same bit for bit. The sigmas
 * are not always. torch's square root, logarithm and exponential are a last bit off for some numbers, for which ones
 * depends on the CPU, and such a bit moves the end of a step on the path by a millionth or two, and its noise by up to
 * some thousandths. Of 150 random runs 117 were within 1e-5 of torch's on one machine, and the others within 2e-3, of
 * the scale. With a torch that rounds exactly 299 of 300 were.
 *
 * A step makes and adds up some 20 tensors of normal noise of the sample's size, which takes longer than all the rest.
 *
 * @see Diffusers `DPMSolverSDEScheduler`; https://huggingface.co/papers/2211.01095; {@link BrownianTreeNoiseSampler}
 */
export class DPMSolverSDEScheduler extends IndexedSchedulerMixin<DPMSolverSDESchedulerConfig> {
  static override readonly name: string = NAME;
  static override readonly config_defaults: Readonly<DPMSolverSDESchedulerConfig> =
    configDefaults<DPMSolverSDESchedulerConfig>({
      num_train_timesteps: 1000,
      beta_start: 0.00085,
      beta_end: 0.012,
      beta_schedule: "linear",
      trained_betas: null,
      prediction_type: "epsilon",
      use_karras_sigmas: false,
      use_exponential_sigmas: false,
      use_beta_sigmas: false,
      noise_sampler_seed: null,
      timestep_spacing: "linspace",
      steps_offset: 0,
    });
  static override readonly compatible_fields: readonly string[] = karrasDiffusionFields;
  static override readonly compatible_classes: readonly string[] = karrasDiffusionSchedulers;
  static override readonly step_options: readonly string[] = ["s_noise"];
  static override readonly set_timesteps_options: readonly string[] = ["num_train_timesteps"];

  override readonly order: number = 2;
  /** Each one followed by that of the step's midpoint. */
  timesteps!: Float64Array;
  /** The noise level of each timestep, where the midpoint's is that of the step's end; and 0, which the last goes to. */
  sigmas!: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly betas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas: Float32Array;
  /** `[num_train_timesteps]`. */
  readonly alphas_cumprod: Float32Array;
  /** What seeds the noise of the next run: the config's, unless it is set to another. */
  noise_sampler_seed: number | readonly number[] | null;

  /** The run's noise; made for the shape of its first sample. */
  private noiseSampler: BrownianTreeNoiseSampler | null = null;
  /** Between the two calls of a step: where it began, and the noise level of its midpoint. */
  private midpoint: { start: Float32Array; sigma: number } | null = null;

  /**
   * @throws UnsupportedModelError for an unknown `beta_schedule`.
   * @throws ValueError when more than one spacing of sigmas is asked for, or for an unknown `timestep_spacing`.
   */
  constructor(config: Partial<DPMSolverSDESchedulerConfig> = {}) {
    super(config);
    checkSigmaConfig(NAME, this.config);
    this.betas = makeBetas(NAME, this.config, commonBetaSchedules);
    this.alphas = this.betas.map((beta) => 1 - beta);
    this.alphas_cumprod = alphasCumprod(this.betas);
    this.noise_sampler_seed = this.config.noise_sampler_seed;
    this.set_timesteps(this.config.num_train_timesteps);
  }

  /** The standard deviation that initial noise must have: the largest sigma, or what keeps the variance with "leading". */
  get init_noise_sigma(): number {
    return initialSigma(this.sigmas, this.config.timestep_spacing);
  }

  /** Whether the next `step` goes to a midpoint, the first of two. */
  get state_in_first_order(): boolean {
    return this.midpoint === null;
  }

  /** Divides by `sqrt(sigma² + 1)`. Call it once before each `step`. */
  override scale_model_input(sample: Tensor, timestep: number): Tensor {
    const index = this.startAt(timestep);
    return scaledBySigma(`${NAME}.scale_model_input`, sample, this.midpoint?.sigma ?? this.sigmaAt(index));
  }

  /**
   * Lays out the timesteps and sigmas of a run.
   *
   * @param num_inference_steps at least 1
   * @throws ValueError for an unknown `timestep_spacing`.
   */
  set_timesteps(
    num_inference_steps: number | null,
    options: Pick<SetTimestepsOptions, "num_train_timesteps"> = {},
  ): void {
    checkOptions(`${NAME}.set_timesteps`, options, DPMSolverSDEScheduler.set_timesteps_options);
    checkSteps(NAME, num_inference_steps);
    const trainSigmas = sigmasOf(this.alphas_cumprod);
    const log_sigmas = logSigmas(trainSigmas);

    // Python's `or`: 0 stands for the config's, too.
    const num_train_timesteps = options.num_train_timesteps || this.config.num_train_timesteps;
    let timesteps = spacedTimesteps64(NAME, this.config, num_inference_steps, num_train_timesteps);
    const spaced = timesteps.map((t) => interpolate(t, trainSigmas));
    // Karras' spacing here, unlike the others, does not heed the ends that another class's config may hold.
    const sigmas = this.config.use_karras_sigmas
      ? karrasSigmas(spaced[spaced.length - 1]!, spaced[0]!, num_inference_steps)
      : respacedSigmas(this.config, spaced, num_inference_steps);
    if (sigmas !== spaced) timesteps = sigmas.map((sigma) => sigmaToT(sigma, log_sigmas));

    // Midpoints in -log(sigma), of each step but the last, which goes all the way in one call.
    const t = sigmas.map((sigma) => -Math.log(sigma));
    const midpoints = t.subarray(1).map((t_next, i) => t[i]! + (t_next - t[i]!) * 0.5);

    this.num_inference_steps = num_inference_steps;
    this.timesteps = interleaved(
      timesteps,
      midpoints.map((midpoint) => sigmaToT(Math.exp(-midpoint), log_sigmas)),
    );
    this.sigmas = Float32Array.from([...twiceButFirst(Float32Array.from(sigmas)), 0]);
    this.noiseSampler = null;
    this.midpoint = null;
    this.resetIndex();
  }

  private sigmaAt(index: number): number {
    return entry(this.sigmas, index, NAME, "step");
  }

  private makeNoiseSampler(dims: readonly number[]): BrownianTreeNoiseSampler {
    const min_sigma = this.sigmas.reduce((a, b) => (b > 0 && b < a ? b : a), Number.POSITIVE_INFINITY);
    const max_sigma = this.sigmas.reduce((a, b) => Math.max(a, b));
    return new BrownianTreeNoiseSampler(dims, min_sigma, max_sigma, this.noise_sampler_seed ?? undefined);
  }

  /**
   * Predicts the sample: at the midpoint of a step in one call, at its end in the next.
   *
   * @param model_output `[batch, channels, ...]`, for the input that {@link scale_model_input} gave
   * @param timestep one of `timesteps`; only the first of a run is looked at
   * @param sample `[batch, channels, ...]`
   * @throws ValueError for an unknown `prediction_type`, a timestep or shape that does not fit, or seeds that are negative
   * or not as many as the batch has items.
   * @throws UnsupportedModelError for the `prediction_type` "sample".
   */
  step(model_output: Tensor, timestep: number, sample: Tensor, options: DPMSolverSDEStepOptions = {}): SchedulerOutput {
    checkOptions(`${NAME}.step`, options, DPMSolverSDEScheduler.step_options);
    checkSample(`${NAME}.step`, model_output, sample);
    const { s_noise = 1 } = options;
    const { prediction_type } = this.config;
    const index = this.startAt(timestep);
    const from = this.midpoint === null ? index : index - 1;
    const sigma = this.sigmaAt(from);
    const sigma_next = this.sigmaAt(from + 1);
    this.noiseSampler ??= this.makeNoiseSampler(sample.dims);
    checkTensor(`${NAME}.step`, "sample", sample, this.noiseSampler.dims);

    // The solver's time is t = -log(sigma).
    const t = -log32(sigma);
    const t_end = -log32(sigma_next);
    const t_midpoint = f(t + f(f(t_end - t) * 0.5));

    // 1. predicted x_0 from the sigma-scaled prediction
    const x = sample.data;
    const sigma_input = this.midpoint === null ? sigma : exp32(-t_midpoint);
    const supported = ["epsilon", "v_prediction"];
    const x0 = denoisedAtSigma(NAME, prediction_type, supported, model_output.data, x, sigma_input);

    const prev = new Float32Array(x.length);
    if (sigma_next === 0) {
      // The last step is Euler's, all the way and without noise.
      const dt = -sigma;
      for (let i = 0; i < prev.length; i++) {
        const derivative = Math.fround(Math.fround(x[i]! - x0[i]!) / sigma);
        prev[i] = x[i]! + Math.fround(derivative * dt);
      }
    } else {
      // 2. how far down the ODE goes, so that noise of sigma_up brings the sample back up to the level aimed at
      const sigma_from = exp32(-t);
      const sigma_to = exp32(this.midpoint === null ? -t_midpoint : -t_end);
      const [variance_from, variance_to] = [f(sigma_from * sigma_from), f(sigma_to * sigma_to)];
      const up = sqrt32(f(f(variance_to * f(variance_from - variance_to)) / variance_from));
      const sigma_up = Math.min(up, sigma_to);
      const sigma_down = sqrt32(f(variance_to - f(sigma_up * sigma_up)));
      const t_down = -log32(sigma_down);

      // 3. the exponential integrator of the first order, from where the step began; noise of the path it goes along
      const keep = f(exp32(-t_down) / sigma_from);
      const change = expm1_32(f(t - t_down));
      const start = this.midpoint?.start ?? x;
      const noise = this.noiseSampler.noise(sigma_from, sigma_to);
      const factor = f(s_noise);
      for (let i = 0; i < prev.length; i++) {
        prev[i] =
          Math.fround(Math.fround(keep * start[i]!) - Math.fround(change * x0[i]!)) +
          Math.fround(Math.fround(noise[i]! * factor) * sigma_up);
      }
      this.midpoint = this.midpoint === null ? { start: x.slice(), sigma: sigma_to } : null;
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
}
