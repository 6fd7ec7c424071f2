/** Against Diffusers' StableDiffusionSafetyChecker: tests/fixtures/safety_checker/make_safety_checker.py. */
import {
  Generator,
  RawImage,
  StableDiffusionSafetyChecker,
  Tensor,
  UnsupportedModelError,
  ValueError,
  WeightsMismatchError,
} from "@diffusers-web/pipelines";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { type CheckerChanges, checkerSource, safetyCheckerFixture } from "../support/safety_checker.ts";
import { crc32 } from "./cases.ts";

const { cases } = safetyCheckerFixture;
beforeEach(() => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
});
afterEach(() => vi.mocked(console.warn).mockRestore());
const warnings = (): string => vi.mocked(console.warn).mock.calls.flat().join("\n");

const load = (model: string, changes: CheckerChanges = {}): Promise<StableDiffusionSafetyChecker> =>
  StableDiffusionSafetyChecker.from_pretrained(checkerSource(model, changes), { device: "wasm" });
const drawn = ([name, dims]: readonly [string, readonly number[]]): Tensor =>
  new Generator().manual_seed(crc32(name)).randn(dims);
const isBlack = ({ data }: { readonly data: ArrayLike<unknown> }): boolean =>
  Array.from(data).every((value) => Number(value) === 0);
const gray = (): RawImage => new RawImage(new Uint8ClampedArray(2 * 3 * 3).fill(120), 2, 3, 3);

describe("the pictures that Diffusers flags", () => {
  test.each(cases.map((one) => [one.name, one] as const))("%s", async (_, one) => {
    await using checker = await load(one.model, one);
    expect(warnings()).toBe("");
    const batch = one.flags.length;
    const pictures = one.flags.map(gray);
    const { images, has_nsfw_concepts } = await checker(drawn(one.input), pictures);
    expect(has_nsfw_concepts).toEqual(one.flags);
    expect(images.map(isBlack)).toEqual(one.flags);
    // What is not flagged is the very same; what was passed in stays as it is.
    for (const [i, flag] of one.flags.entries()) if (!flag) expect(images[i]).toBe(pictures[i]);
    expect(pictures.some(isBlack)).toBe(false);
    expect(warnings()).toMatch(one.flags.includes(true) ? /they come back black/ : /^$/);

    const tensor = new Generator().randn([batch, 3, 2, 4]);
    const before = tensor.clone();
    const checked = await checker.forward(drawn(one.input), tensor);
    expect(checked.images.dims).toEqual(tensor.dims);
    for (const [i, flag] of one.flags.entries()) {
      const [now, then] = [checked.images.slice([i, i + 1]), before.slice([i, i + 1])];
      expect(now.data).toEqual(flag ? then.data.map(() => 0) : then.data);
    }
    expect(tensor.data).toEqual(before.data);
  });

  test("pictures of any kind, in a list", async () => {
    const one = cases.find(({ name }) => name === "all")!;
    await using checker = await load(one.model, one);
    const pictures = [
      new RawImage(new Uint8ClampedArray(12).fill(7), 3, 4, 1),
      Tensor.ones([2, 2], "uint8"),
      new RawImage(new Uint8ClampedArray(8).fill(7), 2, 1, 4),
    ] as const;
    const { images } = await checker(drawn(one.input), pictures);
    expect(images.map(isBlack)).toEqual([true, true, true]);
    expect(images[1]).toMatchObject({ type: "uint8", dims: [2, 2] });
    expect(images[2]).toMatchObject({ width: 2, height: 1, channels: 4 });
  });
});

