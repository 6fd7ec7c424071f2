/** Regions, overlays and blurred pictures, to the bit of what Diffusers makes: tests/fixtures/pipelines/make_inpaint.py. */
import { RawImage, Tensor, VaeImageProcessor, ValueError } from "@diffusers-web/pipelines";
import { describe, expect, test } from "vitest";
import { type FixtureTensor, fixtureTensors, fixtureText } from "../support/fixtures.ts";

type Region = [number, number, number, number];

const { regions } = JSON.parse(fixtureText("pipelines/inpaint.json")) as {
  regions: Record<string, [number, number, number, Region][]>;
};
const expected = fixtureTensors("pipelines/inpaint.safetensors");
const imageOf = ({ data, dims: [height, width, channels = 1] }: FixtureTensor): RawImage =>
  new RawImage(data as Uint8Array, width!, height!, channels as 1 | 3 | 4);
const pictureNamed = (name: string): RawImage => imageOf(expected[`picture/${name}`]!);

describe("VaeImageProcessor", () => {
  const processor = new VaeImageProcessor({ vae_scale_factor: 4 });

  test.each(Object.keys(regions))("get_crop_region: %s", (name) => {
    for (const [width, height, pad, region] of regions[name]!) {
      const found = processor.get_crop_region(pictureNamed(name), width, height, pad);
      expect(found, `${width} x ${height}, ${pad}`).toEqual(region);
    }
  });

  test.each(Object.keys(expected).filter((key) => key.startsWith("resize/")))("%s", async (key) => {
    const [, resize_mode, name, height, width] = /^resize\/(\w+) (\w+) (\d+) (\d+)$/.exec(key)!;
    const size = { height: Number(height), width: Number(width), resize_mode: resize_mode as "fill" };
    // With a factor of 1, pictures come in any size.
    const any = new VaeImageProcessor({ vae_scale_factor: 1, do_normalize: false });
    const resized = RawImage.fromTensor(await any.preprocess(pictureNamed(name!), size));
    expect([...resized.data]).toEqual([...expected[key]!.data]);
  });

  test.each<[string, Region | null]>([
    ["whole", null],
    ["part", [5, 3, 19, 24]],
    ["beyond", [-4, -6, 30, 31]],
  ])("apply_overlay: %s", (name, region) => {
    const [mask, image] = [imageOf(expected["overlay/mask"]!), imageOf(expected["overlay/image"]!)];
    const result = processor.apply_overlay(mask, pictureNamed("clear"), image, region);
    const { dims, data } = expected[`overlay/${name}`]!;
    expect([result.height, result.width, result.channels]).toEqual(dims);
    expect([...result.data]).toEqual([...data]);
  });

  test.each(Object.keys(expected).filter((key) => key.startsWith("blur/")))("%s", (key) => {
    const [, name, radius] = /^blur\/(.*) ([\d.]+)$/.exec(key)!;
    const blurred = processor.blur(pictureNamed(name!), Number(radius));
    expect([...blurred.data]).toEqual([...expected[key]!.data]);
    expect(() => processor.blur(blurred, -1)).toThrow(ValueError);
  });

  test("what cannot be", async () => {
    const black = new RawImage(new Uint8Array(64), 8, 8, 1);
    expect(() => processor.get_crop_region(black, 8, 8, 2)).toThrow(ValueError);
    expect(processor.get_crop_region(black, 8, 8, 8)).toEqual([0, 0, 8, 8]);
    expect(() => processor.apply_overlay(black, pictureNamed("photo"), pictureNamed("photo"))).toThrow(/8 x 8/);
    const tensor = Tensor.zeros([1, 3, 8, 8]);
    await expect(processor.preprocess(tensor, { resize_mode: "fill" })).rejects.toThrow(/resize_mode/);
    await expect(processor.preprocess(Tensor.zeros([8, 8]))).rejects.toThrow(ValueError);
  });
});
