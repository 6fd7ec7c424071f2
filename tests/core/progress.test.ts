/** What a load tells while it goes on: counts that never go back, not too often, with a speed and the time left. */
import { type LoadProgress, type LoadStep, type ProgressReporter, reportProgress } from "@diffusers-web/core";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";

let seen: LoadProgress[] = [];
let report: ProgressReporter;
beforeEach(() => {
  vi.useFakeTimers();
  seen = [];
  report = reportProgress((progress) => seen.push(progress))!;
});
afterEach(() => {
  vi.useRealTimers();
});

const download = (file: string, loaded: number, total: number): void =>
  report({ phase: "download", file, loaded, total });
const upload = (file: string, loaded: number, total: number): void => report({ phase: "upload", file, loaded, total });
const wait = (milliseconds: number): unknown => vi.advanceTimersByTime(milliseconds);
const last = (): LoadProgress => seen.at(-1)!;

/** What must hold of any load's events. */
function expectForward(events: readonly LoadProgress[]): void {
  const files = new Map<string, number>();
  let before: LoadProgress | undefined;
  for (const event of events) {
    const { file, phase, loaded, total, loaded_bytes, total_bytes, loaded_files, total_files } = event;
    expect(loaded).toBeGreaterThanOrEqual(files.get(`${phase} ${file}`) ?? 0);
    files.set(`${phase} ${file}`, loaded);
    if (total > 0) expect(loaded).toBeLessThanOrEqual(total);
    expect(loaded_bytes).toBeLessThanOrEqual(total_bytes);
    expect(loaded_files).toBeLessThanOrEqual(total_files);
    expect(loaded_bytes).toBeGreaterThanOrEqual(before?.loaded_bytes ?? 0);
    expect(loaded_files).toBeGreaterThanOrEqual(before?.loaded_files ?? 0);
    expect(total_bytes).toBeGreaterThanOrEqual(before?.total_bytes ?? 0);
    before = event;
  }
}

describe("counts", () => {
  test("of files that are announced, from the first event on", () => {
    report.announce([
      { path: "a", size: 100 },
      { path: "b", size: 300 },
      { path: "empty", size: 0 },
    ]);
    download("a", 0, 100);
    expect(last()).toMatchObject({ loaded: 0, total: 100, loaded_bytes: 0, total_bytes: 400, total_files: 3 });
    download("a", 100, 100);
    expect(last()).toMatchObject({ loaded_bytes: 100, loaded_files: 1 });
    download("b", 0, 300);
    download("b", 300, 300);
    expect(last()).toMatchObject({ loaded_bytes: 400, loaded_files: 2 });
    report.arrived();
    report({ phase: "build", file: "a", loaded: 0, total: 0 });
    expect(last()).toMatchObject({ phase: "build", loaded: 0, total: 0, loaded_bytes: 400, loaded_files: 3 });
    expectForward(seen);
  });

  test("of files that turn up one by one", () => {
    download("a", 0, 100);
    download("a", 100, 100);
    expect(last()).toMatchObject({ loaded_bytes: 100, total_bytes: 100, loaded_files: 1, total_files: 1 });
    download("b", 0, 0);
    download("b", 50, 0);
    wait(50);
    download("b", 70, 0);
    // Its end is known when something else begins.
    expect(last()).toMatchObject({ loaded: 70, total: 0, loaded_bytes: 170, total_bytes: 170, total_files: 2 });
    expectForward(seen);
  });

  test("of files that have been there before: nothing is told of them", () => {
    report.announce([
      { path: "a", size: 100 },
      { path: "cached", size: 1000 },
    ]);
    download("a", 100, 100);
    report.arrived();
    report({ phase: "verify", file: "a", loaded: 0, total: 0 });
    expect(last()).toMatchObject({ loaded_bytes: 1100, total_bytes: 1100, loaded_files: 2, total_files: 2 });
    expectForward(seen);
  });

  test("stand still while a file is fetched anew, and go on from where they were", () => {
    report.announce([
      { path: "a", size: 1000 },
      { path: "b", size: 1000 },
    ]);
    download("b", 0, 1000);
    for (let loaded = 0; loaded <= 1000; loaded += 250) {
      download("a", loaded, 1000);
      wait(1000);
    }
    // It was whole, but wrong.
    const left: (number | undefined)[] = [];
    for (let loaded = 0; loaded <= 1000; loaded += 250) {
      download("a", loaded, 1000);
      expect(last()).toMatchObject({ loaded: 1000, loaded_bytes: 1000, total_bytes: 2000, loaded_files: 1 });
      left.push(last().seconds_left);
      wait(1000);
    }
    // The time left knows of what is fetched twice.
    expect(left[0]).toBeGreaterThan(left.at(-1)! * 1.5);
    download("b", 1000, 1000);
    expect(last()).toMatchObject({ loaded_bytes: 2000, loaded_files: 2 });
    expectForward(seen);
  });

  test("of files that come side by side, cut, resumed and retried, in any order", () => {
    const sizes = [5000, 3000, 1, 0, 8000];
    report.announce(sizes.map((size, i) => ({ path: `file ${i}`, size })));
    // A small generator of its own: the same order in each run.
    let state = 7;
    const random = (below: number): number => {
      state = (state * 48271) % 2147483647;
      return state % below;
    };
    const at = sizes.map(() => 0);
    for (let i = 0; i < 3000; i++) {
      const file = random(sizes.length);
      const step = random(40);
      // Now and then a connection is cut: it goes on a little before, or at the start.
      if (step === 0) at[file] = random(2) * Math.max(0, at[file]! - 100);
      else at[file] = Math.min(sizes[file]!, at[file]! + step);
      download(`file ${file}`, at[file]!, sizes[file]!);
      wait(random(20));
    }
    for (const [i, size] of sizes.entries()) download(`file ${i}`, size, size);
    report.arrived();
    report({ phase: "verify", file: "file 0", loaded: 0, total: 0 });
    expect(last()).toMatchObject({ loaded_bytes: 16_001, total_bytes: 16_001, loaded_files: 5, total_files: 5 });
    expectForward(seen);
  });
});

