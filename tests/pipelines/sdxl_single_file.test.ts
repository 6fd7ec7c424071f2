/** Checkpoints of Stable Diffusion XL in one file: tests/fixtures/pipelines/make_sdxl.py. */
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import {
  CLIPTextModel,
  CLIPTextModelWithProjection,
  CLIPTokenizer,
  EulerDiscreteScheduler,
  Generator,
  StableDiffusionPipeline,
  StableDiffusionXLImg2ImgPipeline,
  StableDiffusionXLPipeline,
  UNet2DConditionModel,
  UnsupportedModelError,
  ValueError,
  WeightsMismatchError,
} from "@diffusers-web/pipelines";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { fixturePath, fixtureTensors } from "../support/fixtures.ts";
import { memoryFile } from "../support/safetensors.ts";

const config = fixturePath("pipelines/sdxl-tiny");
const bytes = new Uint8Array(gunzipSync(readFileSync(`${config}.safetensors.gz`)));
const file = "xl.safetensors";
const from = { source: { name: "memory", open: async () => memoryFile(bytes, file) }, file };
const device = "wasm" as const;
const expected = fixtureTensors("pipelines/sdxl.safetensors");

beforeEach(() => {
  vi.spyOn(console, "warn").mockReset();
});
const warnings = (): string => vi.mocked(console.warn).mock.calls.flat().join("\n");

test("the same latents as the Diffusers layout gives", async () => {
  await using pipeline = await StableDiffusionXLPipeline.from_single_file(from, { config, device });
  expect(warnings()).toBe("");
  expect(pipeline.text_encoder_2).toBeInstanceOf(CLIPTextModelWithProjection);
  expect(pipeline.config["force_zeros_for_empty_prompt"]).toBe(true);
  expect(pipeline.name_or_path).toBe(file);
  const { images } = await pipeline("a photo of a red fox!", {
    num_inference_steps: 4,
    output_type: "latent",
    generator: new Generator().manual_seed(0),
  });
  expectClose(images.data, expected["single file/latent"]!.data as Float32Array, 1e-4);
});

test("picture to picture as well", async () => {
  await using pipeline = await StableDiffusionXLImg2ImgPipeline.from_single_file(from, { config, device });
  expect(pipeline.config["requires_aesthetics_score"]).toBe(false);
  expect(pipeline.unet).toBeInstanceOf(UNet2DConditionModel);
});

test("without a config: the best known model's scheduler, and components that are passed", async () => {
  const options = { config, device };
  const parts = {
    unet: await UNet2DConditionModel.from_single_file(from, options),
    text_encoder: await CLIPTextModel.from_single_file(from, options),
    text_encoder_2: await CLIPTextModelWithProjection.from_single_file(from, options),
    tokenizer: await CLIPTokenizer.from_pretrained(`${config}/tokenizer`),
    tokenizer_2: null,
    vae: null,
  };
  await using pipeline = await StableDiffusionXLPipeline.from_single_file(from, { ...parts, device });
  expect(pipeline.text_encoder_2).toBe(parts.text_encoder_2);
  expect(pipeline.scheduler).toBeInstanceOf(EulerDiscreteScheduler);
  const printed = EulerDiscreteScheduler.from_pretrained(`${config}/scheduler`);
  expect(pipeline.scheduler.config).toMatchObject({
    beta_end: (await printed).config.beta_end,
    beta_schedule: "scaled_linear",
    timestep_spacing: "leading",
    steps_offset: 1,
  });
});

describe("what is refused", () => {
  test.each<[string, () => Promise<unknown>, new (...args: never[]) => Error, string]>([
    [
      "no tokenizer",
      () => StableDiffusionXLPipeline.from_single_file(from, { device }),
      ValueError,
      'has no tokenizer. Pass a repository or folder that has one, as { config: "stabilityai/stable-diffusion-xl-base-1.0" }',
    ],
    [
      "no second tokenizer",
      () => StableDiffusionXLPipeline.from_single_file(from, { tokenizer: null, device }),
      ValueError,
      "has no tokenizer_2",
    ],
    [
      "another pipeline",
      () => StableDiffusionPipeline.from_single_file(from, { config, device }),
      UnsupportedModelError,
      "of the kind xl_base",
    ],
    [
      "another config",
      () => StableDiffusionXLPipeline.from_single_file(from, { tokenizer: null, tokenizer_2: null, device }),
      WeightsMismatchError,
      "does not fit",
    ],
  ])("%s", async (_, run, type, message) => {
    const error = await run().then(
      () => new Error("it did not fail"),
      (caught: unknown) => caught as Error,
    );
    expect(error, String(error)).toBeInstanceOf(type);
    expect(error.message).toContain(message);
  });
});
