/** Checkpoints that exist only as ONNX exports, in Optimum's and in Diffusers' layout: tests/fixtures/onnx/make_onnx.py. */
import { cpSync, readFileSync, renameSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type AnyPipeline,
  type AnyPipelineOptions,
  DiffusionPipeline,
  Generator,
  ModelNotFoundError,
  memory_allocated,
  openSource,
  type PipelineLoadOptions,
  type RawImage,
  type Source,
  StableDiffusionPipeline,
  schedulerRegistry,
  Tensor,
  UNet2DConditionModel,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { ORTUnet } from "../../packages/models/src/onnx/ort_unet.ts";
import { expectClose } from "../support/allclose.ts";
import { type FixtureTensor, fixturePath, fixtureTensors, fixtureText } from "../support/fixtures.ts";
import { checkpoint, exportsFolder, failure } from "../support/onnx_exports.ts";
import { expectSamePicture } from "../support/pictures.ts";
import { serveFolder } from "../support/server.ts";

const { calls } = JSON.parse(fixtureText("pipelines/pipelines.json")) as {
  calls: {
    name: string;
    scheduler: { class: string; kwargs: object } | null;
    options: Record<string, unknown> & { seed: number | number[] };
  }[];
};
const expected = fixtureTensors("pipelines/pipelines.safetensors");
const sd1 = fixturePath("pipelines/sd1-tiny");

beforeEach(() => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
});
afterEach(() => vi.mocked(console.warn).mockRestore());

const load = (from: string | Source, options: PipelineLoadOptions = {}) =>
  DiffusionPipeline.from_pretrained(from, { device: "wasm", ...options });
const tensorOf = ({ data, dims }: FixtureTensor): Tensor => new Tensor("float32", data as Float32Array, dims);
const seeded = (seed: number) => new Generator().manual_seed(seed);

