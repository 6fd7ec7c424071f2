import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path/posix";
import { expect, test } from "vitest";
import { bundle, gzipped } from "./support.ts";

/** What a page pays at once for a line of code, in bytes gzipped: about a fifth above what it was when this was written. */
const budgets: [what: string, code: string, budget: number][] = [
  ["Tensor alone", 'export { Tensor } from "@diffusers-web/core";', 6_500],
  ["one scheduler", 'export { EulerDiscreteScheduler } from "@diffusers-web/core";', 22_000],
  ["all of core: 35 schedulers are half of it", 'export * from "@diffusers-web/core";', 64_000],
  ["one model", 'export { UNet2DConditionModel } from "@diffusers-web/models";', 61_000],
  ["all of models, without the engine", 'export * from "@diffusers-web/models";', 125_000],
  [
    "DiffusionPipeline: models and pipelines come when a repository names them",
    'export { DiffusionPipeline } from "@diffusers-web/pipelines";',
    88_000,
  ],
  ["all of pipelines, without the engine", 'export * from "@diffusers-web/pipelines";', 240_000],
];

test.each(budgets)("%s", async (_, code, budget) => {
  const size = gzipped(await bundle(code, { format: "es", minify: true }));
  expect(size).toBeLessThan(budget);
  // A budget of twice the size guards nothing.
  expect(size).toBeGreaterThan(budget / 2);
});

test("one scheduler brings no other", async () => {
  const code = await bundle('export { EulerDiscreteScheduler } from "@diffusers-web/core";', {
    format: "es",
    minify: false,
  });
  expect([...code.matchAll(/class (\w+Scheduler)\b/g)].map((match) => match[1])).toEqual(["EulerDiscreteScheduler"]);
});

/** The scripts that the built page runs before a model is asked for: its own, what they import, and its workers. */
function initialScripts(): string[] {
  const html = readFileSync("demo/dist/index.html", "utf8");
  const waiting = [...html.matchAll(/(?:src|href)="([^"]+\.js)"/g)].map((match) => join("demo/dist", match[1]!));
  const found = new Set<string>();
  for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) {
    if (found.has(file)) continue;
    found.add(file);
    const code = readFileSync(file, "utf8");
    const names = [
      ...code.matchAll(/(?:\bfrom|\bimport)\s*["'`](\.[^"'`]+\.js)["'`]/g),
      ...code.matchAll(/new URL\(\s*["'`]([^"'`]*worker[^"'`]*\.js)["'`]/g),
    ].map((match) => match[1]!);
    waiting.push(...names.map((name) => (name.startsWith("/") ? `demo/dist${name}` : join(file, "..", name))));
  }
  return [...found];
}

test("the demo page's first JavaScript stays under 150 kB", () => {
  const scripts = initialScripts();
  expect(scripts.filter((file) => !existsSync(file))).toEqual([]);
  // The page itself and its worker.
  expect(scripts.length).toBeGreaterThan(1);
  const size = scripts.reduce((total, file) => total + gzipped(readFileSync(file, "utf8")), 0);
  expect(size).toBeLessThan(150_000);
});
