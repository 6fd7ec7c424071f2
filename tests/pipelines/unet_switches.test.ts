/** `enable_attention_slicing` and `enable_freeu`; that the UNet computes what Diffusers does is in tests/models. */
import {
  Generator,
  StableDiffusionPipeline,
  type Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { compare, expectClose } from "../support/allclose.ts";
import { fixturePath } from "../support/fixtures.ts";

let pipeline: StableDiffusionPipeline;
beforeAll(async () => {
  pipeline = await StableDiffusionPipeline.from_pretrained(fixturePath("pipelines/sd1-tiny"), {
    device: "wasm",
    requires_safety_checker: false,
  });
});
afterAll(() => pipeline.dispose());

async function latents(): Promise<Float32Array> {
  const { images } = await pipeline("a cat", {
    ...{ num_inference_steps: 2, output_type: "latent" },
    generator: new Generator().manual_seed(3),
  });
  return (images as unknown as Tensor).data;
}

test("FreeU changes the picture until it is switched off", async () => {
  const before = await latents();
  pipeline.enable_freeu(0.9, 0.2, 1.5, 1.6);
  expect(compare(await latents(), before).error).toBeGreaterThan(0.01);
  pipeline.disable_freeu();
  expect(await latents()).toEqual(before);
});

test("attention slices give the same picture", async () => {
  const before = await latents();
  pipeline.enable_attention_slicing();
  expectClose(await latents(), before, 1e-5, "auto");
  pipeline.enable_attention_slicing("max");
  expectClose(await latents(), before, 1e-5, "max");
  const set = vi.spyOn(pipeline.unet, "set_attention_slice");
  pipeline.disable_attention_slicing();
  expect(set).toHaveBeenCalledWith(null);
  expect(() => pipeline.enable_attention_slicing(1000)).toThrow(ValueError);
});

test("the UNet's batch in parts gives the same picture", async () => {
  const before = await latents();
  const runs = vi.fn(async () => undefined);
  pipeline.unet.before_run = runs;
  pipeline.enable_unet_slicing(1);
  expectClose(await latents(), before, 1e-5);
  // PNDM makes three predictions of two steps, each with the text and without it
  expect(runs).toHaveBeenCalledTimes(6);
  pipeline.disable_unet_slicing();
  expect(await latents()).toEqual(before);
  expect(runs).toHaveBeenCalledTimes(9);
  pipeline.unet.before_run = undefined;
  expect(() => pipeline.enable_unet_slicing(0)).toThrow(ValueError);
});

test("a UNet without them is refused by name", () => {
  const { unet } = pipeline;
  class FixedUnet {}
  Object.defineProperty(pipeline, "unet", { value: new FixedUnet(), configurable: true, writable: true });
  try {
    expect(() => pipeline.enable_freeu(1, 1, 1, 1)).toThrow(UnsupportedModelError);
    expect(() => pipeline.enable_attention_slicing()).toThrow(
      /FixedUnet, whose graph is fixed: it has no set_attention/,
    );
  } finally {
    Object.defineProperty(pipeline, "unet", { value: unet, configurable: true, writable: true });
  }
});
