/** ControlNet pipelines: what is refused, how they are made, loaded and saved, and which nets run in a step. */
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  AutoPipelineForImage2Image,
  AutoPipelineForInpainting,
  AutoPipelineForText2Image,
  ControlNetModel,
  DDIMScheduler,
  DiffusionPipeline,
  Generator,
  ModelNotFoundError,
  MultiControlNetModel,
  openSource,
  RawImage,
  type Source,
  StableDiffusionControlNetImg2ImgPipeline,
  StableDiffusionControlNetInpaintPipeline,
  StableDiffusionControlNetPipeline,
  StableDiffusionPipeline,
  StableDiffusionXLControlNetImg2ImgPipeline,
  StableDiffusionXLControlNetInpaintPipeline,
  StableDiffusionXLControlNetPipeline,
  T2IAdapter,
  Tensor,
  UnsupportedModelError,
  ValueError,
  ZipDirectory,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { fixturePath, fixtureText } from "../support/fixtures.ts";

const on = { device: "wasm" } as const;
const sd = fixturePath("pipelines/sd1-tiny");
const xl = fixturePath("pipelines/sdxl-tiny");
const net = (name: string, config: object = {}): Promise<ControlNetModel> =>
  ControlNetModel.from_pretrained(fixturePath(`pipelines/controlnet-tiny/${name}`), { ...on, ...config });
const seeded = (): Generator => new Generator().manual_seed(0);
const shown = (pipeline: DiffusionPipeline): string => `${pipeline}`.replace(sd, "PATH");
const { printed } = JSON.parse(fixtureText("pipelines/controlnet.json")) as { printed: Record<string, string> };
const photo = new RawImage(
  Uint8Array.from({ length: 16 * 16 * 3 }, (_, i) => (i * 7) % 256),
  16,
  16,
  3,
);
const mask = new RawImage(
  Uint8Array.from({ length: 16 * 16 }, (_, i) => (i < 128 ? 0 : 255)),
  16,
  16,
  1,
);

interface Called {
  (options: object): Promise<{ images: Tensor }>;
  controlnet: ControlNetModel | MultiControlNetModel;
}

let one: ControlNetModel;
let two: ControlNetModel[];
let text: StableDiffusionControlNetPipeline;
const made: Record<string, Called> = {};
beforeAll(async () => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
  one = await net("sd");
  two = [one, await net("sd", { controlnet_conditioning_channel_order: "bgr" })];
  text = await StableDiffusionControlNetPipeline.from_pretrained(sd, { ...on, controlnet: one });
  const controlnet = await net("xl");
  const xlText = await StableDiffusionXLControlNetPipeline.from_pretrained(xl, { ...on, controlnet });
  const many = { controlnet: two };
  Object.assign(made, {
    text,
    multi: await StableDiffusionControlNetPipeline.from_pipe(text, many),
    img2img: await StableDiffusionControlNetImg2ImgPipeline.from_pipe(text),
    "multi img2img": await StableDiffusionControlNetImg2ImgPipeline.from_pipe(text, many),
    inpaint: await StableDiffusionControlNetInpaintPipeline.from_pipe(text),
    xl: xlText,
    "xl img2img": await StableDiffusionXLControlNetImg2ImgPipeline.from_pipe(xlText),
    "xl inpaint": await StableDiffusionXLControlNetInpaintPipeline.from_pipe(xlText),
  });
});
afterAll(async () => {
  for (const pipeline of Object.values(made)) await (pipeline as unknown as DiffusionPipeline).dispose();
});

/** What a call of each pipeline takes at least. */
const least: Record<string, object> = {
  text: { image: photo },
  multi: { image: [photo, photo] },
  img2img: { image: photo, control_image: photo },
  "multi img2img": { image: photo, control_image: [photo, photo] },
  inpaint: { image: photo, mask_image: mask, control_image: photo },
  xl: { image: photo },
  "xl img2img": { image: photo, control_image: photo },
  "xl inpaint": { image: photo, mask_image: mask, control_image: photo },
};
const latentsOf = async (name: string, options: object = {}): Promise<number[]> => {
  const call = { prompt: "a cat", num_inference_steps: 3, generator: seeded(), output_type: "latent" };
  return [...(await made[name]!({ ...call, ...least[name], ...options })).images.data];
};

