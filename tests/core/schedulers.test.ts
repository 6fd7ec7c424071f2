import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import {
  Generator,
  type Scheduler,
  type SchedulerOutput,
  type StepOptions,
  schedulerRegistry,
  Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/core";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { fixturePath, fixtureTensors, fixtureText } from "../support/fixtures.ts";

/** One run, as make_schedulers.py describes it. */
interface Case {
  config: Record<string, unknown>;
  n: number | null;
  set?: object;
  step?: object;
  hidden?: Record<string, unknown>;
  shape?: number[];
  double?: boolean;
  generators?: boolean;
  variance_noise?: boolean;
  begin?: number;
  prev?: boolean;
  keep?: number;
  /** Where 1e-5 of the scale is too strict; the case file says why. */
  tolerance?: number;
  timesteps_tolerance?: number;
  unset?: number[];
  init_noise_sigma: number;
}

/** A config and calls, and where and with what Python's last one ended. */
interface Attempt {
  config: object;
  calls: [call: string, first: number | null, options?: Record<string, unknown>][];
  error: string | null;
  at: number;
}

interface Fixture {
  class: string;
  shape: number[];
  /** Config fields that each run needs. */
  base: Record<string, unknown>;
  /** What a run needs besides, of the test's own too. */
  run?: Pick<Case, "set" | "keep">;
  errors: Attempt[];
  cases: Case[];
  add_noise: { config: object; begin: number | null; picks: number[] }[];
}

type AnyScheduler = Scheduler & {
  sigmas?: Float32Array;
  get_velocity?(sample: Tensor, noise: Tensor, timesteps: ArrayLike<number>): Tensor;
  scale_noise?(sample: Tensor, timestep: ArrayLike<number>, noise: Tensor): Tensor;
};

/** What Python's exceptions are here. An UnboundLocalError is a case that Diffusers forgot to refuse. */
const errorClasses: Record<string, new (...args: never[]) => Error> = {
  NotImplementedError: UnsupportedModelError,
  UnboundLocalError: UnsupportedModelError,
};

/** Sums in another order, and torch's square root, exponential and logarithm, which are off by a last bit. */
const TOLERANCE = 1e-5;

const allStems = readdirSync(fixturePath("schedulers"))
  .filter((name) => name.endsWith(".safetensors"))
  .map((name) => name.replace(".safetensors", ""));
const fixtureOf = (stem: string): Fixture => JSON.parse(fixtureText(`schedulers/${stem}.json`)) as Fixture;
/** Those whose step has a form of its own have a test file of their own. */
const stems = allStems.filter((stem) => fixtureOf(stem).add_noise !== undefined);

/** A scheduler of a case's config, in which a number stands for a constant `tau_func`, and [class, config] for `solver_p`. */
function make(name: string, config: object): AnyScheduler {
  const { tau_func, solver_p } = config as { tau_func?: number; solver_p?: [string, object] };
  const given = {
    ...config,
    ...(tau_func !== undefined && { tau_func: () => tau_func }),
    ...(solver_p !== undefined && { solver_p: make(...solver_p) }),
  };
  return new schedulerRegistry[name]!(given as never) as AnyScheduler;
}

/** What `run` says after each step. */
type Visit = (step: number, output: SchedulerOutput) => void;

/** A denoising loop whose model outputs are noise plus a tenth of the input; the fixtures' script does the same. */
function run(scheduler: AnyScheduler, spec: Case, seed: number, shape: number[], steps: number, visit: Visit): void {
  if (spec.hidden !== undefined) scheduler.register_to_config(spec.hidden);
  if (spec.unset === undefined) scheduler.set_timesteps(spec.n, spec.set);
  if (spec.begin !== undefined) scheduler.set_begin_index!(spec.begin);
  const timesteps = spec.unset ?? Array.from(scheduler.timesteps).slice(spec.begin ?? 0);
  const takes = schedulerRegistry[scheduler.constructor.name]!.step_options;
  const generator = new Generator().manual_seed(seed);
  const single = new Generator().manual_seed(seed + 1000);
  const perItem = Array.from({ length: shape[0]! }, (_, i) => new Generator().manual_seed(seed + 1000 + i));

  let sample = generator.randn(shape).mul(scheduler.init_noise_sigma);
  for (const [i, t] of timesteps.slice(0, spec.keep).entries()) {
    const scaled = scheduler.scale_model_input(sample, t);
    const output = generator.randn(shape.map((size, axis) => (spec.double && axis === 1 ? 2 * size : size)));
    const [inner, outer] = [sample.size / shape[0]!, output.size / shape[0]!];
    for (let k = 0; k < scaled.size; k++) {
      output.data[Math.floor(k / inner) * outer + (k % inner)]! += Math.fround(Math.fround(0.1) * scaled.data[k]!);
    }
    const options: StepOptions = { ...spec.step };
    if (spec.prev) options.prev_timestep = timesteps[i + 1];
    if (spec.variance_noise) options.variance_noise = single.randn(shape);
    else if (takes.includes("generator")) options.generator = spec.generators ? perItem : single;
    if (i === steps) {
      // A first timestep that comes twice starts at its second place, and runs off the end of the sigmas: in Python too.
      expect(() => scheduler.step(output, t, sample, options)).toThrow(ValueError);
      return;
    }
    const result = scheduler.step(output, t, sample, options);
    visit(i, result);
    sample = result.prev_sample;
  }
}

// Odd settings are tried on purpose: what is warned of is in the classes' own tests.
beforeEach(() => void vi.spyOn(console, "warn").mockImplementation(() => {}));
afterEach(() => void vi.restoreAllMocks());

describe.each(stems)("%s", (stem) => {
  const fixture = fixtureOf(stem);
  const tensors = fixtureTensors(`schedulers/${stem}.safetensors`);
  const name = fixture.class;
  const title = ({ init_noise_sigma, ...spec }: Case): string => JSON.stringify(spec).slice(0, 300);

  test.each(fixture.cases.map((spec, i) => [i, title(spec), spec] as const))("run %i %s", (i, _title, spec) => {
    const scheduler = make(name, spec.config);
    const wanted = tensors[`${i}p`]!;
    const check = (what: string, step: number, actual: Tensor): void => {
      const { dims, data } = tensors[`${i}${what}`]!;
      const stride = Math.ceil(actual.size / dims[1]!);
      const kept = actual.data.filter((_, at) => at % stride === 0);
      expectClose(
        kept,
        data.subarray(step * dims[1]!, (step + 1) * dims[1]!),
        spec.tolerance ?? TOLERANCE,
        `${what} of step ${step}`,
      );
    };
    let steps = 0;
    run(scheduler, spec, i, spec.shape ?? fixture.shape, wanted.dims[0]!, (step, output) => {
      steps += 1;
      check("p", step, output.prev_sample);
      const others = { x: output.pred_original_sample, d: output.denoised, n: output.pred_noised_sample };
      for (const [key, tensor] of Object.entries(others)) {
        expect(tensor === undefined, key).toBe(tensors[`${i}${key}`] === undefined);
        if (tensor !== undefined && step < 3) check(key, step, tensor);
      }
    });
    expect(steps).toBe(wanted.dims[0]);

    // Float32 numbers that hold the last bit of torch's square root; of a schedule of zero SNR, what is left of that bit
    // after the difference of nearly equal numbers.
    const tolerance = spec.config["rescale_betas_zero_snr"] === true ? 1e-5 : 2e-7;
    const ofTimesteps = Math.max(tolerance, spec.timesteps_tolerance ?? 0);
    expectClose(scheduler.timesteps.slice(0, spec.keep), tensors[`${i}t`]!.data, ofTimesteps, "timesteps");
    if (scheduler.sigmas !== undefined) {
      expectClose(scheduler.sigmas.slice(0, spec.keep), tensors[`${i}s`]!.data, tolerance, "sigmas");
    }
    expectClose([scheduler.init_noise_sigma], [spec.init_noise_sigma], tolerance, "init_noise_sigma");
  });

  test.each(fixture.add_noise.map((row, i) => [i, JSON.stringify(row), row] as const))(
    "add_noise %i %s",
    (i, _title, { config, begin, picks }) => {
      const generator = new Generator().manual_seed(7);
      const [x, noise] = [generator.randn(fixture.shape), generator.randn(fixture.shape)];
      const scheduler = make(name, config);
      scheduler.set_timesteps(8, fixture.run?.set);
      if (begin !== null) scheduler.set_begin_index!(begin);
      const timesteps = picks.map((pick) => scheduler.timesteps[pick]!);
      if (scheduler.scale_noise === undefined) {
        expectClose(scheduler.add_noise!(x, noise, timesteps).data, tensors[`noise${i}.a`]!.data, 1e-6);
      } else {
        expectClose(scheduler.scale_noise(x, timesteps, noise).data, tensors[`noise${i}.c`]!.data, 1e-6);
      }
      const velocity = scheduler.get_velocity?.(x, noise, timesteps);
      expect(velocity === undefined).toBe(tensors[`noise${i}.v`] === undefined);
      if (velocity !== undefined) expectClose(velocity.data, tensors[`noise${i}.v`]!.data, 1e-6);
    },
  );

  test("two runs of one object agree, and so does a fresh object after a run of another length", () => {
    const spec: Case = { config: fixture.base, n: 6, ...fixture.run, init_noise_sigma: 1 };
    const outputs = (scheduler: AnyScheduler): Float32Array[] => {
      const all: Float32Array[] = [];
      run(scheduler, spec, 3, fixture.shape, Number.POSITIVE_INFINITY, (_, output) =>
        all.push(output.prev_sample.data),
      );
      return all;
    };
    const scheduler = make(name, spec.config);
    const first = outputs(scheduler);
    expect(outputs(scheduler)).toEqual(first);
    // Left in the middle of a run of another length.
    run(scheduler, { ...spec, n: 9, keep: 5 }, 4, fixture.shape, Number.POSITIVE_INFINITY, () => {});
    expect(outputs(scheduler)).toEqual(first);
    expect(outputs(make(name, spec.config))).toEqual(first);
  });

  test("neither the sample nor the model's output is written to", () => {
    const thresholds = "thresholding" in schedulerRegistry[name]!.config_defaults;
    const scheduler = make(name, { ...fixture.base, ...(thresholds && { thresholding: true }) });
    scheduler.set_timesteps(6, fixture.run?.set);
    const generator = new Generator().manual_seed(1);
    const [sample, output] = [generator.randn(fixture.shape), generator.randn(fixture.shape)];
    const [before, outputBefore] = [sample.data.slice(), output.data.slice()];
    for (const t of scheduler.timesteps.slice(0, 3)) {
      scheduler.scale_model_input(sample, t);
      scheduler.step(output, t, sample);
    }
    expect(sample.data).toEqual(before);
    expect(output.data).toEqual(outputBefore);
  });

  test("tensors of another shape or type are refused by name", () => {
    const scheduler = make(name, fixture.base);
    scheduler.set_timesteps(6, fixture.run?.set);
    const sample = Tensor.zeros([1, 3, 4, 4]);
    const t = scheduler.timesteps[0]!;
    expect(() => scheduler.step(Tensor.zeros([1, 3, 4, 5]), t, sample)).toThrow(/\[1,3,4,5\].*\[1,3,4,4\]/);
    expect(() => scheduler.step(Tensor.zeros([3, 4, 4]), t, sample)).toThrow(ValueError);
    const doubles = Tensor.zeros([1, 3, 4, 4], "float64") as unknown as Tensor;
    expect(() => scheduler.step(doubles, t, sample)).toThrow(/float64/);
    if (scheduler.add_noise === undefined) return;
    expect(() => scheduler.add_noise!(sample, sample, [t, t])).toThrow(ValueError);
  });

  const attempts = fixture.errors.map(
    (row) => [`${JSON.stringify(row.config)} ${JSON.stringify(row.calls)}`, row] as const,
  );
  test.each(attempts)("an error comes where Python raises one: %s", (_title, { config, calls, error, at }) => {
    let reached = -1;
    const attempt = (): void => {
      const scheduler = make(name, config);
      for (const [i, [call, first, options]] of calls.entries()) {
        reached = i;
        if (call === "set_timesteps") {
          scheduler.set_timesteps(first, options);
          continue;
        }
        const x = Tensor.ones([1, 3, 2, 2]);
        const t = call === "step" ? scheduler.timesteps.at(first!)! : first!;
        const given = {
          ...options,
          ...(options?.["variance_noise"] === true && { variance_noise: x }),
          ...(options?.["generator"] === true && { generator: new Generator() }),
        };
        scheduler.step(x, t, x, given);
      }
    };
    // Fewer than 1 step: some classes of Python's make an empty schedule of it, here it is refused.
    const stricter = calls.some(([call, n]) => call === "set_timesteps" && n !== null && n <= 0);
    if (error === null && !stricter) {
      expect(attempt).not.toThrow();
    } else {
      const misuse = error === "TypeError" && JSON.stringify([config, calls]).includes('"nope":1');
      expect(attempt).toThrow(misuse ? TypeError : (errorClasses[error ?? ""] ?? ValueError));
      expect(reached).toBe(at);
    }
  });
});

test.each(["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])("%s counts its steps", (name) => {
  const scheduler = make(name, {}) as AnyScheduler & { step_index: number | null; begin_index: number | null };
  scheduler.set_timesteps(5);
  const x = Tensor.ones([1, 1, 4, 4]);
  expect([scheduler.step_index, scheduler.begin_index]).toEqual([null, null]);
  scheduler.scale_model_input(x, scheduler.timesteps[1]!);
  scheduler.step(x, scheduler.timesteps[1]!, x);
  expect([scheduler.step_index, scheduler.begin_index]).toEqual([2, null]);
  scheduler.set_timesteps(5);
  scheduler.set_begin_index!(3);
  scheduler.step(x, scheduler.timesteps[0]!, x);
  expect([scheduler.step_index, scheduler.begin_index]).toEqual([4, 3]);
  scheduler.set_timesteps(5);
  expect([scheduler.step_index, scheduler.begin_index]).toEqual([null, null]);
});

test("DPM-Solver's mu stays until it is given again, as in Diffusers", () => {
  const config = { use_flow_sigmas: true, use_dynamic_shifting: true };
  const [a, b] = [make("DPMSolverMultistepScheduler", config), make("DPMSolverMultistepScheduler", config)];
  a.set_timesteps(5);
  b.set_timesteps(5, { mu: 1 });
  expect(b.sigmas).not.toEqual(a.sigmas);
  const shifted = b.sigmas;
  b.set_timesteps(5);
  expect(b.sigmas).toEqual(shifted);
  expect(`${b}`).toContain('"flow_shift": 1.0');
});

test("every scheduler file has its line in index.ts, its fixture and its row in the table", () => {
  const folder = fileURLToPath(new URL("../../packages/core/src/schedulers/", import.meta.url));
  const files = readdirSync(folder)
    .filter((file) => file.startsWith("scheduling_") && file !== "scheduling_utils.ts")
    .map((file) => file.replace("scheduling_", "").replace(".ts", ""));
  expect(files).toEqual(allStems);
  const classes = allStems.map((stem) => fixtureOf(stem).class);
  expect(Object.keys(schedulerRegistry).sort()).toEqual(classes.sort());
  for (const [name, cls] of Object.entries(schedulerRegistry)) expect(cls.name).toBe(name);
});

test("DDIM with full noise starts from pure noise without NaN", () => {
  for (const n of [10, 15, 20, 25, 30, 45, 50]) {
    const config = { rescale_betas_zero_snr: true, prediction_type: "v_prediction", timestep_spacing: "trailing" };
    const scheduler = make("DDIMScheduler", config);
    scheduler.set_timesteps(n);
    const x = Tensor.ones([1, 1, 2, 2]);
    const { prev_sample } = scheduler.step(x, scheduler.timesteps[0]!, x, { eta: 1, variance_noise: x });
    expect(prev_sample.data.every(Number.isFinite), `${n} steps`).toBe(true);
  }
});

/** Says how long it took to draw noise. */
class TimedGenerator extends Generator {
  spent = 0;

  override randn(dims: readonly number[]): Tensor {
    const start = performance.now();
    const noise = super.randn(dims);
    this.spent += performance.now() - start;
    return noise;
  }
}

test("a step of a large batch takes its time in loops, not in a chain of tensors", () => {
  for (const { class: name, run: needs } of stems.map(fixtureOf)) {
    const cls = schedulerRegistry[name]!;
    const scheduler = make(name, "skip_prk_steps" in cls.config_defaults ? { skip_prk_steps: true } : {});
    const generator = new TimedGenerator().manual_seed(0);
    const [sample, output] = [generator.randn([2, 4, 128, 128]), generator.randn([2, 4, 128, 128])];
    const options = cls.step_options.includes("generator") ? { generator } : {};
    const times: number[] = [];
    // A step along a Brownian path draws its noise some twenty times over, from generators of its own.
    const brownian = name === "DPMSolverSDEScheduler" || name === "CosineDPMSolverMultistepScheduler";
    scheduler.set_timesteps(brownian ? 3 : 40, needs?.set);
    for (const t of scheduler.timesteps.slice(0, needs?.keep)) {
      scheduler.scale_model_input(sample, t);
      generator.spent = 0;
      const start = performance.now();
      scheduler.step(output, t, sample, options);
      times.push(performance.now() - start - generator.spent);
    }
    if (process.env["TIMES"] !== undefined) {
      const median = times.sort((a, b) => a - b)[times.length >> 1]!;
      console.log(name, "ms per step of [2, 4, 128, 128]: median", median.toFixed(2), "least", times[0]!.toFixed(2));
    }
    // 1 to 1.5 ms where nothing else runs; the least of 40 with a margin, since other tests run beside.
    expect(Math.min(...times), name).toBeLessThan(brownian ? 150 : 6);
  }
});
