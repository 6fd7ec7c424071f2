/** Autoencoders: tiling, slicing and what is refused. That tiles are blended as in Diffusers is in the cases of models.test.ts. */
import {
  Generator,
  type LoadProgress,
  type SourceLike,
  Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/core";
import {
  AsymmetricAutoencoderKL,
  AutoencoderKL,
  ConsistencyDecoderVAE,
  type ModelLoadOptions,
} from "@diffusers-web/models";
import { describe, expect, it, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { caseInputs, caseSource } from "./cases.ts";
import { caseShapes, modelCases } from "./cases_node.ts";

type Load<T> = (source: SourceLike, options: ModelLoadOptions) => Promise<T>;

/** A case's model and inputs, and a list of the sessions it has prepared so far. */
async function loaded<T>(load: Load<T>, name: string): Promise<{ model: T; inputs: Inputs; sessions: string[] }> {
  const one = modelCases.find((candidate) => candidate.name === name)!;
  const sessions: string[] = [];
  const progress_callback = ({ phase, file }: LoadProgress): void => {
    if (phase === "compile") sessions.push(file);
  };
  const model = await load(caseSource(one, caseShapes[name]!), { device: "wasm", progress_callback });
  return { model, inputs: caseInputs(one), sessions };
}

type Inputs = Record<string, Tensor>;

/** What a call throws. */
async function thrown(call: () => unknown): Promise<unknown> {
  try {
    await call();
  } catch (error) {
    return error;
  }
  throw new Error("It did not fail.");
}

describe("AutoencoderKL", () => {
  const load: Load<AutoencoderKL> = (...from) => AutoencoderKL.from_pretrained(...from);

  it("prepares one session for all tiles of a size", async () => {
    // 4 x 4 tiles at 0, 3, 6, 9 of 11 latents: of 4, 4, 4 and 2 rows and columns.
    const { model, inputs, sessions } = await loaded(load, "AutoencoderKL/tiling");
    model.enable_tiling();
    await model.decode(inputs["z"]!);
    expect(sessions).toHaveLength(2 * 2);
  });

  it("takes the batch in one session when it slices", async () => {
    const { model, inputs, sessions } = await loaded(load, "AutoencoderKL/slicing");
    const z = inputs["z"]!;
    const whole = await model.decode(z);
    model.enable_slicing();
    const sliced = await model.decode(z);
    expectClose(sliced.sample.data, whole.sample.data, 1e-6);
    await model.decode(z.slice([0, 1]));
    expect(sessions).toHaveLength(2);
    model.disable_slicing();
    await model.decode(z.slice([0, 2]));
    expect(sessions).toHaveLength(3);
  });

  it("has Diffusers' fields, and turns tiling on and off", async () => {
    const model = new AutoencoderKL({ sample_size: 20, block_out_channels: [32, 32, 64], ...blocks(3) });
    // A model is a function, so that its fields are copied to be looked at.
    expect({ ...model }).toMatchObject({ use_tiling: false, use_slicing: false });
    expect({ ...model }).toMatchObject({
      tile_sample_min_size: 20,
      tile_latent_min_size: 5,
      tile_overlap_factor: 0.25,
    });
    model.enable_tiling();
    expect(model.use_tiling).toBe(true);
    model.disable_tiling();
    expect(model.use_tiling).toBe(false);
    model.enable_tiling(false);
    expect(model.use_tiling).toBe(false);
    expect(new AutoencoderKL({ sample_size: [24, 16] }).tile_sample_min_size).toBe(24);
  });

  it("leaves what it is given as it was", async () => {
    const { model, inputs } = await loaded(load, "AutoencoderKL/tiling");
    const before = inputs["z"]!.clone();
    await model.tiled_decode(inputs["z"]!);
    expect(inputs["z"]!.data).toEqual(before.data);
  });

  it.each([
    ["tile_overlap_factor", 1],
    ["tile_overlap_factor", 2],
    ["tile_overlap_factor", Number.NaN],
    ["tile_overlap_factor", 0.9],
    ["tile_latent_min_size", 0],
    ["tile_latent_min_size", 2.5],
    ["tile_sample_min_size", -8],
  ] as const)("refuses to tile with %s %d", async (field, value) => {
    const { model, inputs } = await loaded(load, "AutoencoderKL/tiling");
    model[field] = value;
    const error = await thrown(() => model.tiled_decode(inputs["z"]!));
    expect(error).toBeInstanceOf(ValueError);
    expect((error as ValueError).details).toMatchObject({
      className: "AutoencoderKL",
      field,
      found: String(value),
    });
  });

  it("refuses pictures, and tiles at the border, that are too small", async () => {
    const { model } = await loaded(load, "AutoencoderKL/tiling");
    expect(await thrown(() => model.encode(Tensor.zeros([1, 1, 1, 8])))).toBeInstanceOf(ValueError);
    model.enable_tiling();
    // Tiles begin at 0, 6 and 12: the last one has one row.
    const error = await thrown(() => model.encode(Tensor.zeros([1, 1, 13, 8])));
    expect(error).toBeInstanceOf(ValueError);
    expect((error as Error).message).toContain("a tile at the border of [1,1,13,8] is 1x2");
    expect(await thrown(() => model.decode(Tensor.zeros([1, 2, 8, 8])))).toBeInstanceOf(ValueError);
    expect(await thrown(() => model.decode(Tensor.zeros([1, 1, 8, 8]), { seed: 1 } as object))).toBeInstanceOf(
      TypeError,
    );
  });
});

describe("AsymmetricAutoencoderKL", () => {
  const cls = AsymmetricAutoencoderKL;
  const load: Load<AsymmetricAutoencoderKL> = (...from) => cls.from_pretrained(...from);
  const name = "AsymmetricAutoencoderKL/two_levels";

  it.each(["enable_tiling", "enable_slicing"] as const)("has no %s, as in Diffusers", (method) => {
    const model = new cls({});
    expect(() => model[method]()).toThrow(UnsupportedModelError);
    expect(() => model[method]()).toThrow(/AsymmetricAutoencoderKL/);
    model.disable_tiling();
    model.disable_slicing();
  });

  it("has in its config what pipelines look for, and takes it from a file without a word", () => {
    const warn = vi.spyOn(console, "warn").mockReturnValue();
    const model = cls.from_config({ ...new cls({ up_block_out_channels: [32] }).config, _class_name: cls.name });
    expect(model.config).toMatchObject({ block_out_channels: [32], force_upcast: false });
    expect(warn).not.toHaveBeenCalled();
    warn.mockRestore();
  });

  it.each(["image", "mask"] as const)("decodes without a %s alone, and says so", async (field) => {
    const { model, inputs } = await loaded(load, name);
    const warn = vi.spyOn(console, "warn").mockReturnValue();
    const { sample } = await model.decode(inputs["z"]!, { [field]: inputs[field] });
    expect(warn.mock.calls).toEqual([[expect.stringMatching(new RegExp(`\`${field}\` alone is not used`))]]);
    warn.mockRestore();
    expect(sample.data).toEqual((await model.decode(inputs["z"]!)).sample.data);
  });

  it.each([
    ["image", { image: Tensor.zeros([2, 3, 8, 9]) }],
    ["image", { image: Tensor.zeros([2, 1, 8, 8]) }],
    ["image", { image: Tensor.zeros([3, 3, 8, 8]) }],
    ["mask", { mask: Tensor.zeros([2, 3, 8, 8]) }],
    ["mask", { mask: Tensor.zeros([2, 1, 4, 4]) }],
    ["mask", { image: Tensor.zeros([1, 3, 8, 8]), mask: Tensor.zeros([1, 1, 8, 8]) }],
  ])("refuses a wrong %s", async (field, wrong) => {
    const { model, inputs } = await loaded(load, name);
    const error = await thrown(() => model.decode(inputs["z"]!, { ...pick(inputs), ...wrong }));
    expect(error).toBeInstanceOf(ValueError);
    expect((error as ValueError).details).toMatchObject({ className: cls.name, field });
  });

  it("says when its channels do not let it keep to a picture", async () => {
    const { model, inputs } = await loaded(load, "AsymmetricAutoencoderKL/channels_without_features");
    await model.decode(inputs["z"]!);
    const [batch, , height, width] = inputs["z"]!.dims as [number, number, number, number];
    const size = [height * 4, width * 4];
    const error = await thrown(() =>
      model.decode(inputs["z"]!, {
        image: Tensor.zeros([batch, 3, ...size]),
        mask: Tensor.zeros([batch, 1, ...size]),
      }),
    );
    expect(error).toBeInstanceOf(ValueError);
    expect((error as ValueError).details).toMatchObject({ className: cls.name, field: "up_block_out_channels" });
  });
});

describe("ConsistencyDecoderVAE", () => {
  const load: Load<ConsistencyDecoderVAE> = (...from) => ConsistencyDecoderVAE.from_pretrained(...from);
  const name = "ConsistencyDecoderVAE/basic";
  const seeded = (seed: number): Generator => new Generator().manual_seed(seed);

  it("draws from a generator for each item, or at random", async () => {
    const { model, inputs, sessions } = await loaded(load, name);
    const z = inputs["z"]!;
    const { sample } = await model.decode(z, { generator: [seeded(1), seeded(2)] });
    const { sample: second } = await model.decode(z.slice([1, 2]), { generator: seeded(2) });
    expectClose(second.data, sample.slice([1, 2]).data, 1e-5);
    expect((await model.decode(z)).sample.data).not.toEqual((await model.decode(z)).sample.data);
    // Both steps run in one session.
    expect(sessions).toHaveLength(3);
  });

  it("refuses other numbers of steps, and sizes that do not survive the decoder", async () => {
    const { model, inputs } = await loaded(load, name);
    const error = await thrown(() => model.decode(inputs["z"]!, { num_inference_steps: 3 }));
    expect(error).toBeInstanceOf(ValueError);
    expect((error as ValueError).details).toMatchObject({ field: "num_inference_steps", found: "3", expected: "2" });
    const { model: deep } = await loaded(load, "ConsistencyDecoderVAE/three_levels");
    expect(await thrown(() => deep.decode(Tensor.zeros([1, 3, 2, 2])))).toBeInstanceOf(ValueError);
  });

  it("takes the config of a file without a word", () => {
    const warn = vi.spyOn(console, "warn").mockReturnValue();
    const { config } = new ConsistencyDecoderVAE({ sample_size: 16 });
    const model = ConsistencyDecoderVAE.from_config({ ...config, _class_name: "ConsistencyDecoderVAE" });
    expect(warn).not.toHaveBeenCalled();
    warn.mockRestore();
    expect(model.config).toMatchObject({ block_out_channels: [128, 256, 512, 512], force_upcast: false });
    expect({ ...model }).toMatchObject({ tile_sample_min_size: 16, tile_latent_min_size: 2, use_tiling: false });
  });
});

function pick({ image, mask }: Inputs): { image: Tensor; mask: Tensor } {
  return { image: image!, mask: mask! };
}

function blocks(count: number): { down_block_types: string[]; up_block_types: string[] } {
  return {
    down_block_types: new Array<string>(count).fill("DownEncoderBlock2D"),
    up_block_types: new Array<string>(count).fill("UpDecoderBlock2D"),
  };
}
