/**
 * Latent consistency models, and other checkpoints that need a few steps only, on WASM, elementwise against Diffusers, with the
 * same seeds: tests/fixtures/pipelines/make_lcm.py.
 */
import {
  AutoPipelineForImage2Image,
  AutoPipelineForInpainting,
  AutoPipelineForText2Image,
  DDIMScheduler,
  type Generator,
  LatentConsistencyModelImg2ImgPipeline,
  LatentConsistencyModelPipeline,
  LCMScheduler,
  RawImage,
  StableDiffusionPipeline,
  Tensor,
  type UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { beforeAll, describe, expect, test } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { pictureOf, seeded } from "../support/calls.ts";
import { openSet, testCalls } from "../support/fixture_set.ts";
import { fixturePath } from "../support/fixtures.ts";
import * as runner from "./runners/lcm.ts";
import type { FixtureSet } from "./runners/types.ts";

interface Fixture extends FixtureSet {
  readonly printed: Record<string, string>;
  readonly callback: [number, number, string[], number[][]][];
}

const opened = openSet<Fixture>("lcm", runner);
const { expected, pipelines, originals, fresh } = opened;
const { printed, callback } = opened.fixture;
const folder = fixturePath("pipelines/lcm-tiny");
const sd1 = fixturePath("pipelines/sd1-tiny");
const prompt = "a photo of a red fox!";
const photo = pictureOf(expected["picture/photo"]!);
/** Rounding differs between engines, and grows over the steps. The issue allows 1e-3. */
const tolerance = 1e-4;

let parts: object;
beforeAll(() => {
  const { unet, vae, text_encoder, tokenizer } = pipelines["lcm"]!;
  parts = { unet, vae, text_encoder, tokenizer };
});

const shown = (pipeline: unknown): string => `${pipeline}`.replace(folder, "LCM").replace(sd1, "SD");

test.each(["lcm", "lcm i2i"])("%s prints as in Python", (name) => {
  expect(shown(pipelines[name])).toBe(printed[name]);
});

test("AutoPipelines know the family, and from_pipe leads there and back", async () => {
  const text = await AutoPipelineForText2Image.from_pretrained(folder, parts);
  expect(text).toBeInstanceOf(LatentConsistencyModelPipeline);
  expect(shown(text)).toBe(printed["auto"]);
  const image = await AutoPipelineForImage2Image.from_pretrained(folder, parts);
  expect(image).toBeInstanceOf(LatentConsistencyModelImg2ImgPipeline);
  expect(shown(image)).toBe(printed["auto i2i"]);
  expect(shown(await AutoPipelineForImage2Image.from_pipe(pipelines["lcm"]!))).toBe(printed["auto i2i of it"]);
  expect(shown(await AutoPipelineForText2Image.from_pipe(pipelines["lcm i2i"]!))).toBe(printed["auto of that"]);
  const { unet } = pipelines["lcm"]!;
  const scheduler = new LCMScheduler();
  const sd = fresh("sd");
  expect(shown(await LatentConsistencyModelPipeline.from_pipe(sd, { unet, scheduler }))).toBe(printed["from sd"]);
  expect(shown(await StableDiffusionPipeline.from_pipe(pipelines["lcm i2i"]!))).toBe(printed["to sd"]);
  await expect(AutoPipelineForInpainting.from_pretrained(folder, parts)).rejects.toThrow(/inpainting.*\(lcm\)/);
});

testCalls(opened, tolerance);

describe("around a run", () => {
  const imagesOf: Record<string, object> = { lcm: {}, "lcm i2i": { image: photo } };
  const names = Object.keys(imagesOf);
  beforeAll(() => {
    for (const name of names) fresh(name);
  });
  const close = (images: Tensor, name: string): void => {
    expect(images.dims).toEqual(expected[name]!.dims);
    expectClose(images.data, expected[name]!.data as Float32Array, tolerance, name);
  };

  test("the callback sees tensors and may replace them", async () => {
    const seen: unknown[] = [];
    for (const name of names) {
      const { images } = await pipelines[name]!(prompt, {
        ...imagesOf[name],
        generator: seeded(0),
        output_type: "latent",
        callback_on_step_end_tensor_inputs: ["latents", "denoised", "prompt_embeds", "w_embedding"],
        callback_on_step_end: async (pipe, i, t, tensors) => {
          expect(pipe).toBe(pipelines[name]);
          await null;
          const keys = Object.keys(tensors).sort();
          seen.push([i, t, keys, keys.map((key) => [...tensors[key]!.dims])]);
          const { latents, denoised, prompt_embeds, w_embedding } = tensors as Record<string, Tensor>;
          return {
            latents: latents!.mul(0.9),
            denoised: denoised!.mul(0.5),
            prompt_embeds: prompt_embeds!.add(0.1),
            w_embedding: w_embedding!.mul(0.5),
          };
        },
      });
      close(images, `callback/${name}`);
    }
    expect(seen).toEqual(callback);
  });

  test("_interrupt leaves out the steps that remain", async () => {
    for (const name of names) {
      let denoised: Tensor | undefined;
      const { images } = await pipelines[name]!(prompt, {
        ...imagesOf[name],
        output_type: "latent",
        callback_on_step_end_tensor_inputs: ["denoised"],
        callback_on_step_end: (pipe, i, _, tensors) => {
          pipe._interrupt = i === 1;
          denoised = tensors["denoised"];
        },
      });
      expect(images).toBe(denoised);
      expect((pipelines[name] as unknown as LatentConsistencyModelPipeline).num_timesteps).toBe(4);
    }
  });

  test.each(names)("a tensor of pictures: %s", async (name) => {
    const options = { ...imagesOf[name], num_inference_steps: 2, generator: seeded(0), output_type: "pt" } as const;
    close((await pipelines[name]!(prompt, options)).images, `pt/${name}`);
  });

  test("a generator goes on from call to call, the scheduler starts anew", async () => {
    const generator = seeded(11);
    for (const i of [0, 1]) {
      const options = { num_inference_steps: 3, generator, output_type: "latent" } as const;
      close((await pipelines["lcm"]!(prompt, options)).images, `consecutive/${i}`);
    }
  });

  test("pictures say what they were made with", async () => {
    const options = { num_inference_steps: 2, generator: seeded(42) };
    const { images } = await pipelines["lcm"]!("a cat", options);
    expect(images[0]!.metadata["parameters"]).toBe(
      "a cat\nSteps: 2, Sampler: LCMScheduler, CFG scale: 8.5, Seed: 42, Size: 32x32, Model: lcm-tiny",
    );
    const drawn = await pipelines["lcm i2i"]!("a cat", { ...options, image: photo, strength: 0.5 });
    expect(drawn.images[0]!.metadata["parameters"]).toMatch(/Size: 8x8, Model: lcm-tiny, Denoising strength: 0.5$/);
  });

  test("cancelling, then the next call", async () => {
    const controller = new AbortController();
    const pipeline = pipelines["lcm"]!;
    const run = pipeline(prompt, { signal: controller.signal, callback_on_step_end: () => controller.abort() });
    await expect(run).rejects.toMatchObject({ name: "AbortError" });
    const options = { num_inference_steps: 2, generator: seeded(0), output_type: "pt" } as const;
    close((await pipeline(prompt, options)).images, "pt/lcm");
  });
});

describe("what is wrong is named", () => {
  const zeros = (...dims: number[]): Tensor => Tensor.zeros(dims);
  const list = (count: number): Generator[] => Array.from({ length: count }, () => seeded(0));
  type ErrorClass = typeof ValueError | typeof UnsupportedModelError | typeof TypeError;
  type Wrong = [what: string, options: object, type: ErrorClass, message: RegExp];

  const both: Wrong[] = [
    ["no prompt", { prompt: null }, ValueError, /Neither `prompt` nor `prompt_embeds`/],
    ["prompt and embeddings", { prompt_embeds: zeros(1, 20, 16) }, ValueError, /`prompt` and `prompt_embeds`/],
    ["embeddings of another width", { prompt: null, prompt_embeds: zeros(1, 20, 8) }, ValueError, /`prompt_embeds` is/],
    ["a negative prompt", { negative_prompt: "ugly" }, TypeError, /`negative_prompt`/],
    ["negative embeddings", { negative_prompt_embeds: zeros(1, 20, 16) }, TypeError, /`negative_prompt_embeds`/],
    ["an eta", { eta: 0.3 }, TypeError, /`eta`/],
    ["sigmas", { sigmas: [1, 0.5] }, TypeError, /`sigmas`/],
    ["no steps", { num_inference_steps: 0 }, ValueError, /`num_inference_steps` is 0/],
    ["more steps than the model knows", { num_inference_steps: 51 }, ValueError, /51/],
    ["half an original step", { original_inference_steps: 2.5 }, ValueError, /`original_inference_steps` is 2.5/],
    ["more original steps than timesteps", { original_inference_steps: 1001 }, ValueError, /1001/],
    ["timesteps that ascend", { timesteps: [100, 500] }, ValueError, /descend/],
    ["a guidance that is text", { guidance_scale: "8" }, ValueError, /`guidance_scale` is string/],
    ["too many generators", { generator: list(2) }, ValueError, /list of 2/],
    ["latents of another batch", { latents: zeros(2, 4, 8, 8) }, ValueError, /`latents` is float32 \[2, 4, 8, 8\]/],
    ["a clip skip beyond the layers", { clip_skip: 4 }, ValueError, /clip_skip.*3 layers/],
    ["a callback's unknown tensor", { callback_on_step_end_tensor_inputs: ["noise"] }, ValueError, /"noise"/],
    ["tuples", { return_dict: false }, TypeError, /return_dict/],
  ];
  const text: Wrong[] = [
    ["a height that is no multiple of 8", { height: 20 }, ValueError, /`height` is 20/],
    ["an image", { image: photo }, TypeError, /`image`/],
    ["a strength", { strength: 0.5 }, TypeError, /`strength`/],
  ];
  const image: Wrong[] = [
    ["no picture", { image: null }, ValueError, /`image` is nothing/],
    ["pictures that do not divide", { image: [photo, photo], prompt: ["a", "b", "c"] }, ValueError, /2 .*batch of 3/],
    ["a strength of 1.5", { strength: 1.5 }, ValueError, /`strength` is 1.5/],
    ["a strength that leaves no timestep", { strength: 0.01 }, ValueError, /strength|steps/],
    ["a height", { height: 32 }, TypeError, /`height`/],
  ];

  test.each([
    ...[...both, ...text].map((one) => ["lcm", ...one] as const),
    ...[...both, ...image].map((one) => ["lcm i2i", ...one] as const),
  ])("%s: %s", async (name, _, options, error, message) => {
    const base = name === "lcm" ? {} : { image: photo };
    const call = pipelines[name]!({ prompt: "a", num_inference_steps: 2, ...base, ...options } as object);
    await expect(call).rejects.toThrow(error);
    await expect(call).rejects.toThrow(message);
  });

  test("a UNet without guidance as an input, and another scheduler", async () => {
    const { components } = pipelines["lcm"]!;
    const { unet } = pipelines["sd"]!;
    const plain = new LatentConsistencyModelPipeline({ ...components, unet } as never);
    await expect(plain("a")).rejects.toThrow(ValueError);
    await expect(plain("a")).rejects.toThrow(/`time_cond_proj_dim` is null.*use StableDiffusionPipeline/);
    const scheduler = DDIMScheduler.from_config(originals["lcm"]!.config);
    const other = new LatentConsistencyModelPipeline({ ...components, scheduler } as never);
    await expect(other("a")).rejects.toThrow(/is a DDIMScheduler.*LCMScheduler.from_config/);
    const none = new LatentConsistencyModelImg2ImgPipeline({ ...components, vae: null } as never);
    await expect(none("a", { image: photo, output_type: "latent" })).rejects.toThrow(/without its vae/);
    const { images } = await none("a", { image: Tensor.zeros([1, 4, 4, 4]), output_type: "latent" });
    expect(images.dims).toEqual([1, 4, 4, 4]);
  });

  test("a picture is read from what a page has", async () => {
    const source = new RawImage(photo.data, photo.width, photo.height, 3);
    const { images } = await pipelines["lcm i2i"]!("a", { image: [source], num_inference_steps: 1 });
    expect([images.length, images[0]!.width]).toEqual([1, 8]);
  });
});
