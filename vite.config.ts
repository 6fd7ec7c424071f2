import { defaultClientConditions, defaultServerConditions } from "vite";
import { defineConfig } from "vitest/config";

// Workspace packages resolve to their TypeScript sources: tests and the demo need no build.
const source = "@diffusers-web/source";

export default defineConfig({
  root: "demo",
  resolve: { conditions: [source, ...defaultClientConditions] },
  ssr: { resolve: { conditions: [source, ...defaultServerConditions] } },
  test: {
    root: ".",
    include: ["tests/**/*.test.ts"],
    testTimeout: 60_000,
  },
});
