/**
 * Stable Diffusion XL on WASM, elementwise against Diffusers, with the same seeds: tests/fixtures/pipelines/make_sdxl.py.
 */
import { StableDiffusionXLPipeline, type Tensor } from "@diffusers-web/pipelines";
import { beforeAll, describe, expect, test } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { seeded } from "../support/calls.ts";
import { openSet, testCalls, withPictures } from "../support/fixture_set.ts";
import { fixturePath } from "../support/fixtures.ts";
import * as runner from "./runners/sdxl.ts";
import type { FixtureSet } from "./runners/types.ts";

interface Fixture extends FixtureSet {
  readonly printed: Record<string, string>;
  readonly callback: [number, number, string[], number[][]][];
}

const opened = openSet<Fixture>("sdxl", runner);
const { expected, pipelines, fresh } = opened;
const { calls, printed, callback } = opened.fixture;
const xl = fixturePath("pipelines/sdxl-tiny");
const refiner = fixturePath("pipelines/sdxl-refiner-tiny");
/** Rounding differs between engines, and grows over the steps. The issue allows 1e-3. */
const tolerance = 1e-4;

test.each(Object.keys(printed))("%s prints as in Python", (name) => {
  expect(`${pipelines[name]}`.replace(xl, "PATH").replace(refiner, "REFINER")).toBe(printed[name]);
});

testCalls(opened, tolerance, withPictures(expected));

describe("around a run", () => {
  const prompt = "a photo of a red fox!";
  let pipeline: StableDiffusionXLPipeline;
  beforeAll(() => {
    const loaded = fresh("xl");
    if (!(loaded instanceof StableDiffusionXLPipeline)) throw new Error("another class");
    pipeline = loaded;
  });
  const latentsOf = async (options: object): Promise<Float32Array> => {
    const call = { num_inference_steps: 4, generator: seeded(0), output_type: "latent" } as const;
    return (await pipeline(prompt, { ...call, ...options })).images.data as unknown as Float32Array;
  };
  const wanted = (name: string): Float32Array => expected[name]!.data as Float32Array;

  test("the callback sees tensors and may replace them", async () => {
    const seen: unknown[] = [];
    const latents = await latentsOf({
      callback_on_step_end_tensor_inputs: ["latents", "prompt_embeds", "add_text_embeds", "add_time_ids"],
      callback_on_step_end: (pipe: unknown, i: number, t: number, tensors: Record<string, Tensor>) => {
        expect(pipe).toBe(pipeline);
        const names = Object.keys(tensors).sort();
        seen.push([i, t, names, names.map((name) => [...tensors[name]!.dims])]);
        return {
          latents: tensors["latents"]!.mul(0.9),
          prompt_embeds: tensors["prompt_embeds"]!.add(0.1),
          add_text_embeds: tensors["add_text_embeds"]!.mul(0.5),
          add_time_ids: tensors["add_time_ids"]!.add(3),
        };
      },
    });
    expect(seen).toEqual(callback);
    expectClose(latents, wanted("callback/latent"), tolerance);
  });

  test("_interrupt leaves out the steps that remain", async () => {
    const latents = await latentsOf({
      callback_on_step_end: (pipe: StableDiffusionXLPipeline, i: number) => {
        pipe._interrupt = i === 1;
      },
    });
    expectClose(latents, wanted("interrupt/latent"), tolerance);
    expect(pipeline.num_timesteps).toBe(4);
  });

  test("a tensor of pictures", async () => {
    expectClose(await latentsOf({ output_type: "tensor" }), wanted("pt"), tolerance);
  });

  test("encode_prompt", async () => {
    const [first, second] = calls.find(({ name }) => name.includes("too long"))!.options["prompt"] as string[];
    const encoded = await pipeline.encode_prompt([first!, second!], {
      num_images_per_prompt: 2,
      negative_prompt: ["dog", ""],
      negative_prompt_2: "ugly",
      prompt_2: ["a dog", "a house"],
      clip_skip: 1,
    });
    for (const [name, value] of Object.entries(encoded) as [string, Tensor][]) {
      expect(value.dims).toEqual(expected[`encode_prompt/${name}`]!.dims);
      expectClose(value.data, wanted(`encode_prompt/${name}`), tolerance, name);
    }
    expect(Object.keys(encoded).length).toBe(4);
  });

  test("pictures say what they were made with", async () => {
    const options = { num_inference_steps: 2, negative_prompt: "ugly", generator: seeded(42) };
    const { images } = await pipeline("a cat", options);
    expect(images[0]!.metadata["parameters"]).toBe(
      "a cat\nNegative prompt: ugly\nSteps: 2, Sampler: EulerDiscreteScheduler, CFG scale: 5, Seed: 42, Size: 8x8, Model: sdxl-tiny",
    );
  });

  test("cancelling, then the next call", async () => {
    const controller = new AbortController();
    const run = latentsOf({ signal: controller.signal, callback_on_step_end: () => controller.abort() });
    await expect(run).rejects.toMatchObject({ name: "AbortError" });
    expectClose(await latentsOf({ output_type: "tensor" }), wanted("pt"), tolerance);
  });

  test("one model at a time on the device", async () => {
    await pipeline.enable_model_cpu_offload();
    expectClose(await latentsOf({ output_type: "tensor" }), wanted("pt"), tolerance);
    pipeline.remove_all_hooks();
  });

  test("the refiner goes on where the base has ended", async () => {
    const call = { num_inference_steps: 10, output_type: "latent" } as const;
    const { images: image } = await pipeline(prompt, { ...call, denoising_end: 0.7, generator: seeded(0) });
    const { images } = await pipelines["refiner"]!(prompt, {
      ...call,
      image,
      denoising_start: 0.7,
      generator: seeded(1),
    });
    expectClose(images.data, wanted("hand over/latent"), tolerance);
  });
});
