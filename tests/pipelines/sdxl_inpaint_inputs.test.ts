/** What is wrong with a call of StableDiffusionXLInpaintPipeline is named before anything runs; and its checkpoints in one file. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import {
  RawImage,
  StableDiffusionXLInpaintPipeline,
  StableDiffusionXLPipeline,
  Tensor,
  UNet2DConditionModel,
  type UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { seeded } from "../support/calls.ts";
import { fixturePath, fixtureTensors } from "../support/fixtures.ts";
import { pictureNamed } from "../support/named_pictures.ts";
import { memoryFile } from "../support/safetensors.ts";
import { withInputs } from "../support/wide_checkpoint.ts";

const xl = fixturePath("pipelines/sdxl-tiny");
const device = "wasm";
const image = pictureNamed("photo");
const mask_image = pictureNamed("mask");

let pipeline: StableDiffusionXLInpaintPipeline;
/** With a UNet that sees the mask. */
let nine: StableDiffusionXLInpaintPipeline;
beforeAll(async () => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
  pipeline = await StableDiffusionXLInpaintPipeline.from_pretrained(xl, { device });
  const path = fixturePath("pipelines/sdxl-inpaint-tiny/unet");
  nine = await StableDiffusionXLInpaintPipeline.from_pipe(pipeline, {
    unet: await UNet2DConditionModel.from_pretrained(path, { device }),
  });
});
afterAll(async () => {
  await pipeline.dispose();
  await nine.dispose();
});

type ErrorClass = typeof ValueError | typeof TypeError | typeof UnsupportedModelError;
const wrong: [string, object, ErrorClass, RegExp][] = [
  ["no picture", { image: null }, ValueError, /`image` is nothing/],
  ["no mask", { mask_image: undefined }, ValueError, /`mask_image` is nothing/],
  ["an empty list of masks", { mask_image: [] }, ValueError, /`mask_image` is \[\]/],
  ["a picture with alpha", { image: pictureNamed("clear") }, ValueError, /alpha.*convert\(3\)/],
  ["a mask of three channels", { mask_image: Tensor.zeros([1, 3, 8, 8]) }, ValueError, /`mask_image` is float32/],
  ["strength 1.5", { strength: 1.5 }, ValueError, /`strength` is 1.5/],
  ["strength 0", { strength: 0 }, ValueError, /`strength` 0 leaves none/],
  ["no steps", { num_inference_steps: 0 }, ValueError, /`num_inference_steps` is 0/],
  ["a height that 8 does not divide", { height: 20 }, ValueError, /divisible by 8.*`height` is 20/],
  ["no prompt", { prompt: null }, ValueError, /`prompt`/],
  ["an empty list of prompts", { prompt: [] }, ValueError, /`prompt` is \[\]/],
  ["an option of other pipelines", { control_image: image }, TypeError, /`control_image`/],
  ["too many pictures", { image: [image, image] }, ValueError, /`image` has 2 pictures.*batch of 1/],
  ["latents of another size", { image: Tensor.zeros([1, 4, 4, 4]) }, ValueError, /`image` is float32 \[1, 4, 4, 4\]/],
  [
    "masked latents of another size",
    { masked_image_latents: Tensor.zeros([1, 4, 8, 4]) },
    ValueError,
    /`masked_image_latents`/,
  ],
  ["noise of another size", { latents: Tensor.zeros([1, 4, 8, 9]) }, ValueError, /`latents`/],
  ["too many generators", { generator: [seeded(1), seeded(2)] }, ValueError, /`generator`/],
  ["an unknown tensor", { callback_on_step_end_tensor_inputs: ["noise"] }, ValueError, /mask, masked_image_latents/],
  ["a crop of several", { padding_mask_crop: 4, image: [image] }, ValueError, /`image` is a list.*one picture/],
  ["a crop as a tensor", { padding_mask_crop: 4, output_type: "tensor" }, ValueError, /`output_type` is "tensor"/],
  ["a mask of another size", { padding_mask_crop: 4, image: pictureNamed("odd") }, ValueError, /24 x 24.*33 x 28/],
  [
    "a black mask",
    { padding_mask_crop: 4, mask_image: new RawImage(new Uint8Array(576), 24, 24, 1) },
    ValueError,
    /mask is black/,
  ],
  ["a start above 1", { denoising_start: 1.5 }, ValueError, /`denoising_start` is 1.5/],
  ["a start after the end", { denoising_start: 0.7, denoising_end: 0.3 }, ValueError, /below `denoising_end`/],
  ["a start after the last step", { denoising_start: 0.9999 }, ValueError, /`denoising_start` 0.9999 leaves no/],
  ["a score that is no number", { aesthetic_score: "6" }, ValueError, /`aesthetic_score`/],
  ["embeddings without pooled ones", { prompt: null, prompt_embeds: Tensor.zeros([1, 20, 8]) }, ValueError, /pooled/],
];
test.each(wrong)("%s", async (_, options, cls, message) => {
  const call = { prompt: "a cat", image, mask_image, height: 16, width: 16, num_inference_steps: 2 };
  const run = pipeline({ ...call, ...options });
  await expect(run).rejects.toThrow(message);
  await expect(run).rejects.toBeInstanceOf(cls);
});

