/**
 * Pictures filled in, on WASM, elementwise against Diffusers with the same seeds: tests/fixtures/pipelines/make_inpaint.py.
 */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  AsymmetricAutoencoderKL,
  AutoencoderTiny,
  DiffusionPipeline,
  Generator,
  type InpaintCallbackTensors,
  PNDMScheduler,
  RawImage,
  type Scheduler,
  type StableDiffusionInpaintOptions,
  StableDiffusionInpaintPipeline,
  schedulerRegistry,
  Tensor,
  UNet2DConditionModel,
  UnsupportedModelError,
  VaeImageProcessor,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { type FixtureTensor, fixturePath, fixtureTensors, fixtureText } from "../support/fixtures.ts";
import { expectSamePicture } from "../support/pictures.ts";

interface Call {
  name: string;
  checkpoint: string;
  scheduler: { class: string; kwargs: object } | null;
  options: Record<string, unknown> & { seed: number | number[]; shows?: boolean; low?: number; normal?: boolean };
}

type Region = [number, number, number, number];

const { calls, printed, callback, outdated, regions } = JSON.parse(fixtureText("pipelines/inpaint.json")) as {
  calls: Call[];
  printed: Record<string, string>;
  callback: [number, number, Record<string, number[]>][];
  outdated: object;
  regions: Record<string, [number, number, number, Region][]>;
};
const expected = fixtureTensors("pipelines/inpaint.safetensors");
const emoji = fileURLToPath(new URL("../../demo/public/models/emoji-diffusion", import.meta.url));
const imageOf = ({ data, dims: [height, width, channels = 1] }: FixtureTensor): RawImage =>
  new RawImage(data as Uint8Array, width!, height!, channels as 1 | 3 | 4);
const pictureNamed = (name: string): RawImage => imageOf(expected[`picture/${name}`]!);
const seeded = (seed: number) => new Generator().manual_seed(seed);
/** Rounding differs between engines, and grows over the steps; the issue allows 1e-3. */
const latentTolerance = 1e-4;

const device = "wasm";
const pathOf = (checkpoint: string): string =>
  checkpoint === "emoji" ? emoji : fixturePath(`pipelines/${checkpoint === "sd2-tiny" ? checkpoint : "sd1-tiny"}`);
const modelPath = (name: string): string => fixturePath(`pipelines/${name}`);

const pipelines: Record<string, StableDiffusionInpaintPipeline> = {};
const originals: Record<string, Scheduler> = {};
beforeAll(async () => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
  const unet = (path: string) => UNet2DConditionModel.from_pretrained(modelPath(path), { device });
  const parts: Record<string, object> = {
    "sd1-tiny": {},
    "sd2-tiny": {},
    "unet-9": { unet: await unet("inpaint-tiny/unet") },
    lcm: { unet: await unet("img2img-tiny/unet-lcm") },
    "vae-tiny": { vae: await AutoencoderTiny.from_pretrained(modelPath("img2img-tiny/vae-tiny"), { device }) },
    "vae-asymmetric": {
      vae: await AsymmetricAutoencoderKL.from_pretrained(modelPath("inpaint-tiny/vae-asymmetric"), { device }),
    },
    emoji: {},
  };
  for (const [name, given] of Object.entries(parts)) {
    const pipeline = await StableDiffusionInpaintPipeline.from_pretrained(pathOf(name), { device, ...given });
    pipelines[name] = pipeline;
    originals[name] = pipeline.scheduler;
  }
});
afterAll(async () => {
  for (const pipeline of Object.values(pipelines)) await pipeline.dispose();
});

/** A pipeline with its own scheduler. */
function fresh(name: string): StableDiffusionInpaintPipeline {
  const pipeline = pipelines[name]!;
  pipeline.scheduler = originals[name]!;
  return pipeline;
}

test.each(Object.keys(printed))("%s prints as in Python", (name) => {
  expect(`${fresh(name)}`.replace(pathOf(name), "PATH")).toBe(printed[name]);
});

