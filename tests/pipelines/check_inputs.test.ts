/** What is wrong with a call is named before anything runs. */
import {
  DDIMScheduler,
  type DDPMOptions,
  DDPMPipeline,
  EulerDiscreteScheduler,
  Generator,
  type StableDiffusionOptions,
  StableDiffusionPipeline,
  Tensor,
  type UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fixturePath } from "../support/fixtures.ts";

let pipeline: StableDiffusionPipeline;
let ddpm: DDPMPipeline;
beforeAll(async () => {
  pipeline = await StableDiffusionPipeline.from_pretrained(fixturePath("pipelines/sd1-tiny"), { device: "wasm" });
  ddpm = await DDPMPipeline.from_pretrained(fixturePath("pipelines/ddpm-tiny"), { device: "wasm" });
});
afterAll(async () => {
  await pipeline.dispose();
  await ddpm.dispose();
});

const embeds = (batch: number, width = 16) => Tensor.zeros([batch, 20, width]);
const generator = () => new Generator().manual_seed(0);
type ErrorClass = typeof ValueError | typeof UnsupportedModelError | typeof TypeError;

const wrong: [string, object, ErrorClass, RegExp][] = [
  ["an unknown option", { guidence_scale: 3 }, TypeError, /`guidence_scale`.*Did you mean `guidance_scale`/],
  ["a deprecated option", { callback_step: 1 }, TypeError, /`callback_step`/],
  ["a height that 8 does not divide", { height: 33, width: 32 }, ValueError, /divisible by 8.*`height` is 33/],
  ["a width that 8 does not divide", { height: 32, width: 36 }, ValueError, /divisible by 8.*`width` is 36/],
  ["such a height alone", { height: 33 }, ValueError, /divisible by 8.*`height` is 33/],
  ["a negative height", { height: -8, width: 32 }, ValueError, /height/],
  ["a height that is no number", { height: "64", width: 32 }, ValueError, /height/],
  ["a NaN guidance", { guidance_scale: Number.NaN }, ValueError, /`guidance_scale` is NaN/],
  ["an infinite guidance", { guidance_scale: Number.POSITIVE_INFINITY }, ValueError, /`guidance_scale` is Infinity/],
  ["a negative guidance", { guidance_scale: -1 }, ValueError, /`guidance_scale` is -1/],
  ["a guidance that is no number", { guidance_scale: "7" }, ValueError, /`guidance_scale` is string/],
  ["a NaN guidance rescale", { guidance_rescale: Number.NaN }, ValueError, /guidance_rescale/],
  ["a NaN eta", { eta: Number.NaN }, ValueError, /`eta`/],
  ["no steps", { num_inference_steps: 0 }, ValueError, /`num_inference_steps` is 0/],
  ["half a step", { num_inference_steps: 2.5 }, ValueError, /`num_inference_steps` is 2.5/],
  ["NaN steps", { num_inference_steps: Number.NaN }, ValueError, /num_inference_steps/],
  ["no pictures", { num_images_per_prompt: 0 }, ValueError, /num_images_per_prompt/],
  ["no prompt", { prompt: null }, ValueError, /`prompt` nor `prompt_embeds`/],
  ["an empty list of prompts", { prompt: [] }, ValueError, /`prompt` is \[\]/],
  ["a prompt that is a number", { prompt: 3 }, ValueError, /`prompt` is number/],
  ["prompts that are numbers", { prompt: ["a", 3] }, ValueError, /`prompt` is \["a",3\]/],
  ["a negative prompt that is a number", { negative_prompt: 3 }, ValueError, /`negative_prompt` is number/],
  ["prompt and embeddings", { prompt_embeds: embeds(1) }, ValueError, /`prompt` and `prompt_embeds`/],
  [
    "negative prompt and embeddings",
    { negative_prompt: "a", negative_prompt_embeds: embeds(1) },
    ValueError,
    /`negative_prompt` and `negative_prompt_embeds`/,
  ],
  ["a list and a string", { prompt: ["a"], negative_prompt: "b" }, TypeError, /`negative_prompt` is a string/],
  ["a string and a list", { negative_prompt: ["b"] }, TypeError, /`negative_prompt` is a list/],
  [
    "batches that differ",
    { prompt: ["a", "b"], negative_prompt: ["c"] },
    ValueError,
    /`negative_prompt` has batch size 1/,
  ],
  [
    "embeddings of another batch",
    { prompt: ["a", "b"], negative_prompt_embeds: embeds(1) },
    ValueError,
    /`negative_prompt_embeds` has batch size 1/,
  ],
  [
    "embeddings that differ in shape",
    { prompt: null, prompt_embeds: embeds(2), negative_prompt_embeds: embeds(1) },
    ValueError,
    /`negative_prompt_embeds` is float32 \[1, 20, 16\], expected .*\[2, 20, 16\]/,
  ],
  ["embeddings of another width", { prompt: null, prompt_embeds: embeds(1, 8) }, ValueError, /\[any, any, 16\]/],
  ["embeddings that are no tensor", { prompt: null, prompt_embeds: [1] }, ValueError, /`prompt_embeds` is object/],
  ["latents of another batch", { latents: Tensor.zeros([2, 4, 8, 8]) }, ValueError, /`latents`.*\[1, 4, any, any\]/],
  ["latents of other channels", { latents: Tensor.zeros([1, 3, 8, 8]) }, ValueError, /`latents`/],
  ["too few generators", { num_images_per_prompt: 2, generator: [generator()] }, ValueError, /list of 1.*2 pictures/],
  ["a generator that is a number", { generator: 42 }, TypeError, /`generator`/],
  ["an unknown output", { output_type: "np" }, ValueError, /`output_type` is "np"/],
  ["tuples", { return_dict: false }, TypeError, /return_dict/],
  [
    "an unknown tensor for the callback",
    { callback_on_step_end_tensor_inputs: ["latent"] },
    ValueError,
    /callback_on_step_end_tensor_inputs.*"latent"/,
  ],
  ["a callback that returns no tensor", { callback_on_step_end: () => ({ latents: 3 }) }, TypeError, /`latents`/],
  ["a clip skip below 0", { clip_skip: -1 }, ValueError, /clip_skip/],
  ["a clip skip beyond the layers", { clip_skip: 4 }, ValueError, /clip_skip.*3 layers/],
  ["timesteps and sigmas", { timesteps: [1], sigmas: [1] }, ValueError, /`timesteps` and `sigmas`/],
  ["timesteps that PNDM does not take", { timesteps: [900, 1] }, ValueError, /PNDMScheduler takes no `timesteps`/],
  ["sigmas that PNDM does not take", { sigmas: [9, 1] }, ValueError, /PNDMScheduler takes no `sigmas`/],
  ["cross_attention_kwargs", { cross_attention_kwargs: { scales: 1 } }, TypeError, /cross_attention_kwargs/],
  ["ip_adapter_image", { ip_adapter_image: "a.png" }, ValueError, /0 IP-Adapters. load_ip_adapter\(\) comes first/],
  ["ip_adapter_image_embeds", { ip_adapter_image_embeds: [] }, ValueError, /ip_adapter_image_embeds/],
];

