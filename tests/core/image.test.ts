/** Pictures against Pillow. Expected values: tests/fixtures/core/make_image.py. */
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import {
  DeviceError,
  type ImageSource,
  type ImageType,
  IntegrityError,
  ModelNotFoundError,
  RawImage,
  type Resample,
  Tensor,
  ValueError,
} from "@diffusers-web/core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fixtureTensors, fixtureText } from "../support/fixtures.ts";
import { serveFolder } from "../support/server.ts";

const stored = fixtureTensors("core/image.safetensors");
const { resized } = JSON.parse(fixtureText("core/image.json")) as {
  resized: [string, 1 | 3 | 4, Resample, number, number, string][];
};
const bytes = (name: string): Uint8Array => stored[name]!.data as Uint8Array;
const names = (prefix: string): string[] =>
  Object.keys(stored).flatMap((key) => (key.startsWith(prefix) && key.endsWith("/file") ? [key.slice(0, -5)] : []));

function picture(name: string): RawImage {
  const { data, dims } = stored[name]!;
  return new RawImage(data as Uint8Array, dims[1]!, dims[0]!, dims[2] as 1 | 3 | 4);
}

function expectPicture(actual: RawImage, expected: RawImage): void {
  expect([actual.width, actual.height, actual.channels]).toEqual([expected.width, expected.height, expected.channels]);
  expect([...actual.data]).toEqual([...expected.data]);
}

const folder = mkdtempSync(join(tmpdir(), "image-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("resize, to the bit", () => {
  const [width, height] = [192, 160];
  const pattern = (channels: 1 | 3 | 4): RawImage => {
    const data = new Uint8Array(width * height * channels);
    for (let i = 0; i < data.length; i++) {
      const [c, x, y] = [i % channels, Math.floor(i / channels) % width, Math.floor(i / channels / width)];
      data[i] = (x * 7 + y * 13 + c * 40) ^ (x * y);
    }
    return new RawImage(data, width, height, channels);
  };

  test.each(resized)("%s, %i channels, %s to %i x %i", (name, channels, resample, toWidth, toHeight, expected) => {
    const source = name === "pattern" ? pattern(channels) : picture(`noise${channels}`);
    const before = source.data.slice();
    const result = source.resize(toWidth, toHeight, { resample });
    expect([result.width, result.height, result.channels]).toEqual([toWidth, toHeight, channels]);
    expect(createHash("sha256").update(result.data).digest("hex").slice(0, 24)).toBe(expected);
    // Not toEqual: it takes half a second for a picture, and there are hundreds.
    expect(source.data.every((value, i) => value === before[i])).toBe(true);
    expect(result.data.buffer).not.toBe(source.data.buffer);
  });

  test("bicubic unless told otherwise, as Pillow", () => {
    const source = picture("noise3");
    expectPicture(source.resize(20, 20), source.resize(20, 20, { resample: "bicubic" }));
  });
});

describe("convert", () => {
  const rgba = picture("convert/4");
  const rgb = picture("convert/4to3");
  const gray = new RawImage(
    rgba.data.filter((_, i) => i % 4 === 0),
    16,
    16,
    1,
  );
  test.each<[string, RawImage, 1 | 3 | 4, RawImage]>([
    ["RGBA to RGB", rgba, 3, rgb],
    ["RGBA to L", rgba, 1, picture("convert/4to1")],
    ["RGB to L", rgb, 1, picture("convert/3to1")],
    ["L to RGBA", gray, 4, picture("convert/1to4")],
    ["L to RGB", gray, 3, picture("convert/1to4").convert(3)],
    ["RGB to itself", rgb, 3, rgb],
  ])("%s", (_, from, channels, expected) => {
    expectPicture(from.convert(channels), expected);
    expect(from.convert(channels).data).not.toBe(from.data);
  });
});

