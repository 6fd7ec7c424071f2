/**
 * The Box-Muller transform as torch's vectorised CPU kernel computes it: float32, with the polynomials of the Cephes
 * library for logarithm, sine and cosine, and with fused multiply-adds.
 *
 * `f(a * b + c)` stands for a fused multiply-add: the product of two float32 is exact in float64, the sum is rounded
 * there first. Over all 2^24 uniform values that go in, this second rounding changes no result.
 *
 * Noise is most of the time of a stochastic step, so each half is one loop without branches (which would be
 * mispredicted half the time), and its constants are local, where V8 folds them.
 *
 * @see torch `normal_fill_AVX2`, J. Pommier's `avx_mathfun.h`
 */
const f = Math.fround;

/**
 * Turns groups of sixteen uniform values from `begin` on into normal ones, in place: the first eight of a group give
 * radii, the last eight angles. The uniform values are multiples of 2^-24 in `[0, 1)`.
 */
export function boxMuller(values: Float32Array, begin: number, end: number): void {
  radii(values, begin, end);
  turn(values, begin, end);
}

/** `u` becomes `sqrt(-2 log(1 - u))`. */
function radii(values: Float32Array, begin: number, end: number): void {
  const [Q1, Q2] = [f(-2.1219444e-4), f(0.693359375)];
  const P0 = f(7.0376836292e-2);
  const P1 = f(-1.151461031e-1);
  const P2 = f(1.167699874e-1);
  const P3 = f(-1.2420140846e-1);
  const P4 = f(1.4249322787e-1);
  const P5 = f(-1.6668057665e-1);
  const P6 = f(2.0000714765e-1);
  const P7 = f(-2.4999993993e-1);
  const P8 = f(3.3333331174e-1);
  // sqrt(1/2) in units of 2^-24: below it a mantissa is doubled, so that x lies about 0.
  const half = 11863284;
  for (let group = begin; group + 16 <= end; group += 16) {
    for (let i = group; i < group + 8; i++) {
      const m = ((1 - values[i]!) * 2 ** 24) | 0;
      const zeros = Math.clz32(m);
      const mantissa = (m << zeros) >>> 8;
      const doubled = (mantissa - half) >>> 31;
      const e = 8 - zeros - doubled;
      const x = (mantissa << doubled) * 2 ** -24 - 1;
      const z = f(x * x);
      let y = f(P0 * x + P1);
      y = f(y * x + P2);
      y = f(y * x + P3);
      y = f(y * x + P4);
      y = f(y * x + P5);
      y = f(y * x + P6);
      y = f(y * x + P7);
      y = f(y * x + P8);
      y = f(f(f(y * x) * z + f(e * Q1)) - z * 0.5);
      values[i] = Math.sqrt(-2 * f(e * Q2 + f(x + y)));
    }
  }
}

/** A radius and `u`, eight further on, become `radius * cos(2 pi u)` and `radius * sin(2 pi u)`. */
function turn(values: Float32Array, begin: number, end: number): void {
  const TWO_PI = f(2 * Math.PI);
  const FOUR_OVER_PI = f(1.27323954473516);
  const [DP1, DP2, DP3] = [f(-0.78515625), f(-2.4187564849853516e-4), f(-3.774894977445941e-8)];
  const [C0, C1, C2] = [f(2.443315711809948e-5), f(-1.388731625493765e-3), f(4.166664568298827e-2)];
  const [S0, S1, S2] = [f(-1.9515295891e-4), f(8.3321608736e-3), f(-1.6666654611e-1)];
  const pair = new Float64Array(2);
  for (let group = begin; group + 16 <= end; group += 16) {
    for (let i = group; i < group + 8; i++) {
      const radius = values[i]!;
      let x = f(TWO_PI * values[i + 8]!);
      const octant = ((f(x * FOUR_OVER_PI) | 0) + 1) & ~1;
      x = f(octant * DP3 + f(octant * DP2 + f(octant * DP1 + x)));
      const z = f(x * x);
      const sine = f(f(f(f(S0 * z + S1) * z + S2) * z) * x + x);
      const cosine = f(f(f(f(f(C0 * z + C1) * z + C2) * z) * z - z * 0.5) + 1);
      pair[0] = sine;
      pair[1] = cosine;
      const swapped = (octant >> 1) & 1;
      values[i] = radius * pair[1 - swapped]! * ((((octant - 2) & 4) >> 1) - 1);
      values[i + 8] = radius * pair[swapped]! * (1 - ((octant & 4) >> 1));
    }
  }
}
