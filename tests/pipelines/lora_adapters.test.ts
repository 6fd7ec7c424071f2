/** LoRAs in pipelines: what is built and fetched for them, what they share, and what is refused. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  DiffusionPipeline,
  type ErrorDetails,
  Generator,
  type LoadProgress,
  openSource,
  PNDMScheduler,
  type Source,
  StableDiffusionImg2ImgPipeline,
  StableDiffusionPipeline,
  StableDiffusionXLPipeline,
  type Tensor,
  UnsupportedModelError,
  ValueError,
  WeightsMismatchError,
} from "@diffusers-web/pipelines";
import { afterAll, beforeEach, describe, expect, test, vi } from "vitest";
import { memorySource } from "../models/cases.ts";
import { expectClose } from "../support/allclose.ts";
import { fixturePath, fixtureTensors } from "../support/fixtures.ts";
import { safetensors } from "../support/safetensors.ts";

const files = fixturePath("pipelines/lora-tiny");
const expected = fixtureTensors("pipelines/lora.safetensors");
const scratch = mkdtempSync(join(tmpdir(), "lora-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
let warnings: string[] = [];
beforeEach(() => {
  warnings = [];
  vi.spyOn(console, "warn").mockImplementation((text) => void warnings.push(String(text)));
});

const load = (options: object = {}): Promise<StableDiffusionPipeline> =>
  StableDiffusionPipeline.from_pretrained(fixturePath("pipelines/sd1-tiny"), { device: "wasm", ...options });
const lora = (pipeline: StableDiffusionPipeline, name: string, adapter_name?: string): Promise<void> =>
  pipeline.load_lora_weights(files, { weight_name: `${name}.safetensors`, adapter_name });

async function draw(pipeline: StableDiffusionPipeline, options: object = {}): Promise<Float32Array> {
  const { images } = await pipeline("a photo of a red fox!", {
    num_inference_steps: 2,
    generator: new Generator().manual_seed(0),
    output_type: "latent",
    ...options,
  });
  return (images as Tensor).data;
}

function expectLatents(latents: Float32Array, name: string, tolerance = 5e-5): void {
  expectClose(latents, expected[`${name}/latent`]!.data, tolerance, name);
}

/** A source of files, which counts how often each is opened and closed. */
function watched(names: readonly string[]): { source: Source; opened: string[]; closed: string[] } {
  const opened: string[] = [];
  const closed: string[] = [];
  const inner = memorySource(
    "memory",
    Object.fromEntries(names.map((name) => [name, new Uint8Array(readFileSync(join(files, name)))])),
  );
  const source: Source = {
    ...inner,
    async open(path) {
      const file = await inner.open(path);
      if (file !== undefined) opened.push(path);
      return file && { ...file, close: () => void closed.push(path) };
    },
  };
  return { source, opened, closed };
}

async function failure(run: () => unknown): Promise<Error & { details?: ErrorDetails }> {
  try {
    await run();
  } catch (error) {
    return error as Error;
  }
  throw new Error("it did not fail");
}

test("weights are inputs: only what changes the layers makes new sessions, and nothing is opened twice", async () => {
  const compiled: string[] = [];
  const progress_callback = ({ phase, file }: LoadProgress): void => {
    if (phase === "compile" && file.startsWith("unet")) compiled.push(file);
  };
  await using pipeline = await load({ progress_callback });
  const { source, opened, closed } = watched(["attention.safetensors", "everything.safetensors"]);
  const options = { num_inference_steps: 1 };
  const first = await draw(pipeline, options);
  expect(compiled.length).toBe(1);

  await pipeline.load_lora_weights(source, { weight_name: "attention.safetensors", adapter_name: "b" });
  await pipeline.load_lora_weights(source, { weight_name: "everything.safetensors", adapter_name: "a" });
  const seen = [first];
  const changes = [
    () => pipeline.set_adapters(["a", "b"]),
    () => pipeline.set_adapters(["a", "b"], [0.5, -2]),
    () => pipeline.set_adapters("b", { unet: { down: 0, mid: 0.5, up: { block_1: [1, -1] } } }),
    () => pipeline.set_adapters("a"),
  ];
  for (const change of changes) {
    change();
    const latents = await draw(pipeline, options);
    for (const one of seen) expect(latents).not.toEqual(one);
    seen.push(latents);
  }
  pipeline.disable_lora();
  // Products with 0 are added, after which the engine fuses other operators.
  expectClose(await draw(pipeline, options), first, 1e-5);
  pipeline.enable_lora();
  expect(await draw(pipeline, options)).toEqual(seen.at(-1));
  expectClose(await draw(pipeline, { ...options, cross_attention_kwargs: { scale: 0 } }), first, 1e-5);
  expect(compiled.length).toBe(2);

  pipeline.fuse_lora();
  await draw(pipeline, options);
  await draw(pipeline, options);
  expect(compiled.length).toBe(3);
  expect([...pipeline.fused_loras]).toEqual(["a"]);
  expect(pipeline.num_fused_loras).toBe(1);

  // A file is closed once nothing reads it: neither an adapter nor fused weights.
  pipeline.delete_adapters("b");
  await pipeline.unet.offload();
  expect(closed).toEqual(["attention.safetensors"]);
  pipeline.unload_lora_weights();
  await draw(pipeline, options);
  expect(pipeline.get_list_adapters()).toEqual({});
  expect(closed).toEqual(["attention.safetensors"]);
  await pipeline.dispose();
  expect(closed).toEqual(["attention.safetensors", "everything.safetensors"]);
  expect(opened).toEqual(closed);
});