test("the class that model_index.json names", async () => {
  const folder = mkdtempSync(join(tmpdir(), "inpaint-"));
  try {
    cpSync(pathOf("sd1-tiny"), folder, { recursive: true });
    cpSync(modelPath("inpaint-tiny/unet"), join(folder, "unet"), { recursive: true });
    const index = readFileSync(join(folder, "model_index.json"), "utf8");
    writeFileSync(
      join(folder, "model_index.json"),
      index.replace("StableDiffusionPipeline", "StableDiffusionInpaintPipeline"),
    );
    const pipeline = await DiffusionPipeline.from_pretrained(folder, { device });
    expect(pipeline).toBeInstanceOf(StableDiffusionInpaintPipeline);
    const { images } = await pipeline("a cat", {
      image: pictureNamed("photo"),
      mask_image: pictureNamed("mask"),
      num_inference_steps: 1,
      callback_on_step_end_tensor_inputs: ["mask"],
    });
    expect([images[0]!.width, images[0]!.height]).toEqual([32, 32]);
    await pipeline.dispose();
  } finally {
    rmSync(folder, { recursive: true });
  }
});

/** The pictures that a call names: one, a list, or random values of the dims given. */
function given(value: unknown, seed: number, how: { low?: number; normal?: boolean } = {}): unknown {
  if (typeof value === "string") return pictureNamed(value);
  const list = value as unknown[];
  if (typeof list[0] !== "number") return list.map((one, i) => given(one, seed + i, how));
  const noise = seeded(seed).randn(list as number[]);
  const { low = 0, normal = false } = how;
  return normal
    ? noise
    : noise
        .mul(0.25)
        .add(0.5 + low / 2)
        .clamp(low, 1);
}

describe("calls", () => {
  test.each(calls.map((call) => [call.name, call] as const))("%s", async (name, call) => {
    const pipeline = fresh(call.checkpoint);
    if (call.scheduler !== null) {
      const cls = schedulerRegistry[call.scheduler.class]!;
      pipeline.scheduler = cls.from_config(pipeline.scheduler.config, call.scheduler.kwargs);
    }
    const { seed, low, normal, shows, ...rest } = call.options;
    rest["image"] = given(rest["image"], 100, { ...(low !== undefined && { low }), ...(normal !== undefined && { normal }) });
    rest["mask_image"] = given(rest["mask_image"], 200);
    for (const [i, key] of ["prompt_embeds", "negative_prompt_embeds", "latents", "masked_image_latents"].entries()) {
      if (key in rest) rest[key] = given(rest[key], 300 + i, { normal: true });
    }
    if ("timesteps" in rest || "sigmas" in rest) delete rest["num_inference_steps"];
    let latents: Tensor | undefined;
    const options: StableDiffusionInpaintOptions = {
      ...rest,
      generator: Array.isArray(seed) ? seed.map(seeded) : seeded(seed),
      output_type: shows ? "image" : "latent",
      callback_on_step_end: (_pipe, _i, _t, tensors) => {
        latents = tensors.latents;
      },
    };
    const { images } = await pipeline(options);
    const latent = expected[`${name}/latent`]!;
    expect(latents!.dims).toEqual(latent.dims);
    expectClose(latents!.data, latent.data as Float32Array, latentTolerance, name);
    if (images instanceof Tensor) {
      expect(images).toBe(latents);
      return;
    }
    const pictures = expected[`${name}/image`]!;
    expect([images.length, images[0]!.height, images[0]!.width]).toEqual(pictures.dims.slice(0, 3));
    expectSamePicture(
      images.flatMap((image) => [...image.data]),
      pictures.data,
    );
  });
});

