/** Pipelines that are saved: what was written loads again, and makes the same pictures. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import {
  type AnyPipeline,
  type AnyPipelineOptions,
  CLIPImageProcessor,
  CLIPTokenizer,
  DiffusionPipeline,
  EulerDiscreteScheduler,
  Generator,
  StableDiffusionPipeline,
  StableDiffusionSafetyChecker,
  UNet2DModel,
  UnsupportedModelError,
  ValueError,
  ZipDirectory,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { fixturePath } from "../support/fixtures.ts";
import { checkerSource, safetyCheckerFixture } from "../support/safety_checker.ts";

const on = { device: "wasm" } as const;
const source = (name: string) => fixturePath(`pipelines/${name}`);
let folder: string;
beforeAll(() => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
  folder = mkdtempSync(join(tmpdir(), "saved-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

async function picture(pipeline: AnyPipeline, options: AnyPipelineOptions): Promise<number[]> {
  const generator = new Generator().manual_seed(3);
  const { images } = await pipeline({ num_inference_steps: 2, ...options, generator, output_type: "tensor" });
  return [...images.data];
}

const shown = (pipeline: DiffusionPipeline) => `${pipeline}`.replace(/"_name_or_path": .*/, "");
const files = (name: string) => readdirSync(join(folder, name), { recursive: true }).map(String).sort();

/** The folder of a page, in memory. */
class MemoryDirectory {
  readonly files = new Map<string, Buffer>();
  constructor(
    readonly root: MemoryDirectory | undefined = undefined,
    readonly prefix: string = "",
  ) {}
  async getDirectoryHandle(name: string) {
    return new MemoryDirectory(this.root ?? this, `${this.prefix}${name}/`);
  }
  async getFileHandle(name: string) {
    const parts: Buffer[] = [];
    return {
      createWritable: async () => ({
        write: async (piece: string | Uint8Array) => void parts.push(Buffer.from(piece as string)),
        close: async () => void (this.root ?? this).files.set(this.prefix + name, Buffer.concat(parts)),
        abort: async () => undefined,
      }),
    };
  }
}

/** The files of a zip, by its directory at the end. */
function unzip(zip: Buffer): Map<string, Buffer> {
  const unpacked = new Map<string, Buffer>();
  const end = zip.length - 22;
  expect(zip.readUInt32LE(end)).toBe(0x06054b50);
  let at = zip.readUInt32LE(end + 16);
  for (let i = 0; i < zip.readUInt16LE(end + 10); i++) {
    expect(zip.readUInt32LE(at)).toBe(0x02014b50);
    const [nameLength, extraLength] = [zip.readUInt16LE(at + 28), zip.readUInt16LE(at + 30)];
    const name = zip.toString("utf8", at + 46, at + 46 + nameLength);
    const [size, offset] = [zip.readUInt32LE(at + 24), zip.readUInt32LE(at + 42)];
    expect(zip.readUInt32LE(offset)).toBe(0x04034b50);
    const begin = offset + 30 + zip.readUInt16LE(offset + 26) + zip.readUInt16LE(offset + 28);
    unpacked.set(name, zip.subarray(begin, begin + size));
    expect(zip.readUInt32LE(at + 16)).toBe(crc32(unpacked.get(name)!));
    at += 46 + nameLength + extraLength;
  }
  return unpacked;
}

