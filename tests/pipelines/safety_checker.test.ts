/** StableDiffusionPipeline with a safety checker, against Diffusers: tests/fixtures/safety_checker/make_safety_checker.py. */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  CLIPFeatureExtractor,
  CLIPImageProcessor,
  CLIPImageProcessorPil,
  DiffusionPipeline,
  Generator,
  ModelNotFoundError,
  memory_allocated,
  type PipelineLoadOptions,
  StableDiffusionPipeline,
  StableDiffusionSafetyChecker,
  Tensor,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { fixturePath, fixtureTensors } from "../support/fixtures.ts";
import { expectSamePicture } from "../support/pictures.ts";
import { checkerFiles, safetyCheckerFixture } from "../support/safety_checker.ts";
import { serveFolder } from "../support/server.ts";

const { calls, preprocessor, printed } = safetyCheckerFixture;
const expected = fixtureTensors("safety_checker/safety_checker.safetensors");
const sd1 = fixturePath("pipelines/sd1-tiny");
const folder = mkdtempSync(join(tmpdir(), "safety-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
beforeEach(() => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
});
afterEach(() => vi.mocked(console.warn).mockRestore());
const warnings = (): string => vi.mocked(console.warn).mock.calls.flat().join("\n");

interface Layout {
  readonly thresholds?: readonly number[];
  readonly index?: object;
}

/** sd1-tiny with a checker and a feature extractor, as Stable Diffusion 1.5 has them. */
function checkpoint(name: string, { thresholds, index = {} }: Layout = {}): string {
  const path = join(folder, name.replaceAll(/\W+/g, "_"));
  cpSync(sd1, path, { recursive: true });
  for (const part of ["safety_checker", "feature_extractor"]) mkdirSync(join(path, part));
  for (const [file, bytes] of Object.entries(checkerFiles("plain", thresholds === undefined ? {} : { thresholds }))) {
    writeFileSync(join(path, "safety_checker", file), bytes);
  }
  writeFileSync(join(path, "feature_extractor/preprocessor_config.json"), JSON.stringify(preprocessor));
  const file = join(path, "model_index.json");
  const { requires_safety_checker, ...written } = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
  const checked = {
    safety_checker: ["stable_diffusion", "StableDiffusionSafetyChecker"],
    feature_extractor: ["transformers", "CLIPImageProcessor"],
  };
  writeFileSync(file, JSON.stringify({ ...written, ...checked, ...index }));
  return path;
}

const load = (path: string, options: PipelineLoadOptions = {}): Promise<StableDiffusionPipeline> =>
  StableDiffusionPipeline.from_pretrained(path, { device: "wasm", ...options });

describe("a call", () => {
  test.each(calls.map((call) => [call.name, call] as const))("%s", async (name, call) => {
    await using pipeline = await load(checkpoint(name, call));
    const options = (): object => ({
      num_inference_steps: 2,
      generator: call.seeds.map((seed) => new Generator().manual_seed(seed)),
      ...call.options,
    });
    let clip_input: Tensor | undefined;
    const checker = pipeline.safety_checker!;
    vi.spyOn(checker, "forward").mockImplementation((input, images) => {
      clip_input = input;
      return StableDiffusionSafetyChecker.prototype.forward.call(checker, input, images) as never;
    });
    expect(warnings()).toBe("");

    const { images, nsfw_content_detected } = await pipeline(call.prompt, options());
    expect(nsfw_content_detected).toEqual(call.flags);
    expect(warnings()).toMatch(call.flags.includes(true) ? /they come back black/ : /^$/);
    const reference = expected[`${name}/image`]!;
    const size = reference.data.length / images.length;
    for (const [i, image] of images.entries()) {
      expectSamePicture(image.data, (reference.data as Uint8Array).subarray(i * size, (i + 1) * size));
      expect(image.data.every((value) => value === 0)).toBe(call.flags[i]);
      expect(image.metadata["parameters"]).toContain("Steps: 2");
    }
    // Of 8-bit pictures, so that one value may be a whole step off.
    const given = expected[`${name}/clip_input`]!;
    expect(clip_input!.dims).toEqual(given.dims);
    expectClose(clip_input!.data, given.data as Float32Array, 0.01, "clip_input");

    const tensor = await pipeline(call.prompt, { ...options(), output_type: "tensor" });
    expect(tensor.nsfw_content_detected).toEqual(call.flags);
    const pt = expected[`${name}/pt`];
    if (pt !== undefined) expectClose((tensor.images as Tensor).data, pt.data as Float32Array, 1e-4, "tensor");

    vi.mocked(checker.forward).mockClear();
    const latent = await pipeline(call.prompt, { ...options(), output_type: "latent" });
    expect(latent.nsfw_content_detected).toBeNull();
    expect(checker.forward).not.toHaveBeenCalled();
  });

  test("a checker that is taken away, and one that comes back", async () => {
    const call = calls.find(({ name }) => name === "alone")!;
    await using pipeline = await load(checkpoint("taken away", call));
    const options = () => ({ num_inference_steps: 2, generator: new Generator().manual_seed(call.seeds[0]!) });
    const flags = async (): Promise<boolean[] | null> => (await pipeline(call.prompt, options())).nsfw_content_detected;
    const { safety_checker, feature_extractor } = pipeline;
    pipeline.safety_checker = null;
    expect(await flags()).toBeNull();
    pipeline.safety_checker = safety_checker;
    expect(await flags()).toEqual([true]);
    pipeline.feature_extractor = null;
    await expect(flags()).rejects.toThrow(/without its feature_extractor/);
    expect((await pipeline(call.prompt, { ...options(), output_type: "latent" })).images).toBeInstanceOf(Tensor);
    pipeline.feature_extractor = feature_extractor;
    expect(await flags()).toEqual([true]);
  });

  test("run_safety_checker alone", async () => {
    await using pipeline = await load(checkpoint("by itself", { thresholds: new Array<number>(17).fill(-1.5) }));
    const image = new Generator().manual_seed(0).randn([2, 3, 20, 24]);
    const checked = await pipeline.run_safety_checker(image);
    expect(checked.has_nsfw_concept).toEqual([true, true]);
    expect(checked.image.dims).toEqual([2, 3, 20, 24]);
    expect(checked.image.data.every((value) => value === 0)).toBe(true);
    await using _ = pipeline.safety_checker!;
    pipeline.safety_checker = null;
    expect(await pipeline.run_safety_checker(image)).toEqual({ image, has_nsfw_concept: null });
  });

  test("with enable_model_cpu_offload, the checker leaves the device with the others", async () => {
    const call = calls.find(({ name }) => name === "alone")!;
    await using pipeline = await load(checkpoint("offload", call));
    await pipeline.enable_model_cpu_offload();
    const generator = new Generator().manual_seed(call.seeds[0]!);
    const { nsfw_content_detected } = await pipeline(call.prompt, { num_inference_steps: 2, generator });
    expect(nsfw_content_detected).toEqual([true]);
    expect(memory_allocated()).toBe(0);
  });
});

describe("what is loaded", () => {
  test("prints as in Python", async () => {
    const path = checkpoint("printed");
    const named = (text: string): string => text.replace(path, "PATH");
    // Without torchvision, Python's class has a name of its own.
    const python = (text: string): string => text.replace("CLIPImageProcessorPil", "CLIPImageProcessor");
    await using checked = await load(path);
    expect(checked.safety_checker).toBeInstanceOf(StableDiffusionSafetyChecker);
    expect(checked.feature_extractor).toBeInstanceOf(CLIPImageProcessor);
    expect(named(`${checked}`)).toBe(python(printed.checked));
    expect(warnings()).toBe("");
    await using unchecked = await load(path, { safety_checker: null });
    expect(named(`${unchecked}`)).toBe(python(printed.unchecked));
    expect(warnings()).toMatch(/^This pipeline runs without a safety checker\. The licence/);
  });

  test("the checker's files once; nothing of it when it is left out", async () => {
    checkpoint("served");
    const server = await serveFolder(folder);
    const requests = (): string[] =>
      server.requests
        .filter((path) => /safety_checker|feature_extractor/.test(path))
        .map((path) => path.replace("/served/", ""));
    {
      await using _ = await load(`${server.url}/served`);
      expect(requests().sort()).toEqual([
        "feature_extractor/preprocessor_config.json",
        "feature_extractor/processor_config.json",
        "safety_checker/config.json",
        "safety_checker/model.safetensors",
      ]);
    }
    server.requests.length = 0;
    await using _ = await load(`${server.url}/served`, { safety_checker: null, feature_extractor: null });
    expect(requests()).toEqual([]);
    await server.close();
  });

  test("a variant of the checker where there is one", async () => {
    const path = checkpoint("variant");
    cpSync(join(path, "safety_checker/model.safetensors"), join(path, "safety_checker/model.fp16.safetensors"));
    rmSync(join(path, "safety_checker/model.safetensors"));
    await using pipeline = await load(path, { variant: "fp16" });
    expect(pipeline.safety_checker).not.toBeNull();
  });

  // What releases of transformers call it, without torchvision as well.
  test.each([
    ["CLIPFeatureExtractor", CLIPFeatureExtractor],
    ["CLIPImageProcessorPil", CLIPImageProcessorPil],
    ["CLIPImageProcessorFast", CLIPImageProcessor],
  ])("the feature extractor under its other name %s", async (name, cls) => {
    const index = { feature_extractor: ["transformers", name] };
    await using pipeline = await load(checkpoint(name, { index }));
    expect(pipeline.feature_extractor!.constructor).toBe(cls);
    expect(pipeline.config["feature_extractor"]).toEqual(["transformers", cls.name]);
  });

  test("parts that are passed, and another pipeline of the same parts", async () => {
    const path = checkpoint("passed");
    await using safety_checker = await StableDiffusionSafetyChecker.from_pretrained(path, {
      subfolder: "safety_checker",
      device: "wasm",
    });
    const feature_extractor = await CLIPImageProcessor.from_pretrained(path, { subfolder: "feature_extractor" });
    await using pipeline = await load(sd1, { safety_checker, feature_extractor });
    expect(pipeline.safety_checker).toBe(safety_checker);
    expect(pipeline.config["safety_checker"]).toEqual(["stable_diffusion", "StableDiffusionSafetyChecker"]);
    const other = new StableDiffusionPipeline(pipeline.components as never);
    expect(other.feature_extractor).toBe(feature_extractor);
    expect(warnings()).toBe("");
  });

  test("from one file: a checker that is passed, and the feature extractor of the config's folder", async () => {
    const path = checkpoint("single");
    const config = join(folder, "single_config");
    cpSync(fixturePath("models/single_file/sd1"), config, { recursive: true });
    cpSync(join(path, "feature_extractor"), join(config, "feature_extractor"), { recursive: true });
    const file = join(config, "model_index.json");
    const index = JSON.parse(readFileSync(file, "utf8")) as object;
    const entries = {
      feature_extractor: ["transformers", "CLIPImageProcessor"],
      safety_checker: ["stable_diffusion", "StableDiffusionSafetyChecker"],
    };
    writeFileSync(file, JSON.stringify({ ...index, ...entries }));
    const safety_checker = await StableDiffusionSafetyChecker.from_pretrained(join(path, "safety_checker"), {
      device: "wasm",
    });
    const checkpointFile = fixturePath("models/single_file/sd1.safetensors");
    {
      await using pipeline = await StableDiffusionPipeline.from_single_file(checkpointFile, {
        config,
        safety_checker,
        device: "wasm",
      });
      expect(pipeline.feature_extractor).toBeInstanceOf(CLIPImageProcessor);
      const { nsfw_content_detected } = await pipeline("a cat", { num_inference_steps: 1 });
      expect(nsfw_content_detected).toEqual([false]);
    }
    await using without = await StableDiffusionPipeline.from_single_file(checkpointFile, { config, device: "wasm" });
    expect(without.safety_checker).toBeNull();
    expect(without.feature_extractor).toBeInstanceOf(CLIPImageProcessor);
  });
});

describe("what is refused", () => {
  test("a checker without a feature extractor, as in Python", async () => {
    const path = checkpoint("no extractor");
    const loading = load(path, { feature_extractor: null });
    await expect(loading).rejects.toBeInstanceOf(ValueError);
    await expect(loading).rejects.toThrow(/needs a `feature_extractor`.*\{ safety_checker: null \}/);
    expect(memory_allocated()).toBe(0);
    await (await load(path, { feature_extractor: null, safety_checker: null })).dispose();
  });

  test("files that are not there", async () => {
    const path = checkpoint("no files");
    rmSync(join(path, "feature_extractor"), { recursive: true });
    await expect(load(path)).rejects.toBeInstanceOf(ModelNotFoundError);
    await expect(load(path)).rejects.toThrow(/preprocessor_config\.json/);
    await (await load(path, { feature_extractor: null, safety_checker: null })).dispose();
    rmSync(join(path, "safety_checker/model.safetensors"));
    await expect(load(path, { feature_extractor: new CLIPImageProcessor() })).rejects.toThrow(
      /safety_checker.*model\.safetensors/,
    );
  });

  test("something else in their places", async () => {
    const path = checkpoint("others");
    const processor = new CLIPImageProcessor();
    const wrong = load(path, { safety_checker: processor as never });
    await expect(wrong).rejects.toThrow(
      /safety_checker that was passed is CLIPImageProcessor, expected StableDiffusionSafetyChecker/,
    );
    await using vae = (await load(path)).vae;
    await expect(load(path, { feature_extractor: vae as never })).rejects.toThrow(
      /feature_extractor that was passed is AutoencoderKL/,
    );
    const index = { feature_extractor: ["transformers", "SiglipImageProcessor"] };
    await expect(load(checkpoint("siglip", { index }))).rejects.toThrow(
      /feature_extractor: the class SiglipImageProcessor.*\{ feature_extractor: null \}/,
    );
  });
});

test("DiffusionPipeline finds it as well", async () => {
  await using pipeline = await DiffusionPipeline.from_pretrained(checkpoint("any"), { device: "wasm" });
  expect(pipeline).toBeInstanceOf(StableDiffusionPipeline);
});
