/**
 * Pictures filled in by Stable Diffusion XL, on WASM, elementwise against Diffusers with the same seeds:
 * tests/fixtures/pipelines/make_sdxl_inpaint.py.
 */
import {
  AutoPipelineForInpainting,
  StableDiffusionXLInpaintPipeline,
  StableDiffusionXLPipeline,
  type XLInpaintCallbackTensors,
} from "@diffusers-web/pipelines";
import { describe, expect, test } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { seeded } from "../support/calls.ts";
import { openSet, testCalls, withPictures } from "../support/fixture_set.ts";
import { fixturePath } from "../support/fixtures.ts";
import { pictureNamed } from "../support/named_pictures.ts";
import * as runner from "./runners/sdxl_inpaint.ts";
import type { FixtureSet } from "./runners/types.ts";

interface Fixture extends FixtureSet {
  readonly printed: Record<string, string>;
  readonly callback: [number, number, Record<string, number[]>][];
}

const opened = openSet<Fixture, StableDiffusionXLInpaintPipeline>("sdxl_inpaint", runner);
const { expected, fresh } = opened;
const { printed, callback } = opened.fixture;
const xl = fixturePath("pipelines/sdxl-tiny");
const refiner = fixturePath("pipelines/sdxl-refiner-tiny");
const device = "wasm";
/** Rounding differs between engines, and grows over the steps. The issue allows 1e-3. */
const tolerance = 1e-4;

test.each(Object.keys(printed))("%s prints as in Python", (name) => {
  expect(`${fresh(name)}`.replace(xl, "PATH").replace(refiner, "REFINER")).toBe(printed[name]);
});

testCalls(opened, tolerance, withPictures(expected));

describe("a run", () => {
  const call = () => ({
    prompt: "a photo of a red fox!",
    image: pictureNamed("photo"),
    mask_image: pictureNamed("mask"),
    ...{ height: 16, width: 16, num_inference_steps: 3 },
  });

  test.each(["xl", "nine"])("%s: generators go on from call to call", async (name) => {
    const generator = seeded(11);
    await fresh(name)({ ...call(), generator, output_type: "latent" });
    const { images } = await fresh(name)({ ...call(), generator, output_type: "latent" });
    expectClose(images.data, expected[`consecutive/${name}`]!.data as Float32Array, tolerance);
  });

  test.each(["xl", "nine"])("%s: the callback sees all tensors and may replace them", async (name) => {
    const seen: unknown[] = [];
    const { images } = await fresh(name)({
      ...call(),
      generator: seeded(0),
      output_type: "latent",
      callback_on_step_end_tensor_inputs: StableDiffusionXLInpaintPipeline.callback_tensor_inputs,
      callback_on_step_end: async (_pipe, i, t, tensors): Promise<XLInpaintCallbackTensors> => {
        seen.push([i, t, Object.fromEntries(Object.entries(tensors).map(([key, { dims }]) => [key, [...dims]]))]);
        return {
          latents: tensors.latents!.mul(0.9),
          prompt_embeds: tensors.prompt_embeds!.add(0.1),
          add_text_embeds: tensors.add_text_embeds!.mul(0.5),
          add_time_ids: tensors.add_time_ids!.add(3),
          mask: tensors.mask!.mul(0.5).add(0.25),
          masked_image_latents: tensors.masked_image_latents!.add(0.2),
        };
      },
    });
    expect(seen).toEqual(callback);
    expectClose(images.data, expected[`callback/${name}`]!.data as Float32Array, tolerance);
  });

  test.each(["xl", "nine"])("%s: _interrupt leaves out the steps that remain", async (name) => {
    const { images } = await fresh(name)({
      ...call(),
      generator: seeded(0),
      output_type: "latent",
      callback_on_step_end: (pipe, i) => {
        pipe._interrupt = i === 1;
      },
    });
    expectClose(images.data, expected[`interrupt/${name}`]!.data as Float32Array, tolerance);
  });

  test("the inpainting pipeline of a checkpoint and of a pipeline, and back", async () => {
    const text = await StableDiffusionXLPipeline.from_pipe(fresh("xl"));
    const inpaint = await AutoPipelineForInpainting.from_pipe(text);
    expect(inpaint).toBeInstanceOf(StableDiffusionXLInpaintPipeline);
    expect(inpaint.unet).toBe(fresh("xl").unet);
    expect(`${inpaint}`).toBe(`${fresh("xl")}`);
    const parts = { vae: text.vae, unet: text.unet, text_encoder: text.text_encoder };
    const loaded = await AutoPipelineForInpainting.from_pretrained(xl, {
      ...parts,
      text_encoder_2: text.text_encoder_2,
      device,
    });
    expect(loaded).toBeInstanceOf(StableDiffusionXLInpaintPipeline);
  });

  test("pictures say what they were made with, by the original's size", async () => {
    const { images } = await fresh("nine")("a cat", {
      ...call(),
      prompt: null,
      image: pictureNamed("wide"),
      mask_image: pictureNamed("mask wide"),
      padding_mask_crop: 4,
      generator: seeded(42),
    });
    expect(images[0]!.metadata["parameters"]).toBe(
      "a cat\nSteps: 3, Sampler: EulerDiscreteScheduler, CFG scale: 7.5, Seed: 42, Size: 35x24, Model: sdxl-tiny, Denoising strength: 0.9999",
    );
  });

  test("cancelling, then the next call", async () => {
    const controller = new AbortController();
    const run = fresh("nine")({
      ...call(),
      generator: seeded(11),
      signal: controller.signal,
      callback_on_step_end: () => controller.abort(),
    });
    await expect(run).rejects.toMatchObject({ name: "AbortError" });
    const options = { ...call(), generator: seeded(11), output_type: "latent" } as const;
    await fresh("nine")(options);
    const { images } = await fresh("nine")(options);
    expectClose(images.data, expected["consecutive/nine"]!.data as Float32Array, tolerance);
  });
});