describe("save_pretrained", () => {
  const cases: [string, string, AnyPipelineOptions][] = [
    ["sd1", "sd1-tiny", { prompt: "a cat" }],
    ["sd2", "sd2-tiny", { prompt: "hello! a cat", negative_prompt: "ugly" }],
    ["ldm", "unconditional-tiny/ldm", {}],
    ["sde", "unconditional-tiny/sde", {}],
    ["cm", "unconditional-tiny/cm", { class_labels: 3 }],
    ["ddpm (flat)", "ddpm-tiny", {}],
  ];
  test.each(cases)("%s: loads again, and makes the same picture", async (name, from, options) => {
    const pipeline = await DiffusionPipeline.from_pretrained(source(from), on);
    await pipeline.save_pretrained(join(folder, name));
    const again = await DiffusionPipeline.from_pretrained(join(folder, name), on);
    expect(again.constructor).toBe(pipeline.constructor);
    expect(shown(again)).toBe(shown(pipeline));
    expect(await picture(again, options)).toEqual(await picture(pipeline, options));
    await again.dispose();
    await pipeline.dispose();
  });

  test("tokenizer files are copied, tensors stay in their types", async () => {
    for (const file of ["vocab.json", "merges.txt", "tokenizer_config.json"]) {
      const [copy, original] = [join(folder, "sd1"), source("sd1-tiny")].map((at) =>
        readFileSync(`${at}/tokenizer/${file}`),
      );
      expect(copy).toEqual(original);
    }
    const file = readFileSync(join(folder, "sd1/unet/diffusion_pytorch_model.safetensors"));
    const header = JSON.parse(file.toString("utf8", 8, 8 + Number(file.readBigUInt64LE(0)))) as Record<
      string,
      { dtype: string }
    >;
    expect(header["__metadata__"]).toEqual({ format: "pt" });
    expect(header["conv_in.weight"]).toMatchObject({ dtype: "F16", shape: [8, 4, 3, 3] });
    expect(files("sd1").filter((name) => name.endsWith(".part"))).toEqual([]);
  });

  test("what was changed is saved: a scheduler, a component left out, a processor", async () => {
    const feature_extractor = new CLIPImageProcessor({ crop_size: { height: 30, width: 30 } });
    const pipeline = await StableDiffusionPipeline.from_pretrained(source("sd1-tiny"), { ...on, feature_extractor });
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config);
    await pipeline.save_pretrained(join(folder, "changed"));
    const again = await StableDiffusionPipeline.from_pretrained(join(folder, "changed"), on);
    expect(again.scheduler).toBeInstanceOf(EulerDiscreteScheduler);
    expect(again.feature_extractor!.config.crop_size).toMatchObject({ height: 30, width: 30 });
    expect(again.safety_checker).toBeNull();
    expect(files("changed").some((name) => name.startsWith("safety_checker"))).toBe(false);
    const prompt = "a fox";
    expect(await picture(again as unknown as AnyPipeline, { prompt })).toEqual(
      await picture(pipeline as unknown as AnyPipeline, { prompt }),
    );
    await again.dispose();
    await pipeline.dispose();
  });

  test("a safety checker", async () => {
    const from = checkerSource(Object.keys(safetyCheckerFixture.models)[0]!);
    const checker = await StableDiffusionSafetyChecker.from_pretrained(from, on);
    await checker.save_pretrained(join(folder, "checker"));
    const again = await StableDiffusionSafetyChecker.from_pretrained(join(folder, "checker"), on);
    expect(again.config.vision_config).toEqual(checker.config.vision_config);
    const { num_channels, image_size } = checker.config.vision_config;
    const input = new Generator().manual_seed(1).randn([1, num_channels, image_size, image_size]);
    const flags = await Promise.all([checker, again].map((one) => one(input, input)));
    expect(flags[0]).toEqual(flags[1]);
    await checker.dispose();
    await again.dispose();
  });

  test("a model in several files becomes one, a checkpoint in one file a folder", async () => {
    const sharded = await UNet2DModel.from_pretrained(fixturePath("loading/sharded"), on);
    await sharded.save_pretrained(join(folder, "sharded"));
    expect(files("sharded")).toEqual(["config.json", "diffusion_pytorch_model.safetensors"]);
    await (await UNet2DModel.from_pretrained(join(folder, "sharded"), on)).dispose();
    await sharded.dispose();
    const file = fixturePath("models/single_file/sd2.safetensors");
    const config = fixturePath("models/single_file/sd2");
    const pipeline = await StableDiffusionPipeline.from_single_file(file, { ...on, config });
    await pipeline.save_pretrained(join(folder, "single"));
    const again = await StableDiffusionPipeline.from_pretrained(join(folder, "single"), on);
    const options = { prompt: "a cat on a red house" };
    expect(await picture(again as unknown as AnyPipeline, options)).toEqual(
      await picture(pipeline as unknown as AnyPipeline, options),
    );
    await again.dispose();
    await pipeline.dispose();
  });

  test("a variant is in the files' names", async () => {
    const pipeline = await DiffusionPipeline.from_pretrained(source("ddpm-tiny"), on);
    await pipeline.save_pretrained(join(folder, "variant"), { variant: "fp16" });
    expect(files("variant")).toContain("unet/diffusion_pytorch_model.fp16.safetensors");
    const again = await DiffusionPipeline.from_pretrained(join(folder, "variant"), { ...on, variant: "fp16" });
    expect(await picture(again, {})).toEqual(await picture(pipeline, {}));
    await again.dispose();
    // Over the files that it reads from.
    const over = await DiffusionPipeline.from_pretrained(join(folder, "variant"), { ...on, variant: "fp16" });
    await over.save_pretrained(join(folder, "variant"), { variant: "fp16" });
    expect(await picture(over, {})).toEqual(await picture(pipeline, {}));
    await over.dispose();
    await pipeline.dispose();
  });

  test("into the folder of a page", async () => {
    const pipeline = await DiffusionPipeline.from_pretrained(source("sd1-tiny"), on);
    const directory = new MemoryDirectory();
    await pipeline.save_pretrained(directory as unknown as FileSystemDirectoryHandle);
    const written = files("sd1").filter((name) => /\.[a-z]+$/.test(name));
    expect([...directory.files.keys()].sort()).toEqual(written);
    for (const name of written)
      expect(directory.files.get(name)!.equals(readFileSync(join(folder, "sd1", name)))).toBe(true);
    await pipeline.dispose();
  });

  test("into a zip", async () => {
    const pipeline = await DiffusionPipeline.from_pretrained(source("sd1-tiny"), on);
    const zip = new ZipDirectory();
    await pipeline.save_pretrained(zip);
    const unpacked = unzip(Buffer.from(await (await zip.toBlob()).arrayBuffer()));
    const written = files("sd1").filter((name) => /\.[a-z]+$/.test(name));
    expect([...unpacked.keys()].sort()).toEqual(written);
    for (const name of written) expect(unpacked.get(name)!.equals(readFileSync(join(folder, "sd1", name)))).toBe(true);
    await pipeline.dispose();
  });

  test("what cannot be saved is refused before anything is written", async () => {
    const pipeline = await StableDiffusionPipeline.from_pretrained(source("sd1-tiny"), on);
    await expect(pipeline.save_pretrained(join(folder, "no"), { shards: 3 } as object)).rejects.toThrow(/`shards`/);
    writeFileSync(join(folder, "file"), "");
    await expect(pipeline.save_pretrained(join(folder, "file"))).rejects.toBeInstanceOf(ValueError);
    const tokenizer = new CLIPTokenizer({ vocab: { "<|startoftext|>": 0, "<|endoftext|>": 1 }, merges: [] });
    await expect(tokenizer.save_pretrained(join(folder, "no"))).rejects.toBeInstanceOf(UnsupportedModelError);
    const parts = { ...pipeline.components, vae: { dispose: () => undefined, config: { block_out_channels: [1, 2] } } };
    const other = new StableDiffusionPipeline(parts as never);
    await expect(other.save_pretrained(join(folder, "no"))).rejects.toThrow(/The vae, a Object, cannot be saved/);
    expect(readdirSync(folder)).not.toContain("no");
    await pipeline.dispose();
    await expect(pipeline.save_pretrained(join(folder, "no"))).rejects.toThrow();
  });
});
