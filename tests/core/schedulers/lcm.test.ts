import { Generator, LCMScheduler, TCDScheduler, Tensor, ValueError } from "@diffusers-web/core";
import { afterEach, describe, expect, test, vi } from "vitest";

afterEach(() => vi.restoreAllMocks());

/** The warnings that a call gives. */
function warningsOf(call: () => void): string[] {
  const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
  call();
  const messages = warn.mock.calls.map(([message]) => String(message));
  warn.mockRestore();
  return messages;
}

// The tables of runs and errors are in schedulers.test.ts; here is what they cannot say.
describe.each([LCMScheduler, TCDScheduler])("$name", (cls) => {
  test("previous_timestep is the next one of the run, as of all timesteps before set_timesteps", () => {
    const scheduler = new cls();
    expect(scheduler.previous_timestep(500)).toBe(499);
    const timesteps = [999, 87, 50, 1, 0];
    warningsOf(() => scheduler.set_timesteps(null, { timesteps }));
    expect(Array.from(scheduler.timesteps, (t) => scheduler.previous_timestep(t))).toEqual([87, 50, 1, 0, -1]);
    expect(() => scheduler.previous_timestep(500)).toThrow(ValueError);
    scheduler.set_timesteps(4);
    expect(Array.from(scheduler.timesteps)).toEqual([999, 759, 499, 259]);
    expect(scheduler.previous_timestep(759)).toBe(499);
  });

  test("custom timesteps that the model was not distilled with warn, each kind once", () => {
    const set = (timesteps: number[], strength?: number): string[] =>
      warningsOf(() => new cls().set_timesteps(null, { timesteps, strength }));
    expect(set([999, 759, 499, 259])).toEqual([]);
    expect(set([759, 499])).toEqual([expect.stringMatching(/start at 759.*999/)]);
    // Of a schedule that `strength` cuts, no first timestep is asked for, and fewer timesteps are the distillation's.
    expect(set([759, 499], 0.9)).toEqual([]);
    expect(set([999, 759], 0.5)).toEqual([expect.stringMatching(/distilled with: 759\./)]);
    expect(set([999, 500, 20])).toEqual([expect.stringMatching(/distilled with: 500, 20\./)]);
    const many = Array.from({ length: 51 }, (_, i) => 999 - i);
    expect(set(many)).toEqual([expect.stringMatching(/distilled with/), expect.stringMatching(/51.*50/)]);
  });

  test("the last step adds no noise: what it goes to is what it denoised", () => {
    const scheduler = new cls();
    scheduler.set_timesteps(2);
    const generator = new Generator().manual_seed(0);
    const x = generator.randn([1, 2, 4, 4]);
    const outputs = Array.from(scheduler.timesteps, (t) => scheduler.step(x, t, x, { generator }));
    const [first, last] = outputs.map(({ prev_sample, denoised, pred_noised_sample }) => ({
      prev: prev_sample.data,
      clean: (denoised ?? pred_noised_sample)!.data,
    }));
    expect(first!.prev).not.toEqual(first!.clean);
    expect(last!.prev).toEqual(last!.clean);
  });

  test("too many steps say how many there can be", () => {
    expect(() => new cls().set_timesteps(26, { strength: 0.5 })).toThrow(/26.*25.*50.*0\.5/);
    expect(() => new cls({ original_inference_steps: 1001 }).set_timesteps(4)).toThrow(/1001.*1000/);
  });
});

test("LCM's boundary condition gives the sample itself at timestep 0", () => {
  expect(new LCMScheduler().get_scalings_for_boundary_condition_discrete(0)).toEqual([1, 0]);
  const [c_skip, c_out] = new LCMScheduler().get_scalings_for_boundary_condition_discrete(1);
  expect(c_skip).toBeCloseTo(0.25 / 100.25, 7);
  expect(c_out).toBeCloseTo(10 / Math.sqrt(100.25), 7);
});

test("TCD without eta draws no noise", () => {
  const scheduler = new TCDScheduler();
  scheduler.set_timesteps(3);
  const generator = new Generator().manual_seed(5);
  const before = generator.get_state().data;
  const x = Tensor.ones([1, 1, 2, 2]);
  for (const t of scheduler.timesteps) scheduler.step(x, t, x, { eta: 0, generator });
  expect(generator.get_state().data).toEqual(before);
});
