/** What is wrong with a call of StableDiffusionInpaintPipeline is named before anything runs. */
import {
  Generator,
  RawImage,
  StableDiffusionInpaintPipeline,
  Tensor,
  UNet2DConditionModel,
  type UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type FixtureTensor, fixturePath, fixtureTensors } from "../support/fixtures.ts";

const expected = fixtureTensors("pipelines/inpaint.safetensors");
const imageOf = ({ data, dims: [height, width, channels = 1] }: FixtureTensor): RawImage =>
  new RawImage(data as Uint8Array, width!, height!, channels as 1 | 3 | 4);
const pictureNamed = (name: string): RawImage => imageOf(expected[`picture/${name}`]!);
const seeded = (seed: number) => new Generator().manual_seed(seed);
const path = fixturePath("pipelines/sd1-tiny");
const device = "wasm";

let pipeline: StableDiffusionInpaintPipeline;
beforeAll(async () => {
  pipeline = await StableDiffusionInpaintPipeline.from_pretrained(path, { device });
});
afterAll(() => pipeline.dispose());

describe("what is wrong with a call is named", () => {
  const image = pictureNamed("photo");
  const mask_image = pictureNamed("mask");
  const wrong: [string, object, typeof ValueError | typeof TypeError | typeof UnsupportedModelError, RegExp][] = [
    ["no picture", { image: null }, ValueError, /`image` is nothing/],
    ["no mask", { mask_image: undefined }, ValueError, /`mask_image` is nothing/],
    ["an empty list of pictures", { image: [] }, ValueError, /`image` is \[\]/],
    ["an empty list of masks", { mask_image: [] }, ValueError, /`mask_image` is \[\]/],
    ["what is no picture", { image: 3 }, TypeError, /picture/],
    ["what is no mask", { mask_image: {} }, TypeError, /picture/],
    ["a picture with alpha", { image: pictureNamed("clear") }, ValueError, /alpha.*convert\(3\)/],
    ["a gray picture", { image: pictureNamed("gray") }, ValueError, /gray/],
    ["a tensor and a picture", { image: [image, Tensor.zeros([3, 8, 8])] }, ValueError, /one kind/],
    ["a mask and a tensor", { mask_image: [mask_image, Tensor.zeros([8, 8])] }, ValueError, /`mask_image`.*one kind/],
    [
      "a tensor of two channels",
      { image: Tensor.zeros([1, 2, 8, 8]) },
      ValueError,
      /`image` is float32 \[1, 2, 8, 8\]/,
    ],
    ["a mask of three channels", { mask_image: Tensor.zeros([1, 3, 8, 8]) }, ValueError, /`mask_image` is float32/],
    ["a mask of four channels", { mask_image: Tensor.zeros([1, 4, 8, 8]) }, ValueError, /`mask_image` is float32/],
    ["a mask of one dimension", { mask_image: Tensor.zeros([8]) }, ValueError, /`mask_image`/],
    ["strength below 0", { strength: -0.1 }, ValueError, /`strength` is -0.1/],
    ["strength 1.5", { strength: 1.5 }, ValueError, /`strength` is 1.5/],
    ["a strength that is no number", { strength: "1" }, ValueError, /`strength`/],
    ["strength 0", { strength: 0 }, ValueError, /`strength` 0 leaves none/],
    ["a strength of less than a step", { strength: 0.2, num_inference_steps: 4 }, ValueError, /`strength` 0.2/],
    ["no steps", { num_inference_steps: 0 }, ValueError, /`num_inference_steps` is 0/],
    ["a height that 4 does not divide", { height: 30 }, ValueError, /divisible by 4.*`height` is 30/],
    ["a width that 4 does not divide", { width: 31 }, ValueError, /divisible by 4.*`width` is 31/],
    ["no prompt", { prompt: null }, ValueError, /`prompt`/],
    ["an empty list of prompts", { prompt: [] }, ValueError, /`prompt` is \[\]/],
    ["an unknown option", { mask: mask_image }, TypeError, /`mask`.*Did you mean/],
    ["an option of other pipelines", { guidance_rescale: 0.7 }, TypeError, /`guidance_rescale`/],
    ["attention options", { cross_attention_kwargs: { scales: 1 } }, TypeError, /cross_attention_kwargs/],
    ["too many pictures", { image: [image, image] }, ValueError, /`image` has 2 pictures.*batch of 1/],
    ["too many masks", { mask_image: [mask_image, mask_image] }, ValueError, /`mask_image` has 2/],
    [
      "pictures that do not divide the batch",
      { image: [image, image], num_images_per_prompt: 3 },
      ValueError,
      /`image` has 2 pictures.*batch of 3/,
    ],
    [
      "masks of another number",
      { image: [image, image, image], mask_image: [mask_image, mask_image], num_images_per_prompt: 6 },
      ValueError,
      /2 masks for 3 pictures/,
    ],
    ["latents without masked ones", { image: Tensor.zeros([1, 4, 8, 8]) }, ValueError, /`masked_image_latents`/],
    [
      "latents of another size",
      { image: Tensor.zeros([1, 4, 4, 4]), masked_image_latents: Tensor.zeros([1, 4, 8, 8]) },
      ValueError,
      /`image` is float32 \[1, 4, 4, 4\]/,
    ],
    [
      "masked latents of another size",
      { masked_image_latents: Tensor.zeros([1, 4, 8, 4]) },
      ValueError,
      /`masked_image_latents`/,
    ],
    ["masked latents of three dimensions", { masked_image_latents: Tensor.zeros([4, 8, 8]) }, ValueError, /masked_im/],
    ["noise of another size", { latents: Tensor.zeros([1, 4, 8, 9]) }, ValueError, /`latents`/],
    ["too many generators", { generator: [seeded(1), seeded(2)] }, ValueError, /`generator`/],
    ["an unknown tensor", { callback_on_step_end_tensor_inputs: ["noise"] }, ValueError, /mask, masked_image_latents/],
    ["half a pixel around", { padding_mask_crop: 0.5 }, ValueError, /`padding_mask_crop` is 0.5/],
    ["a crop of several", { padding_mask_crop: 4, image: [image] }, ValueError, /`image` is a list.*one picture/],
    ["a crop of a tensor", { padding_mask_crop: 4, mask_image: Tensor.zeros([32, 32]) }, ValueError, /is a tensor/],
    ["a crop of nothing", { padding_mask_crop: 4, mask_image: null }, ValueError, /`mask_image` is nothing/],
    ["a crop as a tensor", { padding_mask_crop: 4, output_type: "tensor" }, ValueError, /`output_type` is "tensor"/],
    ["a mask of another size", { padding_mask_crop: 4, image: pictureNamed("odd") }, ValueError, /24 x 24.*33 x 28/],
    [
      "a black mask",
      { padding_mask_crop: 4, mask_image: new RawImage(new Uint8Array(576), 24, 24, 1) },
      ValueError,
      /mask is black/,
    ],
  ];
  test.each(wrong)("%s", async (_, options, cls, message) => {
    const run = pipeline({ prompt: "a cat", image, mask_image, num_inference_steps: 2, ...options });
    await expect(run).rejects.toThrow(message);
    await expect(run).rejects.toBeInstanceOf(cls);
  });

  test("a UNet of other channels", async () => {
    const { components } = pipeline;
    const unet = new UNet2DConditionModel({ ...pipeline.unet.config, in_channels: 8 });
    const parts = { ...components, unet, requires_safety_checker: false };
    const other = new StableDiffusionInpaintPipeline(parts as never);
    await expect(other("a cat", { image, mask_image })).rejects.toThrow(/8 channels.*4.*9/);
  });

  test("without its VAE, latents cannot be made either", async () => {
    const other = await StableDiffusionInpaintPipeline.from_pretrained(path, { device, vae: null });
    await expect(other("a cat", { image, mask_image, output_type: "latent" })).rejects.toThrow(/vae/);
    await other.dispose();
  });
});