describe("a run", () => {
  const call = () => ({
    prompt: "a photo of a red fox!",
    image: pictureNamed("photo"),
    mask_image: pictureNamed("mask"),
    num_inference_steps: 3,
  });

  test.each(["sd1-tiny", "unet-9", "vae-asymmetric"])("%s: generators go on from call to call", async (name) => {
    const pipeline = fresh(name);
    const generator = seeded(11);
    for (const output_type of ["pt", "latent"] as const) {
      const { images } = await pipeline({ ...call(), generator, output_type });
      const size = images.dims[3]!;
      const some = images.data.filter((_, i) => Math.floor(i / size) % size % 4 === 0);
      expectClose(some, expected[`consecutive/${name} ${output_type}`]!.data as Float32Array, latentTolerance);
    }
    const list = [1, 2].map(seeded);
    const two = {
      ...call(),
      prompt: calls.find(({ name }) => name === "two of each")!.options["prompt"] as string[],
      image: [pictureNamed("photo"), pictureNamed("other")],
    };
    await pipeline({ ...two, generator: list, output_type: "tensor" });
    const { images } = await pipeline({ ...two, generator: list, output_type: "latent" });
    expectClose(images.data, expected[`consecutive/${name} list`]!.data as Float32Array, latentTolerance);
  });

  test.each(["sd1-tiny", "unet-9"])("%s: the callback sees all tensors and may replace them", async (name) => {
    const seen: unknown[] = [];
    const { images } = await fresh(name)({
      ...call(),
      generator: seeded(0),
      output_type: "latent",
      callback_on_step_end_tensor_inputs: StableDiffusionInpaintPipeline.callback_tensor_inputs,
      callback_on_step_end: async (_pipe, i, t, tensors): Promise<InpaintCallbackTensors> => {
        seen.push([i, t, Object.fromEntries(Object.entries(tensors).map(([key, { dims }]) => [key, [...dims]]))]);
        return {
          latents: tensors.latents!.mul(0.9),
          prompt_embeds: tensors.prompt_embeds!.add(0.1),
          mask: tensors.mask!.mul(0.5).add(0.25),
          masked_image_latents: tensors.masked_image_latents!.add(0.2),
        };
      },
    });
    expect(seen).toEqual(callback);
    expectClose(images.data, expected[`callback/${name}`]!.data as Float32Array, latentTolerance);
  });

  test.each(["sd1-tiny", "unet-9"])("%s: _interrupt leaves out the steps that remain", async (name) => {
    const { images } = await fresh(name)({
      ...call(),
      generator: seeded(0),
      output_type: "latent",
      callback_on_step_end: (pipe, i) => {
        pipe._interrupt = i === 1;
      },
    });
    expectClose(images.data, expected[`interrupt/${name}`]!.data as Float32Array, latentTolerance);
  });

  test("an old scheduler's config is put right as this class does", async () => {
    const { components } = fresh("sd1-tiny");
    const scheduler = PNDMScheduler.from_config({}, { skip_prk_steps: false, steps_offset: 0 });
    const pipeline = new StableDiffusionInpaintPipeline({
      ...(components as never as ConstructorParameters<typeof StableDiffusionInpaintPipeline>[0]),
      scheduler,
      requires_safety_checker: false,
    });
    expect(pipeline.scheduler.config).toMatchObject(outdated);
    const { images } = await pipeline({ ...call(), generator: seeded(0), output_type: "latent" });
    expectClose(images.data, expected["outdated"]!.data as Float32Array, latentTolerance);
  });

  test("an autoencoder for inpainting makes several pictures of one", async () => {
    const { images } = await fresh("vae-asymmetric")({ ...call(), num_images_per_prompt: 2, generator: seeded(0) });
    expect(images).toHaveLength(2);
  });

  test("pictures say what they were made with, by the original's size", async () => {
    const { images } = await fresh("sd1-tiny")("a cat", {
      image: pictureNamed("wide"),
      mask_image: pictureNamed("mask wide"),
      padding_mask_crop: 4,
      strength: 0.5,
      num_inference_steps: 4,
      generator: seeded(42),
    });
    expect(images[0]!.metadata["parameters"]).toBe(
      "a cat\nSteps: 4, Sampler: PNDMScheduler, CFG scale: 7.5, Seed: 42, Size: 45x30, Model: sd1-tiny, Denoising strength: 0.5",
    );
  });

  test("cancelling, then the next call", async () => {
    const pipeline = fresh("unet-9");
    const controller = new AbortController();
    const run = pipeline({
      ...call(),
      generator: seeded(11),
      signal: controller.signal,
      callback_on_step_end: () => controller.abort(),
    });
    await expect(run).rejects.toMatchObject({ name: "AbortError" });
    const { images } = await pipeline({ ...call(), generator: seeded(0), output_type: "latent" });
    expect(images.data.every(Number.isFinite)).toBe(true);
    const again = await pipeline({ ...call(), generator: seeded(0), output_type: "latent" });
    expect(again.images).toEqual(images);
  });
});

