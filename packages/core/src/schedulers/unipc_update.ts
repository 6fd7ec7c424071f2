import { lambdaOf, type NoiseLevel } from "./dpmsolver_update.ts";
import { expm1_32, pow32 } from "./float32.ts";
import { solve32 } from "./linear_solve.ts";

/** Which function of the step size UniPC's coefficients are scaled by: `B(h) = h`, or `B(h) = e ** h - 1`. */
export type UniPCSolverType = "bh1" | "bh2";

const f = Math.fround;

/**
 * One update of UniPC from the noise level `levels[0]` to `t`, of as high an order as there are outputs: UniP, or with
 * the output at `t` UniC, which is of one order more.
 *
 * The coefficients come out of differences of nearly equal float32 numbers, as they do in Diffusers: of the third order
 * and up, and with many steps, torch's own last bits show in them.
 *
 * @param predict_x0 whether `outputs` predict the data, not the noise
 * @param x the sample at `levels[0]`
 * @param outputs converted model outputs, the latest first
 * @param levels the noise levels of `outputs`
 * @param t the noise level to go to
 * @param corrector the converted output at `t`, for UniC
 * @throws ValueError for coefficients that there are not: when noise levels coincide.
 * @see https://huggingface.co/papers/2302.04867 (algorithms 5 to 8)
 */
export function uniPCUpdate(
  solver_type: UniPCSolverType,
  predict_x0: boolean,
  x: Float32Array,
  outputs: readonly Float32Array[],
  levels: readonly NoiseLevel[],
  t: NoiseLevel,
  corrector?: Float32Array,
): Float32Array {
  const [m0, ...earlier] = outputs as [Float32Array, ...Float32Array[]];
  const [s0, ...earlierLevels] = levels as [NoiseLevel, ...NoiseLevel[]];
  const lambda_s0 = lambdaOf(s0);
  const h = f(lambdaOf(t) - lambda_s0);
  const rks = earlierLevels.map((level) => f(f(lambdaOf(level) - lambda_s0) / h));
  const hh = predict_x0 ? -h : h;
  const h_phi_1 = expm1_32(hh);
  const B_h = solver_type === "bh1" ? hh : h_phi_1;
  const rhos = rhosOf(rks, hh, h_phi_1, B_h, corrector !== undefined);

  // The residual: rho_k * (m_k - m_0) / r_k summed up, and for UniC that of the output at t, where r is 1.
  const residual = new Float32Array(x.length);
  for (const [k, mk] of earlier.entries()) {
    const rk = rks[k]!;
    const rho = rhos[k]!;
    for (let i = 0; i < residual.length; i++) residual[i] = residual[i]! + f(rho * f(f(mk[i]! - m0[i]!) / rk));
  }
  if (corrector !== undefined) {
    const rho = rhos[rhos.length - 1]!;
    for (let i = 0; i < residual.length; i++) residual[i] = residual[i]! + f(rho * f(corrector[i]! - m0[i]!));
  }

  // With "bh1" and a last sigma of 0, B(h) is infinite and the sample NaN, as it is in Diffusers.
  const [ratio, scale] = predict_x0 ? [f(t.sigma / s0.sigma), t.alpha] : [f(t.alpha / s0.alpha), t.sigma];
  const first = f(scale * h_phi_1);
  const rest = f(scale * B_h);
  const x_t = new Float32Array(x.length);
  for (let i = 0; i < x_t.length; i++) {
    x_t[i] = f(f(ratio * x[i]!) - f(first * m0[i]!)) - f(rest * residual[i]!);
  }
  return x_t;
}

/** The weights of the residual's terms: `R(r) rho = b`, where the lowest order of each has a simpler solution. */
function rhosOf(rks: readonly number[], hh: number, h_phi_1: number, B_h: number, corrects: boolean): Float32Array {
  const order = rks.length + 1;
  if (order === (corrects ? 1 : 2)) return Float32Array.of(0.5);
  const count = corrects ? order : order - 1;
  const nodes = Float32Array.from([...rks, 1]).subarray(0, count);
  const R: Float32Array[] = [];
  const b = new Float32Array(count);
  let h_phi_k = f(f(h_phi_1 / hh) - 1);
  let factorial = 1;
  for (let k = 0; k < count; k++) {
    R.push(nodes.map((r) => pow32(r, k)));
    b[k] = f(h_phi_k * factorial) / B_h;
    factorial *= k + 2;
    h_phi_k = f(f(h_phi_k / hh) - f(1 / factorial));
  }
  return solve32(R, b);
}
