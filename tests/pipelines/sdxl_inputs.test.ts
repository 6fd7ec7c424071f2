/** What is wrong with a call of Stable Diffusion XL, or with its parts, is named before anything runs. */
import {
  DiffusionPipeline,
  Generator,
  RawImage,
  type StableDiffusionXLImg2ImgOptions,
  StableDiffusionXLImg2ImgPipeline,
  type StableDiffusionXLOptions,
  StableDiffusionXLPipeline,
  Tensor,
  UNet2DConditionModel,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { fixturePath } from "../support/fixtures.ts";

const xl = fixturePath("pipelines/sdxl-tiny");
let text: StableDiffusionXLPipeline;
let img2img: StableDiffusionXLImg2ImgPipeline;
beforeAll(async () => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
  text = await StableDiffusionXLPipeline.from_pretrained(xl, { device: "wasm" });
  img2img = new StableDiffusionXLImg2ImgPipeline(parts());
});
afterAll(() => text.dispose());

const parts = () => ({
  vae: text.vae,
  text_encoder: text.text_encoder,
  text_encoder_2: text.text_encoder_2,
  tokenizer: text.tokenizer,
  tokenizer_2: text.tokenizer_2,
  unet: text.unet,
  scheduler: text.scheduler,
});
const embeds = (batch = 1, width = 8): Tensor => Tensor.zeros([batch, 20, width]);
const pooled = (batch = 1): Tensor => Tensor.zeros([batch, 4]);
const picture = (channels: 1 | 3 | 4 = 3, size = 8): RawImage =>
  new RawImage(new Uint8Array(size * size * channels), size, size, channels);
type ErrorClass = typeof ValueError | typeof UnsupportedModelError | typeof TypeError;
type Wrong = [what: string, options: object, type: ErrorClass, message: RegExp];

/** With both pipelines. */
const shared: Wrong[] = [
  ["an unknown option", { promt_2: "a" }, TypeError, /`promt_2`.*Did you mean `prompt_2`/],
  ["a safety checker's option", { callback_steps: 1 }, TypeError, /`callback_steps`/],
  ["no prompt", { prompt: null }, ValueError, /`prompt` nor `prompt_embeds`/],
  ["no prompt but prompt_2", { prompt: null, prompt_2: "a" }, ValueError, /`prompt` nor `prompt_embeds`/],
  ["an empty list of prompts", { prompt: [] }, ValueError, /`prompt` is \[\]/],
  ["an empty list of second prompts", { prompt_2: [] }, ValueError, /`prompt_2` is \[\]/],
  ["a second prompt that is a number", { prompt_2: 3 }, ValueError, /`prompt_2` is number/],
  ["a second negative prompt that is a number", { negative_prompt_2: 3 }, ValueError, /`negative_prompt_2` is number/],
  [
    "prompt and embeddings",
    { prompt_embeds: embeds(), pooled_prompt_embeds: pooled() },
    ValueError,
    /`prompt` and `prompt_embeds`/,
  ],
  [
    "prompt_2 and embeddings",
    { prompt: null, prompt_2: "a", prompt_embeds: embeds(), pooled_prompt_embeds: pooled() },
    ValueError,
    /`prompt_2` and `prompt_embeds`/,
  ],
  [
    "negative_prompt_2 and embeddings",
    { negative_prompt_2: "a", negative_prompt_embeds: embeds(), negative_pooled_prompt_embeds: pooled() },
    ValueError,
    /`negative_prompt_2` and `negative_prompt_embeds`/,
  ],
  [
    "embeddings without pooled ones",
    { prompt: null, prompt_embeds: embeds() },
    ValueError,
    /`prompt_embeds` was given without `pooled_prompt_embeds`/,
  ],
  [
    "negative embeddings without pooled ones",
    { negative_prompt_embeds: embeds() },
    ValueError,
    /`negative_prompt_embeds` was given without `negative_pooled_prompt_embeds`/,
  ],
  [
    "pooled embeddings of another batch",
    { prompt: null, prompt_embeds: embeds(), pooled_prompt_embeds: pooled(2) },
    ValueError,
    /`pooled_prompt_embeds` is float32 \[2, 4\], expected .*\[1, any\]/,
  ],
  [
    "pooled embeddings that do not go with the prompts",
    { pooled_prompt_embeds: pooled(2) },
    ValueError,
    /`pooled_prompt_embeds` has batch size 2/,
  ],
  [
    "embeddings of another width",
    { prompt: null, prompt_embeds: embeds(1, 4), pooled_prompt_embeds: pooled() },
    ValueError,
    /`prompt_embeds` is float32 \[1, 20, 4\]/,
  ],
  ["batches that differ", { prompt: ["a", "b"], prompt_2: "c" }, ValueError, /`prompt_2` has batch size 1/],
  [
    "negative batches that differ",
    { prompt: ["a", "b"], negative_prompt: ["c"] },
    ValueError,
    /`negative_prompt` has batch size 1/,
  ],
  [
    "second negative batches that differ",
    { negative_prompt: "a", negative_prompt_2: ["b", "c"] },
    ValueError,
    /`negative_prompt_2` has batch size 2/,
  ],
  ["no steps", { num_inference_steps: 0 }, ValueError, /`num_inference_steps` is 0/],
  ["a negative guidance", { guidance_scale: -1 }, ValueError, /`guidance_scale` is -1/],
  ["a NaN guidance rescale", { guidance_rescale: Number.NaN }, ValueError, /guidance_rescale/],
  ["too many layers to skip", { clip_skip: 3 }, ValueError, /clip_skip is 3, but a text encoder has 3 layers/],
  ["a negative skip", { clip_skip: -1 }, ValueError, /`clip_skip` is -1/],
  ["an end above 1", { denoising_end: 1.5 }, ValueError, /`denoising_end` is 1.5/],
  ["an end below 0", { denoising_end: -0.1 }, ValueError, /`denoising_end` is -0.1/],
  ["an end that is no number", { denoising_end: "0.5" }, ValueError, /`denoising_end` is string/],
  ["a size of three numbers", { original_size: [1, 2, 3] }, ValueError, /`original_size` is \[1,2,3\]/],
  ["a size of one number", { target_size: 8 }, ValueError, /`target_size` is 8/],
  ["a NaN in a size", { negative_target_size: [8, Number.NaN] }, ValueError, /`negative_target_size`/],
  [
    "a tensor that a callback does not see",
    { callback_on_step_end_tensor_inputs: ["negative_prompt_embeds"] },
    ValueError,
    /has "negative_prompt_embeds", expected some of latents, prompt_embeds, add_text_embeds, add_time_ids/,
  ],
  ["a picture for an IP-Adapter", { ip_adapter_image: picture() }, ValueError, /load_ip_adapter/],
  ["attention's options", { cross_attention_kwargs: { scales: 0.5 } }, TypeError, /cross_attention_kwargs/],
  ["an unknown output", { output_type: "np" }, ValueError, /`output_type` is "np"/],
  ["timesteps and sigmas", { timesteps: [1], sigmas: [1] }, ValueError, /`timesteps` and `sigmas`/],
  [
    "a list of generators of another length",
    { generator: [new Generator(), new Generator()] },
    ValueError,
    /list of 2, but the batch is 1/,
  ],
  ["no tuple", { return_dict: false }, TypeError, /return_dict/],
];

