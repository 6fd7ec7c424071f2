/** Upscalers on WASM, elementwise against Diffusers, with the same seeds: tests/fixtures/pipelines/make_upscale.py. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type AnyPipeline,
  EulerDiscreteScheduler,
  type Generator,
  RawImage,
  StableDiffusionLatentUpscalePipeline,
  StableDiffusionUpscalePipeline,
  schedulerRegistry,
  Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { describe, expect, test, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { pictureOf, seeded } from "../support/calls.ts";
import { openSet, testCalls } from "../support/fixture_set.ts";
import { fixturePath } from "../support/fixtures.ts";
import type { FixtureSet } from "./runners/types.ts";
import * as runner from "./runners/upscale.ts";

interface Fixture extends FixtureSet {
  readonly printed: Record<string, string>;
  readonly seen: Record<string, [step: number, timestep: number, latent: number][]>;
}

const opened = openSet<Fixture>("upscale", runner);
const { expected, pipelines, originals } = opened;
const { calls, printed, seen } = opened.fixture;
const x4 = fixturePath("pipelines/upscale-tiny");
const x2 = fixturePath("pipelines/latent-upscale-tiny");
const prompt = "a photo of a red fox!";
/** Rounding differs between engines, and grows over the steps. The issue allows 1e-3. */
const tolerance = 1e-4;

const device = "wasm";
test.each(Object.keys(printed))("%s prints as in Python", (name) => {
  expect(`${pipelines[name]}`.replace(x4, "X4").replace(x2, "X2")).toBe(printed[name]);
});

test("a checkpoint's outdated scaling of latents is put right", () => {
  expect(pipelines["x4 other"]!.vae.config.scaling_factor).toBe(0.08333);
  expect(vi.mocked(console.warn).mock.calls.flat().join()).toMatch(/`scaling_factor` is 0.5; 0.08333 is used/);
});

testCalls(opened, tolerance);

