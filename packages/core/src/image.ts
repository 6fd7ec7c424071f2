import { DeviceError, ValueError } from "./errors.ts";
import { loadSharp, type PictureSource, type ReadImageOptions, readPixels } from "./image_source.ts";
import { isNode, nodeImport } from "./node.ts";
import { encodePng, type Pixels } from "./png.ts";
import { type Resample, resampleNames, resizePixels } from "./resample.ts";
import { Tensor } from "./tensor.ts";
import { showDims } from "./tensor_shapes.ts";

/** What `RawImage.read` takes. */
export type ImageSource = RawImage | Tensor | PictureSource;

/** How a picture is resized. */
export interface ResizeOptions {
  /** Pillow's filter. Default "bicubic", as Pillow's. */
  readonly resample?: Resample;
}

/** The formats a picture can be written in. */
export type ImageType = "image/png" | "image/jpeg" | "image/webp";

/** How a picture is written. */
export interface EncodeOptions {
  /** For JPEG and WebP, 0 to 1. Default 0.92. */
  readonly quality?: number;
}

const typeOfExtension: Record<string, ImageType> = {
  png: "image/png",
  jpg: "image/jpeg",
  jpeg: "image/jpeg",
  webp: "image/webp",
};

/**
 * A picture in memory, 8 bits a channel.
 *
 * @see transformers.js `RawImage`, Pillow `Image`
 */
export class RawImage implements Pixels {
  readonly width: number;
  readonly height: number;
  /** 1 (gray), 3 (RGB) or 4 (RGBA, not premultiplied). */
  readonly channels: 1 | 3 | 4;
  /** `[height, width, channels]`. */
  readonly data: Uint8ClampedArray;
  /** Texts that a PNG keeps beside the pixels, such as the parameters of its generation. */
  readonly metadata: Record<string, string>;

  /**
   * @param data `[height, width, channels]`, used as it is
   * @param channels 1, 3 or 4
   * @throws ValueError for sizes that do not fit the data.
   */
  constructor(
    data: Uint8ClampedArray | Uint8Array,
    width: number,
    height: number,
    channels: 1 | 3 | 4,
    metadata: Record<string, string> = {},
  ) {
    checkSize(width, height);
    if (![1, 3, 4].includes(channels) || data.length !== width * height * channels) {
      throw new ValueError(`${data.length} bytes are no picture of ${width} x ${height} with ${channels} channels.`, {
        field: "data",
        found: `${data.length} bytes`,
        expected: `${width * height} pixels of 1, 3 or 4 bytes`,
      });
    }
    this.width = width;
    this.height = height;
    this.channels = channels;
    this.data =
      data instanceof Uint8ClampedArray ? data : new Uint8ClampedArray(data.buffer, data.byteOffset, data.byteLength);
    this.metadata = metadata;
  }

  /**
   * Reads a picture: a file (PNG, JPEG, WebP, and what else the browser or `sharp` knows), or what a page shows. Gray
   * stays gray, what has transparency becomes RGBA, all else RGB. Photos are turned upright.
   *
   * @param from a RawImage (given back), Blob or File, URL or data URL, `<img>`, canvas, ImageBitmap, ImageData, Tensor
   *   (see `fromTensor`), the bytes of a file, or a path in Node
   * @throws ModelNotFoundError for a file that is not there, IntegrityError for one that is no picture, TypeError for
   *   anything else.
   */
  static async read(from: ImageSource, options: ReadImageOptions = {}): Promise<RawImage> {
    if (from instanceof RawImage) return from;
    if (from instanceof Tensor) return RawImage.fromTensor(from);
    const { data, width, height, channels, metadata } = await readPixels(from, options);
    return new RawImage(data, width, height, channels, metadata);
  }

