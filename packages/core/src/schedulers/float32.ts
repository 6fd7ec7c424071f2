import { Tensor } from "../tensor.ts";
import { checkPerItem, checkTensor } from "./checks.ts";

// Arithmetic on float32 values as torch and numpy do it. One operation on two float32 values in double precision,
// rounded once by Math.fround, is what float32 hardware gives (for + - * / and the square root).

/**
 * The square root, in float32. torch's (MKL's) is up to 3/4 of a unit in the last place off, in no portable way. The one
 * place where that shows: the first sigma of a schedule of zero terminal SNR, `sqrt(2 ** 24 - 1)`, which lies just below
 * the middle between two float32 numbers and is 4096 in torch. Hence the nudge, which moves nothing else.
 */
export function sqrt32(x: number): number {
  return Math.fround(Math.sqrt(x) * (1 + 2 ** -48));
}

/** `e ** x`, in float32. */
export function exp32(x: number): number {
  return Math.fround(Math.exp(x));
}

/** `e ** x - 1`, in float32, without loss near 0. */
export function expm1_32(x: number): number {
  return Math.fround(Math.expm1(x));
}

/**
 * The sine, in float32, as torch's (MKL's): of one in 20 numbers it is not the nearest float32 to the true sine. To the
 * bit but for one number in a million, because IPNDM takes differences of these sines from 1 that are a few bits long.
 * The coefficients are those of an odd polynomial that rounds to what torch gives, found by linear programming.
 */
export function sin32(x: number): number {
  const turns = Math.round(x / Math.PI);
  return sineNearZero(x - turns * Math.PI, turns);
}

/** The cosine, in float32, as torch's. */
export function cos32(x: number): number {
  const turns = Math.round(x / Math.PI + 0.5);
  return sineNearZero(x - (turns - 0.5) * Math.PI, turns);
}

function sineNearZero(x: number, turns: number): number {
  const s = x * x;
  const tail = 0.00833306624601823 + s * (-0.00019809602907976855 + s * 2.6057806693499273e-6);
  const sine = x + x * s * (-0.16666659550416085 + s * tail);
  return Math.fround(turns % 2 === 0 ? sine : -sine);
}

/** The natural logarithm, in float32, as torch's. */
export function log32(x: number): number {
  return Math.fround(Math.log(x));
}

/** `x ** y` of a float32 `x`, in float32; torch multiplies a cube out. */
export function pow32(x: number, y: number): number {
  return Math.fround(y === 3 ? Math.fround(x * x) * x : x ** y);
}

/** `a * b + c` rounded once, as a fused multiply-add of float32 values. */
export function fma32(a: number, b: number, c: number): number {
  return Math.fround(a * b + c);
}

const logP = [0, 1, 2.112677543073053, 1.4800006335765066, 0.3808837741388408, 0.025899791179079226].map(Math.fround);
const logQ = [
  1, 2.6126775430731093, 2.4530060717847366, 0.986494295851942, 0.15464763749839067, 0.005875095403124574,
].map(Math.fround);
const LN2 = Math.fround(Math.LN2);

/**
 * The natural logarithm in float32, as numpy's: a rational approximation that is up to 2 units in the last place off.
 * To the bit, because timesteps that are found in a table of such logarithms are cut to whole numbers afterwards.
 *
 * @see numpy `loops_exponent_log.dispatch.c.src`
 */
export function numpyLog32(x: number): number {
  if (!(x > 0) || x === Number.POSITIVE_INFINITY) return Math.log(x);
  let exponent = Math.floor(Math.log2(x));
  let mantissa = x / 2 ** exponent;
  if (mantissa >= 2 || mantissa < 1) {
    exponent += mantissa < 1 ? -1 : 1;
    mantissa = x / 2 ** exponent;
  }
  if (mantissa > Math.fround(Math.SQRT2)) {
    mantissa /= 2;
    exponent += 1;
  }
  const y = mantissa - 1;
  let numerator = logP[5]!;
  let denominator = logQ[5]!;
  for (let i = 4; i >= 0; i--) {
    numerator = fma32(numerator, y, logP[i]!);
    denominator = fma32(denominator, y, logQ[i]!);
  }
  return fma32(exponent, LN2, Math.fround(numerator / denominator));
}

/**
 * `a * x + b * y` with a coefficient for each batch item, or one for all, rounded to float32 after each operation.
 *
 * @param a one coefficient, or as many as `x` has batch items
 * @throws ValueError when the number of coefficients is neither.
 */
export function mixPerSample(where: string, a: Float32Array, x: Tensor, b: Float32Array, y: Tensor): Tensor {
  checkTensor(where, "sample", x, x.dims);
  checkTensor(where, "noise", y, x.dims);
  const batch = x.dims[0] ?? 1;
  checkPerItem(where, "timesteps", a.length, batch);
  const out = new Float32Array(x.size);
  const count = x.size / a.length;
  for (let k = 0; k < a.length; k++) {
    const ak = a[k]!;
    const bk = b[k]!;
    for (let i = k * count; i < (k + 1) * count; i++) {
      out[i] = Math.fround(ak * x.data[i]!) + Math.fround(bk * y.data[i]!);
    }
  }
  return new Tensor("float32", out, x.dims);
}

/** `add_noise` where a sample is `x_0 + sigma * noise`: a sigma for each batch item, or one for all. */
export function addNoiseOfSigmas(where: string, x: Tensor, noise: Tensor, sigmas: Float32Array): Tensor {
  return mixPerSample(
    `${where}.add_noise`,
    sigmas.map(() => 1),
    x,
    sigmas,
    noise,
  );
}
