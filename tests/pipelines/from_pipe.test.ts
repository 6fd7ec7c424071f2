/**
 * Pipelines made of other pipelines' components, and those that AutoPipelines choose. What Python prints of them:
 * tests/fixtures/pipelines/make_unconditional.py.
 */
import {
  type AnyPipeline,
  AutoPipelineForImage2Image,
  AutoPipelineForInpainting,
  AutoPipelineForText2Image,
  CLIPTextModel,
  DDIMPipeline,
  DDIMScheduler,
  DDPMPipeline,
  DiffusionPipeline,
  Generator,
  openSource,
  type Source,
  StableDiffusionImg2ImgPipeline,
  StableDiffusionInpaintPipeline,
  StableDiffusionPipeline,
  UNet2DModel,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { fixturePath, fixtureText } from "../support/fixtures.ts";

const root = fixturePath("pipelines");
const folderOf = (name: string) => `${root}/${name}`;
const { from_pipe: printed } = JSON.parse(fixtureText("pipelines/unconditional.json")) as {
  from_pipe: Record<string, string>;
};
const shown = (pipeline: DiffusionPipeline) => `${pipeline}`.replace(root, "PATH");
const on = { device: "wasm" } as const;

let sd: StableDiffusionPipeline;
let ddpm: DDPMPipeline;
const warn = vi.spyOn(console, "warn").mockImplementation(() => undefined);
beforeAll(async () => {
  sd = await StableDiffusionPipeline.from_pretrained(folderOf("sd1-tiny"), on);
  ddpm = await DDPMPipeline.from_pretrained(folderOf("ddpm-tiny"), on);
});
afterAll(async () => {
  await sd.dispose();
  await ddpm.dispose();
});

describe("from_pipe", () => {
  test("shares components, and prints as in Python", async () => {
    const img2img = await StableDiffusionImg2ImgPipeline.from_pipe(sd);
    expect(img2img).toBeInstanceOf(StableDiffusionImg2ImgPipeline);
    expect(img2img.components).toEqual(sd.components);
    expect(img2img.unet).toBe(sd.unet);
    expect(img2img.scheduler).toBe(sd.scheduler);
    expect(shown(img2img)).toBe(printed["sd to img2img"]);
    expect(shown(await StableDiffusionPipeline.from_pipe(img2img))).toBe(printed["img2img to sd"]);
  });

  test("what is passed takes a component's or a field's place", async () => {
    const scheduler = new DDIMScheduler();
    warn.mockClear();
    const inpaint = await StableDiffusionInpaintPipeline.from_pipe(sd, { scheduler, requires_safety_checker: true });
    expect(warn.mock.calls.flat().join()).toContain("safety checker");
    expect(inpaint.unet).toBe(sd.unet);
    expect(sd.scheduler).not.toBe(inpaint.scheduler);
    expect(shown(inpaint)).toBe(printed["sd to inpaint, other scheduler"]);
    expect(shown(await StableDiffusionPipeline.from_pipe(sd, { vae: null }))).toBe(printed["no vae"]);
  });

  test("a class may make a scheduler of its own", async () => {
    const ddim = await DDIMPipeline.from_pipe(ddpm);
    expect(ddim.scheduler).toBeInstanceOf(DDIMScheduler);
    expect(ddim.unet).toBe(ddpm.unet);
    expect(shown(ddim)).toBe(printed["ddpm to ddim"]);
  });

  test("what the class does not know stays hidden, and comes back", async () => {
    const { unet, vae, text_encoder, tokenizer } = sd;
    const there = await DDPMPipeline.from_pipe(sd, { unet: ddpm.unet });
    expect(shown(there)).toBe(printed["sd to ddpm"]);
    const parts = { unet, vae, text_encoder, tokenizer, safety_checker: null, feature_extractor: null };
    const back = await StableDiffusionPipeline.from_pipe(there, parts);
    expect(shown(back)).toBe(printed["sd to ddpm to sd"]);
  });

  test("a model of another class is not taken over, and is missing then", async () => {
    warn.mockClear();
    const run = DDPMPipeline.from_pipe(sd);
    await expect(run).rejects.toThrow(/DDPMPipeline needs unet, scheduler, but only scheduler are in/);
    await expect(run).rejects.toMatchObject({ details: { field: "unet" } });
    expect(warn.mock.calls.flat().join()).toMatch(/unet is not taken over.*UNet2DConditionModel.*UNet2DModel/);
    await expect(StableDiffusionPipeline.from_pipe(ddpm)).rejects.toThrow(/vae, text_encoder, tokenizer/);
  });

  test("what is wrong is named", async () => {
    await expect(StableDiffusionPipeline.from_pipe(sd, { foo: 3 } as object)).rejects.toThrow(TypeError);
    await expect(StableDiffusionPipeline.from_pipe(sd, { foo: 3 } as object)).rejects.toThrow(/`foo`/);
    await expect(StableDiffusionPipeline.from_pipe(sd.unet as never)).rejects.toThrow(/another pipeline/);
    await expect(DDPMPipeline.from_pipe(ddpm, { unet: ddpm.scheduler as never })).rejects.toThrow(ValueError);
    const base = DiffusionPipeline as unknown as { from_pipe(pipeline: DiffusionPipeline): Promise<unknown> };
    await expect(base.from_pipe(sd)).rejects.toThrow(/call from_pipe on the class to make/);
  });

  test("calls of both run one after the other: they share the scheduler", async () => {
    const options = { num_inference_steps: 3, output_type: "tensor" } as const;
    const generator = () => new Generator().manual_seed(7);
    const other = await StableDiffusionPipeline.from_pipe(sd);
    const alone = await sd("a cat", { ...options, generator: generator() });
    const both = await Promise.all([sd, other].map((one) => one("a cat", { ...options, generator: generator() })));
    for (const { images } of both) expect([...images.data]).toEqual([...alone.images.data]);
  });

  test("a number type is set for both", async () => {
    const pipeline = await DDPMPipeline.from_pretrained(folderOf("ddpm-tiny"), on);
    const ddim = await DDIMPipeline.from_pipe(pipeline, { dtype: "fp32" });
    expect(ddim.dtype).toBe("float32");
    await ddim.dispose();
    await expect(pipeline({ num_inference_steps: 1 })).rejects.toThrow();
  });
});

describe("AutoPipelines", () => {
  const autos = {
    text2image: [AutoPipelineForText2Image, StableDiffusionPipeline],
    image2image: [AutoPipelineForImage2Image, StableDiffusionImg2ImgPipeline],
    inpainting: [AutoPipelineForInpainting, StableDiffusionInpaintPipeline],
  } as const;

  test.each(Object.entries(autos))("%s: loaded, and made of any other", async (task, [auto, cls]) => {
    const loaded = await auto.from_pretrained(folderOf("sd1-tiny"), on);
    expect(loaded).toBeInstanceOf(cls);
    expect(shown(loaded)).toBe(printed[`auto ${task}, loaded`]);
    for (const [other] of Object.values(autos)) {
      const made: AnyPipeline = await other.from_pipe(loaded);
      expect(made.unet).toBe(loaded.unet);
      expect(shown(await auto.from_pipe(made))).toBe(printed[`auto ${task}`]);
    }
    await loaded.dispose();
  });

  test("each file is read once, and components may be passed", async () => {
    const opened: string[] = [];
    const folder = await openSource(folderOf("sd1-tiny"));
    const source: Source = {
      name: folder.name,
      open: (path, options) => {
        opened.push(path);
        return folder.open(path, options);
      },
    };
    const text_encoder = await CLIPTextModel.from_pretrained(folderOf("sd1-tiny"), {
      ...on,
      subfolder: "text_encoder",
    });
    const pipeline = await AutoPipelineForImage2Image.from_pretrained(source, { ...on, text_encoder });
    expect(pipeline.text_encoder).toBe(text_encoder);
    expect(opened.filter((path) => path === "model_index.json")).toHaveLength(1);
    expect(opened.some((path) => path.startsWith("text_encoder/"))).toBe(false);
    await pipeline.dispose();
  });

  test("ControlNet and PAG change the family, there and back", async () => {
    const { registry } = DiffusionPipeline;
    const withoutPag = Object.entries(registry).filter(([name]) => !name.includes("PAG"));
    DiffusionPipeline.registry = Object.fromEntries(withoutPag);
    const pag = AutoPipelineForText2Image.from_pipe(sd, { enable_pag: true });
    await expect(pag).rejects.toThrow(/StableDiffusionPAGPipeline, which does text-to-image here, is not built/);
    await expect(pag).rejects.toBeInstanceOf(UnsupportedModelError);
    const loaded = AutoPipelineForInpainting.from_pretrained(folderOf("sd1-tiny"), { ...on, enable_pag: true });
    await expect(loaded).rejects.toThrow(/StableDiffusionPAGInpaintPipeline/);
    DiffusionPipeline.registry = registry;
    for (const auto of [AutoPipelineForText2Image, AutoPipelineForImage2Image, AutoPipelineForInpainting]) {
      const made = await auto.from_pipe(sd, { controlnet: null, enable_pag: false } as object);
      expect(made.unet).toBe(sd.unet);
    }
  });

  test("a checkpoint of no family is refused, naming class and task", async () => {
    const run = AutoPipelineForImage2Image.from_pretrained(folderOf("ddpm-tiny"), on);
    await expect(run).rejects.toThrow(/no pipeline for image-to-image that belongs to DDPMPipeline/);
    await expect(run).rejects.toBeInstanceOf(ValueError);
    await expect(AutoPipelineForInpainting.from_pipe(ddpm)).rejects.toThrow(/inpainting.*DDPMPipeline/);
    const lcm = {
      name: "lcm",
      open: async (path: string) => {
        const bytes = new TextEncoder().encode('{"_class_name": "LatentConsistencyModelPipeline"}');
        if (path !== "model_index.json") return undefined;
        return { path, size: bytes.length, readSync: (a: number, b: number) => bytes.subarray(a, b), close: () => {} };
      },
    };
    await expect(AutoPipelineForInpainting.from_pretrained(lcm)).rejects.toThrow(
      /inpainting that belongs to LatentConsistencyModelPipeline \(lcm\)/,
    );
  });

  test("one is not made itself", () => {
    for (const auto of [AutoPipelineForText2Image, AutoPipelineForImage2Image, AutoPipelineForInpainting]) {
      expect(() => new (auto as unknown as new () => object)()).toThrow(/from_pretrained or from_pipe/);
    }
  });

  test("what is no pipeline, and an unknown option", async () => {
    const unet = await UNet2DModel.from_pretrained(folderOf("ddpm-tiny"), on);
    await expect(AutoPipelineForText2Image.from_pipe(unet as never)).rejects.toThrow(TypeError);
    await expect(AutoPipelineForText2Image.from_pipe(sd, { foo: 1 } as object)).rejects.toThrow(/`foo`/);
    await expect(
      AutoPipelineForText2Image.from_pretrained(folderOf("sd1-tiny"), { enable_pog: true } as object),
    ).rejects.toThrow(TypeError);
    await unet.dispose();
  });
});
