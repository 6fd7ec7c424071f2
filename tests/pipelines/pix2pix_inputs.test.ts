/** What is wrong with a call of an InstructPix2Pix pipeline is named before anything runs. */
import {
  DiffusionPipeline,
  StableDiffusionInstructPix2PixPipeline,
  StableDiffusionXLInstructPix2PixPipeline,
  Tensor,
  UNet2DConditionModel,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { seeded } from "../support/calls.ts";
import { fixturePath } from "../support/fixtures.ts";
import { pictureNamed } from "../support/named_pictures.ts";

const device = "wasm";
const image = pictureNamed("photo");
let sd: StableDiffusionInstructPix2PixPipeline;
let xl: StableDiffusionXLInstructPix2PixPipeline;
beforeAll(async () => {
  const unet = (name: string) =>
    UNet2DConditionModel.from_pretrained(fixturePath(`pipelines/pix2pix-tiny/${name}`), { device });
  const path = (name: string) => fixturePath(`pipelines/${name}`);
  const parts = { device, unet: await unet("unet") } as const;
  sd = await StableDiffusionInstructPix2PixPipeline.from_pretrained(path("sd1-tiny"), parts);
  const parts_xl = { device, unet: await unet("unet-xl") } as const;
  xl = await StableDiffusionXLInstructPix2PixPipeline.from_pretrained(path("sdxl-tiny"), parts_xl);
});
afterAll(async () => {
  await sd.dispose();
  await xl.dispose();
});

type ErrorClass = typeof ValueError | typeof TypeError | typeof UnsupportedModelError;
type Wrong = [what: string, options: object, type: ErrorClass, message: RegExp];

const shared: Wrong[] = [
  ["no picture", { image: null }, ValueError, /`image` is nothing/],
  ["an empty list of pictures", { image: [] }, ValueError, /`image` is \[\]/],
  ["a picture with alpha", { image: pictureNamed("clear") }, ValueError, /alpha.*convert\(3\)/],
  ["too many pictures", { image: [image, image] }, ValueError, /`image` has 2 pictures.*batch of 1/],
  [
    "pictures that do not divide the batch",
    { image: [image, image], num_images_per_prompt: 3 },
    ValueError,
    /`image` has 2 pictures.*batch of 3/,
  ],
  ["no steps", { num_inference_steps: 0 }, ValueError, /`num_inference_steps` is 0/],
  ["no prompt", { prompt: null }, ValueError, /`prompt`/],
  ["an empty list of prompts", { prompt: [] }, ValueError, /`prompt` is \[\]/],
  ["a guidance below 0", { guidance_scale: -1 }, ValueError, /`guidance_scale` is -1/],
  ["a guidance that is no number", { image_guidance_scale: "2" }, ValueError, /`image_guidance_scale`/],
  ["noise of another size", { latents: Tensor.zeros([1, 4, 9, 9]) }, ValueError, /`latents`/],
  ["too many generators", { generator: [seeded(1), seeded(2)] }, ValueError, /`generator`/],
  ["an unknown tensor", { callback_on_step_end_tensor_inputs: ["noise"] }, ValueError, /image_latents/],
  ["a strength", { strength: 0.5 }, TypeError, /`strength`/],
  ["timesteps", { timesteps: [999, 500] }, TypeError, /`timesteps`/],
  ["layers to skip", { clip_skip: 1 }, TypeError, /`clip_skip`/],
  [
    "embeddings of another width",
    { prompt: null, prompt_embeds: Tensor.zeros([1, 20, 9]) },
    ValueError,
    /prompt_embeds/,
  ],
];
const wrong: [pipeline: "sd" | "xl", ...Wrong][] = [
  ...shared.flatMap((one): [pipeline: "sd" | "xl", ...Wrong][] => [
    ["sd", ...one],
    ["xl", ...one],
  ]),
  ["sd", "a size of its own", { height: 16 }, TypeError, /`height`/],
  ["xl", "a height of less than a latent", { height: 1 }, ValueError, /`height` is 1/],
  ["xl", "a width that is no whole number", { width: 16.5 }, ValueError, /`width` is 16.5/],
  ["xl", "latents of another size", { image: Tensor.zeros([1, 4, 4, 4]) }, ValueError, /`image` is float32/],
  ["xl", "a negative size", { negative_original_size: [8, 8] }, TypeError, /`negative_original_size`/],
  ["xl", "a picture for an IP-Adapter", { ip_adapter_image: image }, TypeError, /`ip_adapter_image`/],
  ["xl", "half a callback", { callback_steps: 0.5 }, ValueError, /`callback_steps` is 0.5/],
  ["xl", "an end above 1", { denoising_end: 1.5 }, ValueError, /`denoising_end` is 1.5/],
];
test.each(wrong)("%s: %s", async (pipeline, _, options, cls, message) => {
  const call = { prompt: "a cat", image, num_inference_steps: 2, ...options };
  const run = pipeline === "sd" ? sd(call) : xl({ height: 16, width: 16, ...call });
  await expect(run).rejects.toThrow(message);
  await expect(run).rejects.toBeInstanceOf(cls);
});

describe("parts", () => {
  test.each(["sd", "xl"])("%s: a UNet of other channels", async (which) => {
    const { components } = which === "sd" ? sd : xl;
    const unet = new UNet2DConditionModel({ ...(which === "sd" ? sd : xl).unet.config, in_channels: 4 });
    const parts = { ...components, unet, requires_safety_checker: false } as never;
    const other =
      which === "sd"
        ? new StableDiffusionInstructPix2PixPipeline(parts)
        : new StableDiffusionXLInstructPix2PixPipeline(parts);
    await expect((other as typeof sd)("a cat", { image })).rejects.toThrow(/takes 4 channels.*8/);
  });

  test.each(["sd", "xl"])("%s: without its VAE, latents cannot be made either", async (which) => {
    const other =
      which === "sd"
        ? await StableDiffusionInstructPix2PixPipeline.from_pipe(sd, { vae: null })
        : await StableDiffusionXLInstructPix2PixPipeline.from_pipe(xl, { vae: null });
    await expect((other as typeof sd)("a cat", { image, output_type: "latent" })).rejects.toThrow(/vae/);
  });

  test("XL takes no IP-Adapter", async () => {
    const run = xl.load_ip_adapter("h94/IP-Adapter", {
      subfolder: "sdxl_models",
      weight_name: "ip-adapter_sdxl.safetensors",
    });
    await expect(run).rejects.toBeInstanceOf(UnsupportedModelError);
  });

  test("the classes that a model_index.json may name", () => {
    const { registry } = DiffusionPipeline;
    expect(Object.keys(registry)).toEqual(
      expect.arrayContaining([
        StableDiffusionInstructPix2PixPipeline.name,
        StableDiffusionXLInstructPix2PixPipeline.name,
      ]),
    );
  });
});