test("a UNet that sees the mask cannot take the masked part out of latents", async () => {
  const run = nine("a cat", { image: Tensor.zeros([1, 4, 8, 8]), mask_image, height: 16, width: 16 });
  await expect(run).rejects.toThrow(/`masked_image_latents`/);
});

test("a UNet of other channels", async () => {
  const unet = new UNet2DConditionModel({ ...pipeline.unet.config, in_channels: 8 });
  const other = await StableDiffusionXLInpaintPipeline.from_pipe(pipeline, { unet });
  await expect(other("a cat", { image, mask_image })).rejects.toThrow(/8 channels.*4.*9/);
});

test("a UNet that is told no scores", async () => {
  const other = await StableDiffusionXLInpaintPipeline.from_pipe(pipeline, { requires_aesthetics_score: true });
  await expect(other("a cat", { image, mask_image })).rejects.toThrow(/requires_aesthetics_score: false/);
});

test("noise beside `denoising_start` is not used, which is said", async () => {
  vi.mocked(console.warn).mockClear();
  const latents = Tensor.zeros([1, 4, 8, 8]);
  const call = { image, mask_image, height: 16, width: 16, num_inference_steps: 2, denoising_start: 0.5 };
  await pipeline("a cat", { ...call, latents, output_type: "latent" });
  expect(vi.mocked(console.warn).mock.calls.flat().join()).toMatch(/`latents` are not used/);
});

describe("a checkpoint in one file", () => {
  const bytes = new Uint8Array(gunzipSync(readFileSync(`${xl}.safetensors.gz`)));
  const call = { num_inference_steps: 4, output_type: "latent", height: 8, width: 8 } as const;
  const from = (data: Uint8Array) => ({
    source: { name: "memory", open: async () => memoryFile(data, "xl.safetensors") },
    file: "xl.safetensors",
  });

  test("of a UNet that sees the mask", async () => {
    const folder = mkdtempSync(join(tmpdir(), "inpaint-"));
    try {
      cpSync(xl, folder, { recursive: true });
      const path = join(folder, "unet/config.json");
      writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), in_channels: 9 }));
      const options = { config: folder, device } as const;
      const wide = from(withInputs(9, bytes));
      await expect(StableDiffusionXLPipeline.from_single_file(wide, options)).rejects.toThrow(/kind xl_inpaint/);
      await using made = await StableDiffusionXLInpaintPipeline.from_single_file(wide, options);
      // Mask and picture do not count: what the text-to-image pipeline makes, with this one's guidance turned down to its.
      const run = { ...call, image, mask_image, strength: 1, guidance_scale: 5, generator: seeded(0) };
      const { images } = await made("a photo of a red fox!", run);
      const latents = fixtureTensors("pipelines/sdxl.safetensors")["single file/latent"]!;
      expectClose(images.data, latents.data as Float32Array, 1e-4);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test("of a base model", async () => {
    await using made = await StableDiffusionXLInpaintPipeline.from_single_file(from(bytes), { config: xl, device });
    expect(made.unet.config.in_channels).toBe(4);
    const run = { ...call, image, mask_image, generator: seeded(0) };
    const { images } = await made("a cat", run);
    const { images: same } = await pipeline("a cat", { ...run, generator: seeded(0) });
    expectClose(images.data, same.data, 1e-5);
  });
});
