/** Models and their layers on WebGPU, in a page and in a worker. The GPU is SwiftShader: slow, but right or wrong alike. */

import type { DeviceInfo } from "@diffusers-web/models";
import { expect, type Page, test } from "@playwright/test";
import { compare } from "../support/allclose.ts";
import { fixtureTensors } from "../support/fixtures.ts";
import type { ModelCall, ModelResult, TaskName } from "./harness/models_tasks.ts";

// In one page, so that the engine is loaded, and the GPU checked, once.
test.describe.configure({ mode: "serial" });

let page: Page;
const messages: string[] = [];

test.beforeAll(async ({ browser }) => {
  page = await browser.newPage();
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") messages.push(message.text());
  });
  page.on("pageerror", (error) => messages.push(String(error)));
  await page.goto("/tests/browser/harness/models.html");
  await page.waitForFunction("window.runTask");
});
test.afterAll(() => page.close());

function run<T>(where: "page" | "worker", name: TaskName, argument?: unknown): Promise<T> {
  return page.evaluate(([w, n, a]) => window.runTask(w, n, a), [where, name, argument] as const) as Promise<T>;
}

test.describe("device", () => {
  test("auto does not take a software GPU, and says why", async () => {
    const info = await run<DeviceInfo>("page", "deviceInfo", ["auto", "auto"]);
    expect(info.type).toBe("wasm");
    expect(info.reason).toContain("swiftshader");
  });

  test("webgpu by name is checked: what computes wrong with subgroups is computed without them", async () => {
    const info = await run<DeviceInfo>("page", "deviceInfo", ["webgpu", "auto"]);
    expect(info).toMatchObject({ type: "webgpu", architecture: "swiftshader", dtype: "float32" });
    // 0.5 to 0.9 of the scale was seen; nothing else is wrong here, so nothing else is dropped.
    expect(info.dropped).toEqual([
      { what: "subgroups", why: expect.stringMatching(/attention computes wrong values .* error 0\.\d/) },
    ]);
    expect(info.features).not.toContain("subgroups");
    // The default would be 256 MiB.
    expect(info.limits["maxBufferSize"]).toBeGreaterThan(2 ** 28);
  });

  test("fp16 by name is refused where the GPU has none", async () => {
    await expect(run("page", "deviceInfo", ["webgpu", "fp16"])).rejects.toThrow(/lacks the feature shader-f16/);
  });

  test("a weight larger than any buffer", async () => {
    expect(await run("page", "tooLarge")).toMatch(/DeviceError: conv_in.weight needs a buffer of \d+ bytes/);
  });
});

test.describe("layers", () => {
  const names = [
    "convolution, asymmetric stride 2",
    "convolution 1x1 after group norm",
    "upsampling to an odd size",
    "resnet block with time embedding and shortcut",
    "attention over pixels",
    "transformer over pixels and text",
  ];
  for (const name of names) {
    test(name, async () => {
      // Both in fp32, in another order of summing: 1e-6 was seen.
      expect(await run<number>("page", "layer", name)).toBeLessThan(1e-4);
    });
  }
});

const quicktour = fixtureTensors("quicktour/quicktour.safetensors");

function input(dims: readonly number[], data: ArrayLike<number | bigint>, type: "float32" | "int64" = "float32") {
  return { type, dims, data: Array.from(data, Number) };
}

const unet2d: ModelCall = {
  className: "UNet2DModel",
  folder: "tests/fixtures/quicktour/ddpm-tiny",
  device: "webgpu",
  inputs: [input(quicktour["noisy_sample"]!.dims, quicktour["noisy_sample"]!.data), 2],
  output: "sample",
};

test.describe("models", () => {
  for (const [where, blobs] of [
    ["page", false],
    ["worker", true],
  ] as const) {
    test(`UNet2DModel in a ${where}${blobs ? ", its weights read from a Blob as the engine asks for them" : ""}`, async () => {
      const result = await run<ModelResult>(where, "model", { ...unet2d, blobs });
      expect(result.device).toBe("webgpu");
      const { error, scale } = compare(result.data, quicktour["noisy_residual"]!.data);
      // The bound for WebGPU in fp32; 1e-5 was seen.
      expect(error / scale).toBeLessThan(1e-3);
      if (!blobs) return;
      expect(result.reads).toBeGreaterThan(10);
      // No read is larger than the largest tensor or the header: the file is never in memory as a whole.
      expect(result.largestRead).toBeLessThan(result.readBytes! / 4);
    });
  }

  test("no node of a UNet leaves the GPU", async () => {
    expect(await run<string>("page", "leavesGpu")).toMatch(/could not prepare the model/);
    expect(await run<number>("page", "staysOnGpu", unet2d)).toBe(1);
  });
});

test.describe("engine", () => {
  test("calls that overlap are taken one after the other", async () => {
    expect(await run<number[]>("page", "overlapping")).toEqual([2, 2, 4, 4, 6, 6]);
  });

  test("a lost GPU is a DeviceError, and the next device works", async () => {
    const { error, after, isNew } = await run<{ error: string; after: number; isNew: boolean }>("page", "lostGpu");
    expect(error).toMatch(/DeviceError: The GPU was lost/);
    expect(isNew).toBe(true);
    expect(after).toBe(10);
  });

  test("nothing was reported to the console", () => {
    expect(messages).toEqual([]);
  });
});
