/** T2I-Adapters on WASM, elementwise against Diffusers, with the same seeds: tests/fixtures/pipelines/make_t2i_adapter.py. */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type AdapterImageInput,
  DiffusionPipeline,
  MultiAdapter,
  RawImage,
  type StableDiffusionAdapterOptions,
  StableDiffusionAdapterPipeline,
  StableDiffusionPipeline,
  type StableDiffusionXLAdapterOptions,
  StableDiffusionXLAdapterPipeline,
  schedulerRegistry,
  type T2IAdapter,
  Tensor,
  type UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, describe, expect, test } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { pictureOf, seeded } from "../support/calls.ts";
import { openSet, testCalls } from "../support/fixture_set.ts";
import { fixturePath } from "../support/fixtures.ts";
import * as runner from "./runners/t2i_adapter.ts";
import type { FixtureSet } from "./runners/types.ts";

interface Called {
  pipeline: string;
  scheduler: string | null;
  every: number;
  seen: [number, number, number][];
}

interface Fixture extends FixtureSet {
  readonly printed: Record<string, string>;
  readonly called: Called[];
}

type Pipeline = StableDiffusionAdapterPipeline | StableDiffusionXLAdapterPipeline;
type Options = StableDiffusionAdapterOptions & StableDiffusionXLAdapterOptions;

const opened = openSet<Fixture, Pipeline>("t2i_adapter", runner);
const { expected, pipelines, originals } = opened;
const { printed, called } = opened.fixture;
const sd = fixturePath("pipelines/sd1-tiny");
const xl = fixturePath("pipelines/sdxl-tiny");
const picture = (name: string): RawImage => pictureOf(expected[`picture/${name}`]!);
/** Rounding differs between engines, and grows over the steps. The issue allows 1e-3. */
const tolerance = 5e-5;
const device = "wasm";

test.each(Object.keys(printed))("%s prints as in Python", (name) => {
  expect(`${pipelines[name]}`.replace(sd, "SD").replace(xl, "XL")).toBe(printed[name]);
});

/** A scheduler of another class in a pipeline; null: its own. */
function swap(name: string, className: string | null, kwargs = {}): void {
  pipelines[name]!.scheduler = originals[name]!;
  if (className === null) return;
  pipelines[name]!.scheduler = schedulerRegistry[className]!.from_config(originals[name]!.config, kwargs);
}

const call = (pipeline: Pipeline, options: Options) =>
  (pipeline as (options: Options) => Promise<{ images: RawImage[] | Tensor }>)(options);

testCalls(opened, tolerance);

