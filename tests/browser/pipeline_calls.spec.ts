/**
 * The calls of tests/fixtures/pipelines on WebGPU (SwiftShader), made as on WASM (tests/pipelines/*.test.ts) and compared with
 * the same latents and pictures of Diffusers'.
 */
import { type Page, test } from "@playwright/test";
import { runners } from "../pipelines/runners/index.ts";
import { compare } from "../support/allclose.ts";
import { fixtureTensors, fixtureText } from "../support/fixtures.ts";
import { expectAsInPython } from "../support/python_results.ts";

// All in one page, which is opened anew after a failure.
let page: Page;
test.beforeAll(async ({ browser }) => {
  page = await browser.newPage();
  page.on("pageerror", (error) => console.log(String(error)));
  await page.goto("/tests/browser/harness/pipeline_calls.html");
  await page.waitForFunction("window.runPipelineCall");
});
test.afterAll(() => page.close());

interface Named {
  readonly name: string;
}
const calls = Object.keys(runners).flatMap((stem) => {
  const fixture = JSON.parse(fixtureText(`pipelines/${stem}.json`)) as { calls: Named[] };
  return fixture.calls.map(({ name }, i) => ({ stem, name, isThird: i % 3 === 0 }));
});

// SwiftShader needs most of the time for compiling the first call of a size. Others: PIPELINE_CALLS is `all`, `third` (every third
// call of each fixture), or a list, with semicolons, of <fixture>, `third:<fixture>` and <fixture>/<name>.
const some = [
  "pipelines/sd1 defaults",
  "inpaint/9 channels, strength 0.5",
  "unconditional/cm steps and timesteps",
  "ip_adapter/xl, plus",
];
const given = process.env["PIPELINE_CALLS"];
const asked = given?.split(";") ?? some;
const unknown = asked.filter(
  (one) =>
    !["all", "third"].includes(one) &&
    !calls.some(({ stem, name }) => [stem, `third:${stem}`, `${stem}/${name}`].includes(one)),
);
if (unknown.length > 0) throw new Error(`PIPELINE_CALLS: there is no ${unknown.join("; ")}.`);
const chosen = calls.filter(({ stem, name, isThird }) =>
  asked.some(
    (one) =>
      one === "all" ||
      [stem, `${stem}/${name}`].includes(one) ||
      (isThird && (one === "third" || one === `third:${stem}`)),
  ),
);

for (const { stem, name } of chosen) {
  test(`${stem}/${name}`, async () => {
    test.setTimeout(600_000);
    const { latents, images, graphs } = await page.evaluate(([set, call]) => window.runPipelineCall(set, call), [
      stem,
      name,
    ] as const);
    const expected = fixtureTensors(`pipelines/${stem}.safetensors`);
    // float32 in another order of summing, over the steps: at most 4.5e-5 was seen, of a third of all calls. The issue allows this.
    expectAsInPython(name, { latents, images }, expected, 1e-3);
    const latent = expected[`${name}/latent`] ?? expected[`${name}/last`];
    if (given === undefined || latent === undefined) return;
    const { error, scale } = compare(latents.data, latent.data as Float32Array);
    console.log(`${stem}/${name}: ${(error / scale).toExponential(1)}, ${graphs} graphs`);
  });
}
