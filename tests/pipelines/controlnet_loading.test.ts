/** ControlNet pipelines: how they are made, loaded and saved. */
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  AutoPipelineForImage2Image,
  AutoPipelineForInpainting,
  AutoPipelineForText2Image,
  DiffusionPipeline,
  ModelNotFoundError,
  MultiControlNetModel,
  openSource,
  type Source,
  StableDiffusionControlNetImg2ImgPipeline,
  StableDiffusionControlNetInpaintPipeline,
  StableDiffusionControlNetPipeline,
  StableDiffusionPipeline,
  StableDiffusionXLControlNetImg2ImgPipeline,
  StableDiffusionXLControlNetInpaintPipeline,
  StableDiffusionXLControlNetPipeline,
  type Tensor,
  ZipDirectory,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { ControlNetPipelines, least, on, photo, sd, seeded, shown } from "../support/controlnet.ts";
import { fixturePath, fixtureText } from "../support/fixtures.ts";

const { printed } = JSON.parse(fixtureText("pipelines/controlnet.json")) as { printed: Record<string, string> };
const pipelines = new ControlNetPipelines();
const { made } = pipelines;
beforeAll(async () => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
  await pipelines.load();
});
afterAll(() => pipelines.dispose());

describe("how it is made", () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "controlnet-"));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test("of other pipelines and back, and prints as in Python", async () => {
    const plain = await StableDiffusionPipeline.from_pretrained(sd, on);
    const there = await StableDiffusionControlNetPipeline.from_pipe(plain, { controlnet: pipelines.one });
    expect(there.unet).toBe(plain.unet);
    expect(shown(there)).toBe(printed["from sd"]);
    const back = await StableDiffusionPipeline.from_pipe(pipelines.text);
    expect(shown(back)).toBe(printed["back to sd"]);
    const again = await StableDiffusionControlNetImg2ImgPipeline.from_pipe(back, { controlnet: pipelines.one });
    expect(shown(again)).toBe(printed["there again"]);
    await expect(StableDiffusionControlNetPipeline.from_pipe(plain)).rejects.toThrow(/needs.*controlnet/);
    for (const controlnet of [[], [photo], plain.scheduler]) {
      const run = StableDiffusionControlNetPipeline.from_pipe(plain, { controlnet } as object);
      await expect(run).rejects.toThrow(/The controlnet that was passed/);
    }
    await plain.unet.dispose();
  });

  test("by AutoPipelines, as in Python", async () => {
    const autos = [
      [AutoPipelineForText2Image, StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline],
      [
        AutoPipelineForImage2Image,
        StableDiffusionControlNetImg2ImgPipeline,
        StableDiffusionXLControlNetImg2ImgPipeline,
      ],
      [AutoPipelineForInpainting, StableDiffusionControlNetInpaintPipeline, StableDiffusionXLControlNetInpaintPipeline],
    ] as const;
    const plain = await StableDiffusionPipeline.from_pipe(pipelines.text);
    for (const [auto, cls, xlClass] of autos) {
      const loaded = await auto.from_pretrained(sd, { ...on, controlnet: pipelines.two });
      expect(loaded).toBeInstanceOf(cls);
      expect(loaded.controlnet).toBeInstanceOf(MultiControlNetModel);
      await loaded.unet.dispose();
      expect(await auto.from_pipe(plain, { controlnet: pipelines.one })).toBeInstanceOf(cls);
      expect(await auto.from_pipe(pipelines.text)).toBeInstanceOf(cls);
      const without = await auto.from_pipe(pipelines.text, { controlnet: null });
      expect(without.constructor.name).toBe(cls.name.replace("ControlNet", ""));
      expect(await auto.from_pipe(made["xl"] as unknown as DiffusionPipeline)).toBeInstanceOf(xlClass);
    }
  });

  test("a checkpoint without a net needs pipelines.one, pipelines.one with a net may be given another", async () => {
    const none = StableDiffusionControlNetPipeline.from_pretrained(sd, on);
    await expect(none).rejects.toThrow(/needs.*controlnet.*Pass \{ controlnet \}/);
    // Python warns, and makes a pipeline without it.
    await expect(DiffusionPipeline.from_pretrained(sd, { ...on, controlnet: pipelines.one })).rejects.toThrow(
      /`controlnet`/,
    );
    const path = join(folder, "one");
    await pipelines.text.save_pretrained(path);
    const again = await DiffusionPipeline.from_pretrained(path, on);
    expect(again).toBeInstanceOf(StableDiffusionControlNetPipeline);
    const call = { ...least["text"], num_inference_steps: 3, output_type: "latent" } as const;
    const { images } = await again("a cat", { ...call, generator: seeded() });
    expect([...images.data]).toEqual(await pipelines.latentsOf("text"));
    const opened: string[] = [];
    const other = await DiffusionPipeline.from_pretrained(watched(await openSource(path), opened), {
      ...on,
      controlnet: pipelines.two[1]!,
    });
    expect(other.controlnet).toBe(pipelines.two[1]);
    expect(opened.some((file) => file.startsWith("controlnet"))).toBe(false);
    await again.dispose();
    await other.unet.dispose();
  });

  /** A source that tells what is opened. */
  function watched(source: Source, opened: string[], lists = true): Source {
    return {
      name: source.name,
      ...(lists && { list: (options) => source.list!(options) }),
      open: (path, options) => {
        opened.push(path);
        return source.open(path, options);
      },
    };
  }

  test("several nets are saved as Python does, and loaded again: of what lists its files, and of what does not", async () => {
    const path = join(folder, "two");
    const saved = made["multi"] as unknown as StableDiffusionControlNetPipeline;
    await saved.save_pretrained(path);
    expect(readdirSync(path)).toEqual(expect.arrayContaining(["controlnet", "controlnet_1"]));
    expect(existsSync(join(path, "controlnet_2"))).toBe(false);
    const index = JSON.parse(readFileSync(join(path, "model_index.json"), "utf8")) as Record<string, unknown>;
    expect(index["controlnet"]).toEqual(["diffusers", "MultiControlNetModel"]);
    const [expected, source] = [await pipelines.latentsOf("multi"), await openSource(path)];
    for (const lists of [true, false]) {
      const opened: string[] = [];
      const again = await StableDiffusionControlNetPipeline.from_pretrained(watched(source, opened, lists), on);
      const { nets } = again.controlnet as MultiControlNetModel;
      expect(nets.map(({ config }) => config.controlnet_conditioning_channel_order)).toEqual(["rgb", "bgr"]);
      const options = { ...least["multi"], num_inference_steps: 3, output_type: "latent" } as object;
      const { images } = await again("a cat", { ...options, generator: seeded() });
      expect([...(images as unknown as Tensor).data]).toEqual(expected);
      const weights = opened.filter((file) => file.endsWith(".safetensors"));
      expect(weights.sort()).toEqual([...new Set(weights)]);
      expect(weights).toContain("controlnet_1/diffusion_pytorch_model.safetensors");
      // Where the files are known, nothing is asked for that is not there.
      expect(opened.includes("controlnet_2/config.json")).toBe(!lists);
      await again.dispose();
    }
    const zip = new ZipDirectory();
    await saved.save_pretrained(zip);
    const bytes = Buffer.from(await (await zip.toBlob()).arrayBuffer());
    expect(bytes.includes("controlnet_1/diffusion_pytorch_model.safetensors")).toBe(true);
  });

  test("a variant of several nets: where all have it", async () => {
    const path = join(folder, "two");
    const [weights, fp16] = ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"];
    const load = (): Promise<StableDiffusionControlNetPipeline> =>
      StableDiffusionControlNetPipeline.from_pretrained(path, { ...on, variant: "fp16" });
    cpSync(join(path, "controlnet", weights), join(path, "controlnet", fp16));
    await (await load()).dispose();
    renameSync(join(path, "controlnet_1", weights), join(path, "controlnet_1", fp16));
    await (await load()).dispose();
    rmSync(join(path, "controlnet_1", fp16));
    await expect(load()).rejects.toBeInstanceOf(ModelNotFoundError);
    await expect(load()).rejects.toThrow(/controlnet_1/);
  });

  test("nets are saved by themselves, beside each other", async () => {
    const path = join(folder, "nets");
    await new MultiControlNetModel(pipelines.two).save_pretrained(`${path}/`, { variant: "fp16" });
    const again = await MultiControlNetModel.from_pretrained(path, { ...on, variant: "fp16" });
    expect(again.nets).toHaveLength(2);
    await again.dispose();
  });

  test("of pipelines.one file, with a net beside it", async () => {
    const from = fixturePath("models/single_file/sd1.safetensors");
    const config = fixturePath("models/single_file/sd1");
    const pipeline = await StableDiffusionControlNetPipeline.from_single_file(from, {
      ...on,
      config,
      controlnet: pipelines.one,
    });
    expect(pipeline.controlnet).toBe(pipelines.one);
    await pipeline.unet.dispose();
    const none = StableDiffusionControlNetPipeline.from_single_file(from, { ...on, config });
    await expect(none).rejects.toThrow(/has no controlnet: pass \{ controlnet \}/);
  });

  test("a checkpoint that names a class which is not built is refused by name", async () => {
    const path = join(folder, "one");
    const file = join(path, "model_index.json");
    const index = readFileSync(file, "utf8");
    writeFileSync(file, index.replace('"ControlNetModel"', '"ControlNetUnionModel"'));
    await expect(DiffusionPipeline.from_pretrained(path, on)).rejects.toThrow(/ControlNetUnionModel.*not built/);
  });
});
