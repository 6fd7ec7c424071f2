/** Folders and chosen files as sources that can be listed. Handles and dropped entries: tests/browser/files.spec.ts. */
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { IntegrityError, ModelNotFoundError, openSource, readText, subSource, ValueError } from "@diffusers-web/core";
import { UNet2DConditionModel } from "@diffusers-web/models";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { withoutRights } from "../support/rights.ts";

/** A File as `<input webkitdirectory>` gives it. */
function chosen(webkitRelativePath: string, content: BlobPart = webkitRelativePath): File {
  const file = new File([content], webkitRelativePath.replace(/.*\//, ""));
  return Object.defineProperty(file, "webkitRelativePath", { value: webkitRelativePath });
}

const paths = async (from: readonly File[] | string): Promise<string[]> =>
  (await (await openSource(from)).list!()).map(({ path }) => path);

describe("chosen files", () => {
  test("a folder's, without the folder", async () => {
    const files = ["unet/model.safetensors", "model_index.json", "unet/config.json"].map((path) =>
      chosen(`top/${path}`),
    );
    const source = await openSource(files);
    expect(source.name).toBe("top");
    expect(await source.list!()).toEqual([
      { path: "model_index.json", size: 20 },
      { path: "unet/config.json", size: 20 },
      { path: "unet/model.safetensors", size: 26 },
    ]);
    expect(await readText(subSource(source, "unet"), "config.json")).toBe("top/unet/config.json");
    const file = (await source.open("unet/model.safetensors"))!;
    expect([file.path, file.size]).toEqual(["unet/model.safetensors", 26]);
    expect(new TextDecoder().decode(file.readSync(4, 8))).toBe("unet");
    file.close();
    file.close();
  });

  test.each<[string, File[], string, string[]]>([
    [
      "files alone",
      [new File(["{}"], "config.json"), new File([""], "a.safetensors")],
      "the chosen files",
      ["a.safetensors", "config.json"],
    ],
    ["one file alone", [new File(["{}"], "config.json")], "the chosen files", ["config.json"]],
    ["of two folders", [chosen("a/x"), chosen("b/x")], "the chosen files", ["a/x", "b/x"]],
    ["a folder's and one beside", [chosen("a/x"), new File([""], "y")], "the chosen files", ["a/x", "y"]],
    ["folders of like names", [chosen("a/x"), chosen("a b/x")], "the chosen files", ["a b/x", "a/x"]],
    ["a folder in one of its name", [chosen("a/a/x")], "a", ["a/x"]],
    [
      "odd names",
      [chosen("t/é #1?&%20 狐"), chosen("t/a\\b"), chosen("t/__proto__")],
      "t",
      ["__proto__", "a\\b", "é #1?&%20 狐"],
    ],
    [
      "with git's and a download tool's",
      [chosen("t/.git/config"), chosen("t/u/.cache/x"), chosen("t/.gitattributes"), chosen("t/.cache")],
      "t",
      [".cache", ".gitattributes"],
    ],
  ])("%s", async (_, files, name, expected) => {
    const source = await openSource(files);
    expect(source.name).toBe(name);
    expect(await paths(files)).toEqual(expected);
    for (const path of expected) expect((await source.open(path))!.path).toBe(path);
  });

  test("paths that are none of theirs", async () => {
    const source = await openSource([chosen("top/unet/x")]);
    for (const path of ["", "x", "unet", "unet/", "/unet/x", "../top/unet/x", "top/unet/x", "constructor"]) {
      expect(await source.open(path), path).toBeUndefined();
    }
  });

  test("two of one path, none at all, and what is no File", async () => {
    const twice = openSource([new File(["1"], "config.json"), new File(["2"], "config.json")]);
    await expect(twice).rejects.toThrow(ValueError);
    await expect(twice).rejects.toThrow(/Two of the files are called config\.json/);
    await expect(openSource([])).rejects.toThrow(ModelNotFoundError);
    for (const from of [["config.json"], [new Blob([""])], { kind: "file", name: "x" }, { isDirectory: false }, {}]) {
      await expect(openSource(from as unknown as File[])).rejects.toThrow(TypeError);
    }
  });

  test("cancelled, and not text", async () => {
    const source = await openSource([chosen("top/x", new Uint8Array([0x63, 0xe9]))]);
    const reason = new Error("changed my mind");
    await expect(source.open("x", { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    await expect(source.list!({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    await expect(readText(source, "x")).rejects.toThrow(IntegrityError);
  });

  test("a real checkpoint loads through them", async () => {
    const folder = fileURLToPath(new URL("../../demo/public/models/emoji-diffusion/unet/", import.meta.url));
    const files = fs
      .readdirSync(folder)
      .map((name) => chosen(`emoji-diffusion/unet/${name}`, new Uint8Array(fs.readFileSync(join(folder, name)))));
    await using model = await UNet2DConditionModel.from_pretrained([...files, chosen("emoji-diffusion/README.md")], {
      subfolder: "unet",
      device: "wasm",
    });
    const config = JSON.parse(fs.readFileSync(join(folder, "config.json"), "utf8")) as { cross_attention_dim: number };
    expect(model.config.cross_attention_dim).toBe(config.cross_attention_dim);
  });
});

describe("a folder", () => {
  let folder: string;
  beforeEach(() => {
    folder = fs.mkdtempSync(join(tmpdir(), "folder-"));
  });
  afterEach(() => fs.rmSync(folder, { recursive: true }));
  const put = (path: string, content = path): void => {
    fs.mkdirSync(join(folder, path, ".."), { recursive: true });
    fs.writeFileSync(join(folder, path), content);
  };

  test("is listed with its folders and sizes, without git's and a download tool's", async () => {
    for (const path of [
      "unet/b",
      "unet/a/c",
      "x",
      ".gitattributes",
      ".git/config",
      ".cache/huggingface/x",
      "unet/.git/x",
    ]) {
      put(path);
    }
    put("empty", "");
    fs.mkdirSync(join(folder, "none"));
    const source = await openSource(folder);
    expect(await source.list!()).toEqual([
      { path: ".gitattributes", size: 14 },
      { path: "empty", size: 0 },
      { path: "unet/a/c", size: 8 },
      { path: "unet/b", size: 6 },
      { path: "x", size: 1 },
    ]);
    expect((await subSource(source, "unet").list!()).map(({ path }) => path)).toEqual(["a/c", "b"]);
    const reason = new Error("changed my mind");
    await expect(source.list!({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });

  test("that is empty has no files", async () => {
    expect(await paths(folder)).toEqual([]);
  });

  test("odd names", async () => {
    const names = ["é #1?&%20 狐", "a\\b", "__proto__", "-", " "];
    for (const name of names) put(name);
    expect(await paths(folder)).toEqual([...names].sort());
    const source = await openSource(folder);
    for (const name of names) expect(await readText(source, name)).toBe(name);
    for (const path of ["x".repeat(300), "a\0b", "-/x", "", "."]) expect(await source.open(path), path).toBeUndefined();
  });

  test("links are followed, as in the hub's cache, but not in circles", async () => {
    const beside = fs.mkdtempSync(join(tmpdir(), "beside-"));
    try {
      fs.writeFileSync(join(beside, "blob"), "blob");
      put("unet/x");
      fs.symlinkSync(join(beside, "blob"), join(folder, "linked"));
      fs.symlinkSync(beside, join(folder, "linked folder"));
      fs.symlinkSync("..", join(folder, "unet/above"));
      fs.symlinkSync("self", join(folder, "self"));
      fs.symlinkSync("nowhere", join(folder, "dangling"));
      expect(await paths(folder)).toEqual(["linked", "linked folder/blob", "unet/x"]);
      const source = await openSource(folder);
      expect(await readText(source, "linked")).toBe("blob");
      for (const path of ["self", "dangling", "linked folder", "unet/above"]) {
        expect(await source.open(path), path).toBeUndefined();
      }
    } finally {
      fs.rmSync(beside, { recursive: true });
    }
  });

  test("what may not be read says so", async () => {
    put("unet/x");
    put("y");
    fs.chmodSync(folder, 0o755);
    fs.chmodSync(join(folder, "unet"), 0o000);
    fs.chmodSync(join(folder, "y"), 0o000);
    await withoutRights(async () => {
      const source = await openSource(folder);
      for (const [path, read] of [
        ["unet", () => source.list!()],
        ["unet/x", () => source.open("unet/x")],
        ["y", () => source.open("y")],
      ] as const) {
        const error: unknown = await read().catch((reason: unknown) => reason);
        expect(error).toBeInstanceOf(ModelNotFoundError);
        expect((error as Error).message).toMatch(/may not be read: EACCES/);
        expect((error as ModelNotFoundError).details.file).toMatch(new RegExp(`^${path}/?$`));
      }
    }).finally(() => fs.chmodSync(join(folder, "unet"), 0o755));
  });
});