describe("checkpoints as they are on the hub", () => {
  const one = cases.find(({ name }) => name === "first and last")!;
  const flagsOf = async (changes: CheckerChanges): Promise<boolean[]> => {
    await using checker = await load(one.model, { ...one, ...changes });
    return (await checker(drawn(one.input), one.flags.map(gray))).has_nsfw_concepts;
  };
  const vision = safetyCheckerFixture.models[one.model]!.config["vision_config"] as Record<string, unknown>;

  test.each<[string, CheckerChanges]>([
    [
      "one module deeper, with a buffer that means nothing",
      {
        tensor: ([name, ...rest]) => [name.replace(/^vision_model\./, "vision_model.vision_model."), ...rest],
        more: [["vision_model.embeddings.position_ids", [1, 5], "position_ids"]],
      },
    ],
    [
      "what differs is written a second time, and counts",
      {
        config: ({ vision_config, ...config }) => ({
          ...config,
          vision_config: { hidden_size: 1024, model_type: "clip_vision_model" },
          vision_config_dict: vision_config,
        }),
      },
    ],
    [
      "the second time is null",
      { config: (config) => ({ ...config, vision_config_dict: null, text_config_dict: null }) },
    ],
    [
      "what transformers wrote besides",
      {
        config: (config) => ({
          ...config,
          _commit_hash: null,
          architectures: ["StableDiffusionSafetyChecker"],
          _name_or_path: "./safety_module",
          torch_dtype: "float32",
          vision_config: { ...vision, dropout: 0, num_beams: 1, top_k: 50, id2label: { "0": "LABEL_0" } },
        }),
      },
    ],
    ["without text_config", { config: ({ text_config, ...config }) => config }],
  ])("%s", async (_, changes) => {
    expect(await flagsOf(changes)).toEqual(one.flags);
    expect(warnings()).not.toMatch(/ignored|does not use/);
  });

  test("the projection's default width", async () => {
    const wide = cases.find(({ name }) => name === "wide: one of two")!;
    const changes = { ...wide, config: ({ projection_dim, ...config }: Record<string, unknown>) => config };
    await using checker = await load("wide", changes);
    expect(checker.config.projection_dim).toBe(512);
    expect((await checker(drawn(wide.input), wide.flags.map(gray))).has_nsfw_concepts).toEqual(wide.flags);
  });
});

describe("what is refused", () => {
  test.each<[string, CheckerChanges, new (...args: never[]) => Error, RegExp]>([
    [
      "another width",
      { config: (config) => ({ ...config, projection_dim: 13 }) },
      WeightsMismatchError,
      /visual_projection\.weight: found \[12, 16\], expected \[13, 16\]/,
    ],
    [
      "no concepts",
      { tensor: (one) => (one[0] === "concept_embeds" ? undefined : one) },
      WeightsMismatchError,
      /concept_embeds: found no such tensor, expected \[17, 12\]/,
    ],
    [
      "fewer thresholds",
      {
        special: [1, 1],
        tensor: ([name, shape, from]) => [name, name === "special_care_embeds_weights" ? [2] : shape, from],
      },
      WeightsMismatchError,
      /special_care_embeds_weights: found \[2\], expected \[3\]/,
    ],
    [
      "another kind of model",
      { config: (config) => ({ ...config, model_type: "siglip" }) },
      UnsupportedModelError,
      /StableDiffusionSafetyChecker.*`model_type`/,
    ],
    [
      "an activation",
      { config: (config) => ({ ...config, vision_config: { hidden_act: "elu" } }) },
      UnsupportedModelError,
      /`hidden_act`: "elu"/,
    ],
    [
      "heads",
      { config: (config) => ({ ...config, vision_config: { num_attention_heads: 7 } }) },
      ValueError,
      /`hidden_size`/,
    ],
    ["no width", { config: (config) => ({ ...config, projection_dim: null }) }, ValueError, /`projection_dim`: null/],
    [
      "quantized weights",
      { config: (config) => ({ ...config, quantization_config: { bits: 4 } }) },
      UnsupportedModelError,
      /quantiz/,
    ],
  ])("%s", async (_, changes, ErrorClass, message) => {
    const loading = load("plain", changes);
    await expect(loading).rejects.toBeInstanceOf(ErrorClass);
    await expect(loading).rejects.toThrow(message);
  });

  test("pictures of another size, or another number of them", async () => {
    await using checker = await load("plain");
    const refused = async (input: Tensor, pictures: readonly RawImage[], field: string): Promise<void> => {
      const running = checker(input, pictures);
      await expect(running).rejects.toBeInstanceOf(ValueError);
      await expect(running).rejects.toMatchObject({ details: { className: "StableDiffusionSafetyChecker", field } });
    };
    await refused(Tensor.zeros([1, 3, 16, 8]), [gray()], "clip_input");
    await refused(Tensor.zeros([1, 1, 16, 16]), [gray()], "clip_input");
    await refused(Tensor.zeros([3, 16, 16]), [gray()], "clip_input");
    await refused(undefined as never, [gray()], "clip_input");
    await refused(Tensor.zeros([2, 3, 16, 16]), [gray()], "images");
    await refused(Tensor.zeros([1, 3, 16, 16]), undefined as never, "images");
  });

  test("a config by hand is filled up", () => {
    const checker = new StableDiffusionSafetyChecker({
      vision_config: { hidden_size: 32, num_attention_heads: 4 } as never,
    });
    expect(checker.config.vision_config).toMatchObject({ hidden_size: 32, image_size: 224 });
    expect(() => new StableDiffusionSafetyChecker({ projection_dim: 0 })).toThrow(ValueError);
  });
});
