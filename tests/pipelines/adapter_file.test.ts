/** Which file of a repository, folder or address a LoRA or a textual inversion is read from. */
import { IntegrityError, ModelNotFoundError, type Source, UnsupportedModelError } from "@diffusers-web/core";
import type { Weights } from "@diffusers-web/models";
import { expect, test, vi } from "vitest";
import { openAdapterFile } from "../../packages/pipelines/src/loaders/adapter_file.ts";
import { memoryFile, safetensors } from "../support/safetensors.ts";

const fileWith = (name: string): Uint8Array => safetensors({ [name]: ["F32", [1], 4] });
const lora = fileWith("this");
const other = fileWith("other");
const kind = { default_name: "pytorch_lora_weights.safetensors", isGuessed: true };
const folder = (files: Readonly<Record<string, Uint8Array>>): File[] =>
  Object.entries(files).map(([path, bytes]) => {
    const file = new File([bytes as BlobPart], path.slice(path.lastIndexOf("/") + 1));
    Object.defineProperty(file, "webkitRelativePath", { value: `chosen/${path}` });
    return file;
  });
const tensorsOf = async (weights: Promise<Weights>): Promise<string[]> => [...(await weights).names()];

test.each<[what: string, files: Record<string, Uint8Array>, options: object]>([
  ["the usual name", { "pytorch_lora_weights.safetensors": lora, "a.safetensors": other }, {}],
  [
    "the only file",
    { "my-style.safetensors": lora, "optimizer.safetensors": other, "checkpoint-5/x.safetensors": other },
    {},
  ],
  ["rather at the top", { "a/x.safetensors": other, "z.safetensors": lora }, {}],
  ["of the usual ending", { "a.safetensors": other, "my_pytorch_lora_weights.safetensors": lora }, {}],
  ["a name", { "pytorch_lora_weights.safetensors": other, "b.safetensors": lora }, { weight_name: "b.safetensors" }],
  ["a folder", { "a/pytorch_lora_weights.safetensors": lora, "b.safetensors": other }, { subfolder: "a" }],
  [
    "a name in a folder",
    { "a/b.safetensors": lora, "b.safetensors": other },
    { weight_name: "b.safetensors", subfolder: "a" },
  ],
])("%s", async (_, files, options) => {
  expect(await tensorsOf(openAdapterFile(folder(files), kind, options))).toEqual(["this"]);
});

test("the first of several, with a warning", async () => {
  const warn = vi.spyOn(console, "warn").mockImplementation(() => undefined);
  const files = folder({ "a.safetensors": lora, "b.safetensors": other });
  expect(await tensorsOf(openAdapterFile(files, kind, {}))).toEqual(["this"]);
  expect(warn).toHaveBeenCalledWith(expect.stringMatching(/2 .safetensors files: a.safetensors is taken/));
  warn.mockRestore();
});

test("a File, a file of a source, and a path", async () => {
  const [file] = folder({ "x.safetensors": lora });
  expect(await tensorsOf(openAdapterFile(file!, kind, {}))).toEqual(["this"]);
  const source = folder({ "x.safetensors": lora, "y.safetensors": other });
  expect(await tensorsOf(openAdapterFile({ source, file: "x.safetensors" }, kind, {}))).toEqual(["this"]);
  const missing = openAdapterFile("./there-is-none.safetensors", kind, {});
  await expect(missing).rejects.toThrow(ModelNotFoundError);
});

test.each<[what: string, from: () => Promise<Weights>, error: unknown, message: RegExp]>([
  [
    "a pickle's address",
    () => openAdapterFile("owner/name/lora.bin", kind, {}),
    UnsupportedModelError,
    /lora.bin is a pickle/,
  ],
  [
    "a pickle's name",
    () => openAdapterFile(folder({ "x.pt": lora }), kind, { weight_name: "x.pt" }),
    UnsupportedModelError,
    /x.pt is a pickle.*torch.load\(file, weights_only=True\), name/,
  ],
  [
    "a pickle only",
    () => openAdapterFile(folder({ "lora.ckpt": lora }), kind, {}),
    UnsupportedModelError,
    /lora.ckpt is a pickle/,
  ],
  [
    "a pickle under another name",
    () => openAdapterFile(folder({ "x.safetensors": new TextEncoder().encode("PK\u0003\u0004 zip") }), kind, {}),
    UnsupportedModelError,
    /x.safetensors is a pickle/,
  ],
  [
    "another name",
    () => openAdapterFile(folder({ "x.safetensors": lora }), kind, { weight_name: "y.safetensors" }),
    ModelNotFoundError,
    /has no y.safetensors. Its .safetensors files: x.safetensors/,
  ],
  [
    "nothing",
    () => openAdapterFile(folder({ "a.txt": lora }), kind, {}),
    ModelNotFoundError,
    /no pytorch_lora_weights.*: none/,
  ],
  [
    "a web page",
    () => openAdapterFile(folder({ "x.safetensors": new TextEncoder().encode("<!DOCTYPE html><html>") }), kind, {}),
    IntegrityError,
    /found a web page/,
  ],
  [
    "text",
    () => openAdapterFile(folder({ "x.safetensors": new TextEncoder().encode("just some words") }), kind, {}),
    IntegrityError,
    /found a header length/,
  ],
  [
    "an empty file",
    () => openAdapterFile(folder({ "x.safetensors": new Uint8Array() }), kind, {}),
    IntegrityError,
    /found 0 bytes/,
  ],
])("%s is refused", async (_, from, error, message) => {
  const opened = from();
  await expect(opened).rejects.toThrow(error as ErrorConstructor);
  await expect(opened).rejects.toThrow(message);
});

/** A source that fetches, as the hub is one. */
function remote(files: Readonly<Record<string, Uint8Array>>, canList: boolean): { source: Source; asked: string[] } {
  const asked: string[] = [];
  const open: Source["open"] = async (path) => {
    asked.push(path);
    const bytes = files[path];
    return bytes && memoryFile(bytes, path);
  };
  const list = async () => Object.entries(files).map(([path, { length }]) => ({ path, size: length }));
  const prefetch = async (paths: readonly string[]) => void asked.push(...paths.map((path) => `fetch ${path}`));
  return { source: { name: "owner/name", open, ...(canList && { list, prefetch }) }, asked };
}

test("of a source that lists its files nothing else is fetched", async () => {
  const { source, asked } = remote({ "style/a.safetensors": lora, "model.safetensors": other }, true);
  const phases: string[] = [];
  const options = { subfolder: "style", progress_callback: ({ phase }: { phase: string }) => void phases.push(phase) };
  expect(await tensorsOf(openAdapterFile(source, kind, options))).toEqual(["this"]);
  expect(asked).toEqual(["fetch style/a.safetensors", "style/a.safetensors"]);
  expect(phases).toContain("verify");
});

test("of a source that does not, the usual name is asked for, or the one that is given", async () => {
  const { source, asked } = remote({ "pytorch_lora_weights.safetensors": lora, "b.safetensors": other }, false);
  expect(await tensorsOf(openAdapterFile(source, kind, {}))).toEqual(["this"]);
  expect(await tensorsOf(openAdapterFile(source, kind, { weight_name: "b.safetensors" }))).toEqual(["other"]);
  await expect(openAdapterFile(source, kind, { weight_name: "c.safetensors" })).rejects.toThrow(ModelNotFoundError);
  expect(asked).toEqual(["pytorch_lora_weights.safetensors", "b.safetensors", "c.safetensors"]);
});
