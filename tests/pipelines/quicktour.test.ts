/**
 * Every step of the Hugging Face quicktour, in its order and under its headings; the README's guide is the same code.
 * Expected values: tests/fixtures/quicktour/make_quicktour.py.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  DDPMScheduler,
  DiffusionPipeline,
  EulerDiscreteScheduler,
  Generator,
  RawImage,
  Tensor,
  UNet2DModel,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { fixturePath, fixtureTensors, fixtureText } from "../support/fixtures.ts";
import { expectSamePicture } from "../support/pictures.ts";
import { serveFolder } from "../support/server.ts";

const models = fileURLToPath(new URL("../../demo/public/models", import.meta.url));
const emoji = join(models, "emoji-diffusion");
const repo = fixturePath("quicktour/ddpm-tiny");
const prompt = "a fox on a purple background";
const printed = JSON.parse(fixtureText("quicktour/quicktour.json")) as Record<string, string>;
const expected = fixtureTensors("quicktour/quicktour.safetensors");
const recommended = { num_inference_steps: 20, guidance_scale: 2 };

const folder = mkdtempSync(join(tmpdir(), "quicktour-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("DiffusionPipeline", () => {
  let server: Awaited<ReturnType<typeof serveFolder>>;
  beforeAll(async () => {
    server = await serveFolder(models);
  });
  afterAll(() => server.close());

  test("load by address, print, move, run, save", async () => {
    const url = `${server.url}/emoji-diffusion`;
    await using pipeline = await DiffusionPipeline.from_pretrained(url);
    expect(`${pipeline}`).toBe(printed["pipeline"]?.replace("PATH", url));

    await pipeline.to("wasm");
    const { images } = await pipeline(prompt, { ...recommended, generator: new Generator().manual_seed(0) });
    const image = images[0]!;
    expectSamePicture(image.data, expected["picture"]!.data);

    const file = join(folder, "image_of_a_fox.png");
    await image.save(file);
    const saved = await RawImage.read(file);
    expect([saved.width, saved.height, saved.channels]).toEqual([64, 64, 3]);
    expect([...saved.data]).toEqual([...image.data]);

    // Each file of the checkpoint was asked for once.
    const paths = server.requests.filter((path) => !path.includes("index.json"));
    expect(new Set(paths).size).toBe(paths.length);
  });
});

describe("Local pipeline and swapping schedulers", () => {
  test("load from a folder, swap the scheduler by assignment", async () => {
    await using pipeline = await DiffusionPipeline.from_pretrained(emoji);
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config);
    expect(`${pipeline.scheduler}`).toBe(printed["euler"]);
    expect(`${pipeline}`).toBe(printed["pipeline_with_euler"]?.replace("PATH", emoji));

    const { images } = await pipeline(prompt, { ...recommended, generator: new Generator().manual_seed(0) });
    expectSamePicture(images[0]!.data, expected["picture_with_euler"]!.data);
  });
});

describe("Models and schedulers", () => {
  test("the whole denoising loop, by hand", async () => {
    // Models
    await using model = await UNet2DModel.from_pretrained(repo);
    expect(model.to_json_string()).toBe(printed["model_config"]?.replace("PATH", repo));
    expect(() => Object.assign(model, { config: {} })).toThrow(TypeError);
    expect(() => Object.assign(model.config, { sample_size: 8 })).toThrow(TypeError);

    const generator = new Generator().manual_seed(0);
    const { in_channels, sample_size } = model.config;
    const size = sample_size as number;
    const noisy_sample = generator.randn([1, in_channels, size, size]);
    expect([...noisy_sample.data]).toEqual([...expected["noisy_sample"]!.data]);
    const { sample: noisy_residual } = await model(noisy_sample, 2);
    expectClose(noisy_residual.data, expected["noisy_residual"]!.data, 1e-4, "noisy_residual");

    // Schedulers
    const scheduler = await DDPMScheduler.from_config(repo);
    expect(`${scheduler}`).toBe(printed["scheduler"]);
    const { prev_sample } = scheduler.step(noisy_residual, 2, noisy_sample, { generator });
    expectClose(prev_sample.data, expected["less_noisy_sample"]!.data, 1e-4, "less_noisy_sample");

    // The loop, with a picture every 250 steps. The seed's state went on in the step above.
    let sample = noisy_sample;
    for (const [i, t] of Array.from(scheduler.timesteps).entries()) {
      const { sample: residual } = await model(sample, t);
      sample = scheduler.step(residual, t, sample, { generator }).prev_sample;
      if ((i + 1) % 250 === 0) {
        // 1,000 evaluations of a random network: rounding has had time to grow.
        expectClose(sample.data, expected[`sample_${i + 1}`]!.data, 1e-3, `sample ${i + 1}`);
        const shown = sample.permute(0, 2, 3, 1).add(1).mul(127.5).to("uint8");
        expectSamePicture(shown.data, expected[`shown_${i + 1}`]!.data);
        await RawImage.fromTensor(sample.div(2).add(0.5).clamp(0, 1)).save(join(folder, `step_${i + 1}.png`));
      }
    }
    expect(sample).toBeInstanceOf(Tensor);
  });
});
