/** ControlNet pipelines: what is refused, and which nets run in a step. */
import {
  DDIMScheduler,
  MultiControlNetModel,
  RawImage,
  StableDiffusionControlNetPipeline,
  T2IAdapter,
  Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { ControlNetPipelines, least, photo, seeded } from "../support/controlnet.ts";

const pipelines = new ControlNetPipelines();
const { made } = pipelines;
beforeAll(async () => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
  await pipelines.load();
});
afterAll(() => pipelines.dispose());

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
    const parts = { ...pipelines.text.components, controlnet: adapter };
    expect(() => new StableDiffusionControlNetPipeline(parts as never)).toThrow(UnsupportedModelError);
    expect(() => new StableDiffusionControlNetPipeline(parts as never)).toThrow(/got T2IAdapter/);
    const other = await StableDiffusionControlNetPipeline.from_pipe(pipelines.text, {
      controlnet: made["xl"]!.controlnet,
    });
    await expect(other("a cat", { image: photo })).rejects.toThrow(ValueError);
    other.controlnet = pipelines.two as never;
    await expect(other("a cat", { image: photo })).rejects.toThrow(/but there are 2 ControlNets/);
    expect(other.controlnet).toBeInstanceOf(MultiControlNetModel);
    const none = new StableDiffusionControlNetPipeline({ ...pipelines.text.components, controlnet: null } as never);
    await expect(none("a cat", { image: photo })).rejects.toThrow(/without its controlnet/);
  });
});

describe("which nets run", () => {
  const runs = async (name: string, options: object): Promise<number> => {
    const { controlnet } = made[name]!;
    const nets = "nets" in controlnet ? controlnet.nets : [controlnet];
    const spies = nets.map((each) => vi.spyOn(each, "forward"));
    try {
      await pipelines.latentsOf(name, { num_inference_steps: 4, ...options });
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
    const expected = await pipelines.latentsOf("multi");
    const pipeline = made["multi"] as unknown as StableDiffusionControlNetPipeline;
    await pipeline.enable_model_cpu_offload();
    const spies = pipelines.two.map((each) => vi.spyOn(each, "offload"));
    expect(await pipelines.latentsOf("multi")).toEqual(expected);
    expect(spies.map(({ mock }) => mock.calls.length)).toEqual([1, 1]);
    for (const spy of spies) spy.mockRestore();
    pipeline.remove_all_hooks();
  });

  test("what is replaced in a callback may change the size", async () => {
    const callback_on_step_end = (_: unknown, i: number): object =>
      i === 0 ? { latents: Tensor.full([1, 4, 6, 6], 0.5), image: Tensor.full([2, 3, 24, 24], 0.5) } : {};
    const names = ["latents", "image"];
    const options = { callback_on_step_end, callback_on_step_end_tensor_inputs: names, control_guidance_end: 0.3 };
    const scheduler = pipelines.text.scheduler;
    pipelines.text.scheduler = DDIMScheduler.from_config(scheduler.config);
    expect(await pipelines.latentsOf("text", options)).toHaveLength(144);
    pipelines.text.scheduler = scheduler;
    const bad = { callback_on_step_end: () => ({ image: [photo] }), callback_on_step_end_tensor_inputs: ["image"] };
    await expect(pipelines.latentsOf("text", bad)).rejects.toThrow(/`image` that is no float32 tensor/);
    const short = { ...bad, callback_on_step_end: () => ({ image: [Tensor.zeros([2, 3, 16, 16])] }) };
    await expect(pipelines.latentsOf("multi", short)).rejects.toThrow(/`image` that is no list of 2 tensors/);
  });
});