describe("what stays of a picture", () => {
  const original = () => pictureNamed("odd").resize(96, 80);
  /** White in the middle. */
  const mask = (): RawImage => {
    const data = new Uint8Array(96 * 80);
    for (let y = 25; y < 50; y++) data.fill(255, y * 96 + 30, y * 96 + 61);
    return new RawImage(data, 96, 80, 1);
  };

  test("emoji-diffusion: with padding_mask_crop, all that the mask does not cover, to the bit", async () => {
    const [image, mask_image] = [original(), mask()];
    const { images } = await fresh("emoji")("a dog", {
      ...{ image, mask_image, padding_mask_crop: 8, num_inference_steps: 6, guidance_scale: 2, generator: seeded(1) },
    });
    const [made] = images as [RawImage];
    expect([made.width, made.height, made.channels]).toEqual([96, 80, 3]);
    let changed = 0;
    for (let i = 0; i < made.data.length; i++) {
      if (mask_image.data[Math.floor(i / 3)] === 0) expect(made.data[i]).toBe(image.data[i]);
      else if (made.data[i] !== image.data[i]) changed++;
    }
    expect(changed).toBeGreaterThan(1000);
  });

  test("emoji-diffusion: latents whose cells the mask does not touch are those of the picture, to the bit", async () => {
    const pipeline = fresh("emoji");
    const [image, mask_image] = [original().resize(64, 64), mask().resize(64, 64)];
    const generator = seeded(1);
    const { images } = await pipeline("a dog", {
      ...{ image, mask_image, num_inference_steps: 6, guidance_scale: 2, generator, output_type: "latent" },
    });
    const { latent_dist } = await pipeline.vae.encode(await pipeline.image_processor.preprocess(image));
    const own = latent_dist.sample(seeded(1)).mul(pipeline.vae.config.scaling_factor);
    const shown = await pipeline.mask_processor.preprocess(mask_image);
    let kept = 0;
    for (let i = 0; i < own.data.length; i++) {
      const [row, column] = [Math.floor(i / 16) % 16, i % 16];
      // The nearest pixel decides for a cell: its first.
      if (shown.data[row * 4 * 64 + column * 4] === 1) continue;
      expect(images.data[i]).toBe(own.data[i]);
      kept++;
    }
    expect(kept).toBeGreaterThan(700);
  });
});

describe("VaeImageProcessor", () => {
  const processor = new VaeImageProcessor({ vae_scale_factor: 4 });

  test.each(Object.keys(regions))("get_crop_region: %s", (name) => {
    for (const [width, height, pad, region] of regions[name]!) {
      const found = VaeImageProcessor.get_crop_region(pictureNamed(name), width, height, pad);
      expect(found, `${width} x ${height}, ${pad}`).toEqual(region);
    }
  });

  test.each(Object.keys(expected).filter((key) => key.startsWith("resize/")))("%s", async (key) => {
    const [, resize_mode, name, height, width] = /^resize\/(\w+) (\w+) (\d+) (\d+)$/.exec(key)!;
    const size = { height: Number(height), width: Number(width), resize_mode: resize_mode as "fill" };
    // With a factor of 1, pictures come in any size.
    const any = new VaeImageProcessor({ vae_scale_factor: 1, do_normalize: false });
    const resized = RawImage.fromTensor(await any.preprocess(pictureNamed(name!), size));
    expect([...resized.data]).toEqual([...expected[key]!.data]);
  });

  test.each<[string, Region | null]>([
    ["whole", null],
    ["part", [5, 3, 19, 24]],
    ["beyond", [-4, -6, 30, 31]],
  ])("apply_overlay: %s", (name, region) => {
    const [mask, image] = [imageOf(expected["overlay/mask"]!), imageOf(expected["overlay/image"]!)];
    const result = processor.apply_overlay(mask, pictureNamed("clear"), image, region);
    const { dims, data } = expected[`overlay/${name}`]!;
    expect([result.height, result.width, result.channels]).toEqual(dims);
    expect([...result.data]).toEqual([...data]);
  });

  test("what cannot be", async () => {
    const black = new RawImage(new Uint8Array(64), 8, 8, 1);
    expect(() => VaeImageProcessor.get_crop_region(black, 8, 8, 2)).toThrow(ValueError);
    expect(VaeImageProcessor.get_crop_region(black, 8, 8, 8)).toEqual([0, 0, 8, 8]);
    expect(() => processor.apply_overlay(black, pictureNamed("photo"), pictureNamed("photo"))).toThrow(/8 x 8/);
    const tensor = Tensor.zeros([1, 3, 8, 8]);
    await expect(processor.preprocess(tensor, { resize_mode: "fill" })).rejects.toThrow(/resize_mode/);
    await expect(processor.preprocess(Tensor.zeros([8, 8]))).rejects.toThrow(ValueError);
  });
});

