/** Against Diffusers' VaeImageProcessor: tests/fixtures/pipelines/make_image_processor.py. */
import { RawImage, Tensor, ValueError } from "@diffusers-web/core";
import { describe, expect, test } from "vitest";
import { VaeImageProcessor } from "../../packages/pipelines/src/image_processor.ts";
import { expectClose } from "../support/allclose.ts";
import { type FixtureTensor, fixtureTensors } from "../support/fixtures.ts";

const expected = fixtureTensors("pipelines/image_processor.safetensors");
const tensorOf = ({ data, dims }: FixtureTensor): Tensor => new Tensor("float32", data as Float32Array, dims);
const imageOf = ({ data, dims }: FixtureTensor): RawImage =>
  new RawImage(data as Uint8Array, dims[1]!, dims[0]!, dims[2] as 3);
const processor = new VaeImageProcessor({ vae_scale_factor: 8 });
const picture = imageOf(expected["picture"]!);
const mask = imageOf(expected["mask"]!);

/** Pillow's arithmetic is whole numbers, so pixels agree to the bit; what follows is at most two float32 roundings. */
const tolerance = 2e-7;

describe("preprocess", () => {
  const maskProcessor = new VaeImageProcessor({
    vae_scale_factor: 4,
    do_normalize: false,
    do_binarize: true,
    do_convert_grayscale: true,
    resample: "nearest",
  });
  const tensor = tensorOf(expected["tensor"]!);
  test.each<[string, () => Promise<Tensor>]>([
    ["own_size", () => processor.preprocess(picture)],
    ["given_size", () => processor.preprocess(picture, { height: 43, width: 20 })],
    ["several", () => processor.preprocess([picture, mask], { height: 16, width: 16 })],
    ["of_tensor", () => processor.preprocess(tensor)],
    ["of_tensor_up", () => processor.preprocess(tensor, { height: 24, width: 16 })],
    ["binary", () => maskProcessor.preprocess(mask)],
  ])("%s", async (name, run) => {
    const actual = await run();
    expect(actual.dims).toEqual(expected[name]!.dims);
    expectClose(actual.data, expected[name]!.data as Float32Array, tolerance, name);
  });

  test("latents are left alone", async () => {
    const latents = Tensor.full([1, 4, 5, 7], -3);
    expect(await processor.preprocess(latents)).toEqual(latents);
  });

  test("both RGB and gray", () => {
    expect(() => new VaeImageProcessor({ do_convert_rgb: true, do_convert_grayscale: true })).toThrow(ValueError);
  });
});

describe("postprocess", () => {
  const decoded = tensorOf(expected["decoded"]!);

  test("tensors", () => {
    const whole = processor.postprocess(decoded, "tensor") as Tensor;
    expectClose(whole.data, expected["decoded_pt"]!.data as Float32Array, tolerance);
    const partly = processor.postprocess(decoded, "pt", [true, false]) as Tensor;
    expectClose(partly.data, expected["decoded_partly"]!.data as Float32Array, tolerance);
    expect(processor.postprocess(decoded, "latent")).toBe(decoded);
  });

  test.each([
    ["decoded_pil", decoded],
    ["decoded_gray", decoded.slice(null, [0, 1])],
  ])("%s to the bit, half to even", (name, tensor) => {
    const images = processor.postprocess(tensor) as RawImage[];
    expect(images.flatMap((image) => [...image.data])).toEqual([...(expected[name]!.data as Uint8Array)]);
  });
});
