/** StableDiffusionPipeline.from_single_file: tests/fixtures/models/make_single_file.py, which Diffusers has run as well. */
import { dirname } from "node:path";
import {
  AutoencoderKL,
  CLIPTextModel,
  CLIPTokenizer,
  DDIMScheduler,
  Generator,
  type LoadProgress,
  ModelNotFoundError,
  PNDMScheduler,
  type RawImage,
  type SingleFilePipelineOptions,
  StableDiffusionPipeline,
  type Tensor,
  UNet2DConditionModel,
  UnsupportedModelError,
  ValueError,
  WeightsMismatchError,
} from "@diffusers-web/pipelines";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { fixturePath, fixtureTensors } from "../support/fixtures.ts";
import { expectSamePicture } from "../support/pictures.ts";
import { memoryFile, safetensors } from "../support/safetensors.ts";
import { serveFolder } from "../support/server.ts";

const at = (name: string): string => fixturePath(`models/single_file/${name}`);
const expected = fixtureTensors("models/single_file/expected.safetensors");
// At most 1e-6 of the scale was measured; the issue allows 1e-3.
const tolerance = 2e-5;

beforeEach(() => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
});
afterEach(() => vi.mocked(console.warn).mockRestore());
const warnings = (): string => vi.mocked(console.warn).mock.calls.flat().join("\n");

const load = (file: string, options: SingleFilePipelineOptions = {}): Promise<StableDiffusionPipeline> =>
  StableDiffusionPipeline.from_single_file(file, { device: "wasm", ...options });

describe("the pictures that Diffusers makes with the same file", () => {
  test.each([
    ["sd1", PNDMScheduler],
    ["sd2", DDIMScheduler],
  ])("%s", async (kind, scheduler) => {
    await using pipeline = await load(at(`${kind}.safetensors`), { config: at(kind) });
    expect(warnings()).toBe("");
    expect(pipeline.scheduler).toBeInstanceOf(scheduler);
    const call = { num_inference_steps: 3, guidance_scale: 5 };
    const run = async (output_type: "latent" | "image"): Promise<readonly RawImage[] | Tensor> => {
      const generator = new Generator().manual_seed(0);
      return (await pipeline("a cat on a red house", { ...call, generator, output_type })).images;
    };
    const latents = (await run("latent")) as Tensor;
    expectClose(latents.data, expected[`${kind}/latents`]!.data as Float32Array, tolerance, "latents");
    const [picture] = (await run("image")) as readonly RawImage[];
    expectSamePicture(picture!.data, expected[`${kind}/picture`]!.data as Uint8Array);
    expect(pipeline.name_or_path).toBe(`${kind}.safetensors`);
  });
});

describe("what is loaded", () => {
  test("the checkpoint once, and of the config's folder no weights", async () => {
    const server = await serveFolder(dirname(at("sd1.safetensors")));
    const progress: LoadProgress[] = [];
    await using pipeline = await load(`${server.url}/sd1.safetensors`, {
      config: `${server.url}/sd1/`,
      progress_callback: (event) => progress.push(event),
    });
    expect(pipeline.unet).toBeInstanceOf(UNet2DConditionModel);
    expect(server.requests.filter((path) => path.endsWith(".safetensors"))).toEqual(["/sd1.safetensors"]);
    expect(server.requests.length).toBe(new Set(server.requests).size);
    // What is small is there before the checkpoint is asked for; then come the models' configs.
    expect(server.requests.slice(-4).map((path) => path.replace(/^\/sd1\//, ""))).toEqual([
      "/sd1.safetensors",
      ...["vae", "text_encoder", "unet"].map((folder) => `${folder}/config.json`),
    ]);
    expect(new Set(progress.map(({ phase }) => phase))).toEqual(new Set(["download", "verify", "build"]));
    await server.close();
  });

  test("without a config: what is written down of the file's kind, and components that are passed", async () => {
    const options = { device: "wasm", config: at("sd1") } as const;
    const file = at("sd1.safetensors");
    const unet = await UNet2DConditionModel.from_single_file(file, options);
    const vae = await AutoencoderKL.from_single_file(file, options);
    const text_encoder = await CLIPTextModel.from_single_file(file, options);
    const tokenizer = await CLIPTokenizer.from_pretrained(at("sd1/tokenizer"));
    await using pipeline = await load(file, { unet, vae, text_encoder, tokenizer });
    expect(pipeline.unet).toBe(unet);
    expect(pipeline.tokenizer).toBe(tokenizer);
    expect(pipeline.scheduler).toBeInstanceOf(PNDMScheduler);
    expect(pipeline.scheduler.config).toMatchObject({ beta_start: 0.00085, skip_prk_steps: true, steps_offset: 1 });
    expect(DDIMScheduler.from_config(pipeline.scheduler.config).config.clip_sample).toBe(false);
    expect(warnings()).toMatch(/^This pipeline runs without a safety checker.*$/);
  });
});

describe("what is refused", () => {
  const config = at("sd1");
  const file = at("sd1.safetensors");
  const xl = {
    source: {
      name: "memory",
      open: async () => {
        const name = "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias";
        return memoryFile(safetensors({ [name]: ["F32", [1], 4] }), "xl.safetensors");
      },
    },
    file: "xl.safetensors",
  };
  test.each<[string, () => Promise<unknown>, new (...args: never[]) => Error, string]>([
    ["no tokenizer", () => load(file), ValueError, "a checkpoint in one file has no tokenizer"],
    ["a pickle", () => load("v1-5.ckpt", { config }), UnsupportedModelError, "v1-5.ckpt is a pickle"],
    ["an unknown option", () => load(file, { confg: config } as object), TypeError, "Did you mean `config`?"],
    ["a variant", () => load(file, { variant: "fp16" } as object), TypeError, "`variant`"],
    [
      "original_config",
      () => load(file, { config, original_config: "v1-inference.yaml" } as object),
      UnsupportedModelError,
      "`original_config`",
    ],
    [
      "XL",
      () => StableDiffusionPipeline.from_single_file(xl, { config }),
      UnsupportedModelError,
      "xl.safetensors is a checkpoint of the kind xl_base",
    ],
    ["another config", () => load(file, { tokenizer: null }), WeightsMismatchError, "does not fit"],
    ["a config without an index", () => load(file, { config: at("xl") }), ModelNotFoundError, "model_index.json"],
    [
      "a component of another kind",
      () => load(file, { config, vae: new DDIMScheduler() as never }),
      ValueError,
      "The vae that was passed is DDIMScheduler",
    ],
  ])("%s", async (_, run, type, message) => {
    const error = await run().then(
      () => new Error("it did not fail"),
      (caught: unknown) => caught as Error,
    );
    expect(error, String(error)).toBeInstanceOf(type);
    expect(error.message).toContain(message);
  });
});
