// `npm run bench:load`: what loading a checkpoint of true size costs in time and memory, in Chromium on WebGPU.
//
//   npm run bench:load                 Stable Diffusion 1.5 (2.1 GB in float16) from a hub on this machine, then again
//                                      from the browser's cache, in a browser started anew
//   npm run bench:load -- --url        the same files from a base URL, which keeps them in memory
//   npm run bench:load -- --sdxl       Stable Diffusion XL's UNet (5.1 GB), from the hub and from the cache
//   npm run bench:load -- --gpu        on the machine's own GPU; default: SwiftShader, on the processor, in float32
//   npm run bench:load -- --load-only  no model is uploaded or run, which takes minutes on SwiftShader
//
// The checkpoint is made up as it is served: random numbers under the true names. The browser's profile, with its cache,
// lies in a folder of its own that is removed at the end.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { chromium } from "@playwright/test";
import { createServer } from "vite";
import { getChromium } from "../support/chromium.mjs";
import { startHub } from "../support/hub_server.mjs";
import { stableDiffusion15, stableDiffusionXL } from "./checkpoint.mjs";
import { MemoryWatch } from "./processes.mjs";

const { values: flags } = parseArgs({
  options: Object.fromEntries(["url", "sdxl", "gpu", "load-only"].map((name) => [name, { type: "boolean" }])),
});
const executablePath = getChromium();
if (executablePath === undefined) process.exit(1);

const kind = flags.sdxl ? "sdxl" : "sd15";
const repo = `bench/${kind}`;
const commit = "0123456789abcdef0123456789abcdef01234567";
console.log(`Making up the weights of ${kind} ...`);
const hub = await startHub({
  repos: {
    [repo]: {
      revisions: { main: commit },
      commits: { [commit]: kind === "sdxl" ? stableDiffusionXL() : stableDiffusion15() },
    },
  },
});
// Isolated, so that the browser tells how much memory JavaScript takes.
const isolation = { "cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp" };
const vite = await createServer({
  root: ".",
  mode: "harness",
  logLevel: "error",
  server: { host: "127.0.0.1", headers: isolation },
});
await vite.listen();
const page = `${vite.resolvedUrls.local[0]}tests/browser/harness/bench_load.html`;
const profile = mkdtempSync(join(tmpdir(), "diffusers-web-bench-"));
// Also when it is interrupted: Playwright closes the browser then, and exits.
process.on("exit", () => rmSync(profile, { recursive: true, force: true, maxRetries: 5 }));

const model = {
  kind,
  source: flags.url ? `${hub.url}/${repo}/resolve/main/` : repo,
  options: { endpoint: hub.url, variant: "fp16", device: "webgpu", dtype: flags.gpu ? "auto" : "fp32" },
};
const steps = [
  { name: "engine" },
  { name: "load", model },
  { name: "text encoder" },
  { name: "UNet step", label: "UNet: first step" },
  { name: "UNet step", label: "UNet: second step" },
  { name: "VAE decoder" },
  { name: "dispose" },
].filter(({ name }) => {
  if (flags["load-only"]) return ["engine", "load", "dispose"].includes(name);
  return kind === "sd15" || !["text encoder", "VAE decoder"].includes(name);
});

const MB = (bytes) => (bytes === undefined ? "?" : String(Math.round(bytes / 1e6)));

/** All steps in a browser of their own; gives the seconds of the load, and of all from there to the end of the first step. */
async function measure(title) {
  const context = await chromium.launchPersistentContext(profile, {
    executablePath,
    args: [
      "--no-sandbox",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--enable-unsafe-webgpu",
      "--enable-blink-features=ForceEagerMeasureMemory",
      ...(flags.gpu ? [] : ["--use-webgpu-adapter=swiftshader"]),
    ],
  });
  const watch = new MemoryWatch(profile);
  try {
    const [tab] = context.pages();
    tab.setDefaultTimeout(0);
    await tab.goto(page);
    await tab.waitForFunction("window.runBenchStep");
    console.log(`\n### ${title}\n`);
    console.log(
      "| step | seconds | requests | JS | WASM heap | weights on device | renderer | GPU process | browser | all |",
    );
    console.log(`|${"---|".repeat(10)}`);
    const seconds = { load: 0, toFirstStep: 0 };
    let isCounting = false;
    for (const { label, ...step } of steps) {
      hub.requests.length = 0;
      await watch.take();
      const result = await tab.evaluate((one) => window.runBenchStep(one), step);
      const peak = await watch.take();
      if (step.name === "load") {
        seconds.load = result.ms / 1000;
        isCounting = true;
      }
      if (isCounting) seconds.toFirstStep += result.ms / 1000;
      if (step.name === "UNet step") isCounting = false;
      if (result.mean !== undefined && !(result.mean > 0 && Number.isFinite(result.mean))) {
        throw new Error(`${step.name} computed ${result.mean}.`);
      }
      const cells = [
        ...[label ?? step.name, (result.ms / 1000).toFixed(1), hub.requests.length],
        ...[MB(result.js), MB(result.wasm), MB(result.device)],
        ...[MB(peak.renderer), MB(peak.gpu), MB(peak.browser), MB(peak.all)],
      ];
      console.log(`| ${cells.join(" | ")} |`);
    }
    return seconds;
  } finally {
    await watch.stop();
    await context.close();
  }
}

try {
  console.log("MB of 10^6 bytes. JS, WASM heap and weights: at a step's end; processes: resident, the step's peak.");
  const first = await measure(flags.url ? `${kind} from a base URL` : `${kind} from the hub, into the cache`);
  if (!flags.url) {
    const second = await measure(`${kind} from the cache`);
    const compared = (key) => {
      const ratio = (second[key] / first[key]).toFixed(2);
      return `${first[key].toFixed(1)} s, then ${second[key].toFixed(1)} s (${ratio} of it)`;
    };
    const step = flags["load-only"] ? "" : ` To the end of the first step: ${compared("toFirstStep")}.`;
    console.log(`\nThe load: ${compared("load")}.${step}`);
  }
} finally {
  await vite.close();
  await hub.close();
}
