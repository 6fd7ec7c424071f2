import { IntegrityError, ModelNotFoundError } from "./errors.ts";
import { isNode, nodeImport } from "./node.ts";
import type { Pixels } from "./png.ts";
import { decodePng, isPng } from "./png_decode.ts";

/** What a page can draw: an `<img>`, a canvas, an `ImageBitmap`, a video's frame. */
type Drawable = Exclude<ImageBitmapSource, Blob | ImageData>;

/** A picture's file, or something a page shows. Strings are URLs, or paths in Node. */
export type PictureSource = string | URL | Blob | Uint8Array | ArrayBuffer | ImageBitmapSource;

/** How a picture is fetched. */
export interface ReadImageOptions {
  readonly signal?: AbortSignal | undefined;
}

/**
 * The pixels of a file or of something a page shows.
 *
 * @throws ModelNotFoundError for a file that is not there, IntegrityError for one that is no picture, TypeError for
 * what cannot be a picture's source.
 */
export async function readPixels(from: PictureSource, options: ReadImageOptions): Promise<Pixels> {
  options.signal?.throwIfAborted();
  if (typeof from === "string" || from instanceof URL) {
    const name = String(from);
    return decode(await load(name, options), name.startsWith("data:") ? "the data URL" : name);
  }
  if (from instanceof Blob) {
    const { name } = from as { name?: string };
    return decode(new Uint8Array(await from.arrayBuffer()), name ?? "the blob");
  }
  if (from instanceof ArrayBuffer) return decode(new Uint8Array(from), "the file");
  if (from instanceof Uint8Array && !(from instanceof Uint8ClampedArray)) return decode(from, "the file");
  if (typeof ImageData !== "undefined" && from instanceof ImageData) return fromRgba(from);
  if (typeof createImageBitmap === "undefined" || typeof from !== "object" || from === null) throw noSource(from);
  return drawShown(from as Drawable);
}

function noSource(from: unknown): TypeError {
  return new TypeError(
    "A picture is read from a RawImage, a Blob, a URL, the bytes of a file, a Tensor, " +
      `${isNode ? "or a path" : "an <img>, a canvas, an ImageBitmap or an ImageData"}; got ${describe(from)}.`,
  );
}

/** The pixels of something that a page shows; waits for an `<img>` to load. */
async function drawShown(from: Drawable): Promise<Pixels> {
  try {
    if (typeof HTMLImageElement !== "undefined" && from instanceof HTMLImageElement) await from.decode();
    return await draw(from);
  } catch (cause) {
    if (cause instanceof TypeError) throw noSource(from);
    // What a page may show from another origin, it may not read.
    if ((cause as Error).name === "SecurityError") throw cause;
    throw new IntegrityError(
      `The ${describe(from)} shows no picture: ${(cause as Error).message}`,
      { found: describe(from), expected: "a loaded picture of at least one pixel" },
      { cause },
    );
  }
}

function describe(value: unknown): string {
  if (value === null) return "null";
  return typeof value === "object" ? ((value as object).constructor?.name ?? "an object") : typeof value;
}

async function load(name: string, { signal }: ReadImageOptions): Promise<Uint8Array> {
  if (isNode && !/^(https?|data|blob):/.test(name)) {
    const fs = await nodeImport<typeof import("node:fs/promises")>("node:fs/promises");
    const { fileURLToPath } = await nodeImport<typeof import("node:url")>("node:url");
    const path = name.startsWith("file:") ? fileURLToPath(name) : name;
    try {
      return new Uint8Array(await fs.readFile(path, { signal }));
    } catch (cause) {
      signal?.throwIfAborted();
      throw notFound(`The picture ${path} cannot be read: ${(cause as Error).message}.`, name, cause);
    }
  }
  let response: Response;
  try {
    response = await fetch(name, signal ? { signal } : {});
  } catch (cause) {
    signal?.throwIfAborted();
    const shown = name.length > 200 ? `${name.slice(0, 200)}...` : name;
    throw notFound(`The picture ${shown} cannot be fetched: ${(cause as Error).message}.`, shown, cause);
  }
  if (!response.ok) {
    await response.body?.cancel();
    throw notFound(`The picture ${name} cannot be fetched: the server answered ${response.status}.`, name);
  }
  return new Uint8Array(await response.arrayBuffer());
}