describe("Stable Diffusion", () => {
  test.each(wrong)("%s", async (_, options, error, message) => {
    const call = pipeline({ prompt: "a cat", num_inference_steps: 1, ...(options as StableDiffusionOptions) });
    await expect(call).rejects.toThrow(error);
    await expect(call).rejects.toThrow(message);
  });

  test("nothing is a value like any other", async () => {
    const nothing = {
      height: null,
      width: null,
      negative_prompt: null,
      generator: null,
      latents: null,
      prompt_embeds: null,
      cross_attention_kwargs: null,
      ip_adapter_image: null,
      clip_skip: null,
      callback_on_step_end: null,
      timesteps: null,
      return_dict: true,
    } as const;
    const { images } = await pipeline("a cat", { num_inference_steps: 1, ...nothing });
    expect(images.length).toBe(1);
  });

  test("the prompt twice, and too many arguments", async () => {
    await expect(pipeline("a", { prompt: "b" })).rejects.toThrow(/`prompt` was given twice/);
    const call = pipeline as unknown as (...args: unknown[]) => Promise<unknown>;
    await expect(call("a", {}, {})).rejects.toThrow(TypeError);
  });

  test("empty sigmas", async () => {
    const original = pipeline.scheduler;
    pipeline.scheduler = EulerDiscreteScheduler.from_config(original.config);
    await expect(pipeline("a", { sigmas: [] })).rejects.toThrow(/`sigmas` is empty/);
    pipeline.scheduler = original;
  });
});

describe("unconditional", () => {
  test.each<[string, object, ErrorClass, RegExp]>([
    ["a prompt", { prompt: "a cat" }, TypeError, /`prompt`/],
    ["no pictures", { batch_size: 0 }, ValueError, /batch_size/],
    ["no steps", { num_inference_steps: 0 }, ValueError, /num_inference_steps/],
    ["latents", { output_type: "latent" }, ValueError, /output_type/],
    ["too few generators", { batch_size: 2, generator: [generator()] }, ValueError, /generator/],
  ])("%s", async (_, options, error, message) => {
    const call = ddpm({ num_inference_steps: 1, ...(options as DDPMOptions) });
    await expect(call).rejects.toThrow(error);
    await expect(call).rejects.toThrow(message);
  });

  test("cancelling, the callback, and a scheduler whose step takes no generator", async () => {
    const controller = new AbortController();
    const run = ddpm({
      num_inference_steps: 5,
      signal: controller.signal,
      callback_on_step_end: (_, i) => {
        if (i === 2) controller.abort();
      },
    });
    await expect(run).rejects.toMatchObject({ name: "AbortError" });
    ddpm.scheduler = DDIMScheduler.from_config(ddpm.scheduler.config);
    const gray = await ddpm({
      num_inference_steps: 2,
      callback_on_step_end: (_, __, ___, { image }) => ({ image: image.mul(0) }),
      output_type: "tensor",
    });
    expect([gray.images.min().item(), gray.images.max().item()]).toEqual([0.5, 0.5]);
  });
});
