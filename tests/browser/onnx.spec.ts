/** ONNX exports on WebGPU: the engine runs another exporter's graph, with its weights fed one by one. */
import { expect, test } from "@playwright/test";
import { compare } from "../support/allclose.ts";
import { fixtureTensors } from "../support/fixtures.ts";
import { expectSamePicture } from "../support/pictures.ts";
import type {} from "./harness/onnx_page.ts";

const expected = fixtureTensors("pipelines/pipelines.safetensors");
const latents = expected["sd1 one step/latent"]!.data as Float32Array;
const pixels = expected["sd1 one step/image"]!.data as Uint8Array;

test.beforeEach(async ({ page }) => {
  await page.goto("/tests/browser/harness/onnx.html");
  await page.waitForFunction("window.runExport");
});

test("a float32 export on WebGPU gives Python's picture", async ({ page }) => {
  const result = await page.evaluate(() => window.runExport("optimum", "webgpu"));
  expect(result.device).toBe("webgpu");
  const { error, scale } = compare(result.latents, latents);
  expect(error / scale).toBeLessThan(1e-3);
  expectSamePicture(result.pixels, pixels);
});

test("a float16 export needs shader-f16: refused by name, on WASM with auto", async ({ page }) => {
  const refused = page.evaluate(() => window.runExport("diffusers", "webgpu"));
  await expect(refused).rejects.toThrow(/lacks the feature shader-f16.*ONNX export in float16/);
  const result = await page.evaluate(() => window.runExport("diffusers", "auto"));
  expect(result.device).toBe("wasm");
  const { error, scale } = compare(result.latents, latents);
  expect(error / scale).toBeLessThan(1e-2);
  expectSamePicture(result.pixels, pixels);
});