function notFound(message: string, file: string, cause?: unknown): ModelNotFoundError {
  return new ModelNotFoundError(message, { file }, cause === undefined ? undefined : { cause });
}

async function decode(bytes: Uint8Array, file: string): Promise<Pixels> {
  if (isPng(bytes)) return decodePng(bytes, file);
  const pixels = isNode ? await decodeInNode(bytes, file) : await decodeInPage(bytes, file);
  return isGrayJpeg(bytes)
    ? { ...pixels, channels: 1, data: pixels.data.filter((_, i) => i % pixels.channels === 0) }
    : pixels;
}

function noPicture(file: string, bytes: Uint8Array, cause: unknown): IntegrityError {
  const start = Array.from(bytes.subarray(0, 8), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return new IntegrityError(
    `${file} is not a picture that can be read: ${(cause as Error).message}.`,
    { file, found: `${bytes.length} bytes that begin ${start}`, expected: "a PNG, JPEG or WebP file" },
    { cause },
  );
}

/** What reads and writes JPEG and WebP in Node. @throws Error when the package, an optional one, is not installed. */
export async function loadSharp(): Promise<typeof import("sharp").default> {
  try {
    return (await nodeImport<typeof import("sharp")>("sharp")).default;
  } catch (cause) {
    throw new Error("Pictures other than PNG need the package `sharp` in Node: npm install sharp.", { cause });
  }
}

async function decodeInNode(bytes: Uint8Array, file: string): Promise<Pixels> {
  const sharp = await loadSharp();
  try {
    const picture = sharp(bytes, { ignoreIcc: true })
      .rotate()
      .toColourspace("srgb")
      .ensureAlpha()
      .raw({ depth: "uchar" });
    const { data, info } = await picture.toBuffer({ resolveWithObject: true });
    return fromRgba({ width: info.width, height: info.height, data });
  } catch (cause) {
    throw noPicture(file, bytes, cause);
  }
}

async function decodeInPage(bytes: Uint8Array, file: string): Promise<Pixels> {
  try {
    return await draw(new Blob([bytes as Uint8Array<ArrayBuffer>]));
  } catch (cause) {
    throw noPicture(file, bytes, cause);
  }
}

/** Draws on a canvas, as is: no colour management. */
async function draw(source: ImageBitmapSource): Promise<Pixels> {
  const bitmap = await createImageBitmap(source, { premultiplyAlpha: "none", colorSpaceConversion: "none" });
  try {
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d", { willReadFrequently: true })!;
    context.drawImage(bitmap, 0, 0);
    return fromRgba(context.getImageData(0, 0, bitmap.width, bitmap.height));
  } finally {
    bitmap.close();
  }
}

/** RGBA pixels; RGB if all of them are opaque. */
function fromRgba({ width, height, data }: { width: number; height: number; data: ArrayLike<number> }): Pixels {
  let opaque = true;
  for (let i = 3; i < data.length && opaque; i += 4) opaque = data[i] === 255;
  if (!opaque) return { width, height, channels: 4, data: Uint8ClampedArray.from(data), metadata: {} };
  const rgb = new Uint8ClampedArray(width * height * 3);
  for (let i = 0, j = 0; i < rgb.length; i += 3, j += 4) {
    rgb[i] = data[j]!;
    rgb[i + 1] = data[j + 1]!;
    rgb[i + 2] = data[j + 2]!;
  }
  return { width, height, channels: 3, data: rgb, metadata: {} };
}

/** Whether the bytes are a JPEG of one component. */
function isGrayJpeg(bytes: Uint8Array): boolean {
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return false;
  let at = 2;
  while (at + 9 < bytes.length && bytes[at] === 0xff) {
    const marker = bytes[at + 1]!;
    // Start of frame: C0 to CF, but for the tables C4, C8 and CC.
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) return bytes[at + 9] === 1;
    at += 2 + bytes[at + 2]! * 256 + bytes[at + 3]!;
  }
  return false;
}
