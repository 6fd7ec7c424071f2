import { existsSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";

const json = (file: string): Record<string, Record<string, string>> => JSON.parse(readFileSync(file, "utf8"));

/** The build that webgpu graphs were checked with, and the one that @huggingface/transformers pins. */
const ORT = "1.31.0-dev.20260914-8d85527a0";

const locked = Object.entries(JSON.parse(readFileSync("package-lock.json", "utf8")).packages) as [
  string,
  { version?: string; resolved?: string; link?: boolean },
][];

test("one copy of onnxruntime-web, of the version that models names", () => {
  expect(json("packages/models/package.json")["dependencies"]?.["onnxruntime-web"]).toBe(ORT);
  const copies = locked.filter(([path]) => path.endsWith("node_modules/onnxruntime-web"));
  expect(copies.map(([path, { version }]) => [path, version])).toEqual([["node_modules/onnxruntime-web", ORT]]);
  for (const owner of ["@huggingface/transformers", "@diffusers-web/models"]) {
    expect(existsSync(`node_modules/${owner}/node_modules/onnxruntime-web`)).toBe(false);
  }
});

test("every dependency is pinned to one version", () => {
  const files = [
    "package.json",
    "demo/package.json",
    ...["core", "models", "pipelines"].map((p) => `packages/${p}/package.json`),
  ];
  for (const file of files) {
    const { dependencies = {}, devDependencies = {}, optionalDependencies = {} } = json(file);
    for (const [name, version] of Object.entries({ ...dependencies, ...devDependencies, ...optionalDependencies })) {
      expect(version, `${name} in ${file}`).toMatch(/^\d+\.\d+\.\d+(-[\w.-]+)?$/);
    }
  }
});

test("the packages have one version and name it for each other", () => {
  const versions = ["core", "models", "pipelines"].map((name) => json(`packages/${name}/package.json`));
  const version = versions[0]!["version"];
  for (const { version: own, dependencies = {} } of versions) {
    expect(own).toBe(version);
    for (const [name, wanted] of Object.entries(dependencies)) {
      if (name.startsWith("@diffusers-web/")) expect(wanted).toBe(version);
    }
  }
});

test("the lock file names no registry", () => {
  const elsewhere = locked.filter(([, { resolved, link }]) => resolved !== undefined && !link);
  expect(elsewhere).toEqual([]);
});