describe("how often", () => {
  test("about thirty times a second, besides each file's first and last step", () => {
    const files = ["a", "b", "c"];
    for (const file of files) download(file, 0, 100_000);
    for (let i = 1; i <= 2000; i++) {
      wait(1);
      for (const file of files) download(file, i * 50, 100_000);
    }
    expect(seen.length).toBeGreaterThan(50);
    // Two seconds, and 3 files' first and last.
    expect(seen.length).toBeLessThanOrEqual(2 * 30 + 6);
    for (const file of files) {
      const own = seen.filter((one) => one.file === file);
      expect([own[0]!.loaded, own.at(-1)!.loaded]).toEqual([0, 100_000]);
    }
    expectForward(seen);
  });

  test("each file in each phase, at any speed", () => {
    const steps: LoadStep[] = ["a", "b"].flatMap((file) => [
      { phase: "resolve" as const, file, loaded: 0, total: 0 },
      { phase: "download" as const, file, loaded: 0, total: 8 },
      { phase: "download" as const, file, loaded: 8, total: 8 },
      { phase: "verify" as const, file, loaded: 8, total: 8 },
      { phase: "build" as const, file, loaded: 0, total: 0 },
      { phase: "upload" as const, file, loaded: 4, total: 9 },
      { phase: "upload" as const, file, loaded: 9, total: 9 },
      { phase: "compile" as const, file, loaded: 0, total: 0 },
    ]);
    for (const step of steps) report(step);
    expect(seen.map(({ phase, file, loaded, total }) => ({ phase, file, loaded, total }))).toEqual(steps);
  });

  test("the end of a file of unknown length, when something else begins", () => {
    download("a", 0, 0);
    for (const loaded of [10, 20, 30]) download("a", loaded, 0);
    expect(seen.map(({ loaded }) => loaded)).toEqual([0]);
    report({ phase: "verify", file: "a", loaded: 0, total: 0 });
    expect(seen.map(({ phase, loaded }) => [phase, loaded])).toEqual([
      ["download", 0],
      ["download", 30],
      ["verify", 0],
    ]);
  });

  test("hashing that goes on beside downloads is no reason for more events", () => {
    for (let i = 0; i <= 1000; i++) {
      download("a", i, 1000);
      report({ phase: "verify", file: "b", loaded: i, total: 1000 });
      wait(1);
    }
    expect(seen.length).toBeLessThanOrEqual(30 + 4);
    expectForward(seen.filter(({ phase }) => phase === "download"));
  });
});

