import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { runInNewContext } from "node:vm";
import { expect, test } from "vitest";
import { bundle, filesUnder, packages } from "./support.ts";

/** Runs a module in plain Node, where the packages resolve to what is built. */
function inNode<T>(code: string): T {
  return JSON.parse(execFileSync(process.execPath, ["--input-type=module", "-e", code], { encoding: "utf8" }));
}

const exported = inNode<Record<(typeof packages)[number], string[]>>(`
  const names = async (name) => [name, Object.keys(await import("@diffusers-web/" + name))];
  console.log(JSON.stringify(Object.fromEntries(await Promise.all(${JSON.stringify(packages)}.map(names)))));
`);

test.each(packages)("%s: what is built exports what the sources export, by name", async (name) => {
  const source = await import(`../../packages/${name}/src/index.ts`);
  expect(exported[name]).toEqual(Object.keys(source).sort());
  expect(exported[name]).not.toContain("default");
});

test("pipelines exports all of core and models, the very same: one import is enough", () => {
  const others = inNode<string[]>(`
    const [core, models, all] = await Promise.all(${JSON.stringify(packages)}.map((name) => import("@diffusers-web/" + name)));
    console.log(JSON.stringify(Object.entries({ ...core, ...models }).filter(([k, v]) => all[k] !== v).map(([k]) => k)));
  `);
  expect(others).toEqual([]);
});

test("the names of the contract are there", () => {
  const names = [
    ...["Tensor", "Generator", "RawImage", "ConfigMixin", "randn_tensor"],
    ...["DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"],
    ...["UNet2DModel", "UNet2DConditionModel", "AutoencoderKL", "CLIPTextModel"],
    ...["DiffusionPipeline", "StableDiffusionPipeline", "DDPMPipeline", "DDIMPipeline"],
    ...["ModelNotFoundError", "UnsupportedModelError", "WeightsMismatchError", "IntegrityError", "QuotaError"],
    "DeviceError",
  ];
  expect(names.filter((name) => !exported.pipelines.includes(name))).toEqual([]);
});

test("core touches neither page nor network when it is imported, and runs without either", async () => {
  const code = await bundle('export * from "@diffusers-web/core";', { format: "iife", minify: false });
  const touched: string[] = [];
  // What the language and every host has, and for the rest a trap.
  const globals: Record<string, unknown> = { TextDecoder, TextEncoder, URL, structuredClone, DOMException };
  for (const name of [
    ...["window", "document", "navigator", "location", "self", "localStorage", "indexedDB", "caches"],
    ...["fetch", "XMLHttpRequest", "WebSocket", "Worker", "Image", "OffscreenCanvas", "setTimeout", "require"],
  ]) {
    Object.defineProperty(globals, name, {
      get() {
        touched.push(name);
        return undefined;
      },
    });
  }
  const core = runInNewContext(`${code}; bundled`, globals) as typeof import("@diffusers-web/core");
  expect(touched).toEqual([]);
  const sample = new core.Generator().manual_seed(0).randn([1, 2]);
  // torch.manual_seed(0); torch.randn(1, 2)
  expect([...sample.data].map((value) => value.toFixed(4))).toEqual(["1.5410", "-0.2934"]);
});

test.each(packages)("%s: the built files name no source file and no machine", (name) => {
  const files = filesUnder(`packages/${name}/dist`).filter((file) => /\.(js|d\.ts|map)$/.test(file));
  const texts = files.map((file) => ({ file, text: readFileSync(file, "utf8") }));
  expect(texts.length).toBeGreaterThan(3);
  expect(texts.filter(({ text }) => text.includes(process.cwd())).map(({ file }) => file)).toEqual([]);
  const code = texts.filter(({ file }) => !file.endsWith(".map"));
  expect(code.filter(({ text }) => /(?:from |import\()"\.[^"]+\.ts"/.test(text)).map(({ file }) => file)).toEqual([]);
});