const ofText: Wrong[] = [
  ["a height that 8 does not divide", { height: 12 }, ValueError, /divisible by 8.*`height` is 12/],
  ["a negative width", { width: -8 }, ValueError, /`width` is -8/],
  ["a picture", { image: picture() }, TypeError, /`image`/],
  ["a start", { denoising_start: 0.5 }, TypeError, /`denoising_start`/],
  [
    "latents of another batch",
    { latents: Tensor.zeros([2, 4, 4, 4]) },
    ValueError,
    /`latents` is float32 \[2, 4, 4, 4\]/,
  ],
];

const ofImg2img: Wrong[] = [
  ["no picture", { image: null }, ValueError, /`image` is nothing/],
  ["an empty list of pictures", { image: [] }, ValueError, /`image` is \[\]/],
  ["a picture with alpha", { image: picture(4) }, ValueError, /with alpha/],
  ["a gray picture", { image: picture(1) }, ValueError, /gray/],
  ["more pictures than prompts", { image: [picture(), picture()] }, ValueError, /`image` has 2 pictures/],
  ["a tensor of five channels", { image: Tensor.zeros([1, 5, 8, 8]) }, ValueError, /`image` is float32 \[1, 5, 8, 8\]/],
  ["a height", { height: 8 }, TypeError, /`height`/],
  ["strength 1.5", { strength: 1.5 }, ValueError, /`strength` is 1.5/],
  ["a negative strength", { strength: -0.5 }, ValueError, /`strength` is -0.5/],
  ["strength 0", { strength: 0 }, ValueError, /`strength` 0 leaves none of the 4 steps/],
  ["a start above 1", { denoising_start: 2 }, ValueError, /`denoising_start` is 2/],
  [
    "a start at the end",
    { denoising_start: 0.5, denoising_end: 0.5 },
    ValueError,
    /`denoising_start` is 0.5, but has to be below `denoising_end`, 0.5/,
  ],
  ["a NaN score", { aesthetic_score: Number.NaN }, ValueError, /`aesthetic_score` is NaN/],
  [
    "latents of another batch",
    { latents: Tensor.zeros([2, 4, 4, 4]) },
    ValueError,
    /`latents` is float32 \[2, 4, 4, 4\]/,
  ],
];

