/** DiffusionPipeline.from_pretrained: which files are read, and what is wrong with them. */
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  AutoencoderKL,
  type ConfigDict,
  DDIMScheduler,
  DDPMPipeline,
  DiffusersWebError,
  DiffusionPipeline,
  Generator,
  IntegrityError,
  type LoadProgress,
  ModelNotFoundError,
  type PipelineLoadOptions,
  PNDMScheduler,
  pipelineRegistry,
  StableDiffusionPipeline,
  Tensor,
  UNet2DModel,
  UnsupportedModelError,
  ValueError,
  WeightsMismatchError,
} from "@diffusers-web/pipelines";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { fixturePath } from "../support/fixtures.ts";
import { serveFolder } from "../support/server.ts";

const sd1 = fixturePath("pipelines/sd1-tiny");
const flat = fixturePath("pipelines/ddpm-tiny");
const folder = mkdtempSync(join(tmpdir(), "loading-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
beforeEach(() => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
});
afterEach(() => vi.mocked(console.warn).mockRestore());
const warnings = (): string => vi.mocked(console.warn).mock.calls.flat().join("\n");

const load = (path: string, options: PipelineLoadOptions = {}) =>
  DiffusionPipeline.from_pretrained(path, { device: "wasm", ...options });

/** A copy of a checkpoint, changed. */
function changed(name: string, change: (path: string) => void, from: string = sd1): string {
  const path = join(folder, name.replaceAll(/\W+/g, "_"));
  cpSync(from, path, { recursive: true });
  change(path);
  return path;
}

function edit(file: string, change: (json: Record<string, unknown>) => object): void {
  writeFileSync(file, JSON.stringify(change(JSON.parse(readFileSync(file, "utf8")))));
}

const editIndex = (change: (index: Record<string, unknown>) => object) => (path: string) =>
  edit(join(path, "model_index.json"), change);

/** Changes the JSON header of a safetensors file, keeping its data. */
function editHeader(file: string, change: (header: Record<string, Entry>) => void): void {
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + length)) as Record<string, Entry>;
  change(header);
  const text = Buffer.from(JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(file, Buffer.concat([size, text, bytes.subarray(8 + length)]));
}

interface Entry {
  shape: number[];
  data_offsets: [number, number];
}

const unetFile = "unet/diffusion_pytorch_model.safetensors";