describe("calls", () => {
  const pipelines: Record<string, AnyPipeline> = {};
  beforeAll(async () => {
    for (const layout of ["optimum", "diffusers"]) pipelines[layout] = await load(checkpoint(layout));
  });
  afterAll(async () => {
    for (const pipeline of Object.values(pipelines)) await pipeline.dispose();
  });

  const names = [
    "sd1 defaults",
    "sd1 batch of prompts, one too long",
    "sd1 two pictures a prompt",
    "sd1 list of generators",
    "sd1 guidance 1",
    "sd1 not square",
    "sd1 embeddings",
    "sd1 DDIM eta, list",
    "sd1 timesteps DDPMScheduler",
  ];
  // 1.4e-5 was seen of the float32 export, as of our own graphs; of the float16 one 7e-4, and 1.4e-2 where noise is added.
  const tolerances: [layout: string, tolerance: number][] = [
    ["optimum", 1e-4],
    ["diffusers", 3e-2],
  ];
  test.each(tolerances.flatMap(([layout, tolerance]) => names.map((name) => [layout, name, tolerance] as const)))(
    "%s: %s",
    async (layout, name, tolerance) => {
      const pipeline = pipelines[layout]!;
      const call = calls.find((one) => one.name === name)!;
      const original = pipeline.scheduler;
      if (call.scheduler !== null) {
        const cls = schedulerRegistry[call.scheduler.class]!;
        pipeline.scheduler = cls.from_config(original.config, call.scheduler.kwargs);
      }
      const { seed, ...rest } = call.options;
      for (const key of ["prompt_embeds", "negative_prompt_embeds"]) {
        if (key in rest) rest[key] = tensorOf(expected[`${name}/${key}`]!);
      }
      if ("timesteps" in rest) delete rest["num_inference_steps"];
      const generator = Array.isArray(seed) ? seed.map(seeded) : seeded(seed);
      let latents: Tensor | undefined;
      // Without a config the size is Stable Diffusion 1's.
      const options: AnyPipelineOptions = {
        ...{ height: 32, width: 32 },
        ...rest,
        generator,
        callback_on_step_end: (_, __, ___, tensors) => {
          latents = tensors["latents"];
        },
      };
      const { images } = (await pipeline(options)) as { images: RawImage[] };
      pipeline.scheduler = original;
      const latent = expected[`${name}/latent`]!;
      expect(latents!.dims).toEqual(latent.dims);
      expectClose(latents!.data, latent.data as Float32Array, tolerance, name);
      const pictures = expected[`${name}/image`]!;
      expect([images.length, images[0]!.height, images[0]!.width]).toEqual(pictures.dims.slice(0, 3));
      expectSamePicture(
        images.flatMap((image) => [...image.data]),
        pictures.data,
      );
    },
  );

  test("what they are", () => {
    for (const pipeline of Object.values(pipelines)) {
      expect(pipeline).toBeInstanceOf(StableDiffusionPipeline);
      expect(pipeline.config).toMatchObject({
        unet: ["optimum.onnxruntime.modeling_diffusion", "ORTUnet"],
        vae: ["optimum.onnxruntime.modeling_diffusion", "ORTVae"],
        text_encoder: ["optimum.onnxruntime.modeling_diffusion", "ORTTextEncoder"],
      });
      expect(pipeline.device).toBe("wasm");
      // With a config file and without.
      expect(pipeline.unet.config).toMatchObject({ in_channels: 4, out_channels: 4, cross_attention_dim: 16 });
      expect(pipeline.vae.config).toMatchObject({ scaling_factor: 0.18215, latent_channels: 4 });
      expect(pipeline.vae.config.block_out_channels).toEqual([4, 8, 8]);
      expect(pipeline.text_encoder.config).toMatchObject({ vocab_size: 574, hidden_size: 16, intermediate_size: 32 });
    }
    expect(pipelines["optimum"]!.unet.config.sample_size).toBe(8);
    // As Diffusers' pipeline for exports has it, which knows no config: 512 pixels.
    expect(pipelines["diffusers"]!.unet.config.sample_size).toBe(64);
  });

  test("fractional timesteps are cut off, with one warning", async () => {
    const pipeline = pipelines["optimum"]!;
    const text = Tensor.ones([1, 20, 16]);
    const sample = Tensor.ones([1, 4, 8, 8]);
    const whole = await pipeline.unet(sample, 601, text as never);
    const cut = await pipeline.unet(sample, 601.9, text as never);
    expect(cut.sample.data).toEqual(whole.sample.data);
    await pipeline.unet(sample, 601.9, text as never);
    expect(vi.mocked(console.warn).mock.calls.flat()).toEqual([expect.stringContaining("601.9")]);
  });

  test("models leave the device when they are offloaded, and come back", async () => {
    const pipeline = await load(checkpoint("optimum"));
    await pipeline.enable_model_cpu_offload();
    const before = memory_allocated();
    for (let i = 0; i < 2; i++) {
      const options = { num_inference_steps: 4, generator: seeded(0), output_type: "latent" } as const;
      const { images } = await pipeline("a photo of a red fox!", options);
      expectClose((images as Tensor).data, expected["sd1 defaults/latent"]!.data as Float32Array, 1e-4);
      expect(memory_allocated()).toBe(before);
    }
    await pipeline.dispose();
  });

  test("what an export cannot do is refused by name", async () => {
    const pipeline = pipelines["optimum"]!;
    const options = { num_inference_steps: 1, output_type: "latent" } as const;
    const skip = await failure(pipeline("a cat", { ...options, clip_skip: 1 }));
    expect(skip).toBeInstanceOf(UnsupportedModelError);
    expect(skip.message).toMatch(/clip_skip/);
    const dtype = await failure(pipeline.to("fp16"));
    expect(dtype).toBeInstanceOf(ValueError);
    expect(dtype.message).toMatch(/export in float32/);
    const text = Tensor.ones([1, 20, 16]) as never;
    const unet = pipeline.unet as unknown as ORTUnet;
    const two = failure(unet(Tensor.ones([2, 4, 8, 8]), Tensor.from([1, 2]), Tensor.ones([2, 20, 16])));
    expect((await two).message).toMatch(/one timestep for the batch/);
    const passed = failure(unet(Tensor.ones([1, 4, 8, 8]), 1, text, { timestep_cond: Tensor.ones([1, 8]) }));
    expect((await passed).message).toMatch(/`timestep_cond` was passed, which is no input/);
    const wide = failure(unet(Tensor.ones([1, 4, 8, 8]), 1, Tensor.ones([1, 20, 17])));
    expect((await wide).message).toMatch(/`encoder_hidden_states` has dims \[1,20,17\].*\[any, any, 16\]/);
    await expect(
      unet(Tensor.ones([1, 4, 8, 8]), 1, text, { mid_block_additional_residual: Tensor.ones([1]) }),
    ).rejects.toThrow(/mid_block_additional_residual/);
  });
});

