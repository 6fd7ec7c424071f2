import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { chromium } from "@playwright/test";
import { build, type InlineConfig, preview } from "vite";
import { afterAll, beforeAll, expect, test } from "vitest";
import { findChromium } from "../support/chromium.mjs";
import { packages } from "./support.ts";

// A project that has the three packages as npm would publish them, beside the dependencies that they name.
let project = "";

beforeAll(() => {
  project = mkdtempSync(join(tmpdir(), "diffusers-web-consumer-"));
  const modules = join(project, "node_modules");
  mkdirSync(join(modules, "@diffusers-web"), { recursive: true });
  for (const name of readdirSync("node_modules")) {
    if (name === "@diffusers-web" || name === "@types" || name.startsWith(".")) continue;
    symlinkSync(resolve("node_modules", name), join(modules, name), "junction");
  }
  for (const name of packages) {
    const args = ["pack", "--silent", "--pack-destination", project];
    const archive = execFileSync("npm", args, {
      cwd: `packages/${name}`,
      encoding: "utf8",
      shell: process.platform === "win32",
    });
    const folder = join(modules, "@diffusers-web", name);
    mkdirSync(folder);
    execFileSync("tar", ["-xzf", archive.trim(), "--strip-components=1", "-C", folder], { cwd: project });
  }
  writeFileSync(join(project, "package.json"), JSON.stringify({ name: "consumer", type: "module", private: true }));
});

afterAll(() => rmSync(project, { recursive: true, force: true }));

/** Runs a module of the consumer's; what it printed, and that it printed no warning. */
function run(code: string, ...args: string[]): string {
  writeFileSync(join(project, "main.js"), code);
  const { status, stdout, stderr } = spawnSync(process.execPath, ["main.js", ...args], {
    cwd: project,
    encoding: "utf8",
  });
  expect(stderr).toBe("");
  expect(status).toBe(0);
  return stdout;
}

test("the packages hold what is built, the sources and the licence", () => {
  for (const name of packages) {
    const files = readdirSync(join(project, "node_modules/@diffusers-web", name)).sort();
    expect(files.filter((file) => file !== "README.md")).toEqual(["LICENSE", "dist", "package.json", "src"]);
  }
});

test("a scheduler prints itself as in Python", () => {
  const printed = run(`
    import { EulerDiscreteScheduler } from "@diffusers-web/pipelines";
    console.log(String(new EulerDiscreteScheduler({ beta_start: 0.00085 })));
  `);
  expect(printed).toMatch(/^EulerDiscreteScheduler \{\n {2}"_class_name": "EulerDiscreteScheduler",/);
  expect(printed).toContain('"beta_start": 0.00085');
});

test("a checkpoint that Diffusers wrote is loaded and run in Node", () => {
  const printed = run(
    `
    import { DiffusionPipeline, Generator } from "@diffusers-web/pipelines";
    const pipeline = await DiffusionPipeline.from_pretrained(process.argv[2], { device: "wasm" });
    const options = { num_inference_steps: 2, generator: new Generator().manual_seed(0) };
    const { images } = await pipeline(options);
    await images[0].save("picture.png");
    console.log(JSON.stringify([images.length, images[0].width, images[0].height, new Set(images[0].data).size > 8]));
    await pipeline.dispose();
  `,
    resolve("tests/fixtures/quicktour/ddpm-tiny"),
  );
  const [count, width, height, varied] = JSON.parse(printed);
  expect([count, varied]).toEqual([1, true]);
  expect(width).toBe(height);
  expect(readdirSync(project)).toContain("picture.png");
});

test("a page that is bundled runs a pipeline in a worker, as it does without one", async () => {
  const root = join(project, "page");
  mkdirSync(join(root, "public"), { recursive: true });
  cpSync("tests/fixtures/quicktour/ddpm-tiny", join(root, "public/model"), { recursive: true });
  writeFileSync(
    join(root, "index.html"),
    '<link rel="icon" href="data:,"><script type="module" src="main.js"></script>',
  );
  writeFileSync(
    join(root, "main.js"),
    `
    import { DiffusionPipeline, Generator } from "@diffusers-web/pipelines";
    window.paint = async (worker) => {
      const pipeline = await DiffusionPipeline.from_pretrained("./model", { device: "wasm", worker });
      const generator = new Generator().manual_seed(0);
      const { images } = await pipeline({ num_inference_steps: 2, generator });
      await pipeline.dispose();
      return [pipeline.constructor.name, ...images[0].data];
    };
  `,
  );
  const checks = { checks: { pluginTimings: false } };
  const config: InlineConfig = {
    configFile: false,
    root,
    base: "./",
    logLevel: "warn",
    worker: { rolldownOptions: checks },
    build: { minify: false, reportCompressedSize: false, rolldownOptions: checks },
  };
  await build(config);
  const scripts = readdirSync(join(root, "dist/assets")).filter((file) => /^script-.*\.js$/.test(file));
  expect(scripts).toHaveLength(1);
  const server = await preview({ ...config, preview: { host: "127.0.0.1", port: 0 } });
  const executablePath = findChromium();
  const browser = await chromium.launch({
    ...{ args: ["--no-sandbox"] },
    ...(executablePath === undefined ? {} : { executablePath }),
  });
  try {
    const page = await browser.newPage();
    const errors: string[] = [];
    page.on("pageerror", (error) => errors.push(String(error)));
    await page.goto(server.resolvedUrls!.local[0]!);
    await page.waitForFunction("window.paint");
    const [there, here] = [await page.evaluate("paint(true)"), await page.evaluate("paint(false)")];
    expect((there as unknown[]).length).toBeGreaterThan(100);
    expect(there).toEqual(here);
    expect((there as unknown[])[0]).toBe("DDPMPipeline");
    expect(errors).toEqual([]);
  } finally {
    await browser.close();
    await server.close();
  }
});

const program = `
import { DiffusionPipeline, EulerDiscreteScheduler, Generator, type RawImage, Tensor, UNet2DModel } from "@diffusers-web/pipelines";

export async function paint(prompt: string): Promise<RawImage | undefined> {
  const pipeline = await DiffusionPipeline.from_pretrained("https://example.org/model", { device: "auto" });
  pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config);
  const { images } = await pipeline(prompt, { num_inference_steps: 25, generator: new Generator().manual_seed(0) });
  return images[0];
}
export async function predict(): Promise<Tensor> {
  const model = await UNet2DModel.from_pretrained("https://example.org/model");
  const { sample } = await model(new Tensor("float32", [0], [1, 1, 1, 1]), 2);
  return sample;
}
// @ts-expect-error an option that does not exist
new EulerDiscreteScheduler({ beta_begin: 1 });
`;

test.each([
  ["bundler", "ESNext"],
  ["node16", "Node16"],
])("the types are whole for a project with moduleResolution %s", (moduleResolution, module) => {
  writeFileSync(join(project, "main.ts"), program);
  const compilerOptions = {
    ...{ target: "ES2022", module, moduleResolution, strict: true, noEmit: true },
    // Nothing of Node's, as in a page; and our declarations are checked, not only used.
    ...{ lib: ["ES2023", "ESNext.Disposable", "DOM", "DOM.Iterable"], types: [], skipLibCheck: false },
  };
  writeFileSync(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["main.ts"] }));
  const tsc = resolve("node_modules/typescript/bin/tsc");
  const { stdout } = spawnSync(process.execPath, [tsc, "-p", project], { encoding: "utf8" });
  expect(stdout).toBe("");
});