describe("around a run", () => {
  const picture = (name: string): RawImage => pictureOf(expected[`picture/${name}`]!);
  const schedulers = {
    PNDM: "PNDMScheduler",
    Heun: "HeunDiscreteScheduler",
    DDIM: "DDIMScheduler",
    Euler: "EulerDiscreteScheduler",
  };
  const every: Record<string, number> = { "x4 DDIM": 2, "x2 Heun": 2, "x2 Euler": 3 };
  const images: Record<string, RawImage> = { x4: picture("photo"), x2: picture("square") };

  test.each(Object.keys(seen))("what Python's own callback sees: %s", async (name) => {
    const [checkpoint, kind] = name.split(" ") as [string, keyof typeof schedulers];
    const pipeline = pipelines[checkpoint]!;
    pipeline.scheduler = schedulerRegistry[schedulers[kind]]!.from_config(originals[checkpoint]!.config);
    const found: [number, number, number][] = [];
    await pipeline(prompt, {
      image: images[checkpoint]!,
      num_inference_steps: 4,
      generator: seeded(0),
      callback: (i, t, latents) => found.push([i, t, latents.data[0]!]),
      callback_steps: every[name] ?? 1,
      output_type: "latent",
    });
    expect(found.map(([i]) => i)).toEqual(seen[name]!.map(([i]) => i));
    expectClose(found.flat(), seen[name]!.flat(), 1e-6, name);
    pipeline.scheduler = originals[checkpoint]!;
  });

  const asTensor = () =>
    ({ image: picture("small"), num_inference_steps: 2, generator: seeded(0), output_type: "pt" }) as const;

  test("a tensor of pictures", async () => {
    const { images: made } = await pipelines["x4"]!(prompt, asTensor());
    expect(made.dims).toEqual(expected["pt"]!.dims);
    expectClose(made.data, expected["pt"]!.data as Float32Array, tolerance);

    const call = { image: images["x2"]!, num_inference_steps: 1 };
    const [pictures, tensor] = [
      await pipelines["x2"]!(prompt, { ...call, generator: seeded(0) }),
      await pipelines["x2"]!(prompt, { ...call, generator: seeded(0), output_type: "tensor" }),
    ];
    expect([...RawImage.fromTensor(tensor.images).data]).toEqual([...pictures.images[0]!.data]);
  });

  test.each(["x4", "x2"])("75 steps and a guidance of 9 when nothing is said: %s", async (name) => {
    const pipeline = pipelines[name] as unknown as StableDiffusionLatentUpscalePipeline;
    const { images: made } = await pipeline(prompt, {
      image: images[name]!,
      callback_on_step_end: (pipe) => {
        pipe._interrupt = true;
      },
    });
    expect([pipeline.num_timesteps, pipeline.guidance_scale]).toEqual([75, 9]);
    expect(made[0]!.metadata["parameters"]).toMatch(name === "x4" ? /Steps: 75.*Noise level: 20$/ : /Steps: 75/);
  });

  test("the callback may replace tensors, and leave out the steps that remain", async () => {
    const options = { num_inference_steps: 4, output_type: "latent" } as const;
    for (const name of ["x4", "x2"]) {
      const run = async (change: (pipe: AnyPipeline, i: number, tensors: Record<string, Tensor>) => unknown) => {
        const { images: latents } = await pipelines[name]!(prompt, {
          ...options,
          image: images[name]!,
          generator: seeded(0),
          callback_on_step_end_tensor_inputs: ["latents", "prompt_embeds", "negative_prompt_embeds"],
          callback_on_step_end: (pipe, i, _, tensors) => change(pipe, i, tensors),
        });
        return latents;
      };
      const plain = await run(() => undefined);
      const steps: number[] = [];
      const replaced = await run((_, i, { latents, prompt_embeds, negative_prompt_embeds }) => {
        steps.push(i);
        expect(prompt_embeds!.dims[0]).toBe(2 * negative_prompt_embeds!.dims[0]!);
        return i === 3 ? { latents: latents!.mul(0) } : {};
      });
      expect(steps).toEqual([0, 1, 2, 3]);
      expect(replaced.data.every((value) => value === 0)).toBe(true);
      const texts = await run((_, __, { prompt_embeds }) => ({ prompt_embeds: prompt_embeds!.mul(0) }));
      expect([...texts.data]).not.toEqual([...plain.data]);
      let last: Tensor | undefined;
      const stopped = await run((pipe, i, { latents }) => {
        pipe._interrupt = i === 1;
        last = latents;
      });
      expect(stopped).toBe(last);
    }
  });

  test("pictures say what they were made with", async () => {
    const options = { num_inference_steps: 1, negative_prompt: "ugly", generator: seeded(42) };
    const large = await pipelines["x4"]!("a cat", { ...options, image: images["x4"]!, noise_level: 7 });
    expect(large.images[0]!.metadata["parameters"]).toBe(
      "a cat\nNegative prompt: ugly\nSteps: 1, Sampler: DDIMScheduler, CFG scale: 9, Seed: 42, Size: 32x32, " +
        "Model: upscale-tiny, Noise level: 7",
    );
    expect(large.nsfw_content_detected).toBeNull();
    const twice = await pipelines["x2"]!("a cat", { ...options, image: images["x2"]! });
    expect(twice.images[0]!.metadata["parameters"]).toContain("Model: latent-upscale-tiny");
  });

  test("encode_prompt", async () => {
    const pipeline = pipelines["x2"] as unknown as StableDiffusionLatentUpscalePipeline;
    const [first, second] = calls.find(({ name }) => name === "x2: latents of two")!.options["prompt"] as string[];
    const encoded = await pipeline.encode_prompt([first!, second!], { negative_prompt: ["dog", "ugly"] });
    expect(Object.keys(encoded).length).toBe(4);
    for (const [name, value] of Object.entries(encoded) as [string, Tensor][]) {
      expect(value.dims).toEqual(expected[`encode_prompt/${name}`]!.dims);
      expectClose(value.data, expected[`encode_prompt/${name}`]!.data as Float32Array, tolerance, name);
    }
  });

  test("one model at a time on the device", async () => {
    const pipeline = pipelines["x4"]!;
    await pipeline.enable_model_cpu_offload();
    expectClose((await pipeline(prompt, asTensor())).images.data, expected["pt"]!.data as Float32Array, tolerance);
    pipeline.remove_all_hooks();
  });

  test("saved and loaded again, with both schedulers", async () => {
    const folder = mkdtempSync(join(tmpdir(), "upscale-"));
    try {
      await pipelines["x4 Euler"]!.save_pretrained(folder);
      const loaded = await StableDiffusionUpscalePipeline.from_pretrained(folder, { device });
      expect(`${loaded}`.replace(folder, x4)).toBe(`${pipelines["x4 Euler"]}`);
      expect(loaded.low_res_scheduler).toBeInstanceOf(EulerDiscreteScheduler);
      expect(loaded.low_res_scheduler.config).toMatchObject({ beta_start: 0.0001, beta_schedule: "scaled_linear" });
      const other = await StableDiffusionUpscalePipeline.from_pretrained(folder, {
        ...loaded.components,
        low_res_scheduler: loaded.scheduler,
      } as object);
      expect(other.low_res_scheduler).toBe(loaded.scheduler);
      const call = StableDiffusionUpscalePipeline.from_pretrained(folder, { low_res_scheduler: loaded.unet } as object);
      await expect(call).rejects.toThrow(/low_res_scheduler that was passed is UNet2DConditionModel/);
      await loaded.dispose();
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test("what one pipeline leaves as latents the other enlarges", async () => {
    const { images: image } = await pipelines["x4"]!(prompt, {
      image: images["x4"]!,
      num_inference_steps: 1,
      generator: seeded(0),
      output_type: "latent",
    });
    const { images: latents } = await pipelines["x2"]!(prompt, {
      image,
      num_inference_steps: 1,
      guidance_scale: 0,
      output_type: "latent",
    });
    expect(latents.dims).toEqual([1, 4, 16, 16]);
  });
});

describe("what is wrong is named", () => {
  const photo = new RawImage(new Uint8Array(16 * 16 * 3).fill(99), 16, 16, 3);
  const embeds = (batch = 1, width = 16): Tensor => Tensor.zeros([batch, 16, width]);
  const pooled = (batch = 1, width = 16): Tensor => Tensor.zeros([batch, width]);
  const list = (count: number): Generator[] => Array.from({ length: count }, () => seeded(0));
  type ErrorClass = typeof ValueError | typeof UnsupportedModelError | typeof TypeError;
  type Wrong = [what: string, options: object, type: ErrorClass, message: RegExp];

  const both: Wrong[] = [
    ["no picture", { image: null }, ValueError, /`image` is nothing/],
    ["an empty list", { image: [] }, ValueError, /`image` is \[\]/],
    ["a picture with alpha", { image: photo.convert(4) }, ValueError, /`image`.*4 channels/],
    ["one picture for two prompts", { prompt: ["a", "b"] }, ValueError, /2 prompts and 1 pictures in `image`/],
    ["two pictures for one prompt", { image: [photo, photo] }, ValueError, /1 prompts and 2 pictures in `image`/],
    ["a picture below a latent", { image: Tensor.zeros([1, 3, 2, 2]) }, ValueError, /`image` is 2 x 2/],
    ["no prompt", { prompt: null }, ValueError, /Neither `prompt` nor `prompt_embeds`/],
    ["no steps", { num_inference_steps: 0 }, ValueError, /`num_inference_steps` is 0/],
    ["a guidance below 0", { guidance_scale: -1 }, ValueError, /`guidance_scale` is -1/],
    ["a guidance that is NaN", { guidance_scale: Number.NaN }, ValueError, /`guidance_scale` is NaN/],
    ["a callback after no steps", { callback_steps: 0 }, ValueError, /`callback_steps` is 0/],
    ["batches that differ", { negative_prompt: ["a", "b"] }, TypeError, /pass both alike/],
    [
      "latents of another size",
      { latents: Tensor.zeros([1, 4, 5, 5]) },
      ValueError,
      /`latents` is float32 \[1, 4, 5, 5\]/,
    ],
    ["too many generators", { generator: list(3) }, ValueError, /list of 3/],
    ["custom timesteps", { timesteps: [900, 1] }, TypeError, /`timesteps`/],
    ["a strength", { strength: 0.5 }, TypeError, /`strength`/],
    ["a height", { height: 64 }, TypeError, /`height`/],
    ["tuples", { return_dict: false }, TypeError, /return_dict/],
    ["an output type of another kind", { output_type: "np" }, ValueError, /`output_type` is "np"/],
    ["a callback's unknown tensor", { callback_on_step_end_tensor_inputs: ["noise"] }, ValueError, /"noise"/],
  ];
  const ofX4: Wrong[] = [
    ["latents as a picture", { image: Tensor.zeros([1, 4, 8, 8]) }, ValueError, /takes 7 channels.*4 \+ 4/],
    ["more noise than max_noise_level", { noise_level: 101 }, ValueError, /`noise_level` is 101.*0 to 100/],
    ["noise below none", { noise_level: -1 }, ValueError, /`noise_level` is -1/],
    ["half a noise level", { noise_level: 2.5 }, ValueError, /`noise_level` is 2.5/],
    ["no pictures a prompt", { num_images_per_prompt: 0 }, ValueError, /`num_images_per_prompt` is 0/],
    ["a NaN eta", { eta: Number.NaN }, ValueError, /`eta`/],
    ["attention's options", { cross_attention_kwargs: { scales: 1 } }, TypeError, /`scales`/],
    ["embeddings of another width", { prompt: null, prompt_embeds: embeds(1, 8) }, ValueError, /`prompt_embeds` is/],
  ];
  const ofX2: Wrong[] = [
    [
      "embeddings alone",
      { prompt: null, prompt_embeds: embeds() },
      ValueError,
      /`prompt_embeds` was given without `pooled/,
    ],
    [
      "pooled ones alone",
      { pooled_prompt_embeds: pooled() },
      ValueError,
      /`pooled_prompt_embeds` was given without `prompt/,
    ],
    [
      "negative ones alone",
      { negative_prompt_embeds: embeds() },
      ValueError,
      /`negative_prompt_embeds` was given without `negative_pooled/,
    ],
    [
      "pooled ones of another width",
      { prompt: null, prompt_embeds: embeds(), pooled_prompt_embeds: pooled(1, 8) },
      ValueError,
      /`pooled_prompt_embeds` is float32 \[1, 8\], expected.*\[1, 16\]/,
    ],
    [
      "pooled ones of another batch",
      { prompt: null, prompt_embeds: embeds(), pooled_prompt_embeds: pooled(2) },
      ValueError,
      /`pooled_prompt_embeds` is float32 \[2, 16\]/,
    ],
    ["several pictures a prompt", { num_images_per_prompt: 2 }, TypeError, /`num_images_per_prompt`/],
    ["a clip skip", { clip_skip: 1 }, TypeError, /`clip_skip`/],
    ["a noise level", { noise_level: 20 }, TypeError, /`noise_level`/],
  ];

  test.each([
    ...[...both, ...ofX4].map((one) => ["x4", ...one] as const),
    ...[...both, ...ofX2].map((one) => ["x2", ...one] as const),
  ])("%s: %s", async (name, _, options, error, message) => {
    const call = pipelines[name]!({ prompt: "a", image: photo, num_inference_steps: 2, ...options } as object);
    await expect(call).rejects.toThrow(error);
    await expect(call).rejects.toThrow(message);
  });

  test("parts that do not go together", async () => {
    const [first, second] = [pipelines["x4"]!.components, pipelines["x2"]!.components];
    const call = { image: photo, num_inference_steps: 1 };
    const make = (parts: object): StableDiffusionUpscalePipeline =>
      new StableDiffusionUpscalePipeline({ ...first, ...parts } as never);
    expect(() => make({ watermarker: { constructor: { name: "IFWatermarker" } } })).toThrow(UnsupportedModelError);
    expect(() => make({ watermarker: {} })).toThrow(/`watermarker` is not built.*pass \{ watermarker: null \}/);
    expect(() => make({ safety_checker: {} })).toThrow(/`safety_checker` is not built/);
    expect(() => make({ max_noise_level: -1 })).toThrow(/`max_noise_level` is -1/);
    await expect(make({ vae: null })("a", call)).rejects.toThrow(/without its vae/);
    await expect(make({ low_res_scheduler: null })("a", call)).rejects.toThrow(/without its low_res_scheduler/);
    const ipndm = new schedulerRegistry["IPNDMScheduler"]!();
    await expect(make({ low_res_scheduler: ipndm })("a", call)).rejects.toThrow(/IPNDMScheduler has no add_noise/);
    await expect(make({ unet: second["unet"] })("a", call)).rejects.toThrow(/takes 8 channels.*4 \+ 3/);

    const makeLatent = (parts: object): StableDiffusionLatentUpscalePipeline =>
      new StableDiffusionLatentUpscalePipeline({ ...second, ...parts } as never);
    const single = StableDiffusionLatentUpscalePipeline.from_single_file("x.safetensors");
    await expect(single).rejects.toThrow(
      /No StableDiffusionLatentUpscalePipeline can be made of a checkpoint in one file/,
    );
    const noConfig = StableDiffusionUpscalePipeline.from_single_file("x.safetensors");
    await expect(noConfig).rejects.toThrow(/no tokenizer.*stable-diffusion-x4-upscaler/);

    const wrong = makeLatent({ scheduler: first["scheduler"] })("a", call);
    await expect(wrong).rejects.toThrow(ValueError);
    await expect(wrong).rejects.toThrow(/DDIMScheduler, which has no sigmas/);
    await expect(makeLatent({ unet: first["unet"] })("a", call)).rejects.toThrow(/takes 7 channels.*4 \+ 4/);
    await expect(makeLatent({ text_encoder: null })("a", call)).rejects.toThrow(/without its text_encoder/);
  });

  test("a size that the blocks of the latent upscaler cannot halve", async () => {
    const run = pipelines["x2"]!("a", { image: Tensor.zeros([1, 4, 5, 4]), num_inference_steps: 1 });
    await expect(run).rejects.toThrow(ValueError);
  });
});
