import { ValueError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import { checkSample, unknownValue, unsupportedValue } from "./checks.ts";
import { exp32, log32, mixPerSample, sqrt32 } from "./float32.ts";
import { type ThresholdingConfig, thresholdSample } from "./thresholding.ts";

/** What DPM-Solver integrates: the noise ("dpmsolver") or the data ("dpmsolver++") prediction, as an ODE or an SDE. */
export type DPMAlgorithmType = "dpmsolver" | "dpmsolver++" | "sde-dpmsolver" | "sde-dpmsolver++";

/** How the second order is corrected. */
export type DPMSolverType = "midpoint" | "heun";

/** A noise level as its parts of signal and noise, `x = alpha * x_0 + sigma * noise`, in float32. */
export interface NoiseLevel {
  readonly alpha: number;
  readonly sigma: number;
}

/** `x_t = sample * x + D0 * m0 + D1 * D1(m) + D2 * D2(m) + noise * z`: the weights of one update, in float32. */
export interface DPMSolverWeights {
  readonly sample: number;
  readonly D0: number;
  /** Of the second order with "midpoint". */
  readonly D1_midpoint: number;
  /** Of the second order with "heun", and of the third. */
  readonly D1: number;
  readonly D2: number;
  readonly noise: number;
}

const f = Math.fround;

/** The parts of a variance-preserving noise level whose sigma of the variance-exploding view is given; or of flow matching's. */
export function splitSigma(sigma: number, use_flow_sigmas: boolean | null = false): NoiseLevel {
  if (use_flow_sigmas) return { alpha: f(1 - sigma), sigma };
  const alpha = f(1 / sqrt32(f(f(sigma * sigma) + 1)));
  return { alpha, sigma: f(sigma * alpha) };
}

/** Half the logarithm of the signal-to-noise ratio, the solver's time. */
export function lambdaOf({ alpha, sigma }: NoiseLevel): number {
  return f(log32(alpha) - log32(sigma));
}

/**
 * The weights of an update from the noise level `s` to `t`.
 *
 * @see https://huggingface.co/papers/2206.00927 (DPM-Solver), https://huggingface.co/papers/2211.01095 (DPM-Solver++)
 */
export function dpmSolverWeights(algorithm_type: DPMAlgorithmType, t: NoiseLevel, s: NoiseLevel): DPMSolverWeights {
  const h = f(lambdaOf(t) - lambdaOf(s));
  const h2 = 2 * h;
  switch (algorithm_type) {
    case "dpmsolver++": {
      const decay = f(exp32(-h) - 1);
      return {
        sample: f(t.sigma / s.sigma),
        D0: -f(t.alpha * decay),
        D1_midpoint: -0.5 * f(t.alpha * decay),
        D1: f(t.alpha * f(f(decay / h) + 1)),
        D2: -f(t.alpha * f(f(f(decay + h) / f(h * h)) - 0.5)),
        noise: 0,
      };
    }
    case "dpmsolver": {
      const growth = f(exp32(h) - 1);
      return {
        sample: f(t.alpha / s.alpha),
        D0: -f(t.sigma * growth),
        D1_midpoint: -0.5 * f(t.sigma * growth),
        D1: -f(t.sigma * f(f(growth / h) - 1)),
        D2: -f(t.sigma * f(f(f(growth - h) / f(h * h)) - 0.5)),
        noise: 0,
      };
    }
    case "sde-dpmsolver++": {
      const rise = f(1 - exp32(-h2));
      return {
        sample: f(f(t.sigma / s.sigma) * exp32(-h)),
        D0: f(t.alpha * rise),
        D1_midpoint: 0.5 * f(t.alpha * rise),
        D1: f(t.alpha * f(f(rise / -h2) + 1)),
        D2: f(t.alpha * f(f(f(rise - h2) / f(h2 * h2)) - 0.5)),
        noise: f(t.sigma * sqrt32(rise)),
      };
    }
    case "sde-dpmsolver": {
      const growth = f(exp32(h) - 1);
      return {
        sample: f(t.alpha / s.alpha),
        D0: -2 * f(t.sigma * growth),
        D1_midpoint: -f(t.sigma * growth),
        D1: -2 * f(t.sigma * f(f(growth / h) - 1)),
        D2: Number.NaN,
        noise: f(t.sigma * sqrt32(f(exp32(h2) - 1))),
      };
    }
  }
}

/**
 * One multistep update, of as high an order as there are outputs: `D1` and `D2` are the papers' differences of them.
 *
 * @param x the sample at the noise level `levels[0]`
 * @param outputs converted model outputs, the latest first, 1 to 3
 * @param t the noise level to go to
 * @param levels the noise levels of `outputs`
 * @param noise for the SDE algorithms
 */
export function dpmSolverUpdate(
  algorithm_type: DPMAlgorithmType,
  solver_type: string,
  x: Float32Array,
  outputs: readonly Float32Array[],
  t: NoiseLevel,
  levels: readonly NoiseLevel[],
  noise?: Float32Array,
): Float32Array {
  const [m0, m1, m2] = outputs as [Float32Array, Float32Array?, Float32Array?];
  const [lambda_s0, lambda_s1, lambda_s2] = levels.map(lambdaOf) as [number, number?, number?];
  const w = dpmSolverWeights(algorithm_type, t, levels[0]!);
  const prev = new Float32Array(x.length);
  for (let i = 0; i < prev.length; i++) prev[i] = f(w.sample * x[i]!) + f(w.D0 * m0[i]!);

  if (m1 !== undefined && lambda_s1 !== undefined) {
    const h = f(lambdaOf(t) - lambda_s0);
    const r0 = f(f(lambda_s0 - lambda_s1) / h);
    const inverse_r0 = f(1 / r0);
    if (m2 === undefined || lambda_s2 === undefined) {
      const D1 = solver_type === "midpoint" ? w.D1_midpoint : w.D1;
      for (let i = 0; i < prev.length; i++) prev[i] = prev[i]! + f(D1 * f(inverse_r0 * f(m0[i]! - m1[i]!)));
    } else {
      const r1 = f(f(lambda_s1 - lambda_s2) / h);
      const inverse_r1 = f(1 / r1);
      const blend = f(r0 / f(r0 + r1));
      const curve = f(1 / f(r0 + r1));
      for (let i = 0; i < prev.length; i++) {
        const D1_0 = f(inverse_r0 * f(m0[i]! - m1[i]!));
        const D1_1 = f(inverse_r1 * f(m1[i]! - m2[i]!));
        const difference = f(D1_0 - D1_1);
        const D1 = f(D1_0 + f(blend * difference));
        prev[i] = f(prev[i]! + f(w.D1 * D1)) + f(w.D2 * f(curve * difference));
      }
    }
  }
  if (noise !== undefined) {
    for (let i = 0; i < prev.length; i++) prev[i] = prev[i]! + f(w.noise * noise[i]!);
  }
  return prev;
}

/**
 * One singlestep update, of as high an order as there are outputs: from where the leap began, whose output comes last.
 *
 * @param x the sample at the noise level `levels[levels.length - 1]`
 * @param outputs converted model outputs, the latest first, 1 to 3
 * @param t the noise level to go to
 * @param levels the noise levels of `outputs`
 * @param noise for the SDE algorithm
 */
export function dpmSolverSinglestepUpdate(
  algorithm_type: DPMAlgorithmType,
  solver_type: string,
  x: Float32Array,
  outputs: readonly Float32Array[],
  t: NoiseLevel,
  levels: readonly NoiseLevel[],
  noise?: Float32Array,
): Float32Array {
  const s = levels[levels.length - 1]!;
  const D0 = outputs[outputs.length - 1]!;
  const lambda_s = lambdaOf(s);
  const h = f(lambdaOf(t) - lambda_s);
  const w = dpmSolverWeights(algorithm_type, t, s);
  const midpoint = solver_type === "midpoint";
  const prev = new Float32Array(x.length);
  for (let i = 0; i < prev.length; i++) prev[i] = f(w.sample * x[i]!) + f(w.D0 * D0[i]!);

  if (outputs.length > 1) {
    // The latest output's difference from the first, per share of the leap.
    const m0 = outputs[0]!;
    const r0 = f(f(lambdaOf(levels[0]!) - lambda_s) / h);
    const inverse_r0 = f(1 / r0);
    if (outputs.length === 2 || midpoint) {
      const D1 = outputs.length === 2 && midpoint ? w.D1_midpoint : w.D1;
      for (let i = 0; i < prev.length; i++) prev[i] = prev[i]! + f(D1 * f(inverse_r0 * f(m0[i]! - D0[i]!)));
    } else {
      const m1 = outputs[1]!;
      const r1 = f(f(lambdaOf(levels[1]!) - lambda_s) / h);
      const inverse_r1 = f(1 / r1);
      const r = f(r0 - r1);
      for (let i = 0; i < prev.length; i++) {
        const D1_0 = f(inverse_r1 * f(m1[i]! - D0[i]!));
        const D1_1 = f(inverse_r0 * f(m0[i]! - D0[i]!));
        const D1 = f(f(f(r0 * D1_0) - f(r1 * D1_1)) / r);
        const D2 = f(f(2 * f(D1_1 - D1_0)) / r);
        prev[i] = f(prev[i]! + f(w.D1 * D1)) + f(w.D2 * D2);
      }
    }
  }
  if (noise !== undefined) {
    for (let i = 0; i < prev.length; i++) prev[i] = prev[i]! + f(w.noise * noise[i]!);
  }
  return prev;
}

/**
 * Checks the algorithm and the solver of a config. What other classes of the family call theirs stands for the nearest
 * that there is here.
 *
 * @returns the fields to replace
 * @throws UnsupportedModelError for an algorithm or a solver that there is not.
 * @throws ValueError for `final_sigmas_type` "zero" of an algorithm without "++", of the classes that have the field.
 */
export function checkSolver(
  where: string,
  config: { readonly algorithm_type: string; readonly solver_type: string; readonly final_sigmas_type?: string },
  algorithms: readonly DPMAlgorithmType[],
): { algorithm_type?: DPMAlgorithmType; solver_type?: DPMSolverType } {
  const { algorithm_type, solver_type, final_sigmas_type } = config;
  const replaced: { algorithm_type?: DPMAlgorithmType; solver_type?: DPMSolverType } = {};
  if (algorithm_type === "deis") replaced.algorithm_type = "dpmsolver++";
  else if (!(algorithms as readonly string[]).includes(algorithm_type)) {
    unsupportedValue(where, "algorithm_type", algorithm_type, algorithms);
  }
  if (["logrho", "bh1", "bh2"].includes(solver_type)) replaced.solver_type = "midpoint";
  else if (!["midpoint", "heun"].includes(solver_type)) {
    unsupportedValue(where, "solver_type", solver_type, ["midpoint", "heun"]);
  }
  if (final_sigmas_type === "zero" && !algorithm_type.endsWith("++")) {
    throw new ValueError(
      `\`final_sigmas_type\` "zero" is not supported for \`algorithm_type\` "${algorithm_type}". Choose "sigma_min".`,
      { className: where, field: "final_sigmas_type", found: "zero", expected: "sigma_min" },
    );
  }
  if (!algorithm_type.endsWith("++") && algorithm_type !== "deis") {
    console.warn(`${where}: \`algorithm_type\` "${algorithm_type}" is deprecated. Choose "${algorithm_type}++".`);
  }
  return replaced;
}

/** The config fields that say what a model's output is, and what the algorithm makes of it. */
export interface DPMPredictionConfig extends ThresholdingConfig {
  readonly algorithm_type: string;
  readonly prediction_type: string;
  readonly variance_type: string | null;
}

/**
 * The data or noise prediction that the algorithm integrates, of a model's output.
 *
 * @param model_output `[batch, channels, ...]`; of three channels and a variance where `variance_type` is "learned"
 * @param level the noise level of `sample`, which "flow_prediction" knows as `sigma`
 * @throws ValueError for an unknown `prediction_type`, or shapes that do not fit.
 */
export function convertModelOutput(
  where: string,
  config: Readonly<DPMPredictionConfig>,
  model_output: Tensor,
  sample: Tensor,
  level: NoiseLevel,
  sigma: number,
): Float32Array {
  const { prediction_type, variance_type, thresholding } = config;
  const learned = variance_type === "learned" || variance_type === "learned_range";
  const output = prediction_type === "epsilon" && learned ? model_output.slice(null, [0, 3]) : model_output;
  checkSample(`${where}.step`, output, sample);
  const batch = sample.dims[0] ?? 1;
  if (config.algorithm_type.endsWith("++")) {
    const x0 = toDataPrediction(where, prediction_type, output.data, sample.data, level, sigma);
    if (thresholding) thresholdSample(x0, batch, config);
    return x0;
  }
  const epsilon = toNoisePrediction(where, prediction_type, output.data, sample.data, level);
  if (!thresholding) return epsilon;
  const x0 = toDataPrediction(where, "epsilon", epsilon, sample.data, level, sigma);
  thresholdSample(x0, batch, config);
  return toNoisePrediction(where, "sample", x0, sample.data, level);
}

/** The data prediction x_0 of a model's output. @throws ValueError for an unknown `prediction_type`. */
export function toDataPrediction(
  where: string,
  prediction_type: string,
  output: Float32Array,
  x: Float32Array,
  { alpha, sigma }: NoiseLevel,
  sigma_flow: number,
): Float32Array {
  const x0 = new Float32Array(output.length);
  if (prediction_type === "epsilon") {
    for (let i = 0; i < x0.length; i++) x0[i] = f(x[i]! - f(sigma * output[i]!)) / alpha;
  } else if (prediction_type === "sample") {
    x0.set(output);
  } else if (prediction_type === "v_prediction") {
    for (let i = 0; i < x0.length; i++) x0[i] = f(alpha * x[i]!) - f(sigma * output[i]!);
  } else if (prediction_type === "flow_prediction") {
    for (let i = 0; i < x0.length; i++) x0[i] = x[i]! - f(sigma_flow * output[i]!);
  } else {
    unknownValue(where, "prediction_type", prediction_type, ["epsilon", "sample", "v_prediction", "flow_prediction"]);
  }
  return x0;
}

/** The noise prediction of a model's output. @throws ValueError for an unknown `prediction_type`. */
export function toNoisePrediction(
  where: string,
  prediction_type: string,
  output: Float32Array,
  x: Float32Array,
  { alpha, sigma }: NoiseLevel,
): Float32Array {
  const epsilon = new Float32Array(output.length);
  if (prediction_type === "epsilon") {
    epsilon.set(output);
  } else if (prediction_type === "sample") {
    for (let i = 0; i < epsilon.length; i++) epsilon[i] = f(x[i]! - f(alpha * output[i]!)) / sigma;
  } else if (prediction_type === "v_prediction") {
    for (let i = 0; i < epsilon.length; i++) epsilon[i] = f(alpha * output[i]!) + f(sigma * x[i]!);
  } else {
    unknownValue(where, "prediction_type", prediction_type, ["epsilon", "sample", "v_prediction"]);
  }
  return epsilon;
}

/** `add_noise` where a sample is `alpha * x_0 + sigma * noise`: a level for each batch item, or one for all. */
export function addNoiseOfLevels(where: string, x: Tensor, noise: Tensor, levels: readonly NoiseLevel[]): Tensor {
  const alphas = Float32Array.from(levels, (level) => level.alpha);
  const sigmas = Float32Array.from(levels, (level) => level.sigma);
  return mixPerSample(`${where}.add_noise`, alphas, x, sigmas, noise);
}
