import { DDIMInverseScheduler, DDIMScheduler } from "@diffusers-web/core";
import { afterEach, expect, test, vi } from "vitest";

afterEach(() => vi.restoreAllMocks());

/** What a scheduler of DDIM's alphas starts from: 1, or the first of its alphas. */
const first = new DDIMScheduler().alphas_cumprod[0]!;

test("set_alpha_to_zero, the old name, goes over the new one, warns, and is not kept", () => {
  const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
  const make = (set_alpha_to_zero: boolean | null, set_alpha_to_one: boolean): DDIMInverseScheduler =>
    new DDIMInverseScheduler({ set_alpha_to_zero, set_alpha_to_one });
  expect(make(false, true).initial_alpha_cumprod).toBe(first);
  expect(make(true, false).initial_alpha_cumprod).toBe(1);
  expect(warn).toHaveBeenCalledTimes(2);
  expect(warn).toHaveBeenLastCalledWith(expect.stringContaining("`set_alpha_to_zero` is deprecated"));
  expect(make(null, false).initial_alpha_cumprod).toBe(first);
  expect(warn).toHaveBeenCalledTimes(2);
  expect(`${make(false, true)}`).not.toContain("set_alpha_to_zero");
  expect(make(false, true).config.set_alpha_to_one).toBe(true);
});

test("a config that holds set_alpha_to_zero keeps it hidden, and heeds it each time", () => {
  vi.spyOn(console, "warn").mockImplementation(() => {});
  const scheduler = DDIMInverseScheduler.from_config({ set_alpha_to_zero: false, clip_sample: false });
  expect(scheduler.initial_alpha_cumprod).toBe(first);
  expect(scheduler.config["set_alpha_to_zero"]).toBe(false);
  expect(`${scheduler}`).toContain('"set_alpha_to_zero": false');
  const again = DDIMInverseScheduler.from_config(scheduler.config);
  expect(again.initial_alpha_cumprod).toBe(first);
  expect(`${again}`).toBe(`${scheduler}`);
  // An argument goes over the config, which stays as it was.
  const over = DDIMInverseScheduler.from_config(scheduler.config, { set_alpha_to_zero: true });
  expect(over.initial_alpha_cumprod).toBe(1);
  expect(`${over}`).toBe(`${scheduler}`);
});

test("fields that it does not have are taken as in Diffusers, but not in silence", () => {
  const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
  const scheduler = new DDIMInverseScheduler({ thresholding: true } as object);
  expect(warn).toHaveBeenCalledExactlyOnceWith(expect.stringMatching(/thresholding.*DDIMInverseScheduler/));
  expect(`${scheduler}`).toBe(`${new DDIMInverseScheduler()}`);
  expect(() => DDIMInverseScheduler.from_config({}, { thresholding: true })).toThrow(TypeError);
});

test("its timesteps are DDIM's the other way round", () => {
  const [there, back] = [new DDIMScheduler(), new DDIMInverseScheduler()];
  there.set_timesteps(7);
  back.set_timesteps(7);
  expect(back.timesteps).toEqual(there.timesteps.slice().reverse());
});
