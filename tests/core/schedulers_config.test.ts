import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Scheduler, schedulerRegistry } from "@diffusers-web/core";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { fixtureGzip } from "../support/fixtures.ts";

/** Classes to build one after the other, the first from a file, and how Python prints the last; or what it raises. */
interface Row {
  file: string | null;
  start?: string;
  kwargs: object;
  names: string[];
  repr?: string;
  error?: string;
  /** Of a class's defaults. */
  compatibles?: string[];
  order?: number;
}

const configs = JSON.parse(fixtureGzip("schedulers/configs.json.gz")) as {
  files: Record<string, string>;
  rows: Row[];
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

const from = (name: string, config: object, kwargs: object = {}): Scheduler =>
  schedulerRegistry[name]!.from_config(config, kwargs);

async function build({ file, start, kwargs, names }: Row): Promise<Scheduler> {
  const [first, ...rest] = names as [string, ...string[]];
  if (start !== undefined) {
    const begin = from(start, make(start, { num_train_timesteps: 50 }).config);
    return names.reduce((last, name) => from(name, last.config, kwargs), begin);
  }
  if (file === null) return make(first);
  const loaded = await schedulerRegistry[first]!.from_pretrained(folderOf(file), kwargs);
  return rest.reduce((last, name) => from(name, last.config), loaded);
}

describe("configs print as in Python", () => {
  const titles = [...new Set(configs.rows.map((row) => `${row.names[0]} ${row.file ?? "defaults"}`))];
  test.each(titles)("%s", async (title) => {
    vi.spyOn(console, "warn").mockImplementation(() => {});
    for (const row of configs.rows.filter(({ names, file }) => `${names[0]} ${file ?? "defaults"}` === title)) {
      const where = `${row.names.join(" ")} ${JSON.stringify(row.kwargs)}`;
      if (row.error !== undefined) {
        await expect(build(row), where).rejects.toThrow(Error);
        continue;
      }
      const scheduler = await build(row);
      expect(`${scheduler}`, where).toBe(row.repr);
      if (row.compatibles !== undefined) expect([...scheduler.compatibles].sort()).toEqual(row.compatibles);
      if (row.order !== undefined) expect(scheduler.order).toBe(row.order);
    }
    vi.restoreAllMocks();
  });
});

test.each(Object.keys(schedulerRegistry))("%s saves what it prints, and loads it again", async (name) => {
  const fields = Object.keys(schedulerRegistry[name]!.config_defaults);
  const values = { num_train_timesteps: 77, beta_start: 0.001, sigma_max: 60.5 };
  const scheduler = make(name, Object.fromEntries(Object.entries(values).filter(([field]) => fields.includes(field))));
  const saved = join(folder, `saved-${name}`);
  await scheduler.save_pretrained(saved);
  expect(`${name} ${readFileSync(join(saved, "scheduler_config.json"), "utf8")}`).toBe(`${scheduler}`);
  const loaded = await schedulerRegistry[name]!.from_pretrained(saved);
  expect(`${loaded}`).toBe(`${scheduler}`);
  expect(loaded.length).toBe(fields.includes("num_train_timesteps") ? 77 : Number.NaN);
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
