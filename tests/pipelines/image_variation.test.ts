/**
 * Variations of pictures, on WASM, elementwise against Diffusers with the same seeds:
 * tests/fixtures/pipelines/make_image_variation.py.
 */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  DiffusionPipeline,
  StableDiffusionImageVariationPipeline,
  Tensor,
  UNet2DConditionModel,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { seeded } from "../support/calls.ts";
import { openSet, testCalls, withPictures } from "../support/fixture_set.ts";
import { fixturePath } from "../support/fixtures.ts";
import { pictureNamed } from "../support/named_pictures.ts";
import { checkerFiles } from "../support/safety_checker.ts";
import * as runner from "./runners/image_variation.ts";
import type { FixtureSet } from "./runners/types.ts";

interface Fixture extends FixtureSet {
  readonly printed: string;
  readonly seen: [number, number][];
}

const opened = openSet<Fixture>("image_variation", runner);
const { expected } = opened;
const { printed, seen } = opened.fixture;
const device = "wasm";
/** Rounding differs between engines, and grows over the steps. The issue allows 1e-3. */
const tolerance = 1e-4;
const close = (actual: Tensor, name: string): void => {
  expect(actual.dims).toEqual(expected[name]!.dims);
  expectClose(actual.data, expected[name]!.data as Float32Array, tolerance, name);
};

/** A checkpoint as lambdalabs/sd-image-variations-diffusers lies on the hub. */
const folder = mkdtempSync(join(tmpdir(), "variation-"));
let pipeline: StableDiffusionImageVariationPipeline;
beforeAll(async () => {
  cpSync(fixturePath("pipelines/image-variation-tiny"), folder, { recursive: true });
  for (const part of ["unet", "vae", "scheduler"]) {
    cpSync(fixturePath(`pipelines/sd1-tiny/${part}`), join(folder, part), { recursive: true });
  }
  const loaded = await DiffusionPipeline.from_pretrained(folder, { device });
  if (!(loaded instanceof StableDiffusionImageVariationPipeline)) throw new Error("another class");
  pipeline = loaded;
});
afterAll(async () => {
  await pipeline.dispose();
  rmSync(folder, { recursive: true });
});

test("prints as in Python", () => {
  expect(`${pipeline}`.replace(folder, "PATH")).toBe(printed);
});

testCalls(opened, tolerance, withPictures(expected));

describe("a run", () => {
  const call = () => ({ num_inference_steps: 3, generator: seeded(0) });
  const image = pictureNamed("photo");
  test("the picture is the first argument, or an option", async () => {
    const latent = { output_type: "latent" } as const;
    close((await pipeline(image, { ...call(), ...latent })).images, "defaults/latent");
    close((await pipeline([image], { ...call(), ...latent })).images, "defaults/latent");
    close((await pipeline({ image, ...call(), ...latent })).images, "defaults/latent");
    await expect(pipeline(image, { image })).rejects.toThrow(/`image` was given twice/);
  });

  test("the callback of old is called after the same steps", async () => {
    const called: [number, number][] = [];
    const callback = (i: number, t: number, latents: Tensor): void => {
      called.push([i, t]);
      close(latents, `called back/${i}`);
    };
    await pipeline(image, { ...call(), num_inference_steps: 5, output_type: "latent", callback, callback_steps: 2 });
    expect(called).toEqual(seen);
  });

  test("the callback sees the tensors and may replace them, and interrupt", async () => {
    const shown: string[] = [];
    const { images } = await pipeline(image, {
      ...call(),
      output_type: "latent",
      callback_on_step_end_tensor_inputs: StableDiffusionImageVariationPipeline.callback_tensor_inputs,
      callback_on_step_end: (pipe, i, _t, tensors) => {
        shown.push(
          Object.entries(tensors)
            .map(([key, { dims }]) => `${key} [${dims}]`)
            .join(),
        );
        pipe._interrupt = i === 1;
        return { latents: Tensor.full([1, 4, 8, 8], i) };
      },
    });
    expect(shown).toEqual(new Array(2).fill("latents [1,4,8,8],image_embeddings [2,1,16]"));
    expect(images.data.every((value) => value === 1)).toBe(true);
  });

  test("pictures say what they were made with", async () => {
    const { images } = await pipeline(image, { ...call(), num_images_per_prompt: 2 });
    expect(images.map(({ metadata }) => metadata["parameters"])).toEqual(
      ["1/2", "2/2"].map(
        (at) =>
          `Steps: 3, Sampler: PNDMScheduler, CFG scale: 7.5, Seed: 0, Batch position: ${at}, Size: 32x32, Model: ${folder.split("/").at(-1)}`,
      ),
    );
  });

  test("cancelling, then the next call", async () => {
    const controller = new AbortController();
    const options = { ...call(), signal: controller.signal, callback_on_step_end: () => controller.abort() };
    await expect(pipeline(image, options)).rejects.toMatchObject({ name: "AbortError" });
    close((await pipeline(image, { ...call(), output_type: "latent" })).images, "defaults/latent");
  });

  test("one model at a time on the device", async () => {
    await pipeline.enable_model_cpu_offload();
    close((await pipeline(image, { ...call(), output_type: "latent" })).images, "defaults/latent");
    pipeline.remove_all_hooks();
  });

  test("a safety checker blackens what it takes for unsafe", async () => {
    const path = `${folder}-checked`;
    cpSync(folder, path, { recursive: true });
    mkdirSync(join(path, "safety_checker"));
    const files = checkerFiles("plain", { thresholds: new Array<number>(17).fill(-1.5) });
    for (const [file, bytes] of Object.entries(files)) writeFileSync(join(path, "safety_checker", file), bytes);
    const index = JSON.parse(readFileSync(join(path, "model_index.json"), "utf8")) as object;
    const safety_checker = ["stable_diffusion", "StableDiffusionSafetyChecker"];
    writeFileSync(join(path, "model_index.json"), JSON.stringify({ ...index, safety_checker }));
    try {
      await using checked = await StableDiffusionImageVariationPipeline.from_pretrained(path, { device });
      const { images, nsfw_content_detected } = await checked(image, call());
      expect(nsfw_content_detected).toEqual([true]);
      expect(images[0]!.data.every((value) => value === 0)).toBe(true);
    } finally {
      rmSync(path, { recursive: true });
    }
  });
});