describe("PNG files of every kind", () => {
  test.each(names("png/"))("%s", async (name) => {
    expectPicture(await RawImage.read(bytes(`${name}/file`)), picture(`${name}/pixels`));
  });
});

describe("photos", () => {
  test.each(names("photo/"))("%s", async (name) => {
    const actual = await RawImage.read(bytes(`${name}/file`));
    const expected = picture(`${name}/pixels`);
    expect([actual.width, actual.height, actual.channels]).toEqual([
      expected.width,
      expected.height,
      expected.channels,
    ]);
    // Decoders of lossy formats round differently.
    const allowed = /lossless|alpha/.test(name) ? 0 : 3;
    const worst = Math.max(...expected.data.map((value, i) => Math.abs(value - actual.data[i]!)));
    expect(worst).toBeLessThanOrEqual(allowed);
  });
});

describe("metadata", () => {
  test("Pillow's texts are read", async () => {
    expect((await RawImage.read(bytes("text/file"))).metadata).toEqual({
      parameters: "a fox, café\nSteps: 20, Seed: 1",
      zipped: "z".repeat(500),
      Title: "狐 🦊",
      "zipped-utf8": "é漢".repeat(200),
    });
  });

  test("what is written is read again", async () => {
    const image = picture("noise4");
    Object.assign(image.metadata, { parameters: "a café\nSteps: 20", prompt: "狐 🦊", empty: "", "Ünï cödé": "ok" });
    const read = await RawImage.read(await image.toBlob());
    expect(read.metadata).toEqual(image.metadata);
    expectPicture(read, image);
  });

  test("it goes along with resize, convert and clone, as a copy", () => {
    const image = picture("noise3");
    image.metadata["seed"] = "1";
    for (const other of [image.resize(4, 4), image.convert(1), image.clone()]) {
      expect(other.metadata).toEqual({ seed: "1" });
      expect(other.metadata).not.toBe(image.metadata);
    }
  });

  test.each([
    ["", "x"],
    ["x".repeat(80), "x"],
    ["狐", "x"],
    [" x", "x"],
    ["x", "a\0b"],
  ])("refuses %j: %j", async (key, value) => {
    const image = new RawImage(new Uint8Array(1), 1, 1, 1, { [key]: value });
    await expect(image.toBlob()).rejects.toThrow(ValueError);
  });
});