describe("a call", () => {
  test.each(called.map((one) => [one.pipeline, one.every, one.scheduler, one] as const))(
    "%s calls back at every %i. step of %s",
    async (name, every, scheduler, { seen }) => {
      swap(name, scheduler);
      const got: [number, number, number][] = [];
      await call(pipelines[name]!, {
        prompt: "a photo of a red fox!",
        image: picture(name === "sd" ? "photo" : "small"),
        ...{ num_inference_steps: 4, generator: seeded(0), output_type: "latent", callback_steps: every },
        callback: (i, t, latents) => got.push([i, t, latents.abs().max().item()]),
      });
      expect(got.map(([i, t]) => [i, t])).toEqual(seen.map(([i, t]) => [i, t]));
      expectClose(
        got.map(([, , most]) => most),
        seen.map(([, , most]) => most),
        tolerance,
      );
      swap(name, null);
    },
  );

  test("a tensor of pictures", async () => {
    const options = {
      image: picture("photo"),
      num_inference_steps: 3,
      generator: seeded(0),
      output_type: "pt",
    } as const;
    const { images } = await call(pipelines["sd"]!, { prompt: "a photo of a red fox!", ...options });
    expect((images as Tensor).dims).toEqual(expected["pt"]!.dims);
    expectClose((images as Tensor).data, expected["pt"]!.data as Float32Array, 1e-4);
  });

  test("one scale for all adapters, one picture for all prompts, in any number of pictures", async () => {
    const pipeline = pipelines["multi"] as StableDiffusionAdapterPipeline;
    const options = { num_inference_steps: 2, num_images_per_prompt: 2, output_type: "latent" } as const;
    const run = async (image: AdapterImageInput, adapter_conditioning_scale: number | number[]) =>
      (
        await pipeline(["a cat", "a dog"], {
          ...{ ...options, image, adapter_conditioning_scale },
          generator: seeded(0),
        })
      ).images.data;
    const [photo, gray] = [picture("photo"), picture("gray")];
    const [each, one] = [
      await run(
        [
          [photo, photo],
          [gray, gray],
        ],
        [0.6, 0.6],
      ),
      await run([photo, gray], 0.6),
    ];
    expectClose(one, each, 1e-6);
  });

  test("a callback that replaces tensors, and one that ends the run", async () => {
    const pipeline = pipelines["sd"] as StableDiffusionAdapterPipeline;
    const options = { image: picture("photo"), num_inference_steps: 3, output_type: "latent" } as const;
    const steps: number[] = [];
    const { images } = await pipeline("a cat", {
      ...options,
      callback_on_step_end: (pipe, i, _, tensors) => {
        steps.push(i);
        pipe._interrupt = i === 1;
        return { latents: tensors.latents!.mul(0) };
      },
    });
    expect(steps).toEqual([0, 1]);
    expect(images.data.every((value) => Math.abs(value) === 0)).toBe(true);
  });

  test("pictures say what they were made with", async () => {
    const pipeline = pipelines["sd"] as StableDiffusionAdapterPipeline;
    const { images } = await pipeline("a cat", {
      ...{ image: picture("photo"), num_inference_steps: 1, generator: seeded(42) },
    });
    expect(images[0]!.metadata["parameters"]).toBe(
      "a cat\nSteps: 1, Sampler: PNDMScheduler, CFG scale: 7.5, Seed: 42, Size: 32x32, Model: sd1-tiny",
    );
  });

  test("one model at a time on the device", async () => {
    const pipeline = pipelines["multi"] as StableDiffusionAdapterPipeline;
    await pipeline.enable_model_cpu_offload();
    const options = {
      image: [picture("photo"), picture("gray")],
      num_inference_steps: 3,
      output_type: "latent",
    } as const;
    const { images } = await pipeline("a photo of a red fox!", {
      ...{ ...options, adapter_conditioning_scale: [1, 1] },
      generator: seeded(0),
    });
    pipeline.remove_all_hooks();
    expectClose(images.data, expected["multi/latent"]!.data as Float32Array, tolerance);
  });
});

