/**
 * The Box-Muller transform as torch's vectorised CPU kernel computes it: float32, with the polynomials of the Cephes
 * library for logarithm, sine and cosine, and with fused multiply-adds.
 *
 * @see torch `normal_fill_AVX2`, J. Pommier's `avx_mathfun.h`
 */
const f = Math.fround;

/**
 * `a * b + c` rounded once. The product of two float32 is exact in float64, the sum is rounded there first: over all 2^24
 * uniform values that go into the functions below, this second rounding changes none of their results.
 */
function fma(a: number, b: number, c: number): number {
  return f(a * b + c);
}

const LOG_POLYNOMIAL = [
  -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1,
  -2.4999993993e-1, 3.3333331174e-1,
].map(f);
const LOG_FIRST = f(7.0376836292e-2);
const LOG_Q1 = f(-2.1219444e-4);
const LOG_Q2 = f(0.693359375);
const SQRT_HALF = f(Math.SQRT1_2);

/** Natural logarithm of `m * 2^-24`, for a whole m of 1 to 2^24. */
function logOfUniform(m: number): number {
  const bits = 32 - Math.clz32(m);
  let e = bits - 24;
  let x = m * 2 ** -bits;
  if (x < SQRT_HALF) {
    e -= 1;
    x = f(f(x - 1) + x);
  } else {
    x = f(x - 1);
  }
  const z = f(x * x);
  let y = LOG_FIRST;
  for (let i = 0; i < LOG_POLYNOMIAL.length; i++) y = fma(y, x, LOG_POLYNOMIAL[i]!);
  y = f(fma(f(y * x), z, f(e * LOG_Q1)) - f(z * 0.5));
  return fma(e, LOG_Q2, f(x + y));
}

const TWO_PI = f(2 * Math.PI);
const FOUR_OVER_PI = f(1.27323954473516);
const [DP1, DP2, DP3] = [f(-0.78515625), f(-2.4187564849853516e-4), f(-3.774894977445941e-8)] as const;
const [C0, C1, C2] = [f(2.443315711809948e-5), f(-1.388731625493765e-3), f(4.166664568298827e-2)] as const;
const [S0, S1, S2] = [f(-1.9515295891e-4), f(8.3321608736e-3), f(-1.6666654611e-1)] as const;

/**
 * Turns `uniform[begin, begin + 16)` into normal values in place: the first eight give radii, the last eight angles.
 * The uniform values are multiples of 2^-24 in `[0, 1)`.
 */
export function boxMuller16(uniform: Float32Array, begin: number): void {
  for (let i = begin; i < begin + 8; i++) {
    const radius = f(Math.sqrt(f(-2 * logOfUniform((1 - uniform[i]!) * 2 ** 24))));
    let x = f(TWO_PI * uniform[i + 8]!);
    const j = (Math.trunc(f(x * FOUR_OVER_PI)) + 1) & ~1;
    x = fma(j, DP3, fma(j, DP2, fma(j, DP1, x)));
    const z = f(x * x);
    const c = f(fma(f(fma(fma(C0, z, C1), z, C2) * z), z, -f(z * 0.5)) + 1);
    const s = fma(f(fma(fma(S0, z, S1), z, S2) * z), x, x);
    const swapped = (j & 2) !== 0;
    const sin = swapped ? c : s;
    const cos = swapped ? s : c;
    uniform[i] = f(radius * ((j - 2) & 4 ? cos : -cos));
    uniform[i + 8] = f(radius * (j & 4 ? -sin : sin));
  }
}
