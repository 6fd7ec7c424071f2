import { type PictureSource, RawImage, UnsupportedModelError } from "@diffusers-web/core";
import { isPlainObject, tagged } from "./codec.ts";

/** What only a page can show, and a worker not take: it is read here. */
export function isDrawable(value: unknown): value is PictureSource {
  return ["Element", "OffscreenCanvas", "VideoFrame"].some((name) => {
    const type = (globalThis as unknown as Record<string, (new () => object) | undefined>)[name];
    return type !== undefined && value instanceof type;
  });
}

/** The pictures of drawables anywhere in a call's arguments. */
export async function readDrawables(found: readonly PictureSource[]): Promise<Map<object, RawImage>> {
  const read = found.map(async (one) => [one as object, await RawImage.read(one)] as const);
  return new Map(await Promise.all(read));
}

/** The drawables in a value. */
export function drawablesIn(value: unknown): PictureSource[] {
  if (isDrawable(value)) return [value];
  if (Array.isArray(value)) return value.flatMap(drawablesIn);
  return isPlainObject(value) ? Object.values(value).flatMap(drawablesIn) : [];
}

/** A call's options with the addresses of pictures as the page means them: a worker would start from its script's. */
export function withAddresses(args: readonly unknown[]): unknown[] {
  return args.map((arg) => {
    if (!isPlainObject(arg)) return arg;
    const entries = Object.entries(arg);
    return Object.fromEntries(
      entries.map(([key, value]) => [key, /(^|_)images?$/.test(key) ? pictureAddress(value) : value]),
    );
  });
}

/** The address of a picture, or of each in a list; anything else as it is. */
export function pictureAddress(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(pictureAddress);
  const { document, location } = globalThis as Partial<typeof globalThis>;
  const base = document?.baseURI ?? location?.href;
  return typeof value === "string" && base !== undefined ? new URL(value, base).href : value;
}

/** Where a pipeline or a model is loaded from, as the worker can open it. @throws as {@link addressOf} */
export function folderOf(from: unknown, token: string | undefined): unknown {
  if (!isBelowPage(from)) return addressOf(from);
  // It goes on calling itself as it is written here.
  return tagged({ kind: "folder", href: addressOf(from) as string, name: from, token });
}

/**
 * Where files are loaded from, as the worker can open it.
 *
 * @throws UnsupportedModelError for a source of the caller's own, TypeError for a dropped folder's entry.
 */
export function addressOf(from: unknown): unknown {
  if (isBelowPage(from)) return new URL(from, globalThis.location.href).href;
  if (typeof from !== "object" || from === null) return from;
  if (Array.isArray(from)) return from.map(addressOf);
  if (isPlainObject(from) && "source" in from && "file" in from) return { ...from, source: addressOf(from["source"]) };
  if ("open" in from) {
    throw new UnsupportedModelError(
      "A source of your own cannot be passed to a worker, since its files are read without waiting. Pass an address, files or a " +
        "folder's handle; or leave `worker` out and load the pipeline in a worker script of your own.",
      { field: "worker", found: "a source of your own", expected: "an address, files or a folder's handle" },
    );
  }
  if ("isDirectory" in from) {
    throw new TypeError(
      "A dropped folder's entry stays in its page. Pass what `item.getAsFileSystemHandle()` gives instead of `webkitGetAsEntry()`.",
    );
  }
  return from;
}

function isBelowPage(from: unknown): from is string {
  return typeof from === "string" && /^\.{0,2}\//.test(from) && globalThis.location !== undefined;
}