describe("writing", () => {
  test.each([1, 3, 4] as const)("a PNG of %i channels is what was saved", async (channels) => {
    const image = picture(`noise${channels}`);
    const path = join(folder, `noise${channels}.PNG`);
    await image.save(path);
    expectPicture(await RawImage.read(path), image);
    expect([...readFileSync(path).subarray(0, 8)]).toEqual([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  });

  test("filters make smooth pictures small", async () => {
    const smooth = new RawImage(
      Uint8Array.from({ length: 256 * 256 }, (_, i) => (i % 256) + (i >> 8)),
      256,
      256,
      1,
    );
    expect((await smooth.toBlob()).size).toBeLessThan(2000);
  });

  test.each<[string, ImageType]>([
    ["x.jpg", "image/jpeg"],
    ["x.jpeg", "image/jpeg"],
    ["x.webp", "image/webp"],
  ])("%s", async (name, type) => {
    const image = picture("photo/webp-alpha/pixels");
    const path = join(folder, name);
    await image.save(path, { quality: 0.95 });
    const read = await RawImage.read(path);
    const expected = type === "image/jpeg" ? image.convert(3) : image;
    expect([read.width, read.height, read.channels]).toEqual([image.width, image.height, expected.channels]);
    const total = expected.data.reduce((sum, value, i) => sum + Math.abs(value - read.data[i]!), 0);
    expect(total / expected.data.length).toBeLessThan(4); // lossy
    expect((await image.toBlob(type)).type).toBe(type);
  });

  test("quality matters", async () => {
    const image = picture("noise3");
    const [low, high] = [await image.toBlob("image/jpeg", { quality: 0.2 }), await image.toBlob("image/jpeg")];
    expect(low.size).toBeLessThan(high.size);
  });

  test.each(["x", "x.gif", "x.", "png", "a.png/b"])("refuses the name %j", async (name) => {
    await expect(picture("noise3").save(name)).rejects.toThrow(ValueError);
  });

  test("refuses other formats, and a canvas in Node", async () => {
    await expect(picture("noise3").toBlob("image/gif" as "image/png")).rejects.toThrow(/"image\/gif"/);
    expect(() => picture("noise3").toCanvas()).toThrow(DeviceError);
  });
});

describe("tensors", () => {
  const values = new Tensor("float32", stored["tensor/values"]!.data as Float32Array, [3, 16, 17]);

  test.each([
    ["[3, H, W]", values],
    ["[1, 3, H, W]", values.unsqueeze(0)],
  ])("fromTensor of %s rounds as Diffusers does", (_, tensor) => {
    expectPicture(RawImage.fromTensor(tensor), picture("tensor/pixels"));
  });

  test("toTensor is a float32 division by 255", () => {
    const tensor = picture("noise4").convert(3).toTensor();
    expect(tensor.dims).toEqual([1, 3, 23, 37]);
    expect([...tensor.data]).toEqual([...stored["tensor/back"]!.data]);
  });

  test.each([1, 3, 4] as const)("%i channels there and back", async (channels) => {
    const image = picture(`noise${channels}`);
    expectPicture(await RawImage.read(image.toTensor()), image);
  });

  test("NaN is black, infinities are cut", () => {
    const odd = Tensor.from([[[Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]]]);
    expect([...RawImage.fromTensor(odd).data]).toEqual([0, 255, 0]);
  });

  test.each([[[2, 3, 4, 4]], [[2, 4, 4]], [[4, 4]], [[1, 1, 3, 4, 4]]])("refuses %j", (dims) => {
    expect(() => RawImage.fromTensor(Tensor.zeros(dims))).toThrow(`[${dims.join(", ")}]`);
    expect(() => RawImage.fromTensor(Tensor.zeros(dims))).toThrow(ValueError);
  });
});

describe("reading from", () => {
  const image = picture("noise3");
  let server: Awaited<ReturnType<typeof serveFolder>>;
  let file: Blob;
  const path = join(folder, "source.png");
  beforeAll(async () => {
    server = await serveFolder(folder);
    file = await image.toBlob();
    writeFileSync(path, new Uint8Array(await file.arrayBuffer()));
  });
  afterAll(() => server.close());

  test.each<[string, () => Promise<ImageSource> | ImageSource]>([
    ["a Blob", () => file],
    ["a File", () => new File([file], "x.png")],
    ["bytes", async () => new Uint8Array(await file.arrayBuffer())],
    ["a Buffer", () => readFileSync(path)],
    ["an ArrayBuffer", () => file.arrayBuffer()],
    ["a path", () => path],
    ["a file URL", () => pathToFileURL(path)],
    ["a file URL's text", () => pathToFileURL(path).href],
    ["an address", () => `${server.url}/source.png`],
    ["a URL", () => new URL(`${server.url}/source.png`)],
    ["a data URL", () => `data:image/png;base64,${readFileSync(path).toString("base64")}`],
    ["an object URL", () => URL.createObjectURL(file)],
    ["a RawImage", () => image],
    ["a tensor", () => image.toTensor()],
  ])("%s", async (_, source) => {
    expectPicture(await RawImage.read(await source()), image);
  });

  test.each<[string, () => unknown, new (...args: never[]) => Error, RegExp]>([
    ["a path without a file", () => join(folder, "none.png"), ModelNotFoundError, /none\.png/],
    ["an address without a file", () => `${server.url}/none.png`, ModelNotFoundError, /none\.png .*404/],
    ["a server that is not there", () => "http://127.0.0.1:9/x.png", ModelNotFoundError, /127\.0\.0\.1:9/],
    ["text", () => new Blob(["<!doctype html>"]), IntegrityError, /the blob is not a picture/],
    ["nothing", () => new Uint8Array(0), IntegrityError, /the file is not a picture/],
    ["a number", () => 3, TypeError, /got number/],
    ["null", () => null, TypeError, /got null/],
    ["pixels without a size", () => new Uint8ClampedArray(12), TypeError, /got Uint8ClampedArray/],
    ["a plain object", () => ({ width: 1, height: 1 }), TypeError, /got Object/],
  ])("refuses %s", async (_, source, error, message) => {
    await expect(RawImage.read(source() as ImageSource)).rejects.toThrow(error);
    await expect(RawImage.read(source() as ImageSource)).rejects.toThrow(message);
  });

  test("an aborted read rejects with the signal's reason", async () => {
    for (const source of [path, `${server.url}/source.png`]) {
      await expect(RawImage.read(source, { signal: AbortSignal.abort() })).rejects.toMatchObject({
        name: "AbortError",
      });
    }
  });
});

describe("a broken PNG is an IntegrityError that says what is wrong", () => {
  const whole = bytes("png/split/file");
  const changed = (at: number, value: number): Uint8Array => whole.with(at, value);
  // The header's fields begin at byte 16, its checksum at 29: it is corrected, so that the field itself is looked at.
  const header = (at: number, value: number): Uint8Array => {
    const file = changed(at, value);
    new DataView(file.buffer).setUint32(29, crc32(file.subarray(12, 29)));
    return file;
  };
  const crc32 = (data: Uint8Array): number => {
    let crc = -1;
    for (const byte of data) {
      crc ^= byte;
      for (let k = 0; k < 8; k++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
    }
    return ~crc >>> 0;
  };

  test.each<[string, Uint8Array, RegExp]>([
    ["cut in the signature's wake", whole.subarray(0, 8), /ends after 8 bytes/],
    ["cut within a chunk", whole.subarray(0, 50), /ends after 50 bytes/],
    ["cut before its end", whole.subarray(0, whole.length - 12), /before its end mark/],
    ["a flipped bit", changed(45, whole[45]! ^ 1), /wrong checksum/],
    ["no width", header(19, 0), /0 x 20/],
    ["a width that the pixels do not fill", header(18, 1), /of 16\d+ bytes of pixels/],
    ["a giant that holds nothing", header(16, 127), /of \d+ bytes of pixels/],
    ["an unknown depth", header(24, 7), /2 with 7 bits/],
    ["an unknown colour type", header(25, 5), /type 5/],
    ["an unknown interlace method", header(28, 2), /unknown method/],
    ["no palette", header(25, 3), /no palette/],
  ])("%s", async (_, file, message) => {
    await expect(RawImage.read(file)).rejects.toThrow(IntegrityError);
    await expect(RawImage.read(new File([new Uint8Array(file)], "x.png"))).rejects.toThrow(message);
    await expect(RawImage.read(new File([new Uint8Array(file)], "x.png"))).rejects.toThrow(/^x\.png/);
  });
});

describe("the constructor and resize refuse what cannot be", () => {
  test.each<[string, () => unknown]>([
    ["too few bytes", () => new RawImage(new Uint8Array(5), 2, 1, 3)],
    ["two channels", () => new RawImage(new Uint8Array(2), 1, 1, 2 as 3)],
    ["no width", () => new RawImage(new Uint8Array(0), 0, 1, 3)],
    ["a width of a fraction", () => picture("noise3").resize(1.5, 2)],
    ["no height", () => picture("noise3").resize(2, 0)],
    ["an unknown filter", () => picture("noise3").resize(2, 2, { resample: "cubic" as "bicubic" })],
    ["two channels of a conversion", () => picture("noise3").convert(2 as 3)],
  ])("%s", (_, call) => {
    expect(call).toThrow(ValueError);
  });
});