test.each([...shared, ...ofText])("text: %s", async (_, options, type, message) => {
  await expectError(
    () => text({ prompt: "a", num_inference_steps: 4, ...options } as StableDiffusionXLOptions),
    type,
    message,
  );
});

test.each([...shared, ...ofImg2img])("picture: %s", async (_, options, type, message) => {
  const call = { prompt: "a", image: picture(), num_inference_steps: 4 };
  await expectError(() => img2img({ ...call, ...options } as StableDiffusionXLImg2ImgOptions), type, message);
});

async function expectError(run: () => Promise<unknown>, type: ErrorClass, message: RegExp): Promise<void> {
  const error = await run().then(
    () => new Error("it did not fail"),
    (caught: unknown) => caught as Error,
  );
  expect(error, String(error)).toBeInstanceOf(type);
  expect(error.message).toMatch(message);
}

test("parts that are missing are named when they are needed", async () => {
  const call = { prompt: "a", num_inference_steps: 1, output_type: "latent" } as const;
  const given = { prompt_embeds: embeds(), pooled_prompt_embeds: pooled() };
  const none = { text_encoder: null, text_encoder_2: null, tokenizer: null, tokenizer_2: null };
  const wrong: [object, RegExp][] = [
    [{ text_encoder: null }, /without its text_encoder, .*pass `prompt_embeds`/],
    [{ tokenizer: null }, /without its tokenizer,/],
    [{ text_encoder_2: null }, /without its text_encoder_2,/],
    [{ tokenizer_2: null }, /without its tokenizer_2,/],
    [none, /without its text_encoder_2,/],
  ];
  for (const [change, message] of wrong) {
    const pipeline = new StableDiffusionXLPipeline({ ...parts(), ...change });
    await expectError(() => pipeline(call), ValueError, message);
  }
  // Zeros stand for the negative prompt.
  const pipeline = new StableDiffusionXLPipeline({ ...parts(), ...none, vae: null });
  const { images } = await pipeline({ ...call, ...given, prompt: null });
  expect(images.dims).toEqual([1, 4, 4, 4]);
  await expectError(
    () => pipeline({ ...call, ...given, prompt: null, negative_prompt: "a" }),
    ValueError,
    /negative_prompt/,
  );
  await expectError(() => pipeline({ prompt: null, ...given }), ValueError, /without its vae/);
});

test("parts that are refused", () => {
  expect(() => new StableDiffusionXLPipeline({ ...parts(), add_watermarker: true })).toThrow(UnsupportedModelError);
  new StableDiffusionXLPipeline({ ...parts(), add_watermarker: false });
});

test("a UNet that expects other numbers", async () => {
  const call = { num_inference_steps: 1, output_type: "latent" } as const;
  const device = { device: "wasm" } as const;
  const refiner = await UNet2DConditionModel.from_pretrained(fixturePath("pipelines/sdxl-refiner-tiny/unet"), device);
  const asBase = new StableDiffusionXLPipeline({ ...parts(), text_encoder: null, tokenizer: null, unet: refiner });
  const message =
    /expects an added embedding of length 24, but one of 28 would be made.*StableDiffusionXLImg2ImgPipeline/;
  await expectError(() => asBase("a", call), ValueError, message);
  const start = { ...call, image: picture(), strength: 1 };
  const asImg2img = new StableDiffusionXLImg2ImgPipeline({
    ...parts(),
    text_encoder: null,
    tokenizer: null,
    unet: refiner,
  });
  await expectError(() => asImg2img("a", start), ValueError, /requires_aesthetics_score: true/);
  asImg2img.register_to_config({ requires_aesthetics_score: true });
  expect((await asImg2img("a", start)).images.dims).toEqual([1, 4, 4, 4]);
  const scored = new StableDiffusionXLImg2ImgPipeline({ ...parts(), requires_aesthetics_score: true });
  await expectError(() => scored("a", start), ValueError, /requires_aesthetics_score: false/);
  const sd1 = await UNet2DConditionModel.from_pretrained(fixturePath("pipelines/sd1-tiny/unet"), device);
  const other = new StableDiffusionXLPipeline({ ...parts(), unet: sd1 });
  await expectError(() => other("a", call), UnsupportedModelError, /`addition_embed_type` null/);
  await refiner.dispose();
  await sd1.dispose();
});

test("a checkpoint names its class, and loads as the other as well", async () => {
  expect(await DiffusionPipeline.from_pretrained(xl, parts())).toBeInstanceOf(StableDiffusionXLPipeline);
  const other = await StableDiffusionXLImg2ImgPipeline.from_pretrained(xl, parts());
  expect(other.vae).toBe(text.vae);
  expect(other.config["requires_aesthetics_score"]).toBe(false);
});