describe("speed and time left", () => {
  /** `seconds` at `rate` bytes per second, 20 times a second. */
  function run(file: string, from: number, total: number, rate: number, seconds: number): number {
    let loaded = from;
    for (let i = 0; i < seconds * 20; i++) {
      wait(50);
      loaded += rate / 20;
      download(file, loaded, total);
    }
    return loaded;
  }

  test("of an even download", () => {
    report.announce([
      { path: "a", size: 10_000 },
      { path: "b", size: 10_000 },
    ]);
    download("a", 0, 10_000);
    expect([last().speed, last().seconds_left]).toEqual([undefined, undefined]);
    run("a", 0, 10_000, 1000, 5);
    expect(last().speed).toBeCloseTo(1000, 0);
    expect(last().seconds_left).toBeCloseTo(15, 1);
  });

  test("smoothed over some seconds", () => {
    report.announce([{ path: "a", size: 1_000_000 }]);
    download("a", 0, 1_000_000);
    const loaded = run("a", 0, 1_000_000, 1000, 10);
    const slower = run("a", loaded, 1_000_000, 100, 1);
    expect(last().speed).toBeGreaterThan(600);
    run("a", slower, 1_000_000, 100, 6);
    expect(last().speed).toBeCloseTo(100, -1);
  });

  test("of what comes now, not of what was kept of an earlier load", () => {
    report.announce([
      { path: "a", size: 100_000 },
      { path: "b", size: 100_000 },
    ]);
    download("a", 90_000, 100_000);
    const loaded = run("a", 90_000, 100_000, 1000, 2);
    download("b", 99_000, 100_000);
    run("a", loaded, 100_000, 1000, 3);
    expect(last().speed).toBeCloseTo(1000, 0);
    expect(last().seconds_left).toBeCloseTo(6, 1);
  });

  test("is zero when nothing comes, and of files side by side the sum", () => {
    report.announce([
      { path: "a", size: 100_000 },
      { path: "b", size: 100_000 },
    ]);
    for (const file of ["a", "b"]) download(file, 0, 100_000);
    for (let i = 1; i <= 100; i++) {
      wait(50);
      for (const file of ["a", "b"]) download(file, i * 50, 100_000);
    }
    expect(last().speed! / 2000).toBeCloseTo(1, 1);
    for (let i = 0; i < 20; i++) {
      wait(500);
      download("a", 5000, 100_000);
    }
    expect(last().speed).toBe(0);
    expect(last().seconds_left).toBeUndefined();
  });

  test("the time left is not told where nobody knows how much is to come, nor the speed in other phases", () => {
    download("a", 0, 100_000);
    run("a", 0, 100_000, 1000, 5);
    expect(last().speed).toBeCloseTo(1000, 0);
    expect(last().seconds_left).toBeUndefined();
    report({ phase: "build", file: "a", loaded: 0, total: 0 });
    expect([last().speed, last().seconds_left]).toEqual([undefined, undefined]);
  });
});

describe("uploads", () => {
  test("are counted over all components from the first on", () => {
    report.announceUpload("text_encoder", 100);
    report.announceUpload("unet", 800);
    // With an encoder that no picture from a text needs.
    report.announceUpload("vae", 150);
    upload("text_encoder", 60, 100);
    expect(last()).toMatchObject({ loaded: 60, total: 100, loaded_bytes: 60, total_bytes: 1050, total_files: 3 });
    upload("text_encoder", 100, 100);
    report({ phase: "compile", file: "text_encoder", loaded: 0, total: 0 });
    expect(last()).toMatchObject({ loaded_bytes: 100, total_bytes: 1050, loaded_files: 1 });
    upload("unet", 800, 800);
    upload("vae", 40, 100);
    expect(last()).toMatchObject({ loaded_bytes: 940, total_bytes: 1000 });
    upload("vae", 100, 100);
    expect(last()).toMatchObject({ loaded_bytes: 1000, total_bytes: 1000, loaded_files: 3, total_files: 3 });
  });

  test("of another part of a component add up; what comes after all is a count of its own", () => {
    report.announceUpload("vae", 150);
    report.announceUpload("unet", 800);
    for (const loaded of [20, 50]) upload("vae", loaded, 50);
    for (const loaded of [60, 100]) upload("vae", loaded, 100);
    expect(last()).toMatchObject({ loaded_bytes: 150, total_bytes: 950, loaded_files: 2, total_files: 3 });
    upload("unet", 800, 800);
    expect(last()).toMatchObject({ loaded_bytes: 950, total_bytes: 950 });
    // The same model for another size.
    upload("unet", 10, 800);
    expect(last()).toMatchObject({ loaded: 10, loaded_bytes: 10, total_bytes: 800, loaded_files: 0, total_files: 1 });
    upload("unet", 800, 800);
    expect(last()).toMatchObject({ loaded_bytes: 800, total_bytes: 800, loaded_files: 1 });
  });

  test("a weight that is read twice changes nothing", () => {
    upload("unet", 10, 10);
    upload("unet", 10, 10);
    expect(last()).toMatchObject({ loaded_bytes: 10, total_bytes: 10, total_files: 1 });
  });
});

test("a reporter is made once, and without a callback not at all", () => {
  expect(reportProgress(undefined)).toBeUndefined();
  expect(reportProgress(report)).toBe(report);
  const callback = (): void => undefined;
  expect(reportProgress(callback)).not.toBe(callback);
});
