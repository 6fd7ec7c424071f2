/** enable_model_cpu_offload: what is on the device at each moment of a call, and that the picture stays the same. */
import { fileURLToPath } from "node:url";
import {
  DiffusionPipeline,
  Generator,
  max_memory_allocated,
  memory_allocated,
  reset_peak_memory_stats,
  StableDiffusionPipeline,
  type Tensor,
  UNet2DModel,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { fixturePath } from "../support/fixtures.ts";

const emoji = fileURLToPath(new URL("../../demo/public/models/emoji-diffusion", import.meta.url));
const prompt = "a fox on a purple background";

/** Bytes of each model's weights in float32, as WASM holds them. The VAE's encoder is not used, so it is not there. */
const sizes = { text_encoder: 0, unet: 0, vae: 0 };

async function load(): Promise<StableDiffusionPipeline> {
  return StableDiffusionPipeline.from_pretrained(emoji, { safety_checker: null, device: "wasm" });
}

async function draw(pipeline: StableDiffusionPipeline, during: () => void = () => {}): Promise<Float32Array> {
  const { images } = await pipeline(prompt, {
    num_inference_steps: 2,
    guidance_scale: 2,
    generator: new Generator().manual_seed(0),
    output_type: "tensor",
    callback_on_step_end: during,
  });
  return (images as Tensor).data;
}

beforeEach(() => {
  vi.spyOn(console, "warn").mockImplementation(() => {});
  expect(memory_allocated()).toBe(0);
  reset_peak_memory_stats();
});
afterEach(() => vi.restoreAllMocks());

describe("a call", () => {
  test("without it, all models stay; with it, each is there only while it works, and the picture is the same", async () => {
    await using pipeline = await load();
    // Nothing is uploaded before it is used.
    expect(memory_allocated()).toBe(0);
    await pipeline.encode_prompt(prompt, { do_classifier_free_guidance: true });
    sizes.text_encoder = memory_allocated();
    const expected = await draw(pipeline, () => {
      sizes.unet = memory_allocated() - sizes.text_encoder;
    });
    sizes.vae = memory_allocated() - sizes.unet - sizes.text_encoder;
    const all = sizes.text_encoder + sizes.unet + sizes.vae;
    expect(Math.min(...Object.values(sizes))).toBeGreaterThan(1e6);
    expect(max_memory_allocated()).toBe(all);

    await pipeline.enable_model_cpu_offload();
    expect(memory_allocated()).toBe(0);
    reset_peak_memory_stats();
    const held: number[] = [];
    expect(await draw(pipeline, () => held.push(memory_allocated()))).toEqual(expected);
    expect(held).toEqual([sizes.unet, sizes.unet]);
    expect(memory_allocated()).toBe(0);
    expect(max_memory_allocated()).toBe(Math.max(...Object.values(sizes)));

    pipeline.remove_all_hooks();
    expect(await draw(pipeline)).toEqual(expected);
    expect(memory_allocated()).toBe(all);
    // Nothing is left of the hooks: a model that runs leaves the others where they are.
    await pipeline.vae.decode(new Generator().randn([1, 4, 16, 16]));
    expect(memory_allocated()).toBe(all);
  });

  test("that fails leaves nothing on the device", async () => {
    await using pipeline = await load();
    await pipeline.enable_model_cpu_offload();
    const failing = draw(pipeline, () => {
      expect(memory_allocated()).toBeGreaterThan(0);
      throw new Error("enough");
    });
    await expect(failing).rejects.toThrow("enough");
    expect(memory_allocated()).toBe(0);
    expect(pipeline.unet.before_run).toBeUndefined();
  });

  test("of a part by itself leaves that part until maybe_free_model_hooks, or the next call", async () => {
    await using pipeline = await load();
    await pipeline.enable_model_cpu_offload();
    await pipeline.encode_prompt(prompt);
    expect(memory_allocated()).toBe(sizes.text_encoder);
    await pipeline.maybe_free_model_hooks();
    expect(memory_allocated()).toBe(0);

    await pipeline.vae.decode(new Generator().randn([1, 4, 16, 16]));
    reset_peak_memory_stats();
    await draw(pipeline);
    expect(max_memory_allocated()).toBe(Math.max(...Object.values(sizes)));
    expect(memory_allocated()).toBe(0);

    pipeline.remove_all_hooks();
    await pipeline.encode_prompt(prompt);
    await pipeline.maybe_free_model_hooks();
    expect(memory_allocated()).toBe(sizes.text_encoder);
  });

  test("after dispose is an error, and dispose frees what is there", async () => {
    const pipeline = await load();
    await pipeline.encode_prompt(prompt);
    await pipeline.enable_model_cpu_offload();
    await pipeline.encode_prompt(prompt);
    await pipeline.dispose();
    expect(memory_allocated()).toBe(0);
    await expect(pipeline.encode_prompt(prompt)).rejects.toThrow("is disposed");
  });
});

test("a model alone", async () => {
  await using model = await UNet2DModel.from_pretrained(fixturePath("quicktour/ddpm-tiny"), { device: "wasm" });
  const { in_channels, sample_size } = model.config;
  const x = new Generator().manual_seed(0).randn([1, in_channels, sample_size as number, sample_size as number]);
  const { sample } = await model(x, 3);
  expect(memory_allocated()).toBeGreaterThan(0);
  await model.offload();
  await model.offload();
  expect(memory_allocated()).toBe(0);
  // In any order with calls: what runs is not torn away.
  const results = await Promise.all([model(x, 3), model.offload(), model(x, 3), model.offload()]);
  for (const result of results) if (result !== undefined) expect(result.sample.data).toEqual(sample.data);
});

describe("what is refused", () => {
  test("sequential offloading, with what to use instead", async () => {
    await using pipeline = await load();
    expect(() => pipeline.enable_sequential_cpu_offload()).toThrow(UnsupportedModelError);
    expect(() => pipeline.enable_sequential_cpu_offload()).toThrow("enable_model_cpu_offload()");
  });

  test("a pipeline whose class does not name the order of its models", async () => {
    class Unordered extends DiffusionPipeline {
      static override readonly name: string = "Unordered";
      protected override run(): Promise<unknown> {
        return Promise.resolve({});
      }
    }
    const enabling = new Unordered().enable_model_cpu_offload();
    await expect(enabling).rejects.toBeInstanceOf(ValueError);
    await expect(enabling).rejects.toThrow("Unordered does not say in which order");
  });
});