describe("layouts", () => {
  const latents = async (pipeline: AnyPipeline): Promise<Tensor> => {
    const options = { num_inference_steps: 4, generator: seeded(0), output_type: "latent" } as const;
    const { images } = await pipeline("a photo of a red fox!", options);
    await pipeline.dispose();
    return images as Tensor;
  };
  const expectDefaults = async (pipeline: AnyPipeline): Promise<void> => {
    const { data } = expected["sd1 defaults/latent"]!;
    expectClose((await latents(pipeline)).data, data as Float32Array, 1e-4);
  };
  const rewrite = (path: string, change: (index: Record<string, unknown>) => object): void =>
    writeFileSync(path, JSON.stringify(change(JSON.parse(readFileSync(path, "utf8")))));
  const original = JSON.parse(readFileSync(join(sd1, "model_index.json"), "utf8")) as Record<string, unknown>;
  const graph = ["diffusers", "OnnxRuntimeModel"];
  const { vae: _, ...withoutVae } = original;

  test.each<[name: string, index: object]>([
    ["the original's model_index.json, as Optimum's command line keeps it", original],
    ["the original's under an ORT name", { ...original, _class_name: "ORTStableDiffusionPipeline" }],
    [
      "two halves of a VAE",
      { ...withoutVae, unet: graph, text_encoder: graph, vae_decoder: graph, vae_encoder: graph },
    ],
    ["the first name of Diffusers'", { ...original, _class_name: "StableDiffusionOnnxPipeline" }],
  ])("%s", async (_name, index) => {
    const path = checkpoint("optimum", (file) => rewrite(file("model_index.json"), () => index));
    await expectDefaults(await load(path));
  });

  test("weights.pb and model.onnx_data are opened under the name in the graph", async () => {
    const path = checkpoint("optimum", (file) => renameSync(file("unet/model.onnx_data"), file("unet/weights.pb")));
    const error = await failure(load(path));
    expect(error).toBeInstanceOf(ModelNotFoundError);
    expect(error.message).toMatch(/no .*model\.onnx_data, which holds weights of its model\.onnx/);
  });

  test("of a source that lists its files, exactly those of the export are fetched", async () => {
    const path = checkpoint("optimum", (file) => {
      for (const name of ["unet/model.msgpack", "unet/openvino_model.bin", "vae/config.json", "model.onnx"]) {
        cpSync(file("unet/config.json"), file(name));
      }
      rewrite(file("model_index.json"), () => original);
    });
    const inFolder = await openSource(path);
    let fetched: readonly string[] = [];
    const source: Source = {
      ...inFolder,
      prefetch: async (paths) => {
        fetched = paths;
      },
    };
    await using pipeline = await load(source);
    expect((pipeline.unet as { constructor: unknown }).constructor).toBe(ORTUnet);
    expect([...fetched].sort()).toEqual([
      "scheduler/scheduler_config.json",
      "text_encoder/config.json",
      "text_encoder/model.onnx",
      ...["merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"].map(
        (file) => `tokenizer/${file}`,
      ),
      "unet/config.json",
      "unet/model.onnx",
      "unet/model.onnx_data",
      "vae_decoder/config.json",
      "vae_decoder/model.onnx",
      "vae_encoder/config.json",
      "vae_encoder/model.onnx",
    ]);
  });

  test("a safety checker that is an export is refused by name, and can be left out", async () => {
    const path = checkpoint("diffusers", (file) =>
      rewrite(file("model_index.json"), (index) => ({ ...index, safety_checker: graph })),
    );
    const error = await failure(load(path));
    expect(error.message).toMatch(/safety_checker: the class OnnxRuntimeModel .*Pass \{ safety_checker: null \}/);
    await (await load(path, { safety_checker: null })).dispose();
  });

  describe("from a server, that lists nothing", () => {
    let server: Awaited<ReturnType<typeof serveFolder>>;
    beforeAll(async () => {
      server = await serveFolder(exportsFolder);
    });
    afterAll(() => server.close());
    const parts = ["text_encoder", "unet", "vae_decoder", "vae_encoder"];

    test("each file once, and no other", async () => {
      const name = checkpoint("optimum").split("/").at(-1)!;
      const pipeline = await load(`${server.url}/${name}`);
      const paths = server.requests.map((path) => path.slice(name.length + 2));
      expect(paths.filter((path) => /\.(onnx|onnx_data|safetensors|bin)$/.test(path)).sort()).toEqual(
        [...parts.map((part) => `${part}/model.onnx`), "unet/model.onnx_data"].sort(),
      );
      expect(new Set(paths).size).toBe(paths.length);
      await expectDefaults(pipeline);
    });

    test("the original's model_index.json", async () => {
      const path = checkpoint("optimum", (file) => rewrite(file("model_index.json"), () => original));
      await expectDefaults(await load(`${server.url}/${path.split("/").at(-1)}`));
    });

    test("without an export either, what was missing of the original", async () => {
      const path = checkpoint("optimum", (file) => {
        rewrite(file("model_index.json"), () => original);
        unlinkSync(file("unet/model.onnx"));
      });
      const error = await failure(load(`${server.url}/${path.split("/").at(-1)}`));
      expect(error.message).toMatch(/no weights for UNet2DConditionModel/);
    });
  });

  test("safetensors come first where both are there", async () => {
    const path = checkpoint("optimum", (file) => {
      rewrite(file("model_index.json"), () => original);
      for (const part of ["unet", "vae", "text_encoder"]) cpSync(join(sd1, part), file(part), { recursive: true });
    });
    const pipeline = await load(path);
    expect(pipeline.unet).toBeInstanceOf(UNet2DConditionModel);
    await pipeline.dispose();
  });
});
