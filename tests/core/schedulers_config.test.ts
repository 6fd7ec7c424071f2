import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Scheduler, schedulerRegistry } from "@diffusers-web/core";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { fixtureText } from "../support/fixtures.ts";

const configs = JSON.parse(fixtureText("schedulers/configs.json")) as {
  files: Record<string, string>;
  rows: { file: string | null; start?: string; kwargs: object; names: string[]; repr: string }[];
};
let folder = "";
const folderOf = (title: string): string => join(folder, title.replaceAll(" ", "-"));
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "schedulers-"));
  for (const [title, text] of Object.entries(configs.files)) {
    mkdirSync(folderOf(title));
    writeFileSync(join(folderOf(title), "scheduler_config.json"), text);
  }
});
afterAll(() => rmSync(folder, { recursive: true }));

const make = (name: string, config: object = {}): Scheduler => new schedulerRegistry[name]!(config as never);

describe("configs print as in Python", () => {
  const rows = configs.rows.map(
    (row) => [`${row.file ?? "defaults"} ${JSON.stringify(row.kwargs)} ${row.names.join(" ")}`, row] as const,
  );
  test.each(rows)("%s", async (_title, { file, start, kwargs, names, repr }) => {
    vi.spyOn(console, "warn").mockImplementation(() => {});
    let scheduler: Scheduler;
    if (start !== undefined) {
      scheduler = schedulerRegistry[start]!.from_config(make(start, { num_train_timesteps: 50 }).config);
      for (const name of names) scheduler = schedulerRegistry[name]!.from_config(scheduler.config, kwargs);
    } else if (file === null) {
      scheduler = make(names[0]!);
    } else {
      scheduler = await schedulerRegistry[names[0]!]!.from_pretrained(folderOf(file), kwargs);
      for (const name of names.slice(1)) scheduler = schedulerRegistry[name]!.from_config(scheduler.config);
    }
    expect(`${scheduler}`).toBe(repr);
    vi.restoreAllMocks();
  });
});

test.each(Object.keys(schedulerRegistry))("%s saves what it prints, and loads it again", async (name) => {
  const scheduler = make(name, { num_train_timesteps: 77, beta_start: 0.001 });
  const saved = join(folder, `saved-${name}`);
  await scheduler.save_pretrained(saved);
  expect(`${name} ${readFileSync(join(saved, "scheduler_config.json"), "utf8")}`).toBe(`${scheduler}`);
  const loaded = await schedulerRegistry[name]!.from_pretrained(saved);
  expect(`${loaded}`).toBe(`${scheduler}`);
  expect(loaded.length).toBe(77);
  expect(loaded.order).toBe(1);
  expect(loaded.compatibles).toContain("UniPCMultistepScheduler");
  expect(loaded.constructor.name).toBe(name);
  // from_config takes a place to load from as well.
  const subfolder = `saved-${name}`;
  const cls = schedulerRegistry[name] as unknown as {
    from_config(source: string, options: object): Promise<Scheduler>;
  };
  expect(`${await cls.from_config(folder, { subfolder })}`).toBe(`${scheduler}`);
});

test("DPM-Solver heeds the sigmas of another class's config", () => {
  const euler = make("EulerDiscreteScheduler", { use_karras_sigmas: true, sigma_min: 0.1, sigma_max: 7 });
  const dpm = schedulerRegistry["DPMSolverMultistepScheduler"]!.from_config(euler.config) as Scheduler & {
    sigmas: Float32Array;
  };
  dpm.set_timesteps(4);
  // rho = 7 leaves a last bit or two of double precision.
  expect(dpm.sigmas[0]).toBeCloseTo(7, 6);
  expect(dpm.sigmas[3]).toBeCloseTo(0.1, 6);
});

test("typed arrays of betas print as lists", () => {
  const scheduler = make("DDPMScheduler", { num_train_timesteps: 2, trained_betas: Float64Array.of(0.5, 1) });
  expect(`${scheduler}`).toContain('"trained_betas": [\n    0.5,\n    1.0\n  ]');
});