describe("what is refused", () => {
  const tensor = (...dims: number[]): Tensor => Tensor.zeros(dims);
  const wide = new RawImage(new Uint8Array(20 * 16 * 3), 20, 16, 3);
  const tiny = new RawImage(new Uint8Array(27), 3, 3, 3);
  const wrong: [string, string, object, new (...args: never[]) => Error, RegExp][] = [
    ["text", "no picture", { image: undefined }, ValueError, /`image` is nothing/],
    ["text", "an empty list", { image: [] }, ValueError, /`image` is \[\]/],
    ["text", "a picture that is a number", { image: 3 }, TypeError, /picture is read from/],
    ["text", "a tensor of two channels", { image: tensor(1, 2, 16, 16) }, ValueError, /\[1, 2, 16, 16\].*\[batch, 3,/],
    ["text", "latents for a picture", { image: tensor(1, 4, 4, 4) }, ValueError, /\[1, 4, 4, 4\].*\[batch, 3,/],
    ["text", "a tensor of two dimensions", { image: tensor(16, 16) }, ValueError, /float32 \[16, 16\]/],
    ["text", "tensors and pictures", { image: [photo, tensor(3, 16, 16)] }, ValueError, /tensors and pictures/],
    ["text", "a picture smaller than a latent", { image: tiny }, ValueError, /3 x 3.*at least 4 x 4/],
    ["text", "pictures for another batch", { image: [photo, photo] }, ValueError, /2 pictures for 1 prompts: pass one/],
    [
      "text",
      "three pictures, two prompts",
      { image: [photo, photo, photo], prompt: ["a", "b"] },
      ValueError,
      /one, or 2/,
    ],
    [
      "text",
      "a tensor for another batch",
      { image: tensor(3, 3, 16, 16), prompt: ["a", "b"] },
      ValueError,
      /3 pictures/,
    ],
    ["text", "a list of lists", { image: [[photo], [photo]], prompt: ["a", "b"] }, TypeError, /picture is read from/],
    ["text", "two scales", { controlnet_conditioning_scale: [1, 1] }, ValueError, /2 numbers for one ControlNet/],
    ["text", "a scale that is text", { controlnet_conditioning_scale: "1" }, ValueError, /scale` is string/],
    ["text", "a scale that is NaN", { controlnet_conditioning_scale: Number.NaN }, ValueError, /scale` is NaN/],
    ["text", "two starts", { control_guidance_start: [0, 0] }, ValueError, /control_guidance_start` has 2 numbers/],
    ["text", "a start below 0", { control_guidance_start: -0.1 }, ValueError, /start` is -0.1/],
    ["text", "an end above 1", { control_guidance_end: 1.1 }, ValueError, /end` is 1.1/],
    [
      "text",
      "a start after the end",
      { control_guidance_start: 0.6, control_guidance_end: 0.5 },
      ValueError,
      /0.6.*below.*0.5/,
    ],
    ["text", "a start at the end", { control_guidance_start: 0.5, control_guidance_end: 0.5 }, ValueError, /below/],
    ["text", "a guess mode that is a number", { guess_mode: 1 }, ValueError, /`guess_mode` is 1/],
    ["text", "a height of 0", { height: 0 }, ValueError, /`height` is 0/],
    ["text", "a width that is text", { width: "16" }, ValueError, /`width` is string/],
    ["text", "latents of another size", { latents: tensor(1, 4, 8, 8) }, ValueError, /`latents`.*\[1, 4, 4, 4\]/],
    ["text", "a picture to start from", { control_image: photo }, TypeError, /`control_image`/],
    ["text", "guidance rescale", { guidance_rescale: 0.5 }, TypeError, /`guidance_rescale`/],
    ["text", "a misspelt option", { guidance_mode: true }, TypeError, /`guidance_mode`/],
    ["text", "no prompt", { prompt: null }, ValueError, /Neither `prompt` nor `prompt_embeds`/],
    ["text", "too many generators", { generator: [seeded(), seeded()] }, ValueError, /list of 2/],
    [
      "text",
      "a callback's unknown tensor",
      { callback_on_step_end_tensor_inputs: ["mask"] },
      ValueError,
      /"mask".*image/,
    ],
    ["text", "an IP-Adapter's picture", { ip_adapter_image: photo }, ValueError, /ip_adapter_image/],
    ["multi", "no list", { image: photo }, ValueError, /no list, but there are 2 ControlNets/],
    ["multi", "no picture", { image: null }, ValueError, /nothing, but there are 2 ControlNets/],
    ["multi", "a list of one", { image: [photo] }, ValueError, /a list of 1, but there are 2/],
    [
      "multi",
      "lists of other lengths",
      { image: [[photo, photo], [photo]], prompt: ["a", "b"] },
      ValueError,
      /of 2 for each/,
    ],
    [
      "multi",
      "lists for another batch",
      {
        image: [
          [photo, photo],
          [photo, photo],
        ],
      },
      ValueError,
      /2 pictures for 1/,
    ],
    ["multi", "three scales", { controlnet_conditioning_scale: [1, 1, 1] }, ValueError, /3 numbers for 2 ControlNets/],
    ["multi", "one end", { control_guidance_end: [0.5] }, ValueError, /1 numbers for 2 ControlNets/],
    ["multi", "pictures of two sizes", { image: [photo, wide] }, ValueError, /20 x 16 where 16 x 16/],
    ["img2img", "no picture to start from", { image: undefined }, ValueError, /`image` is nothing/],
    ["img2img", "nothing to follow", { control_image: undefined }, ValueError, /`control_image` is nothing/],
    ["img2img", "pictures of two sizes", { control_image: wide }, ValueError, /20 x 16 where 16 x 16.*`height`/],
    ["img2img", "latents of another size", { image: tensor(1, 4, 8, 8) }, ValueError, /16 x 16 where 32 x 32/],
    ["img2img", "a strength of 1.5", { strength: 1.5 }, ValueError, /`strength` is 1.5/],
    ["img2img", "no step left", { strength: 0.1, num_inference_steps: 0.5 }, ValueError, /num_inference_steps/],
    ["img2img", "timesteps", { timesteps: [900, 1] }, TypeError, /`timesteps`/],
    ["img2img", "sigmas", { sigmas: [3, 1] }, TypeError, /`sigmas`/],
    ["multi img2img", "lists for prompts", { control_image: [[photo, photo]] }, ValueError, /a list of lists/],
    ["inpaint", "no mask", { mask_image: undefined }, ValueError, /`mask_image` is nothing/],
    ["inpaint", "nothing to follow", { control_image: null }, ValueError, /`control_image` is nothing/],
    ["inpaint", "a mask of another size", { mask_image: wide }, ValueError, /`mask_image`.*20 x 16 where 16 x 16/],
    ["inpaint", "latents for a picture", { image: tensor(1, 4, 4, 4) }, ValueError, /`image` is latents/],
    ["inpaint", "a height of no multiple", { height: 17 }, ValueError, /divisible by 4/],
    [
      "inpaint",
      "a tensor to follow, cropped",
      { padding_mask_crop: 1, control_image: tensor(1, 3, 16, 16) },
      ValueError,
      /resize_mode/,
    ],
    ["inpaint", "a crop of a tensor", { padding_mask_crop: 1, image: tensor(1, 3, 16, 16) }, ValueError, /one picture/],
    ["inpaint", "masked latents", { masked_image_latents: tensor(1, 4, 4, 4) }, TypeError, /`masked_image_latents`/],
    ["xl", "no picture", { image: undefined }, ValueError, /`image` is nothing/],
    ["xl", "guidance rescale", { guidance_rescale: 0.5 }, TypeError, /`guidance_rescale`/],
    ["xl", "embeddings alone", { prompt: null, prompt_embeds: tensor(1, 8, 16) }, ValueError, /prompt_embeds/],
    ["xl img2img", "an end of the denoising", { denoising_end: 0.5 }, TypeError, /`denoising_end`/],
    ["xl img2img", "pictures of two sizes", { control_image: wide }, ValueError, /20 x 16 where 16 x 16/],
    ["xl inpaint", "a negative size", { negative_original_size: [8, 8] }, TypeError, /`negative_original_size`/],
    [
      "xl inpaint",
      "a start after the end",
      { denoising_start: 0.6, denoising_end: 0.5 },
      ValueError,
      /below `denoising_end`/,
    ],
  ];
  test.each(wrong)("%s: %s", async (name, _, options, error, message) => {
    const call = made[name]!({ prompt: "a", num_inference_steps: 2, ...least[name], ...options });
    await expect(call).rejects.toThrow(message);
    await expect(call).rejects.toBeInstanceOf(error);
  });

  test("a net of another kind, and a net for another model", async () => {
    const adapter = Object.create(T2IAdapter.prototype) as T2IAdapter;
    const parts = { ...text.components, controlnet: adapter };
    expect(() => new StableDiffusionControlNetPipeline(parts as never)).toThrow(UnsupportedModelError);
    expect(() => new StableDiffusionControlNetPipeline(parts as never)).toThrow(/got T2IAdapter/);
    const other = await StableDiffusionControlNetPipeline.from_pipe(text, { controlnet: made["xl"]!.controlnet });
    await expect(other("a cat", { image: photo })).rejects.toThrow(ValueError);
    other.controlnet = two as never;
    await expect(other("a cat", { image: photo })).rejects.toThrow(/but there are 2 ControlNets/);
    expect(other.controlnet).toBeInstanceOf(MultiControlNetModel);
    const none = new StableDiffusionControlNetPipeline({ ...text.components, controlnet: null } as never);
    await expect(none("a cat", { image: photo })).rejects.toThrow(/without its controlnet/);
  });
});

describe("how it is made", () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "controlnet-"));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test("of other pipelines and back, and prints as in Python", async () => {
    const plain = await StableDiffusionPipeline.from_pretrained(sd, on);
    const there = await StableDiffusionControlNetPipeline.from_pipe(plain, { controlnet: one });
    expect(there.unet).toBe(plain.unet);
    expect(shown(there)).toBe(printed["from sd"]);
    const back = await StableDiffusionPipeline.from_pipe(text);
    expect(shown(back)).toBe(printed["back to sd"]);
    const again = await StableDiffusionControlNetImg2ImgPipeline.from_pipe(back, { controlnet: one });
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
    const plain = await StableDiffusionPipeline.from_pipe(text);
    for (const [auto, cls, xlClass] of autos) {
      const loaded = await auto.from_pretrained(sd, { ...on, controlnet: two });
      expect(loaded).toBeInstanceOf(cls);
      expect(loaded.controlnet).toBeInstanceOf(MultiControlNetModel);
      await loaded.unet.dispose();
      expect(await auto.from_pipe(plain, { controlnet: one })).toBeInstanceOf(cls);
      expect(await auto.from_pipe(text)).toBeInstanceOf(cls);
      const without = await auto.from_pipe(text, { controlnet: null });
      expect(without.constructor.name).toBe(cls.name.replace("ControlNet", ""));
      expect(await auto.from_pipe(made["xl"] as unknown as DiffusionPipeline)).toBeInstanceOf(xlClass);
    }
  });

  test("a checkpoint without a net needs one, one with a net may be given another", async () => {
    const none = StableDiffusionControlNetPipeline.from_pretrained(sd, on);
    await expect(none).rejects.toThrow(/needs.*controlnet.*Pass \{ controlnet \}/);
    // Python warns, and makes a pipeline without it.
    await expect(DiffusionPipeline.from_pretrained(sd, { ...on, controlnet: one })).rejects.toThrow(/`controlnet`/);
    const path = join(folder, "one");
    await text.save_pretrained(path);
    const again = await DiffusionPipeline.from_pretrained(path, on);
    expect(again).toBeInstanceOf(StableDiffusionControlNetPipeline);
    const call = { ...least["text"], num_inference_steps: 3, output_type: "latent" } as const;
    const { images } = await again("a cat", { ...call, generator: seeded() });
    expect([...images.data]).toEqual(await latentsOf("text"));
    const opened: string[] = [];
    const other = await DiffusionPipeline.from_pretrained(watched(await openSource(path), opened), {
      ...on,
      controlnet: two[1]!,
    });
    expect(other.controlnet).toBe(two[1]);
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
    const [expected, source] = [await latentsOf("multi"), await openSource(path)];
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
    await new MultiControlNetModel(two).save_pretrained(`${path}/`, { variant: "fp16" });
    const again = await MultiControlNetModel.from_pretrained(path, { ...on, variant: "fp16" });
    expect(again.nets).toHaveLength(2);
    await again.dispose();
  });

  test("of one file, with a net beside it", async () => {
    const from = fixturePath("models/single_file/sd1.safetensors");
    const config = fixturePath("models/single_file/sd1");
    const pipeline = await StableDiffusionControlNetPipeline.from_single_file(from, { ...on, config, controlnet: one });
    expect(pipeline.controlnet).toBe(one);
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

describe("which nets run", () => {
  const runs = async (name: string, options: object): Promise<number> => {
    const { controlnet } = made[name]!;
    const nets = "nets" in controlnet ? controlnet.nets : [controlnet];
    const spies = nets.map((one) => vi.spyOn(one, "forward"));
    try {
      await latentsOf(name, { num_inference_steps: 4, ...options });
      return spies.reduce((sum, { mock }) => sum + mock.calls.length, 0);
    } finally {
      for (const spy of spies) spy.mockRestore();
    }
  };

  test("none in steps in which none counts, once their zeros are known", async () => {
    // PNDM makes five steps of four.
    expect(await runs("text", {})).toBe(5);
    expect(await runs("text", { control_guidance_end: 0.5 })).toBe(2);
    expect(await runs("text", { control_guidance_start: 0.5 })).toBe(1 + 2);
    expect(await runs("text", { controlnet_conditioning_scale: 0 })).toBe(1);
    expect(await runs("multi", { control_guidance_end: [0.5, 1] })).toBe(10);
  });

  test("offloaded, they work beside the UNet, and leave at the end", async () => {
    const expected = await latentsOf("multi");
    const pipeline = made["multi"] as unknown as StableDiffusionControlNetPipeline;
    await pipeline.enable_model_cpu_offload();
    const spies = two.map((one) => vi.spyOn(one, "offload"));
    expect(await latentsOf("multi")).toEqual(expected);
    expect(spies.map(({ mock }) => mock.calls.length)).toEqual([1, 1]);
    for (const spy of spies) spy.mockRestore();
    pipeline.remove_all_hooks();
  });

  test("what is replaced in a callback may change the size", async () => {
    const callback_on_step_end = (_: unknown, i: number): object =>
      i === 0 ? { latents: Tensor.full([1, 4, 6, 6], 0.5), image: Tensor.full([2, 3, 24, 24], 0.5) } : {};
    const names = ["latents", "image"];
    const options = { callback_on_step_end, callback_on_step_end_tensor_inputs: names, control_guidance_end: 0.3 };
    const scheduler = text.scheduler;
    text.scheduler = DDIMScheduler.from_config(scheduler.config);
    expect(await latentsOf("text", options)).toHaveLength(144);
    text.scheduler = scheduler;
    const bad = { callback_on_step_end: () => ({ image: [photo] }), callback_on_step_end_tensor_inputs: ["image"] };
    await expect(latentsOf("text", bad)).rejects.toThrow(/`image` that is no float32 tensor/);
    const short = { ...bad, callback_on_step_end: () => ({ image: [Tensor.zeros([2, 3, 16, 16])] }) };
    await expect(latentsOf("multi", short)).rejects.toThrow(/`image` that is no list of 2 tensors/);
  });
});
