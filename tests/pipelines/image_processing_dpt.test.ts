/** Against transformers' DPTImageProcessor: tests/fixtures/pipelines/make_image_processing_dpt.py. */
import {
  DPTFeatureExtractor,
  DPTImageProcessor,
  type DPTImageProcessorOptions,
  DPTImageProcessorPil,
  type ImageSource,
  RawImage,
  Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { memorySource } from "../models/cases.ts";
import { expectClose } from "../support/allclose.ts";
import { fixtureTensors, fixtureText } from "../support/fixtures.ts";

interface Case {
  readonly name: string;
  /** The config differs from this one in `config`. */
  readonly base: string | null;
  readonly config: Record<string, unknown>;
  readonly pictures: readonly string[];
  readonly options: DPTImageProcessorOptions;
}

const { bases, cases, printed, refused } = JSON.parse(fixtureText("pipelines/image_processing_dpt.json")) as {
  bases: Record<string, Record<string, unknown>>;
  cases: Case[];
  printed: Record<string, string>;
  refused: Case[];
};
const expected = fixtureTensors("pipelines/image_processing_dpt.safetensors");
beforeEach(() => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
});
afterEach(() => vi.mocked(console.warn).mockRestore());

/** Pixels agree to the bit; what follows is at most three float32 roundings. The issue allows 1e-5. */
const tolerance = 3e-7;

function inputOf(name: string): ImageSource {
  const { data, dims } = expected[name]!;
  if (!/^(unit|batch|bytes|beyond)/.test(name)) {
    return new RawImage(data as Uint8Array, dims[1]!, dims[0]!, dims[2] as 1 | 3 | 4);
  }
  return data instanceof Uint8Array
    ? (new Tensor("uint8", data, dims) as never)
    : new Tensor("float32", data as Float32Array, dims);
}

function load({ base, config }: Case): Promise<DPTImageProcessor> {
  const text = JSON.stringify({ ...(base === null ? {} : bases[base]), ...config });
  return DPTImageProcessor.from_pretrained(
    memorySource("dpt", { "preprocessor_config.json": new TextEncoder().encode(text) }),
  );
}

describe("the pixel values that transformers computes", () => {
  test.each(cases.map((one) => [one.name, one] as const))("%s", async (name, one) => {
    const processor = await load(one);
    const { pixel_values } = await processor(one.pictures.map(inputOf), one.options);
    expect(console.warn).not.toHaveBeenCalled();
    const reference = expected[`case/${name}`]!;
    expect(pixel_values.dims).toEqual(reference.dims);
    expectClose(pixel_values.data, reference.data as Float32Array, tolerance, name);
  });
});

describe("a config", () => {
  test.each(Object.entries(printed))("%s prints as in Python", async (name, text) => {
    const processor = await load(cases.find((one) => one.name === name)!);
    // Without torchvision, Python's class has a name of its own.
    expect(`${processor}`).toBe(text.replace("DPTImageProcessorPil {", "DPTImageProcessor {"));
    expect(`${DPTImageProcessorPil.from_config(processor.config)}`).toBe(text);
  });

  test("by hand, and by the older name", () => {
    const { size, resample, keep_aspect_ratio } = new DPTFeatureExtractor({ size: 256, resample: "bilinear" }).config;
    expect([size, resample, keep_aspect_ratio]).toEqual([{ height: 256, width: 256 }, 2, false]);
    expect(new DPTFeatureExtractor()).toBeInstanceOf(DPTImageProcessor);
  });
});

describe("what is refused", () => {
  test.each(refused.map((one) => [one.name, one] as const))("%s, as in Python", async (_, one) => {
    const running = load(one).then((processor) => processor(one.pictures.map(inputOf), one.options));
    await expect(running).rejects.toBeInstanceOf(ValueError);
    await expect(running).rejects.toMatchObject({
      details: { field: expect.stringMatching(/./), found: expect.stringMatching(/./), expected: expect.any(String) },
    });
  });

  test("cropping, by name", async () => {
    const running = new DPTImageProcessor({ do_center_crop: true }).preprocess(inputOf("wide"));
    await expect(running).rejects.toBeInstanceOf(UnsupportedModelError);
    await expect(running).rejects.toMatchObject({ details: { field: "do_center_crop" } });
  });

  test.each<[DPTImageProcessorOptions, string]>([
    [{ keep_aspect_ratio: "yes" as never }, "keep_aspect_ratio"],
    [{ ensure_multiple_of: "8" as never }, "ensure_multiple_of"],
    [{ size_divisor: [8] as never }, "size_divisor"],
    [{ size: 22.5 }, "size"],
    [{ resample: 7 }, "resample"],
  ])("%j", (config, field) => {
    expect(() => new DPTImageProcessor(config)).toThrow(
      expect.objectContaining({ details: expect.objectContaining({ className: "DPTImageProcessor", field }) }),
    );
  });
});