test("the same after the models leave the device, and in a pipeline of the same components", async () => {
  await using pipeline = await load();
  await lora(pipeline, "everything", "a");
  await pipeline.enable_model_cpu_offload();
  expectLatents(await draw(pipeline), "one");
  expectLatents(await draw(pipeline), "one");
  pipeline.remove_all_hooks();
  await pipeline.to("wasm");
  expectLatents(await draw(pipeline), "one");

  const other = await StableDiffusionImg2ImgPipeline.from_pipe(pipeline);
  expect(other.get_active_adapters()).toEqual(["a"]);
  other.set_adapters("a", 0.5);
  other.fuse_lora();
  expect(pipeline.num_fused_loras).toBe(1);
  other.unfuse_lora();
  other.delete_adapters("a");
  expect(pipeline.get_list_adapters()).toEqual({});
  expectLatents(await draw(pipeline), "no adapter");
});

test("what is fused is saved, in the types of the checkpoint", async () => {
  await using pipeline = await load();
  await lora(pipeline, "everything");
  pipeline.fuse_lora({ lora_scale: 0.4 });
  await pipeline.save_pretrained(scratch);
  await using saved = await StableDiffusionPipeline.from_pretrained(scratch, { device: "wasm" });
  expect(saved.get_list_adapters()).toEqual({});
  // Its float16 has 11 bits.
  expectLatents(await draw(saved), "fused, scaled", 5e-3);
  const size = (folder: string): number => {
    const path = `${folder}/unet/diffusion_pytorch_model.safetensors`;
    return readFileSync(path).length - Number(readFileSync(path).readBigUInt64LE(0));
  };
  expect(size(scratch)).toBe(size(fixturePath("pipelines/sd1-tiny")));
});

test("what a file does not change is told", async () => {
  await using pipeline = await load();
  await lora(pipeline, "attention");
  expect(warnings).toEqual([expect.stringMatching(/attention\.safetensors does not change the text_encoder/)]);
  await using textless = await load({ text_encoder: null, tokenizer: null });
  warnings = [];
  await lora(textless, "everything");
  expect(warnings).toEqual([expect.stringMatching(/text_encoder: the pipeline has no text_encoder/)]);
  warnings = [];
  textless.set_adapters("default_0", { unet: 0.5, text_encoder: 1 });
  expect(warnings).toEqual([expect.stringMatching(/default_0 for the text_encoder is not used/)]);
});