describe("how it is made", () => {
  const folder = mkdtempSync(join(tmpdir(), "t2i-adapter-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test("saved and loaded, as a class that the index names", async () => {
    await pipelines["multi"]!.save_pretrained(folder);
    expect(readdirSync(folder).filter((name) => name.startsWith("adapter"))).toEqual(["adapter", "adapter_1"]);
    await using pipeline = await DiffusionPipeline.from_pretrained(folder, { device });
    expect(pipeline).toBeInstanceOf(StableDiffusionAdapterPipeline);
    const { adapter } = pipeline as unknown as StableDiffusionAdapterPipeline;
    expect(adapter).toBeInstanceOf(MultiAdapter);
    expect((adapter as MultiAdapter).num_adapter).toBe(2);
    const { images } = await call(pipeline as unknown as StableDiffusionAdapterPipeline, {
      prompt: "a photo of a red fox!",
      ...{ image: [picture("photo"), picture("gray")], adapter_conditioning_scale: [1, 1] },
      ...{ num_inference_steps: 3, generator: seeded(0), output_type: "latent" },
    });
    expectClose((images as Tensor).data, expected["multi/latent"]!.data as Float32Array, tolerance);
  });

  test("of another pipeline, and back", async () => {
    const { adapter } = pipelines["sd"] as StableDiffusionAdapterPipeline;
    const plain = await StableDiffusionPipeline.from_pipe(pipelines["sd"]!);
    await expect(StableDiffusionAdapterPipeline.from_pipe(plain)).rejects.toThrow(/needs .*adapter/);
    const pipeline = await StableDiffusionAdapterPipeline.from_pipe(plain, { adapter });
    const options = { image: picture("photo"), num_inference_steps: 3, output_type: "latent" } as const;
    const { images } = await pipeline("a photo of a red fox!", { ...options, generator: seeded(0) });
    expectClose(images.data, expected["defaults/latent"]!.data as Float32Array, tolerance);
  });

  test("of a checkpoint in one file", async () => {
    const file = fixturePath("models/single_file/sd1.safetensors");
    const options = { config: fixturePath("models/single_file/sd1"), device } as const;
    await expect(StableDiffusionAdapterPipeline.from_single_file(file, options)).rejects.toThrow(/pass \{ adapter \}/);
    await using pipeline = await StableDiffusionAdapterPipeline.from_single_file(file, { ...options, adapter: null });
    expect(pipeline.config["adapter"]).toEqual([null, null]);
    expect(StableDiffusionXLAdapterPipeline.single_file_kinds).toEqual(["xl_base"]);
  });

  test("not without an adapter", async () => {
    const options = { device } as const;
    await expect(StableDiffusionAdapterPipeline.from_pretrained(sd, options)).rejects.toThrow(/Pass \{ adapter \}/);
    const { vae } = pipelines["sd"]!;
    const none = { ...options, adapter: [] };
    await expect(StableDiffusionAdapterPipeline.from_pretrained(sd, none)).rejects.toThrow(ValueError);
    const one = { ...options, adapter: [(pipelines["sd"] as StableDiffusionAdapterPipeline).adapter as T2IAdapter] };
    await expect(StableDiffusionAdapterPipeline.from_pretrained(sd, one)).rejects.toThrow(/use T2IAdapter for one/);
    const scheduler = { ...options, adapter: originals["sd"] as unknown as T2IAdapter };
    await expect(StableDiffusionAdapterPipeline.from_pretrained(sd, scheduler)).rejects.toThrow(
      /adapter that was passed/,
    );
    await using pipeline = await StableDiffusionAdapterPipeline.from_pretrained(sd, { ...options, adapter: null });
    await expect(pipeline("a cat", { image: picture("photo") })).rejects.toThrow(/without its adapter/);
    expect(vae.device).toBe(device);
  });
});