  /**
   * A picture of values in 0..1; what lies outside is cut. Rounds half to even, as numpy does for Diffusers.
   *
   * @param tensor `[channels, height, width]` or `[1, channels, height, width]`, with 1, 3 or 4 channels
   * @throws ValueError for another shape.
   */
  static fromTensor(tensor: Tensor): RawImage {
    const dims = tensor.dims.length === 4 && tensor.dims[0] === 1 ? tensor.dims.slice(1) : tensor.dims;
    const [channels, height, width] = dims as [number, number, number];
    if (dims.length !== 3 || ![1, 3, 4].includes(channels)) {
      throw new ValueError(`A tensor of shape ${showDims(tensor.dims)} is not a picture.`, {
        field: "tensor",
        found: showDims(tensor.dims),
        expected: "[channels, height, width] or [1, channels, height, width] with 1, 3 or 4 channels",
      });
    }
    const values = tensor.to("float32").data;
    const data = new Uint8ClampedArray(values.length);
    const plane = width * height;
    for (let i = 0; i < plane; i++) {
      // The clamped array cuts, and rounds half to even.
      for (let c = 0; c < channels; c++) data[i * channels + c] = Math.fround(values[c * plane + i]! * 255);
    }
    return new RawImage(data, width, height, channels as 1 | 3 | 4);
  }

  /** The values in 0..1: `[1, channels, height, width]`. */
  toTensor(): Tensor {
    const { width, height, channels, data } = this;
    const plane = width * height;
    const values = new Float32Array(data.length);
    for (let i = 0; i < plane; i++) {
      for (let c = 0; c < channels; c++) values[c * plane + i] = data[i * channels + c]! / 255;
    }
    return new Tensor("float32", values, [1, channels, height, width]);
  }

  /**
   * The picture in another size, as Pillow's `Image.resize` computes it, to the bit.
   *
   * @throws ValueError for a size or a filter that cannot be.
   */
  resize(width: number, height: number, options: ResizeOptions = {}): RawImage {
    checkSize(width, height);
    const resample = options.resample ?? "bicubic";
    if (!resampleNames().includes(resample)) {
      throw new ValueError(
        `There is no filter ${JSON.stringify(resample)}. Use one of ${resampleNames().join(", ")}.`,
        {
          field: "resample",
          found: String(resample),
          expected: resampleNames().join(", "),
        },
      );
    }
    const data = resizePixels(this.data, this.width, this.height, this.channels, width, height, resample);
    return new RawImage(data, width, height, this.channels, { ...this.metadata });
  }

