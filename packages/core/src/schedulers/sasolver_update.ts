import { lambdaOf, type NoiseLevel } from "./dpmsolver_update.ts";
import { exp32, sqrt32 } from "./float32.ts";

/** What SA-Solver integrates: the model's prediction of the data or of the noise. */
export type SAAlgorithmType = "data_prediction" | "noise_prediction";

const f = Math.fround;

/**
 * The coefficients of the polynomials that are 1 at one of `nodes` and 0 at the others, by descending powers, in float32.
 *
 * @param nodes 1 to 4 numbers
 */
function lagrangeCoefficients(nodes: readonly number[]): number[][] {
  return nodes.map((node, i) => {
    const others = nodes.filter((_, k) => k !== i);
    const [a, b, c] = others as [number, number, number];
    const denominator = others.reduce((product, other) => f(product * f(node - other)), 1);
    const numerators = [
      [1],
      [1, -a],
      [1, f(-a - b), f(a * b)],
      [1, f(f(-a - b) - c), f(f(f(a * b) + f(a * c)) + f(b * c)), f(f(-a * b) * c)],
    ][others.length]!;
    return numerators.map((numerator) => f(numerator / denominator));
  });
}

/** `n!` times the first terms of the exponential series of `x`, turned about: `x ** n ± n * x ** (n - 1) + ...`, n up to 3. */
function seriesOf(n: number, x: number, sign: 1 | -1): number {
  if (n === 0) return 1;
  if (n === 1) return f(x + sign);
  const square = f(x * x);
  if (n === 2) return f(f(square + sign * 2 * x) + 2);
  return f(f(f(f(square * x) + sign * f(3 * square)) + f(6 * x)) + sign * 6);
}

/** The integral of `e ** -x * x ** n` from `start` to `end`. */
function integralOfNoise(n: number, start: number, end: number): number {
  const difference = f(f(seriesOf(n, start, 1) * exp32(f(end - start))) - seriesOf(n, end, 1));
  return f(exp32(-end) * difference);
}

/** The integral of `e ** (x * rate) * x ** n` from `start` to `end`. */
function integralOfData(n: number, start: number, end: number, rate: number): number {
  const from = f(f(rate) * start);
  const to = f(f(rate) * end);
  const difference = f(seriesOf(n, to, -1) - f(seriesOf(n, from, -1) * exp32(-f(to - from))));
  return f(f(exp32(to) * difference) / f(rate ** (n + 1)));
}

/**
 * One update of SA-Solver from the noise level `s` to `t`, of as high an order as there are outputs: the predictor's, with
 * outputs up to that at `s`, or the corrector's, whose latest output is that at `t`.
 *
 * The coefficients are differences of nearly equal float32 numbers, as they are in Diffusers: of higher orders, and with
 * many steps, the last bits of torch's own functions show in them.
 *
 * @param tau how stochastic the step is: 0 for the ODE, 1 for the SDE that training has
 * @param x the sample at `s`
 * @param outputs converted model outputs, the latest first, 1 to 4
 * @param levels the noise levels of `outputs`
 * @param noise normal noise, the same for the corrector as it was for its predictor
 * @see https://huggingface.co/papers/2309.05019 (algorithm 1)
 */
export function saSolverUpdate(
  algorithm_type: SAAlgorithmType,
  corrects: boolean,
  tau: number,
  x: Float32Array,
  outputs: readonly Float32Array[],
  levels: readonly NoiseLevel[],
  s: NoiseLevel,
  t: NoiseLevel,
  noise: Float32Array,
): Float32Array {
  const predictsData = algorithm_type === "data_prediction";
  const order = outputs.length;
  const squared = tau ** 2;
  const rate = 1 + squared;
  const lambda_s = lambdaOf(s);
  const lambda_t = lambdaOf(t);
  const h = f(lambda_t - lambda_s);
  const lambdas = levels.map(lambdaOf);

  // The integral of the interpolation of the outputs, times the SDE's exponential.
  const coefficients = lagrangeCoefficients(lambdas).map((polynomial) =>
    polynomial.reduce((sum, coefficient, j) => {
      const n = order - 1 - j;
      const integral = predictsData
        ? integralOfData(n, lambda_s, lambda_t, rate)
        : integralOfNoise(n, lambda_s, lambda_t);
      return f(sum + f(coefficient * integral));
    }, 0),
  );
  if (predictsData && order === 2) {
    // A term of the third order in h, which is good for few steps.
    const scale = exp32(f(f(rate) * lambda_t));
    const growth = f(f(f(h * f(rate)) - 1) + exp32(f(f(rate) * -h)));
    const term = corrects
      ? f(scale * f(h / 2 - f(growth / f(f(rate ** 2) * h))))
      : f(f(scale * f(f(h * h) / 2 - f(growth / f(rate ** 2)))) / f(lambda_s - lambdas[1]!));
    coefficients[0] = f(coefficients[0]! + term);
    coefficients[1] = f(coefficients[1]! - term);
  }

  const gradientScale = predictsData
    ? f(f(f(rate) * t.sigma) * exp32(f(f(-squared) * lambda_t)))
    : f(f(-rate) * t.alpha);
  const gradient = new Float32Array(x.length);
  for (const [k, m] of outputs.entries()) {
    const weight = f(gradientScale * coefficients[k]!);
    for (let i = 0; i < gradient.length; i++) gradient[i] = gradient[i]! + f(weight * m[i]!);
  }

  const ratio = predictsData ? f(exp32(f(f(-squared) * h)) * f(t.sigma / s.sigma)) : f(t.alpha / s.alpha);
  const deviation = predictsData
    ? f(t.sigma * sqrt32(f(1 - exp32(f(f(-2 * squared) * h)))))
    : f(f(f(tau) * t.sigma) * sqrt32(f(exp32(2 * h) - 1)));
  const x_t = new Float32Array(x.length);
  for (let i = 0; i < x_t.length; i++) {
    x_t[i] = f(f(ratio * x[i]!) + gradient[i]!) + f(deviation * noise[i]!);
  }
  return x_t;
}