describe("what is loaded", () => {
  let server: Awaited<ReturnType<typeof serveFolder>>;
  beforeAll(async () => {
    server = await serveFolder(fixturePath("pipelines"));
  });
  afterAll(() => server.close());

  test("each file once, and no other", async () => {
    server.requests.length = 0;
    await using pipeline = await load(`${server.url}/sd1-tiny/`);
    expect(pipeline).toBeInstanceOf(StableDiffusionPipeline);
    expect(server.requests.sort()).toEqual(
      [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "tokenizer/added_tokens.json",
        "unet/config.json",
        unetFile,
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
      ]
        .map((path) => `/sd1-tiny/${path}`)
        .sort(),
    );
  });

  test("a flat folder: the component's own first, then the root", async () => {
    server.requests.length = 0;
    await using pipeline = await load(`${server.url}/ddpm-tiny`);
    expect(pipeline).toBeInstanceOf(DDPMPipeline);
    expect(server.requests).toEqual(
      [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "scheduler_config.json",
        "unet/config.json",
        "config.json",
        "diffusion_pytorch_model.safetensors",
      ].map((path) => `/ddpm-tiny/${path}`),
    );
    expect(pipeline.unet.config["_name_or_path"]).toBe(`${server.url}/ddpm-tiny`);
  });

  test("a component that is passed, or left out, is not fetched", async () => {
    const scheduler = await PNDMScheduler.from_pretrained(sd1, { subfolder: "scheduler" });
    await using vae = await AutoencoderKL.from_pretrained(sd1, { subfolder: "vae", device: "wasm" });
    server.requests.length = 0;
    await using pipeline = await load(`${server.url}/sd1-tiny`, {
      scheduler,
      vae,
      text_encoder: null,
      tokenizer: null,
    });
    expect(pipeline.vae).toBe(vae);
    expect(pipeline.scheduler).toBe(scheduler);
    const folders = server.requests.map((path) => path.split("/")[2]);
    expect(new Set(folders)).toEqual(new Set(["model_index.json", "unet"]));
    expect(pipeline.config["tokenizer"]).toEqual([null, null]);
    await expect(pipeline("a cat")).rejects.toThrow(/without its text_encoder.*`prompt_embeds`/);
    const { images } = await pipeline({
      prompt_embeds: Tensor.ones([1, 20, 16]),
      negative_prompt_embeds: Tensor.zeros([1, 20, 16]),
      num_inference_steps: 1,
    });
    expect([images[0]!.width, images[0]!.height]).toEqual([32, 32]);
  });

  test("progress names files and phases", async () => {
    const seen: string[] = [];
    await using _ = await load(`${server.url}/ddpm-tiny`, {
      progress_callback: ({ phase, file, loaded, total }) => {
        expect(loaded).toBeLessThanOrEqual(total);
        seen.push(`${phase} ${file}`);
      },
    });
    expect(seen).toContain("download diffusion_pytorch_model.safetensors");
  });

  test("what is uploaded is counted over all models, before the first of them is called", async () => {
    const seen: LoadProgress[] = [];
    await using pipeline = await load(sd1, { progress_callback: (progress) => seen.push(progress) });
    await pipeline("a cat", { num_inference_steps: 1, output_type: "latent" });
    const uploads = seen.filter(({ phase }) => phase === "upload");
    const ends = ["text_encoder", "unet"].map((name) => uploads.findLast(({ file }) => file.startsWith(`${name}/`))!);
    const sum = ends.reduce((bytes, { total }) => bytes + total, 0);
    expect(uploads.at(-1)).toMatchObject({ phase: "upload", loaded_bytes: sum, loaded_files: 2, total_files: 3 });
    // The VAE has not been called, but is known.
    expect(new Set(uploads.map(({ total_bytes }) => total_bytes)).size).toBe(1);
    expect(uploads[0]!.total_bytes).toBeGreaterThan(sum);

    // Of the VAE only the decoder is needed. The other size is work of its own: a model that is uploaded again.
    await pipeline("a cat", { num_inference_steps: 1 });
    expect(seen.at(-1)).toMatchObject({ phase: "compile", loaded_files: 3, total_files: 3 });
    expect(seen.at(-1)!.loaded_bytes).toBe(seen.at(-1)!.total_bytes);
    seen.length = 0;
    await pipeline("a cat", { num_inference_steps: 1, height: 64, width: 64, output_type: "latent" });
    expect(seen[0]!.loaded_bytes).toBe(seen[0]!.loaded);
    expect(seen.at(-1)!.loaded_bytes).toBe(seen.at(-1)!.total_bytes);
  });

  test("cancelling", async () => {
    const reason = new Error("enough");
    await expect(load(`${server.url}/sd1-tiny`, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const controller = new AbortController();
    const loading = load(`${server.url}/sd1-tiny`, {
      signal: controller.signal,
      progress_callback: ({ file }) => {
        if (file.startsWith("unet")) controller.abort(reason);
      },
    });
    await expect(loading).rejects.toBe(reason);
  });

  test("a variant where there is one, else the plain weights", async () => {
    const path = changed("variant", (copy) => {
      renameSync(join(copy, unetFile), join(copy, "unet/diffusion_pytorch_model.fp16.safetensors"));
    });
    await expect(load(path)).rejects.toThrow(/fp16/);
    await using pipeline = await load(path, { variant: "fp16" });
    expect(pipeline.unet.config.in_channels).toBe(4);
    const none = load(sd1, { variant: "fp16" });
    await expect(none).rejects.toThrow(ValueError);
    await expect(none).rejects.toThrow(/variant "fp16"/);
  });
});

describe("a pipeline", () => {
  test("by its own class, its parts and where they run", async () => {
    const pipeline = await StableDiffusionPipeline.from_pretrained(sd1, { device: "wasm" });
    expect([pipeline.device, pipeline.dtype, pipeline.name_or_path]).toEqual(["wasm", "float32", sd1]);
    expect(Object.keys(pipeline.components)).toEqual(StableDiffusionPipeline.component_names);
    expect(pipeline.components["unet"]).toBe(pipeline.unet);
    expect(await pipeline.to("wasm")).toBe(pipeline);
    await expect(pipeline.to("cuda" as "wasm")).rejects.toThrow(TypeError);
    // Another pipeline of the same parts.
    const other = new StableDiffusionPipeline({ ...pipelineParts(pipeline), requires_safety_checker: false });
    const options = { num_inference_steps: 1, output_type: "latent" } as const;
    const [a, b] = [
      await pipeline("a cat", { ...options, generator: new Generator() }),
      await other("a cat", { ...options, generator: new Generator() }),
    ];
    expect([...a.images.data]).toEqual([...b.images.data]);
    await pipeline.dispose();
    await pipeline.dispose();
    await expect(pipeline("a cat")).rejects.toThrow(/disposed/);
  });

  test("save_config writes model_index.json", async () => {
    await using pipeline = await load(sd1);
    await pipeline.save_config(join(folder, "saved"));
    const saved = JSON.parse(readFileSync(join(folder, "saved/model_index.json"), "utf8")) as ConfigDict;
    expect(saved["unet"]).toEqual(["diffusers", "UNet2DConditionModel"]);
    expect(saved["_class_name"]).toBe("StableDiffusionPipeline");
  });

  test("assigning a component changes what is printed, as in Python", async () => {
    await using pipeline = await load(sd1);
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config);
    expect(`${pipeline}`).toContain('"DDIMScheduler"');
    const { vae } = pipeline;
    pipeline.vae = null as unknown as AutoencoderKL;
    expect(pipeline.config["vae"]).toEqual([null, null]);
    // Diffusers does not take it back either.
    pipeline.vae = vae;
    expect(pipeline.config["vae"]).toEqual([null, null]);
    expect(pipeline.vae).toBe(vae);
  });

  test("a Flax checkpoint's class", async () => {
    const path = changed(
      "flax",
      editIndex((index) => ({
        ...index,
        _class_name: "FlaxStableDiffusionPipeline",
        unet: ["diffusers", "FlaxUNet2DConditionModel"],
      })),
    );
    await using pipeline = await load(path);
    expect(pipeline).toBeInstanceOf(StableDiffusionPipeline);
  });

  test("without a safety checker it says so, unless the checkpoint does without", async () => {
    await using _ = await load(sd1);
    expect(warnings()).toBe("");
    const path = changed(
      "safety",
      editIndex(({ requires_safety_checker, ...index }) => ({
        ...index,
        safety_checker: ["stable_diffusion", "StableDiffusionSafetyChecker"],
      })),
    );
    await using pipeline = await load(path, { safety_checker: null });
    expect(warnings()).toMatch(/without a safety checker/);
    expect(pipeline.config["requires_safety_checker"]).toBe(true);
    vi.mocked(console.warn).mockClear();
    await using quiet = await load(path, { safety_checker: null, requires_safety_checker: false });
    expect(warnings()).toBe("");
    expect(quiet.config["requires_safety_checker"]).toBe(false);
  });

  test("configs of early checkpoints are put right, as Diffusers does", async () => {
    const path = changed("old", (copy) => {
      edit(join(copy, "scheduler/scheduler_config.json"), (config) => ({
        ...config,
        steps_offset: 0,
        clip_sample: true,
      }));
      edit(join(copy, "unet/config.json"), (config) => ({ ...config, _diffusers_version: "0.6.0" }));
    });
    await using pipeline = await load(path);
    const { steps_offset, clip_sample } = pipeline.scheduler.config as ConfigDict;
    expect([steps_offset, clip_sample, pipeline.unet.config.sample_size]).toEqual([1, false, 64]);
    expect(warnings()).toMatch(/`steps_offset` is 0[\s\S]*`clip_sample` is true[\s\S]*`sample_size` is 8/);
  });

  test("what the class does not take is named", async () => {
    const path = changed(
      "more",
      editIndex((index) => ({ ...index, upscaler: ["diffusers", "AutoencoderKL"] })),
    );
    await using _ = await load(path);
    expect(warnings()).toMatch(/StableDiffusionPipeline takes no `upscaler`/);
  });
});

function pipelineParts(pipeline: StableDiffusionPipeline) {
  const { vae, text_encoder, tokenizer, unet, scheduler } = pipeline;
  return { vae, text_encoder, tokenizer, unet, scheduler };
}

type ErrorClass = abstract new (...args: never[]) => Error;

const broken: [string, (path: string) => void, ErrorClass, RegExp][] = [
  [
    "no model_index.json",
    (path) => unlinkSync(join(path, "model_index.json")),
    ModelNotFoundError,
    /no model_index.json/,
  ],
  [
    "a truncated model_index.json",
    (path) => truncateSync(join(path, "model_index.json"), 90),
    IntegrityError,
    /model_index.json.*not valid JSON/,
  ],
  [
    "an unknown pipeline",
    editIndex((index) => ({ ...index, _class_name: "StableDiffusionPipelin" })),
    UnsupportedModelError,
    /StableDiffusionPipelin,.*There are: .*DDIMPipeline, DDPMPipeline, .*StableDiffusionPipeline/,
  ],
  [
    "code in the repository",
    editIndex((index) => ({ ...index, _class_name: ["pipeline", "MyPipeline"] })),
    UnsupportedModelError,
    /\["pipeline","MyPipeline"\].*Python code/,
  ],
  ["no class", editIndex(({ _class_name, ...index }) => index), UnsupportedModelError, /no _class_name/],
  [
    "a scheduler that there is not",
    editIndex((index) => ({ ...index, scheduler: ["diffusers", "AmusedScheduler"] })),
    UnsupportedModelError,
    /scheduler: the class AmusedScheduler .*There are: .*DDIMScheduler.*UniPCMultistepScheduler/,
  ],
  [
    "an unknown component class",
    editIndex((index) => ({ ...index, unet: ["diffusers", "UNet3DConditionModel"] })),
    UnsupportedModelError,
    /unet: the class UNet3DConditionModel of diffusers.*UNet2DConditionModel/,
  ],
  [
    "an entry that is no pair",
    editIndex((index) => ({ ...index, unet: "UNet2DConditionModel" })),
    UnsupportedModelError,
    /unet: found "UNet2DConditionModel", expected \[library, class\]/,
  ],
  ["a missing component", editIndex(({ unet, ...index }) => index), ValueError, /needs vae, .*Pass \{ unet \}/],
  ["a null component", editIndex((index) => ({ ...index, vae: [null, null] })), ValueError, /Pass \{ vae \}/],
  [
    "no folder",
    (path) => rmSync(join(path, "unet"), { recursive: true }),
    ModelNotFoundError,
    /unet has no config.json/,
  ],
  ["no weights", (path) => unlinkSync(join(path, unetFile)), ModelNotFoundError, /unet has no weights/],
  [
    "a pickle only",
    (path) => renameSync(join(path, unetFile), join(path, "unet/diffusion_pytorch_model.bin")),
    UnsupportedModelError,
    /unet.*UNet2DConditionModel.*diffusion_pytorch_model.bin.*pickle/,
  ],
  [
    "transformers' pickle only",
    (path) => renameSync(join(path, "text_encoder/model.safetensors"), join(path, "text_encoder/pytorch_model.bin")),
    UnsupportedModelError,
    /text_encoder.*pytorch_model.bin.*pickle/,
  ],
  ["truncated weights", (path) => truncateSync(join(path, unetFile), 50_000), IntegrityError, /unet.*safetensors/],
  ["empty weights", (path) => truncateSync(join(path, unetFile), 0), IntegrityError, /unet.*safetensors/],
  [
    "a header that says it is larger than the file",
    (path) => {
      const bytes = readFileSync(join(path, unetFile));
      bytes.writeBigUInt64LE(2n ** 40n);
      writeFileSync(join(path, unetFile), bytes);
    },
    IntegrityError,
    /unet.*safetensors/,
  ],
  [
    "a header whose offsets lie",
    (path) =>
      editHeader(join(path, unetFile), (header) => {
        header["conv_in.bias"]!.data_offsets[1] += 2;
      }),
    IntegrityError,
    /conv_in.bias/,
  ],
  [
    "a missing tensor",
    (path) =>
      editHeader(join(path, unetFile), (header) => {
        header["conv_in.weights"] = header["conv_in.weight"]!;
        delete header["conv_in.weight"];
      }),
    WeightsMismatchError,
    /conv_in.weight/,
  ],
  [
    "a tensor of another shape",
    (path) =>
      editHeader(join(path, unetFile), (header) => {
        header["conv_in.weight"]!.shape = [4, 8, 3, 3];
      }),
    WeightsMismatchError,
    /conv_in.weight/,
  ],
  [
    "a config that asks for what is not built",
    (path) => edit(join(path, "unet/config.json"), (config) => ({ ...config, attention_type: "gated-image" })),
    UnsupportedModelError,
    /attention_type/,
  ],
  [
    "a truncated config",
    (path) => truncateSync(join(path, "vae/config.json"), 100),
    IntegrityError,
    /config.json.*vae.*not valid JSON/,
  ],
  [
    "no tokenizer",
    (path) => rmSync(join(path, "tokenizer"), { recursive: true }),
    ModelNotFoundError,
    /tokenizer has neither tokenizer.json/,
  ],
];

test("a part that a call needs and was left out", async () => {
  await using pipeline = await load(sd1, { vae: null });
  await expect(pipeline("a cat", { num_inference_steps: 1 })).rejects.toThrow(/without its vae/);
  const { images } = await pipeline("a cat", { num_inference_steps: 1, output_type: "latent", height: 64, width: 64 });
  expect(images.dims).toEqual([1, 4, 8, 8]);
});

test("code in the repository is refused for a class of one's own choice as well", async () => {
  const path = changed(
    "remote code",
    editIndex((index) => ({ ...index, _class_name: ["pipeline", "MyPipeline"] })),
  );
  await expect(StableDiffusionPipeline.from_pretrained(path)).rejects.toThrow(/Python code/);
});

describe("what is wrong is named", () => {
  test.each(broken)("%s", async (name, change, error, message) => {
    const loading = load(changed(name, change));
    await expect(loading).rejects.toThrow(error);
    await expect(loading).rejects.toThrow(message);
    await expect(loading).rejects.toSatisfy(
      (thrown: DiffusersWebError) => thrown instanceof DiffusersWebError && Object.keys(thrown.details).length > 0,
    );
  });

  test.each<[string, string, object, ErrorClass, RegExp]>([
    ["an unknown option", sd1, { devize: "wasm" }, TypeError, /`devize`.*Did you mean `device`/],
    ["an option of another class", flat, { vae: null }, TypeError, /DDPMPipeline.from_pretrained.*`vae`/],
    ["an unknown device", sd1, { device: "cuda" }, TypeError, /device "cuda"/],
    ["a component of another kind", sd1, { scheduler: Tensor.zeros([1]) }, ValueError, /scheduler.*Tensor/],
    ["no such folder", join(folder, "nowhere"), {}, ModelNotFoundError, /nowhere/],
  ])("%s", async (_, path, options, error, message) => {
    const loading = load(path, options as PipelineLoadOptions);
    await expect(loading).rejects.toThrow(error);
    await expect(loading).rejects.toThrow(message);
  });

  test("a model in a scheduler's place", async () => {
    await using model = await UNet2DModel.from_pretrained(flat, { device: "wasm" });
    const options = { scheduler: model } as unknown as PipelineLoadOptions;
    await expect(load(flat, options)).rejects.toThrow(/scheduler that was passed is UNet2DModel/);
  });

  test("a server's page in a file's place, and a server that is not there", async () => {
    const empty = join(folder, "empty");
    mkdirSync(empty, { recursive: true });
    const server = await serveFolder(empty);
    await expect(load(server.url)).rejects.toThrow(/no model_index.json/);
    await server.close();
    await expect(load(server.url)).rejects.toThrow(ModelNotFoundError);
  });
});

test("every pipeline's file has its line in the registry", async () => {
  const sources = fileURLToPath(new URL("../../packages/pipelines/src", import.meta.url));
  const classes = readdirSync(sources, { recursive: true, encoding: "utf8" })
    .filter((file) => /pipeline_\w+\.ts$/.test(file) && file.includes("/"))
    .flatMap((file) => [...readFileSync(join(sources, file), "utf8").matchAll(/^export class (\w+Pipeline)\b/gm)])
    .map((match) => match[1]);
  expect(classes.sort()).toEqual(Object.keys(pipelineRegistry).sort());
  for (const [name, importClass] of Object.entries(pipelineRegistry)) expect((await importClass()).name).toBe(name);
});