describe("what is refused", () => {
  const tensor = (...dims: number[]): Tensor => Tensor.zeros(dims);
  const photo = picture("photo");
  const gray = picture("gray");
  const alpha = new RawImage(new Uint8Array(16 * 16 * 4), 16, 16, 4);
  type ErrorClass = typeof ValueError | typeof TypeError | typeof UnsupportedModelError;
  const wrong: [string, string, object, ErrorClass, RegExp][] = [
    ["no picture", "sd", { image: undefined }, ValueError, /`image` is nothing/],
    ["an empty list", "sd", { image: [] }, ValueError, /`image` is \[\]/],
    ["a number", "sd", { image: 3 }, TypeError, /picture is read from/],
    ["a picture with alpha", "sd", { image: alpha }, ValueError, /alpha.*the adapter takes 3.*convert\(3\)/],
    ["a gray picture", "sd", { image: gray }, ValueError, /gray picture.*the adapter takes 3/],
    ["colour for a gray adapter", "gray", { image: photo }, ValueError, /the adapter takes 1.*convert\(1\)/],
    ["pictures and tensors", "sd", { image: [photo, tensor(3, 16, 16)] }, ValueError, /tensors and pictures/],
    ["a tensor of two channels", "sd", { image: tensor(1, 2, 16, 16) }, ValueError, /\[1, 2, 16, 16\].*\[batch, 3/],
    ["a tensor of two dimensions", "sd", { image: tensor(16, 16) }, ValueError, /`image` is float32 \[16, 16\]/],
    ["an empty tensor", "sd", { image: tensor(0, 3, 16, 16) }, ValueError, /\[0, 3, 16, 16\]/],
    ["whole numbers", "sd", { image: Tensor.zeros([1, 3, 16, 16], "int32") }, ValueError, /`image` is int32/],
    ["a tensor of another size", "sd", { image: tensor(1, 3, 16, 16), height: 24 }, ValueError, /16 x 16.*16 x 24/],
    ["a tensor that does not divide", "sd", { image: tensor(1, 3, 18, 16), height: 16 }, ValueError, /16 x 18/],
    [
      "a picture smaller than the adapter takes",
      "sd",
      { image: new RawImage(new Uint8Array(27), 3, 3, 3) },
      ValueError,
      /`image` is 3 x 3.*at least 4 x 4/,
    ],
    [
      "a picture whose size is no multiple of 8",
      "sd",
      { image: picture("odd") },
      ValueError,
      /`width` is 36|`height` is 24/,
    ],
    ["such a height", "sd", { image: photo, height: 20 }, ValueError, /divisible by 8.*`height` is 20/],
    ["more pictures than prompts", "sd", { image: [photo, photo] }, ValueError, /2 pictures.*1 prompts/],
    ["fewer", "sd", { image: [photo, photo], prompt: ["a", "b", "c"] }, ValueError, /2 pictures.*3 prompts: pass one/],
    ["one picture for several adapters", "multi", { image: photo }, ValueError, /`image` is one for all.*2 adapters/],
    ["none for them", "multi", { image: undefined }, ValueError, /`image` is nothing.*2 adapters/],
    ["three for two adapters", "multi", { image: [photo, gray, photo] }, ValueError, /a list of 3, but there are 2/],
    ["in the wrong order", "multi", { image: [gray, photo] }, ValueError, /gray picture.*takes 3/],
    ["three scales", "multi", { image: [photo, gray], adapter_conditioning_scale: [1, 1, 1] }, ValueError, /list of 3/],
    [
      "two scales for one",
      "sd",
      { image: photo, adapter_conditioning_scale: [1, 1] },
      ValueError,
      /list of 2.*1 adapters/,
    ],
    ["a scale that is text", "sd", { image: photo, adapter_conditioning_scale: "1" }, ValueError, /_scale` is string/],
    [
      "a scale that is NaN",
      "xl",
      { image: photo, adapter_conditioning_scale: Number.NaN },
      ValueError,
      /_scale` is NaN/,
    ],
    ["a factor above 1", "xl", { image: photo, adapter_conditioning_factor: 1.5 }, ValueError, /_factor` is 1.5/],
    ["a factor without XL", "sd", { image: photo, adapter_conditioning_factor: 1 }, TypeError, /_factor/],
    ["guidance rescale without XL", "sd", { image: photo, guidance_rescale: 1 }, TypeError, /guidance_rescale/],
    ["IP-Adapters without XL", "sd", { image: photo, ip_adapter_image: photo }, TypeError, /ip_adapter_image/],
    ["latents of another size", "sd", { image: photo, latents: tensor(1, 4, 8, 6) }, ValueError, /`latents`/],
    ["callback_steps 0", "sd", { image: photo, callback_steps: 0 }, ValueError, /`callback_steps` is 0/],
    ["no prompt", "xl", { image: photo, prompt: null }, ValueError, /Neither `prompt` nor `prompt_embeds`/],
    ["too many generators", "sd", { image: photo, generator: [seeded(0), seeded(1)] }, ValueError, /list of 2/],
    ["a misspelt option", "xl", { image: photo, adapter_conditioning_scal: 1 }, TypeError, /Did you mean/],
  ];

  test.each(wrong)("%s (%s)", async (_, name, options, error, message) => {
    const run = call(pipelines[name]!, { prompt: "a", num_inference_steps: 2, ...options } as Options);
    await expect(run).rejects.toThrow(error);
    await expect(run).rejects.toThrow(message);
  });

  test("an adapter of another model", async () => {
    const { components } = pipelines["sd"]!;
    const adapter = (pipelines["xl"] as StableDiffusionXLAdapterPipeline).adapter;
    const pipeline = new StableDiffusionAdapterPipeline({ ...components, adapter } as never);
    const run = pipeline("a", { image: photo, num_inference_steps: 1 });
    await expect(run).rejects.toThrow(/`down_intrablock_additional_residuals` have sizes/);
  });
});