describe("what is wrong with a call is named", () => {
  const image = pictureNamed("photo");
  const mask_image = pictureNamed("mask");
  const wrong: [string, object, typeof ValueError | typeof TypeError | typeof UnsupportedModelError, RegExp][] = [
    ["no picture", { image: null }, ValueError, /`image` is nothing/],
    ["no mask", { mask_image: undefined }, ValueError, /`mask_image` is nothing/],
    ["an empty list of pictures", { image: [] }, ValueError, /`image` is \[\]/],
    ["an empty list of masks", { mask_image: [] }, ValueError, /`mask_image` is \[\]/],
    ["what is no picture", { image: 3 }, TypeError, /picture/],
    ["what is no mask", { mask_image: {} }, TypeError, /picture/],
    ["a picture with alpha", { image: pictureNamed("clear") }, ValueError, /alpha.*convert\(3\)/],
    ["a gray picture", { image: pictureNamed("gray") }, ValueError, /gray/],
    ["a tensor and a picture", { image: [image, Tensor.zeros([3, 8, 8])] }, ValueError, /one kind/],
    ["a mask and a tensor", { mask_image: [mask_image, Tensor.zeros([8, 8])] }, ValueError, /`mask_image`.*one kind/],
    [
      "a tensor of two channels",
      { image: Tensor.zeros([1, 2, 8, 8]) },
      ValueError,
      /`image` is float32 \[1, 2, 8, 8\]/,
    ],
    ["a mask of three channels", { mask_image: Tensor.zeros([1, 3, 8, 8]) }, ValueError, /`mask_image` is float32/],
    ["a mask of four channels", { mask_image: Tensor.zeros([1, 4, 8, 8]) }, ValueError, /`mask_image` is float32/],
    ["a mask of one dimension", { mask_image: Tensor.zeros([8]) }, ValueError, /`mask_image`/],
    ["strength below 0", { strength: -0.1 }, ValueError, /`strength` is -0.1/],
    ["strength 1.5", { strength: 1.5 }, ValueError, /`strength` is 1.5/],
    ["a strength that is no number", { strength: "1" }, ValueError, /`strength`/],
    ["strength 0", { strength: 0 }, ValueError, /`strength` 0 leaves none/],
    ["a strength of less than a step", { strength: 0.2, num_inference_steps: 4 }, ValueError, /`strength` 0.2/],
    ["no steps", { num_inference_steps: 0 }, ValueError, /`num_inference_steps` is 0/],
    ["a height that 4 does not divide", { height: 30 }, ValueError, /divisible by 4.*`height` is 30/],
    ["a width that 4 does not divide", { width: 31 }, ValueError, /divisible by 4.*`width` is 31/],
    ["no prompt", { prompt: null }, ValueError, /`prompt`/],
    ["an empty list of prompts", { prompt: [] }, ValueError, /`prompt` is \[\]/],
    ["an unknown option", { mask: mask_image }, TypeError, /`mask`.*Did you mean/],
    ["an option of other pipelines", { guidance_rescale: 0.7 }, TypeError, /`guidance_rescale`/],
    ["attention options", { cross_attention_kwargs: { scale: 1 } }, UnsupportedModelError, /cross_attention_kwargs/],
    ["too many pictures", { image: [image, image] }, ValueError, /`image` has 2 pictures.*batch of 1/],
    ["too many masks", { mask_image: [mask_image, mask_image] }, ValueError, /`mask_image` has 2/],
    [
      "pictures that do not divide the batch",
      { image: [image, image], num_images_per_prompt: 3 },
      ValueError,
      /`image` has 2 pictures.*batch of 3/,
    ],
    [
      "masks of another number",
      { image: [image, image, image], mask_image: [mask_image, mask_image], num_images_per_prompt: 6 },
      ValueError,
      /2 masks for 3 pictures/,
    ],
    ["latents without masked ones", { image: Tensor.zeros([1, 4, 8, 8]) }, ValueError, /`masked_image_latents`/],
    [
      "latents of another size",
      { image: Tensor.zeros([1, 4, 4, 4]), masked_image_latents: Tensor.zeros([1, 4, 8, 8]) },
      ValueError,
      /`image` is float32 \[1, 4, 4, 4\]/,
    ],
    [
      "masked latents of another size",
      { masked_image_latents: Tensor.zeros([1, 4, 8, 4]) },
      ValueError,
      /`masked_image_latents`/,
    ],
    ["masked latents of three dimensions", { masked_image_latents: Tensor.zeros([4, 8, 8]) }, ValueError, /masked_im/],
    ["noise of another size", { latents: Tensor.zeros([1, 4, 8, 9]) }, ValueError, /`latents`/],
    ["too many generators", { generator: [seeded(1), seeded(2)] }, ValueError, /`generator`/],
    ["an unknown tensor", { callback_on_step_end_tensor_inputs: ["noise"] }, ValueError, /mask, masked_image_latents/],
    ["half a pixel around", { padding_mask_crop: 0.5 }, ValueError, /`padding_mask_crop` is 0.5/],
    ["a crop of several", { padding_mask_crop: 4, image: [image] }, ValueError, /`image` is a list.*one picture/],
    ["a crop of a tensor", { padding_mask_crop: 4, mask_image: Tensor.zeros([32, 32]) }, ValueError, /is a tensor/],
    ["a crop of nothing", { padding_mask_crop: 4, mask_image: null }, ValueError, /`mask_image` is nothing/],
    ["a crop as a tensor", { padding_mask_crop: 4, output_type: "tensor" }, ValueError, /`output_type` is "tensor"/],
    ["a mask of another size", { padding_mask_crop: 4, image: pictureNamed("odd") }, ValueError, /24 x 24.*33 x 28/],
    [
      "a black mask",
      { padding_mask_crop: 4, mask_image: new RawImage(new Uint8Array(576), 24, 24, 1) },
      ValueError,
      /mask is black/,
    ],
  ];
  test.each(wrong)("%s", async (_, options, cls, message) => {
    const run = fresh("sd1-tiny")({ prompt: "a cat", image, mask_image, num_inference_steps: 2, ...options });
    await expect(run).rejects.toThrow(message);
    await expect(run).rejects.toBeInstanceOf(cls);
  });

  test("a UNet of other channels", async () => {
    const { components } = fresh("sd1-tiny");
    const unet = new UNet2DConditionModel({ ...pipelines["sd1-tiny"]!.unet.config, in_channels: 8 });
    const parts = { ...components, unet, requires_safety_checker: false };
    const pipeline = new StableDiffusionInpaintPipeline(parts as never);
    await expect(pipeline("a cat", { image, mask_image })).rejects.toThrow(/8 channels.*4.*9/);
  });

  test("without its VAE, latents cannot be made either", async () => {
    const pipeline = await StableDiffusionInpaintPipeline.from_pretrained(pathOf("sd1-tiny"), { device, vae: null });
    await expect(pipeline("a cat", { image, mask_image, output_type: "latent" })).rejects.toThrow(/vae/);
    await pipeline.dispose();
  });
});
