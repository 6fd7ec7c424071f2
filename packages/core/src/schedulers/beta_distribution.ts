/** `∫₀ˣ t^(a-1) (1-t)^(b-1) dt` for x up to 1/2, by its power series, all of whose terms are positive for b <= 1. */
function incompleteBeta(x: number, a: number, b: number): number {
  let term = 1;
  let sum = 1 / a;
  for (let n = 1; n < 500; n++) {
    term *= ((n - b) / n) * x;
    const next = term / (a + n);
    sum += next;
    if (Math.abs(next) <= Math.abs(sum) * 1e-17) break;
  }
  return x ** a * sum;
}

/**
 * The quantile function of the beta distribution: the x below which a share `p` of Beta(a, b) lies, to about double
 * precision.
 *
 * @param p 0 to 1; NaN outside
 * @see scipy `scipy.stats.beta.ppf`
 */
export function betaQuantile(p: number, a: number, b: number): number {
  if (!(p >= 0 && p <= 1)) return Number.NaN;
  if (p === 0 || p === 1) return p;
  const lower = incompleteBeta(0.5, a, b);
  const whole = lower + incompleteBeta(0.5, b, a);
  // Near 1 the mirror image is solved: `1 - p` is exact there.
  if (p * whole > lower) return 1 - solve((1 - p) * whole, b, a);
  return solve(p * whole, a, b);
}

/** The x in (0, 1/2] with `incompleteBeta(x, a, b) = target`: Newton's method, kept between bounds that close in. */
function solve(target: number, a: number, b: number): number {
  let low = 0;
  let high = 0.5;
  let x = Math.min((target * a) ** (1 / a), high);
  for (let i = 0; i < 100; i++) {
    const error = incompleteBeta(x, a, b) - target;
    if (error > 0) high = x;
    else low = x;
    let next = x - error / (x ** (a - 1) * (1 - x) ** (b - 1));
    if (!(next >= low && next <= high)) next = (low + high) / 2;
    if (Math.abs(next - x) <= 2e-16 * x) return next;
    x = next;
  }
  return x;
}
