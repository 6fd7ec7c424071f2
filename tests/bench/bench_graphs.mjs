// `npm run bench:graphs`: how many nodes the graphs of well-known checkpoints have, and how many times a forward pass
// dispatches work to the GPU, in Chromium on WebGPU (SwiftShader: its counts are any GPU's).
//
//   npm run bench:graphs                     every checkpoint of tests/fixtures/models/architectures.json.gz
//   npm run bench:graphs -- sd15/unet ...    some of them
//
// The models have all their blocks, but fewer channels, and weights of zeros: what is counted does not depend on them.
import { chromium } from "@playwright/test";
import { createServer } from "vite";
import { getChromium } from "../support/chromium.mjs";

const executablePath = getChromium();
if (executablePath === undefined) process.exit(1);
const vite = await createServer({ root: ".", mode: "harness", logLevel: "error", server: { host: "127.0.0.1" } });
await vite.listen();
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"],
});
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(0);
  page.on("pageerror", (error) => console.error(error));
  await page.goto(`${vite.resolvedUrls.local[0]}tests/browser/harness/bench_graphs.html`);
  await page.waitForFunction("window.measureGraphs");
  const asked = process.argv.slice(2);
  const names = asked.length > 0 ? asked : await page.evaluate("window.checkpoints");
  console.log("| checkpoint | graph | nodes | dispatches |\n|---|---|---:|---:|");
  for (const name of names) {
    const costs = await page.evaluate((one) => window.measureGraphs(one), name);
    for (const [graph, { nodes, dispatches }] of Object.entries(costs)) {
      console.log(`| ${name} | ${graph} | ${nodes} | ${dispatches} |`);
    }
  }
} finally {
  await browser.close();
  await vite.close();
}
