import { createServer } from "node:net";
import { defineConfig, type PlaywrightTestConfig } from "@playwright/test";
import { findChromium } from "./tests/support/chromium.mjs";

// Two servers, two projects:
//
// - `harness`: Vite in development mode over the whole repository, for every tests/browser/*.spec.ts but the demo's.
//   `page.goto("/tests/browser/harness/<name>.html")` opens a page whose script may import the packages by name
//   (`@diffusers-web/models`: TypeScript sources, no build) or any source file by its path, and may fetch any file of the
//   repository: `/tests/fixtures/...`, `/demo/public/models/emoji-diffusion/`.
// - `demo`: `vite build` and `vite preview` of the demo page, for tests/browser/demo*.spec.ts: `page.goto("/")`.
//
// One project alone: `npx playwright test --project=harness`, one file: `npx playwright test tests/browser/x.spec.ts`.

/** The port of a server: free now, and the same in the worker processes, which read this file again. */
async function port(name: string): Promise<number> {
  const taken = process.env[name];
  if (taken !== undefined) return Number(taken);
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("No free port.");
  process.env[name] = String(address.port);
  return address.port;
}

const harness = `http://127.0.0.1:${await port("DIFFUSERS_WEB_HARNESS_PORT")}`;
const demo = `http://127.0.0.1:${await port("DIFFUSERS_WEB_DEMO_PORT")}`;
const chromium = findChromium();
const vite = "node node_modules/vite/bin/vite.js";
const listen = (url: string): string => `--host 127.0.0.1 --port ${new URL(url).port} --strictPort`;

// A run that names other spec files does not wait for a build of the demo.
const named = process.argv.filter((argument) => argument.endsWith(".spec.ts"));
const wantsDemo =
  named.length > 0 ? named.some((file) => /demo[^/]*$/.test(file)) : !process.argv.includes("--project=harness");

const config: PlaywrightTestConfig = defineConfig({
  testDir: "tests/browser",
  // WebGPU on a CPU takes all cores for one page.
  workers: 1,
  forbidOnly: process.env.CI !== undefined,
  timeout: 120_000,
  reporter: "list",
  outputDir: "test-results",
  projects: [
    { name: "harness", testIgnore: /demo[^/]*\.spec\.ts$/, use: { baseURL: harness } },
    { name: "demo", testMatch: /demo[^/]*\.spec\.ts$/, use: { baseURL: demo } },
  ],
  use: {
    launchOptions: {
      ...(chromium === undefined ? {} : { executablePath: chromium }),
      args: [
        "--no-sandbox",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        // WebGPU on the CPU: every machine computes the same, with or without a GPU.
        "--enable-unsafe-webgpu",
        "--use-webgpu-adapter=swiftshader",
      ],
    },
  },
  webServer: [
    { command: `${vite} . --mode harness ${listen(harness)}`, url: `${harness}/package.json`, timeout: 60_000 },
    ...(wantsDemo
      ? [{ command: `${vite} build && ${vite} preview ${listen(demo)}`, url: demo, timeout: 120_000 }]
      : []),
  ],
});

export default config;
