import { expect, test } from "vitest";
import { betaQuantile } from "../../packages/core/src/schedulers/beta_distribution.ts";
import { numpyLog32, sqrt32 } from "../../packages/core/src/schedulers/float32.ts";
import { linspace32 } from "../../packages/core/src/schedulers/noise_schedules.ts";
import { DDPMScheduler } from "../../packages/core/src/schedulers/scheduling_ddpm.ts";
import { arange, linspace, roundHalfEven, trailingTimesteps } from "../../packages/core/src/schedulers/spacing.ts";
import { expectClose } from "../support/allclose.ts";
import { fixtureText } from "../support/fixtures.ts";

const math = JSON.parse(fixtureText("schedulers/math.json")) as {
  betas: { config: Record<string, unknown>; step: number; betas: number[]; alphas_cumprod: number[] }[];
  quantiles: { a: number; b: number; p: number[]; x: number[] }[];
  logs: { x: number[]; log: number[] };
  linspaces: { args: [number, number, number]; out: number[] }[];
  aranges: { args: [number, number, number]; out: number[] }[];
  aranges_longer: number[];
};

test.each(math.betas)("betas of $config", ({ config, step, betas, alphas_cumprod }) => {
  const scheduler = new DDPMScheduler(config);
  const picked = (values: Float32Array): Float32Array => values.filter((_, i) => i % step === 0);
  // Linear ones to the bit. Cosine, exponential and root have a last bit of their own; zero SNR is the difference of
  // nearly equal numbers, of which that bit is 1e-5.
  const exact =
    ["linear", "scaled_linear"].includes(config["beta_schedule"] as string) && !config["rescale_betas_zero_snr"];
  if (exact) expect(picked(scheduler.betas)).toEqual(Float32Array.from(betas));
  else expectClose(picked(scheduler.betas), betas, config["rescale_betas_zero_snr"] ? 2e-5 : 2e-7);
  if (exact) expect(picked(scheduler.alphas_cumprod)).toEqual(Float32Array.from(alphas_cumprod));
  else expectClose(picked(scheduler.alphas_cumprod), alphas_cumprod, 4e-7);
});

test.each(math.quantiles)("quantiles of Beta($a, $b)", ({ a, b, p, x }) => {
  // Relative: scipy and this both end within a few units of double precision.
  for (const [i, expected] of x.entries()) {
    expect(Math.abs(betaQuantile(p[i]!, a, b) - expected), `p = ${p[i]}`).toBeLessThanOrEqual(4e-15 * expected);
  }
});

test("quantiles outside of 0 to 1 are NaN", () => {
  expect([-0.1, 1.1, Number.NaN].map((p) => betaQuantile(p, 0.6, 0.6))).toEqual([Number.NaN, Number.NaN, Number.NaN]);
});

test("logarithms are numpy's float32 ones to the bit", () => {
  expect(Float32Array.from(math.logs.x, numpyLog32)).toEqual(Float32Array.from(math.logs.log));
  expect(numpyLog32(0)).toBe(Number.NEGATIVE_INFINITY);
  expect(numpyLog32(-1)).toBeNaN();
});

test.each(math.linspaces)("torch.linspace($args)", ({ args, out }) => {
  expect(linspace32(...args)).toEqual(Float32Array.from(out));
});

test.each(math.aranges)("numpy.arange($args)", ({ args, out }) => {
  expect(arange(...args)).toEqual(Float64Array.from(out));
});

test("numpy.arange has one number more where rounding says so", () => {
  const longer = Array.from({ length: 999 }, (_, i) => i + 1).filter((n) => arange(1000, 0, -1000 / n).length !== n);
  expect(longer).toEqual(math.aranges_longer);
  expect(trailingTimesteps(1000, 1000 / longer[0]!).at(-1)).toBe(-1);
});

test("halves round to even, one number spans nothing, and the nudged root stays a root", () => {
  expect([0.5, 1.5, 2.5, -0.5, -1.5, 2.4999].map((x) => roundHalfEven(x) + 0)).toEqual([0, 2, 2, 0, -2, 2]);
  expect(linspace(3, 9, 1)).toEqual(Float64Array.of(3));
  for (let i = 1; i < 5000; i++) expect(sqrt32(i * i)).toBe(i);
  expect(sqrt32(2 ** 24 - 1)).toBe(4096);
});