describe("refused", () => {
  /** A LoRA of layers, each `[in, out]` or what is not as it should be. */
  const file = (
    layers: Readonly<Record<string, readonly [down: readonly number[], up: readonly number[]]>>,
  ): Source => {
    const tensors: Record<string, readonly [string, readonly number[], number]> = {};
    for (const [layer, dims] of Object.entries(layers)) {
      dims.forEach((shape, i) => {
        const bytes = shape.reduce((product, dim) => product * dim, 4);
        tensors[`${layer}.lora_${"AB"[i]}.weight`] = ["F32", shape, bytes];
      });
    }
    return memorySource("memory", { "pytorch_lora_weights.safetensors": safetensors(tensors) });
  };
  const attn = "unet.down_blocks.0.attentions.0.transformer_blocks.0";
  const cases: [name: string, source: Source, details: Partial<ErrorDetails>, message: RegExp][] = [
    [
      "a layer of another width",
      file({
        [`${attn}.attn2.to_k`]: [
          [2, 768],
          [8, 2],
        ],
        [`${attn}.attn1.to_q`]: [
          [2, 8],
          [8, 2],
        ],
      }),
      { tensors: [`${attn}.attn2.to_k.lora_A.weight`], found: "[2, 768]", expected: "[2, 16]" },
      /does not fit the UNet2DConditionModel.*another model/,
    ],
    [
      "matrices of different ranks",
      file({
        [`${attn}.attn1.to_q`]: [
          [2, 8],
          [8, 3],
        ],
      }),
      { tensors: [`${attn}.attn1.to_q.lora_B.weight`], found: "[8, 3]", expected: "[8, 2]" },
      /lora_B/,
    ],
    [
      "a convolution's for a linear layer",
      file({
        [`${attn}.attn1.to_q`]: [
          [2, 8, 3, 3],
          [8, 2, 1, 1],
        ],
      }),
      { tensors: [`${attn}.attn1.to_q.lora_A.weight`], found: "[2, 8, 3, 3]", expected: "[2, 8]" },
      /lora_A/,
    ],
    [
      "a layer that is not there",
      file({
        [`${attn}.attn1.to_q`]: [
          [2, 8],
          [8, 2],
        ],
        "unet.down_blocks.7.resnets.0.conv1": [
          [2, 8, 3, 3],
          [8, 2, 1, 1],
        ],
      }),
      { tensors: ["unet.down_blocks.7.resnets.0.conv1.lora_A.weight"] },
      /has no layer for unet\.down_blocks\.7/,
    ],
    [
      "a good UNet's part with a bad text encoder's",
      file({
        [`${attn}.attn1.to_q`]: [
          [2, 8],
          [8, 2],
        ],
        "text_encoder.text_model.encoder.layers.0.mlp.fc1": [
          [2, 16],
          [33, 2],
        ],
      }),
      { className: "CLIPTextModel", found: "[33, 2]", expected: "[32, 2]" },
      /does not fit the CLIPTextModel/,
    ],
    [
      "a second text encoder's",
      file({
        [`${attn}.attn1.to_q`]: [
          [2, 8],
          [8, 2],
        ],
        "text_encoder_2.encoder.layers.0.mlp.fc1": [
          [2, 8],
          [8, 2],
        ],
      }),
      { found: "text_encoder_2", expected: "unet, text_encoder" },
      /text_encoder_2.*does not have/,
    ],
  ];
  test.each(cases)("%s, and the pipeline stays as it was", async (_, source, details, message) => {
    await using pipeline = await load();
    await lora(pipeline, "attention", "b");
    const error = await failure(() => pipeline.load_lora_weights(source, { adapter_name: "x" }));
    expect(error).toBeInstanceOf(WeightsMismatchError);
    expect(error.message).toMatch(message);
    expect(error.details).toMatchObject(details);
    expect(pipeline.get_list_adapters()).toEqual({ unet: ["b"] });
    expect(pipeline.get_active_adapters()).toEqual(["b"]);
  });

  test("one for Stable Diffusion XL in another model", async () => {
    await using pipeline = await load();
    const error = await failure(() => lora(pipeline, "xl"));
    expect(error).toBeInstanceOf(WeightsMismatchError);
    expect(pipeline.get_list_adapters()).toEqual({});
  });

  test("names, weights and components that are not right", async () => {
    await using pipeline = await load();
    await lora(pipeline, "everything", "a");
    await lora(pipeline, "text", "t");
    const before = pipeline.get_list_adapters();
    const calls: [run: () => unknown, message: RegExp][] = [
      [() => lora(pipeline, "attention", "a"), /a is already in use/],
      [() => lora(pipeline, "text", "t"), /t is already in use/],
      [() => pipeline.set_adapters("b"), /no adapter b\. Loaded are: a, t/],
      [() => pipeline.set_adapters(["a", "x", "y"], 1), /no adapter x, y/],
      [() => pipeline.delete_adapters(["a", "b"]), /no adapter b/],
      [() => pipeline.fuse_lora({ adapter_names: ["b"] }), /no adapter b/],
      [() => pipeline.set_adapters(["a", "t"], [1]), /2 adapters are named, but there are 1 weights/],
      [() => pipeline.set_adapters("a", [1, 2]), /1 adapters are named, but there are 2 weights/],
      [() => pipeline.set_adapters("a", Number.NaN), /NaN|null/],
      [() => pipeline.set_adapters("a", "1" as never), /"1"/],
      [() => pipeline.set_adapters("a", { unet: { down: [1, 2] } }), /2 scales for `down\.block_0`/],
      [() => pipeline.set_adapters("a", { unet: { up: { block_0: 1 } } }), /up\.block_0/],
      [() => pipeline.set_adapters("a", { unet: { left: 1 } as never }), /left/],
      [() => pipeline.set_adapters("a", { text_encoder: { down: 1 } }), /CLIPTextModel/],
      [() => pipeline.fuse_lora({ components: [] }), /empty list/],
      [() => pipeline.fuse_lora({ components: ["vae"] }), /"vae".*unet, text_encoder/],
      [() => pipeline.unfuse_lora({ components: ["text_encoder_2"] }), /"text_encoder_2"/],
      [() => draw(pipeline, { cross_attention_kwargs: { scale: Number.NaN } }), /scale/],
    ];
    for (const [run, message] of calls) {
      const error = await failure(run);
      expect(error, String(message)).toBeInstanceOf(ValueError);
      expect(error.message).toMatch(message);
    }
    expect(await failure(() => draw(pipeline, { cross_attention_kwargs: { sclae: 1 } }))).toBeInstanceOf(TypeError);
    expect(await failure(() => pipeline.load_lora_weights(files, { hotswap: true } as never))).toBeInstanceOf(
      TypeError,
    );
    expect(pipeline.get_list_adapters()).toEqual(before);
    expect(pipeline.num_fused_loras).toBe(0);
  });

  test("weights that would be no numbers, with safe_fusing", async () => {
    const layer = `${attn}.attn1.to_q`;
    const tensors = {
      [`${layer}.lora_A.weight`]: ["F32", [1, 8], 32],
      [`${layer}.lora_B.weight`]: ["F32", [8, 1], 32],
    } as const;
    const data = new Uint8Array(new Float32Array([Number.NaN, ...new Array<number>(15).fill(1)]).buffer);
    await using pipeline = await load();
    const source = memorySource("memory", { "broken.safetensors": safetensors(tensors, { data }) });
    await pipeline.load_lora_weights(source, { weight_name: "broken.safetensors", adapter_name: "broken" });
    const error = await failure(() => pipeline.fuse_lora({ safe_fusing: true }));
    expect(error).toBeInstanceOf(ValueError);
    expect(error.message).toMatch(/broken seems to be broken/);
    expect(pipeline.num_fused_loras).toBe(0);
  });

  test("a bias for a layer without one can be used, and not fused", async () => {
    const layer = `${attn}.attn1.to_q`;
    const tensors = {
      [`${layer}.lora_A.weight`]: ["F32", [1, 8], 32],
      [`${layer}.lora_B.bias`]: ["F32", [8], 32],
      [`${layer}.lora_B.weight`]: ["F32", [8, 1], 32],
    } as const;
    const data = new Uint8Array(new Float32Array(24).fill(0.5).buffer);
    await using pipeline = await load();
    const source = memorySource("memory", { "pytorch_lora_weights.safetensors": safetensors(tensors, { data }) });
    await pipeline.load_lora_weights(source, { adapter_name: "biased" });
    expect(await draw(pipeline)).not.toEqual(expected["no adapter/latent"]!.data);
    const error = await failure(() => pipeline.fuse_lora());
    expect(error).toBeInstanceOf(ValueError);
    expect(error.message).toMatch(/biased cannot be fused/);
  });

  test("models of ONNX exports", async () => {
    await using pipeline = await DiffusionPipeline.from_pretrained(fixturePath("onnx/optimum"), {
      device: "wasm",
      tokenizer: null,
      scheduler: new PNDMScheduler(),
    });
    const error = await failure(() => pipeline.load_lora_weights(files, { weight_name: "attention.safetensors" }));
    expect(error).toBeInstanceOf(UnsupportedModelError);
    expect(error.message).toMatch(/unet is an ORTUnet/);
  });
});

test("loaded from an address of a file, and from a File", async () => {
  await using pipeline = await load();
  await pipeline.load_lora_weights(join(files, "everything.safetensors"), { adapter_name: "a" });
  expectLatents(await draw(pipeline), "one");
  await using xl = await StableDiffusionXLPipeline.from_pretrained(fixturePath("pipelines/sdxl-tiny"), {
    device: "wasm",
  });
  const bytes = readFileSync(join(files, "xl.safetensors"));
  await xl.load_lora_weights(new File([bytes], "xl.safetensors"));
  expect(xl.get_list_adapters()).toEqual({
    unet: ["default_0"],
    text_encoder: ["default_0"],
    text_encoder_2: ["default_0"],
  });
  const opened = await openSource(files, {});
  await xl.load_lora_weights(opened, { weight_name: "xl-kohya.safetensors" });
  expect(xl.get_list_adapters()["unet"]).toEqual(["default_0", "default_1"]);
});