  /**
   * The picture with other channels, as Pillow's `convert` to L, RGB or RGBA: alpha is dropped or opaque, gray is
   * weighted as in ITU-R 601.
   */
  convert(channels: 1 | 3 | 4): RawImage {
    if (![1, 3, 4].includes(channels)) {
      throw new ValueError(`A picture has 1, 3 or 4 channels, not ${channels}.`, { field: "channels" });
    }
    const { data: from, channels: stored } = this;
    const count = this.width * this.height;
    const data = channels === stored ? from.slice() : new Uint8ClampedArray(count * channels);
    for (let i = 0; i < count && channels !== stored; i++) {
      const [r, g, b] = [
        from[i * stored]!,
        from[i * stored + (stored > 1 ? 1 : 0)]!,
        from[i * stored + (stored > 1 ? 2 : 0)]!,
      ];
      if (channels === 1) {
        data[i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
        continue;
      }
      data[i * channels] = r;
      data[i * channels + 1] = g;
      data[i * channels + 2] = b;
      if (channels === 4) data[i * 4 + 3] = 255;
    }
    return new RawImage(data, this.width, this.height, channels, { ...this.metadata });
  }

  /** A copy with data of its own. */
  clone(): RawImage {
    return new RawImage(this.data.slice(), this.width, this.height, this.channels, { ...this.metadata });
  }

  /**
   * A canvas that shows the picture: an element in a page, an OffscreenCanvas in a worker.
   *
   * @throws DeviceError in Node, which has no canvas.
   */
  toCanvas(): HTMLCanvasElement | OffscreenCanvas {
    const canvas = newCanvas(this.width, this.height);
    const context = canvas.getContext("2d") as CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D;
    const rgba = this.convert(4).data as Uint8ClampedArray<ArrayBuffer>;
    context.putImageData(new ImageData(rgba, this.width, this.height), 0, 0);
    return canvas;
  }

  /**
   * The picture as a file. A PNG holds the metadata; a JPEG loses the alpha channel.
   *
   * @param type default "image/png"
   * @throws ValueError for a format that is not known here.
   */
  async toBlob(type: ImageType = "image/png", options: EncodeOptions = {}): Promise<Blob> {
    if (!Object.values(typeOfExtension).includes(type)) {
      throw new ValueError(`A picture cannot be written as ${JSON.stringify(type)}.`, {
        field: "type",
        found: String(type),
        expected: "image/png, image/jpeg or image/webp",
      });
    }
    if (type === "image/png") return new Blob([(await encodePng(this)) as Uint8Array<ArrayBuffer>], { type });
    const quality = options.quality ?? 0.92;
    const source = type === "image/jpeg" ? this.convert(3) : this;
    return isNode ? source.encodeInNode(type, quality) : source.encodeInPage(type, quality);
  }

  /**
   * Saves the picture: a download in a page, a file in Node. The name's extension decides the format.
   *
   * @param name ends in .png, .jpg, .jpeg or .webp; in Node it may be a path
   * @throws ValueError for another extension.
   */
  async save(name: string, options: EncodeOptions = {}): Promise<void> {
    const extension = /\.([^./\\]+)$/.exec(name)?.[1]?.toLowerCase();
    const type = extension === undefined ? undefined : typeOfExtension[extension];
    if (type === undefined) {
      throw new ValueError(`The name ${JSON.stringify(name)} says no picture format.`, {
        field: "name",
        found: extension === undefined ? "no extension" : `.${extension}`,
        expected: Object.keys(typeOfExtension)
          .map((known) => `.${known}`)
          .join(", "),
      });
    }
    const blob = await this.toBlob(type, options);
    if (isNode) {
      const fs = await nodeImport<typeof import("node:fs/promises")>("node:fs/promises");
      await fs.writeFile(name, new Uint8Array(await blob.arrayBuffer()));
      return;
    }
    if (typeof document === "undefined") {
      throw new DeviceError("A worker cannot save a file: send the picture to the page, or use toBlob().");
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    // Some browsers begin the download after the click's task.
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  private async encodeInNode(type: ImageType, quality: number): Promise<Blob> {
    const sharp = await loadSharp();
    const { width, height, channels } = this;
    const picture = sharp(this.data, { raw: { width, height, channels } });
    const format = type === "image/jpeg" ? "jpeg" : "webp";
    const bytes = await picture.toFormat(format, { quality: Math.round(quality * 100) }).toBuffer();
    return new Blob([new Uint8Array(bytes)], { type });
  }

  private async encodeInPage(type: ImageType, quality: number): Promise<Blob> {
    const canvas = this.toCanvas();
    const blob =
      canvas instanceof OffscreenCanvas
        ? await canvas.convertToBlob({ type, quality })
        : await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, type, quality));
    if (blob?.type === type) return blob;
    throw new DeviceError(`This browser cannot write ${type}. Use image/png.`, { found: blob?.type ?? "nothing" });
  }
}

function newCanvas(width: number, height: number): HTMLCanvasElement | OffscreenCanvas {
  if (typeof document !== "undefined") return Object.assign(document.createElement("canvas"), { width, height });
  if (typeof OffscreenCanvas !== "undefined") return new OffscreenCanvas(width, height);
  throw new DeviceError("There is no canvas in Node. Use save(path), toBlob() or data.");
}

function checkSize(width: number, height: number): void {
  if ([width, height].every((size) => Number.isSafeInteger(size) && size > 0)) return;
  throw new ValueError(`A picture's width and height are whole numbers of at least 1; got ${width} x ${height}.`, {
    field: Number.isSafeInteger(width) && width > 0 ? "height" : "width",
    found: `${width} x ${height}`,
    expected: "whole numbers of at least 1",
  });
}
