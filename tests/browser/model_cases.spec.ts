/** The model cases of tests/models on WebGPU (SwiftShader), channels last with the fused kernels. */
import { expect, type Page, test } from "@playwright/test";
import { caseOutputs, modelCases } from "../models/cases_node.ts";
import { compare } from "../support/allclose.ts";

test.describe.configure({ mode: "serial" });

let page: Page;
test.beforeAll(async ({ browser }) => {
  page = await browser.newPage();
  page.on("pageerror", (error) => console.log(String(error)));
  await page.goto("/tests/browser/harness/model_cases.html");
  await page.waitForFunction("window.runModelCase");
});
test.afterAll(() => page.close());

// The name of a case, and whether without fused kernels. SwiftShader needs up to a minute for each, most of it for compiling
// shaders; all cases run on WASM (tests/models/models.test.ts). More of them here: MODEL_CASES=<name>,<name> or all.
const some = [
  ["CLIPTextModel/padding", false],
  ["UNet2DModel/odd_channels", false],
  ["UNet2DModel/head_dim", true],
  ["UNet2DConditionModel/resampling_blocks", false],
  ["UNet2DConditionModel/inpaint", false],
  ["AutoencoderTiny/silu", false],
  ["CLIPVisionModelWithProjection/many_patches", false],
  ["ControlNetModel/guess_mode", false],
  ["DPTForDepthEstimation/dpt_large", false],
] as const;
const asked = process.env["MODEL_CASES"];
const all = modelCases.map(({ name }) => name);
const names =
  asked === undefined ? some : (asked === "all" ? all : asked.split(",")).map((name) => [name, false] as const);

for (const [name, isPlain] of names) {
  test(isPlain ? `${name}, plain operators` : name, async () => {
    test.setTimeout(300_000);
    const outputs = await page.evaluate(([which, plain]) => window.runModelCase(which, plain), [
      name,
      isPlain,
    ] as const);
    for (const [label, { dims, data }] of Object.entries(outputs)) {
      const reference = caseOutputs[`${name}/${label}`]!;
      expect(dims).toEqual(reference.dims);
      const { error, scale } = compare(data, reference.data as Float32Array);
      // float32 in another order of summing: 2e-6 was seen; 1e-3 is asked for.
      expect(error, label).toBeLessThanOrEqual(1e-4 * scale);
    }
  });
}