describe("what is wrong with a call is named", () => {
  const image = pictureNamed("photo");
  type ErrorClass = typeof ValueError | typeof TypeError | typeof UnsupportedModelError;
  test.each<[string, object, ErrorClass, RegExp]>([
    ["no picture", { image: null }, ValueError, /`image` is nothing/],
    ["an empty list", { image: [] }, ValueError, /`image` is \[\]/],
    ["what is no picture", { image: 3 }, TypeError, /picture/],
    ["a tensor and a picture", { image: [image, Tensor.zeros([3, 16, 16])] }, ValueError, /one kind/],
    [
      "a tensor of three dimensions",
      { image: Tensor.zeros([3, 16, 16]) },
      ValueError,
      /`image` is float32 \[3, 16, 16\]/,
    ],
    ["a tensor of another size", { image: Tensor.zeros([1, 3, 8, 8]) }, ValueError, /16/],
    ["no steps", { num_inference_steps: 0 }, ValueError, /`num_inference_steps` is 0/],
    ["no pictures of each", { num_images_per_prompt: 0 }, ValueError, /`num_images_per_prompt` is 0/],
    ["a height that 8 does not divide", { height: 20 }, ValueError, /divisible by 8.*`height` is 20/],
    ["noise of another batch", { latents: Tensor.zeros([2, 4, 8, 8]) }, ValueError, /`latents`/],
    ["too many generators", { generator: [seeded(1), seeded(2)] }, ValueError, /`generator`/],
    ["a prompt", { prompt: "a cat" }, TypeError, /`prompt`/],
    ["a strength", { strength: 0.5 }, TypeError, /`strength`/],
    ["half a callback", { callback_steps: 0.5 }, ValueError, /`callback_steps` is 0.5/],
    ["an unknown tensor", { callback_on_step_end_tensor_inputs: ["prompt_embeds"] }, ValueError, /latents, image_emb/],
    ["an unknown type", { output_type: "np" }, ValueError, /`output_type` is "np"/],
  ])("%s", async (_, options, cls, message) => {
    const run = pipeline({ image, num_inference_steps: 2, ...options } as object);
    await expect(run).rejects.toThrow(message);
    await expect(run).rejects.toBeInstanceOf(cls);
  });

  test("a UNet of another width", async () => {
    const unet = new UNet2DConditionModel({ ...pipeline.unet.config, cross_attention_dim: 32 });
    const other = await StableDiffusionImageVariationPipeline.from_pipe(pipeline, { unet });
    await expect(other(image)).rejects.toThrow(/width 16, but the UNet takes 32/);
  });

  test("no image encoder, no feature extractor", async () => {
    const { components } = pipeline;
    const made = (parts: object) =>
      new StableDiffusionImageVariationPipeline({ ...components, requires_safety_checker: false, ...parts } as never);
    await expect(made({ image_encoder: null })(image)).rejects.toThrow(/image_encoder/);
    await expect(made({ feature_extractor: null })(image)).rejects.toThrow(/feature_extractor/);
  });

  test("from_single_file: there are no such checkpoints", async () => {
    const run = StableDiffusionImageVariationPipeline.from_single_file("https://example.com/x.safetensors");
    await expect(run).rejects.toBeInstanceOf(UnsupportedModelError);
  });
});
