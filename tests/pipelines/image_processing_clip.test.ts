/** Against transformers' CLIPImageProcessor: tests/fixtures/pipelines/make_image_processing_clip.py. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  CLIPFeatureExtractor,
  CLIPImageProcessor,
  type CLIPImageProcessorOptions,
  CLIPImageProcessorPil,
  type ImageSource,
  IntegrityError,
  ModelNotFoundError,
  RawImage,
  Tensor,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { fixtureTensors, fixtureText } from "../support/fixtures.ts";

interface Case {
  readonly name: string;
  /** The config differs from this one in `config`. */
  readonly base: string | null;
  readonly config: Record<string, unknown>;
  readonly pictures: readonly string[];
  readonly options: CLIPImageProcessorOptions;
  readonly file?: string | null;
}

const { bases, cases, printed, refused } = JSON.parse(fixtureText("pipelines/image_processing_clip.json")) as {
  bases: Record<string, Record<string, unknown>>;
  cases: Case[];
  printed: Record<string, string>;
  refused: Case[];
};
const expected = fixtureTensors("pipelines/image_processing_clip.safetensors");
const folder = mkdtempSync(join(tmpdir(), "processor-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
beforeEach(() => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
});
afterEach(() => vi.mocked(console.warn).mockRestore());
const warnings = (): string => vi.mocked(console.warn).mock.calls.flat().join("\n");

/** Pixels agree to the bit; what follows is at most three float32 roundings. The issue allows 1e-5. */
const tolerance = 3e-7;

function inputOf(name: string): ImageSource {
  const { data, dims } = expected[name]!;
  if (!/^(unit|batch|whole|bytes|byte|beyond)/.test(name)) {
    return new RawImage(data as Uint8Array, dims[1]!, dims[0]!, dims[2] as 1 | 3 | 4);
  }
  return data instanceof Uint8Array
    ? (new Tensor("uint8", data, dims) as never)
    : new Tensor("float32", data as Float32Array, dims);
}

function load({ base, config, file }: Case): Promise<CLIPImageProcessor> {
  rmSync(folder, { recursive: true, force: true });
  const path = mkdtempSync(folder);
  const text = JSON.stringify({ ...(base === null ? {} : bases[base]), ...config });
  writeFileSync(join(path, file ?? "preprocessor_config.json"), text);
  return CLIPImageProcessor.from_pretrained(path);
}

describe("the pixel values that transformers computes", () => {
  test.each(cases.map((one) => [one.name, one] as const))("%s", async (name, one) => {
    const processor = await load(one);
    expect(warnings()).toBe("");
    const { pixel_values } = await processor(one.pictures.map(inputOf), one.options);
    const reference = expected[`case/${name}`]!;
    expect(pixel_values.dims).toEqual(reference.dims);
    expectClose(pixel_values.data, reference.data as Float32Array, tolerance, name);
  });

  test("every opacity on white, as Pillow blends it", async () => {
    const { data } = expected["alpha"]!;
    const processor = await load(cases.find(({ name }) => name === "alpha_all")!);
    const { pixel_values } = await processor(inputOf("alpha"));
    expect(
      new Set(
        Array.from({ length: 256 }, (_, i) => (data as Uint8Array)[(Math.floor(i / 32) * 33 + (i % 32)) * 4 + 3]),
      ),
    ).toHaveProperty("size", 256);
    expect([...pixel_values.data]).toEqual([...(expected["case/alpha_all"]!.data as Float32Array)]);
  });

  test("one picture is a batch of one", async () => {
    const processor = await load(cases[0]!);
    const { pixel_values } = await processor.preprocess(inputOf("wide"));
    expect(pixel_values.data).toEqual((await processor([inputOf("wide")])).pixel_values.data);
  });
});

describe("a config", () => {
  test.each(Object.entries(printed))("%s prints as in Python", async (name, text) => {
    const processor = await load(cases.find((one) => one.name === name)!);
    // Without torchvision, Python's class has a name of its own.
    expect(`${processor}`).toBe(text.replace("CLIPImageProcessorPil {", "CLIPImageProcessor {"));
    expect(`${CLIPImageProcessorPil.from_config(processor.config)}`).toBe(text);
  });

  test("by hand, by a filter's name, and from another one's", () => {
    const processor = new CLIPImageProcessor({ size: 48, crop_size: [32, 40], resample: "lanczos" });
    const { size, crop_size, resample, do_resize } = processor.config;
    expect([size, crop_size, resample, do_resize]).toEqual([{ shortest_edge: 48 }, { height: 32, width: 40 }, 1, true]);
    const other = CLIPImageProcessor.from_config(processor.config) as CLIPImageProcessor;
    expect(other.config.size).toEqual({ shortest_edge: 48 });
  });

  test("fields may be given when it is loaded", async () => {
    const { config } = cases.find(({ name }) => name === "new")!;
    const path = mkdtempSync(folder);
    writeFileSync(join(path, "preprocessor_config.json"), JSON.stringify({ ...bases["NEW"], ...config }));
    const processor = await CLIPImageProcessor.from_pretrained(path, { size: 9, do_normalize: false });
    expect(processor.config).toMatchObject({ size: { shortest_edge: 9 }, do_normalize: false, do_rescale: true });
  });

  test("the older name", async () => {
    const path = mkdtempSync(folder);
    writeFileSync(join(path, "preprocessor_config.json"), JSON.stringify(bases["OLD"]));
    const processor = await CLIPFeatureExtractor.from_pretrained(path);
    expect(processor).toBeInstanceOf(CLIPFeatureExtractor);
    expect(`${processor}`).toContain('"image_processor_type": "CLIPFeatureExtractor"');
  });

  test("a field that nobody knows is named", async () => {
    const path = mkdtempSync(folder);
    writeFileSync(join(path, "preprocessor_config.json"), JSON.stringify({ ...bases["NEW"], do_flip: true }));
    await CLIPImageProcessor.from_pretrained(path);
    expect(warnings()).toMatch(/`do_flip`.*CLIPImageProcessor.*ignored/);
  });
});

describe("what is refused", () => {
  test.each(refused.map((one) => [one.name, one] as const))("%s, as in Python", async (_, one) => {
    const running = load(one).then((processor) => processor(one.pictures.map(inputOf), one.options));
    await expect(running).rejects.toBeInstanceOf(ValueError);
    await expect(running).rejects.toMatchObject({
      details: { field: expect.stringMatching(/./), expected: expect.stringMatching(/./) },
    });
  });

  test.each<[string, CLIPImageProcessorOptions, string]>([
    ["a flag that is none", { do_resize: "yes" as never }, "do_resize"],
    ["a factor that is no number", { rescale_factor: "1/255" as never }, "rescale_factor"],
    ["a mean that is no number", { image_mean: ["0.5"] as never }, "image_mean"],
    ["a filter", { resample: "cubic" as never }, "resample"],
    ["a size of one number in a list", { size: [224] }, "size"],
    ["a size that is no number", { size: "224" as never }, "size"],
    ["a fraction", { crop_size: 22.5 }, "crop_size"],
  ])("%s", (_, config, field) => {
    let error: unknown;
    try {
      new CLIPImageProcessor(config);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(ValueError);
    expect((error as ValueError).details).toMatchObject({ className: "CLIPImageProcessor", field });
  });

  test("no picture, a shape that is none, an unknown option", async () => {
    const processor = new CLIPImageProcessor();
    await expect(processor([])).rejects.toThrow(/`images` is an empty list/);
    await expect(processor(Tensor.zeros([2, 5, 5]))).rejects.toThrow(/\[2, 5, 5\] is no picture/);
    await expect(processor(inputOf("wide"), { sise: 3 } as object)).rejects.toThrow(/Did you mean `size`\?/);
    expect(() => new CLIPImageProcessor({ sise: 3 } as object)).toThrow(/Did you mean `size`\?/);
  });

  test("a folder without the file, and one that is damaged", async () => {
    const path = mkdtempSync(folder);
    await expect(CLIPImageProcessor.from_pretrained(path)).rejects.toBeInstanceOf(ModelNotFoundError);
    writeFileSync(join(path, "preprocessor_config.json"), "{");
    await expect(CLIPImageProcessor.from_pretrained(path)).rejects.toBeInstanceOf(IntegrityError);
  });
});
