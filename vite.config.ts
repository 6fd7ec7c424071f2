import { fileURLToPath } from "node:url";
import { defaultClientConditions, defaultServerConditions } from "vite";
import { defineConfig, type ViteUserConfigFnObject } from "vitest/config";

// Workspace packages resolve to their TypeScript sources: tests and the demo need no build.
const source = "@diffusers-web/source";
/** The pages of the demo: the picture's, and the schedulers' in its guide. */
const demoPages = ["index.html", "schedulers.html"].map((page) =>
  fileURLToPath(new URL(`demo/${page}`, import.meta.url)),
);

/**
 * One configuration for three uses: the demo (`vite`, `vite build`, `vite preview`), the pages that the browser tests
 * open (`vite . --mode harness`, see playwright.config.ts), and Vitest. The packages themselves are built by
 * .ci/build.mjs.
 */
const config: ViteUserConfigFnObject = defineConfig(({ mode }) => ({
  root: "demo",
  // Relative addresses: the built page can lie in any folder of a host.
  base: "./",
  // A missing file is a 404, not the page: else a missing weight file would be read as HTML.
  appType: "mpa",
  resolve: { conditions: [source, ...defaultClientConditions] },
  ssr: { resolve: { conditions: [source, ...defaultServerConditions] } },
  // All dependencies are ES modules already; pre-bundling would reload the page whenever it found one more.
  optimizeDeps: { noDiscovery: true, include: [] },
  // Test pages must not reload when a file changes while a test runs.
  server: mode === "harness" ? { hmr: false, watch: null } : {},
  worker: { format: "es", rolldownOptions: { checks: { pluginTimings: false } } },
  build: {
    target: "es2022",
    // Gzipping onnxruntime's .wasm files, only to print their size, takes longer than the build.
    reportCompressedSize: false,
    rolldownOptions: { input: demoPages, checks: { pluginTimings: false } },
  },
  test: {
    root: ".",
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // Vitest leaves one processor to itself, of two: but its workers do nearly all there is to do.
    maxWorkers: "100%",
    projects: [
      { extends: true, test: { name: "node", include: ["tests/**/*.test.ts"], exclude: ["tests/package/**"] } },
      // What the built packages and the repository look like; needs `npm run build` first.
      { extends: true, test: { name: "package", include: ["tests/package/**/*.test.ts"] } },
    ],
  },
}));

export default config;
