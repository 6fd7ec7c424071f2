/** Perturbed-attention guidance on WASM, elementwise against Diffusers, with the same seeds: tests/fixtures/pipelines/make_pag.py. */
import {
  type AnyPipeline,
  AutoPipelineForImage2Image,
  AutoPipelineForText2Image,
  DiffusionPipeline,
  type RawImage,
  StableDiffusionPAGImg2ImgPipeline,
  StableDiffusionPAGPipeline,
  StableDiffusionPipeline,
  StableDiffusionXLPAGImg2ImgPipeline,
  StableDiffusionXLPAGPipeline,
  schedulerRegistry,
  type Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { describe, expect, test } from "vitest";
import { compare, expectClose } from "../support/allclose.ts";
import { pictureOf, seeded } from "../support/calls.ts";
import { openSet, testCalls } from "../support/fixture_set.ts";
import { fixturePath } from "../support/fixtures.ts";
import * as runner from "./runners/pag.ts";
import type { FixtureCall, FixtureSet } from "./runners/types.ts";

interface Called {
  names: string[];
  seen: [number, number, Record<string, number[]>][];
}

interface Fixture extends FixtureSet {
  readonly printed: Record<string, string>;
  readonly called: Record<string, Called>;
  readonly errors: Record<string, string>;
}

type PAGPipeline =
  | StableDiffusionPAGPipeline
  | StableDiffusionXLPAGPipeline
  | StableDiffusionPAGImg2ImgPipeline
  | StableDiffusionXLPAGImg2ImgPipeline;

const opened = openSet<Fixture, PAGPipeline>("pag", runner);
const { expected, pipelines, originals, fresh } = opened;
const { printed, called, errors } = opened.fixture;
const path = (name: string): string => fixturePath(`pipelines/${name}`);
const picture = (name: string): RawImage => pictureOf(expected[`picture/${name}`]!);
/** Rounding differs between engines, and grows over the steps and with the scales. The issue allows 1e-3. */
const tolerance = 1e-4;
const device = "wasm";

/** A pipeline with a scheduler of another class (null: its own), and with layers. */
function prepared(name: string, scheduler: FixtureCall["scheduler"], layers: string | string[]): PAGPipeline {
  const pipeline = fresh(name);
  if (scheduler !== null) {
    pipeline.scheduler = schedulerRegistry[scheduler.class]!.from_config(originals[name]!.config, scheduler.kwargs);
  }
  pipeline.set_pag_applied_layers(layers);
  return pipeline;
}

const call = (pipeline: unknown, options: object) =>
  (pipeline as (options: object) => Promise<{ images: RawImage[] | Tensor }>)(options);

test.each(Object.keys(printed))("%s prints as in Python", (name) => {
  const text = `${prepared(name, null, "mid")}`;
  const paths = { SD: path("sd1-tiny"), XL: path("sdxl-tiny"), REFINER: path("sdxl-refiner-tiny") };
  expect(Object.entries(paths).reduce((named, [short, long]) => named.replace(long, short), text)).toBe(printed[name]);
});

testCalls(opened, tolerance);

const prompt = "a photo of a red fox!";

describe("a call", () => {
  test.each(Object.entries(called))(
    "of %s: the callback sees tensors of all parts, and may replace them",
    async (kind, one) => {
      const pipeline = prepared(kind, null, "mid");
      const isImage = kind.endsWith("img2img");
      const image = isImage ? { image: picture(kind === "img2img" ? "photo" : "small"), strength: 0.8 } : {};
      const seen: unknown[] = [];
      const { images } = await call(pipeline, {
        ...{ prompt, ...image, num_inference_steps: 4, generator: seeded(0), output_type: "latent" },
        callback_on_step_end_tensor_inputs: one.names,
        callback_on_step_end: (_: unknown, i: number, t: number, tensors: Record<string, Tensor>) => {
          seen.push([i, t, Object.fromEntries(Object.entries(tensors).map(([name, { dims }]) => [name, [...dims]]))]);
          const { prompt_embeds, add_time_ids, latents } = tensors;
          return {
            prompt_embeds: prompt_embeds!.add(0.1),
            latents: latents!.add(-0.1),
            ...(add_time_ids && { add_time_ids: add_time_ids.add(3) }),
          };
        },
      });
      expect(seen).toEqual(one.seen);
      const { data, dims } = expected[`callback ${kind}/latent`]!;
      expect((images as Tensor).dims).toEqual(dims);
      expectClose((images as Tensor).data, data as Float32Array, tolerance);
    },
  );

  test("off, it is what the pipeline without it makes; the UNet keeps nothing of it", async () => {
    const pipeline = prepared("sd", null, "mid") as StableDiffusionPAGPipeline;
    const plain = await StableDiffusionPipeline.from_pipe(pipeline);
    const options = { num_inference_steps: 2, output_type: "latent" } as const;
    const latents = async (run: typeof plain | typeof pipeline, more = {}): Promise<Float32Array> =>
      ((await call(run, { prompt, ...options, ...more, generator: seeded(1) })).images as Tensor).data;
    const before = await latents(plain);
    const perturbed = await latents(pipeline);
    expect(compare(perturbed, before).error).toBeGreaterThan(1e-3);
    expect(await latents(plain)).toEqual(before);
    expect(await latents(pipeline, { pag_scale: 0 })).toEqual(before);
    pipeline.set_pag_applied_layers([]);
    expect(await latents(pipeline)).toEqual(before);
  });

  test("pictures say what they were made with", async () => {
    const pipeline = prepared("sd", null, "mid") as StableDiffusionPAGPipeline;
    const options = { num_inference_steps: 1, generator: seeded(42), height: 16, width: 16 };
    const { images } = await pipeline("a cat", { ...options, pag_scale: 2, pag_adaptive_scale: 0.1 });
    expect(images[0]!.metadata["parameters"]).toBe(
      "a cat\nSteps: 1, Sampler: PNDMScheduler, CFG scale: 7.5, Seed: 42, Size: 16x16, Model: sd1-tiny, " +
        "pag_scale: 2, pag_adaptive_scale: 0.1",
    );
  });

  test("_interrupt leaves out the steps that remain", async () => {
    const steps: number[] = [];
    await (prepared("xl", null, "mid") as StableDiffusionXLPAGPipeline)("a", {
      ...{ num_inference_steps: 3, output_type: "latent" },
      callback_on_step_end: (pipe, i) => {
        steps.push(i);
        pipe._interrupt = true;
      },
    });
    expect(steps).toEqual([0]);
  });
});

describe("AutoPipelines", () => {
  test.each([
    ["text", "sd1-tiny", AutoPipelineForText2Image, StableDiffusionPAGPipeline],
    ["a picture", "sd1-tiny", AutoPipelineForImage2Image, StableDiffusionPAGImg2ImgPipeline],
    ["XL, text", "sdxl-tiny", AutoPipelineForText2Image, StableDiffusionXLPAGPipeline],
    ["XL, a picture", "sdxl-tiny", AutoPipelineForImage2Image, StableDiffusionXLPAGImg2ImgPipeline],
  ] as const)("from_pretrained: %s", async (_, folder, auto, cls) => {
    const pag_applied_layers = ["up", "mid"];
    const options = { device, enable_pag: true, pag_applied_layers } as const;
    await using pipeline: AnyPipeline = await auto.from_pretrained(path(folder), options);
    expect(pipeline).toBeInstanceOf(cls);
    expect((pipeline as unknown as StableDiffusionPAGPipeline).pag_applied_layers).toEqual(pag_applied_layers);
  });

  test("from_pipe: there, to a picture, and back", async () => {
    const plain = await StableDiffusionPipeline.from_pipe(pipelines["sd"]!);
    const pag = await AutoPipelineForText2Image.from_pipe(plain, { enable_pag: true, pag_applied_layers: "down" });
    expect(pag).toBeInstanceOf(StableDiffusionPAGPipeline);
    expect((pag as unknown as StableDiffusionPAGPipeline).pag_applied_layers).toEqual(["down"]);
    expect(await AutoPipelineForImage2Image.from_pipe(pag)).toBeInstanceOf(StableDiffusionPAGImg2ImgPipeline);
    expect((await AutoPipelineForText2Image.from_pipe(pag, { enable_pag: false })).constructor).toBe(
      StableDiffusionPipeline,
    );
    expect(DiffusionPipeline.registry["StableDiffusionXLPAGPipeline"]).toBeDefined();
  });
});

test("of a checkpoint in one file", async () => {
  await using pipeline = await StableDiffusionPAGPipeline.from_single_file(
    fixturePath("models/single_file/sd1.safetensors"),
    { config: fixturePath("models/single_file/sd1"), device, pag_applied_layers: ["up", "mid"] },
  );
  expect(pipeline.pag_applied_layers).toEqual(["up", "mid"]);
  const options = { num_inference_steps: 1, output_type: "latent" } as const;
  const run = async (pag_scale: number): Promise<Float32Array> =>
    (await pipeline("a cat", { ...options, pag_scale, generator: seeded(0) })).images.data;
  expect(compare(await run(3), await run(0)).error).toBeGreaterThan(1e-4);
});

describe("what is refused", () => {
  const photo = picture("photo");
  type ErrorClass = typeof ValueError | typeof TypeError | typeof UnsupportedModelError;
  const wrong: [string, string, string | string[], object, ErrorClass, RegExp][] = [
    [
      "an unknown layer",
      "sd",
      "down.block_1",
      {},
      ValueError,
      /"down\.block_1".*There are some in: down_blocks\.0\.att/,
    ],
    ["one of several", "xl", ["mid", "up_blocks.7"], {}, ValueError, /"up_blocks\.7".*mid_block\.attentions\.0/],
    [
      "a broken expression",
      "img2img",
      "blocks.(1",
      { image: photo },
      ValueError,
      /"blocks\.\(1".*no regular expression/,
    ],
    ["a scale that is text", "sd", "mid", { pag_scale: "3" }, ValueError, /`pag_scale` is string/],
    ["a scale that is NaN", "xl", "mid", { pag_adaptive_scale: Number.NaN }, ValueError, /`pag_adaptive_scale` is NaN/],
    ["a height", "sd", "mid", { height: 20 }, ValueError, /`height` is 20/],
    ["no prompt", "xl", "mid", { prompt: null }, ValueError, /Neither `prompt` nor/],
    ["no picture", "img2img", "mid", {}, ValueError, /`image` is nothing/],
    ["no picture for XL", "xl-img2img", "mid", {}, ValueError, /`image` is nothing/],
    ["a strength of 2", "xl-img2img", "mid", { image: photo, strength: 2 }, ValueError, /`strength` is 2/],
    ["layers in a call", "sd", "mid", { pag_applied_layers: "up" }, TypeError, /pag_applied_layers/],
    ["guidance rescale of SD img2img", "img2img", "mid", { image: photo, guidance_rescale: 1 }, TypeError, /rescale/],
    [
      "a callback's unknown tensor",
      "xl",
      "mid",
      { callback_on_step_end_tensor_inputs: ["add_neg_time_ids"] },
      ValueError,
      /"add_neg_time_ids"/,
    ],
  ];

  test.each(wrong)("%s (%s)", async (_, name, layers, options, error, message) => {
    const run = call(prepared(name, null, layers), { prompt: "a", num_inference_steps: 2, ...options });
    await expect(run).rejects.toThrow(error);
    await expect(run).rejects.toThrow(message);
  });

  test("what Diffusers refuses as well", () => {
    expect(errors["unknown layer"]).toMatch(/^ValueError: Cannot find PAG layer .*: down.block_1/);
    expect(errors["number"]).toMatch(/^ValueError: Expected either a string or a list of string/);
    const pipeline = prepared("sd", null, "mid");
    for (const layers of [[1], 1, null, [null]]) {
      expect(() => pipeline.set_pag_applied_layers(layers as never)).toThrow(/`pag_applied_layers` has (number|null)/);
    }
    expect(pipeline.pag_applied_layers).toEqual(["mid"]);
  });

  test("a UNet whose graph is fixed, unless it is off", async () => {
    const pipeline = prepared("sd", null, "mid");
    const { components } = pipeline;
    class FixedUnet {
      config = pipeline.unet.config;
    }
    const fixed = new StableDiffusionPAGPipeline({ ...components, unet: new FixedUnet() } as never);
    await expect(fixed("a")).rejects.toThrow(UnsupportedModelError);
    await expect(fixed("a")).rejects.toThrow(/FixedUnet, whose graph is fixed/);
  });
});
