/** Models from files that a person gives a page: chosen, dropped, or in a folder that is open. */
import { readdirSync, statSync } from "node:fs";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, type Page, test } from "@playwright/test";

const model = fileURLToPath(new URL("../../demo/public/models/emoji-diffusion", import.meta.url));
const address = "/demo/public/models/emoji-diffusion";
const names = readdirSync(model, { recursive: true, encoding: "utf8" }).filter((name) =>
  statSync(join(model, name)).isFile(),
);
const listed = names.sort().map((path) => ({ path, size: statSync(join(model, path)).size }));

type Run = Parameters<Window["runFilesTask"]>;
const run = (page: Page, ...call: Run): Promise<unknown> => page.evaluate((c) => window.runFilesTask(...c), call);

test.beforeEach(async ({ page }) => {
  await page.goto("/tests/browser/harness/files.html");
  await page.waitForFunction("window.awaitDrop");
});

/** Drops a folder of this machine, as a person does. */
async function drop(page: Page, folder: string): Promise<void> {
  const done = page.evaluate(() => window.awaitDrop());
  const session = await page.context().newCDPSession(page);
  const box = (await page.locator("#drop").boundingBox())!;
  const data = { items: [], files: [folder], dragOperationsMask: 1 };
  for (const type of ["dragEnter", "dragOver", "drop"] as const) {
    await session.send("Input.dispatchDragEvent", { type, x: box.x + 9, y: box.y + 9, data });
  }
  await done;
  await session.detach();
}

// Vite answers scripts, and files without a suffix, in its own way.
const served = listed.filter(({ path }) => /\.(json|safetensors|md)$/.test(path));
const give: Record<string, (page: Page) => Promise<void>> = {
  folder: (page) => page.locator("#folder").setInputFiles(model),
  opfs: (page) =>
    page.evaluate(
      (files) => window.fillOpfs(files),
      Object.fromEntries(served.map(({ path }) => [path, `${address}/${path}`])),
    ),
  "dropped entry": (page) => drop(page, model),
  "dropped handle": (page) => drop(page, model),
};

for (const [kind, where] of [
  ["folder", "page"],
  ["folder", "worker"],
  ["opfs", "worker"],
  ["opfs", "page"],
  // An entry stays where it was dropped.
  ["dropped entry", "page"],
  ["dropped handle", "worker"],
] as const) {
  test(`${kind}, in a ${where}`, async ({ page }) => {
    await give[kind]!(page);
    const { name, files } = (await run(page, where, kind, "list")) as { name: string; files: unknown };
    expect(name).toBe(kind === "opfs" ? "model" : "emoji-diffusion");
    expect(files).toEqual(kind === "opfs" ? served : listed);
    const paths = ["unet", "none", "unet/none", "README.md/x", "../README.md", "/README.md", "", "."];
    expect(await run(page, where, kind, "open", ["model_index.json", ...paths])).toEqual({
      ...Object.fromEntries(paths.map((path) => [path, null])),
      "model_index.json": [statSync(join(model, "model_index.json")).size, expect.stringMatching(/^\{/)],
    });
  });
}

test("a real checkpoint computes what it does over HTTP", async ({ page }) => {
  await give["folder"]!(page);
  const expected = await run(page, "page", "folder", "unetFrom", address);
  expect(await run(page, "page", "folder", "unet")).toEqual(expected);
  expect(await run(page, "worker", "folder", "unet")).toEqual(expected);
  await give["dropped handle"]!(page);
  expect(await run(page, "worker", "dropped handle", "unet")).toEqual(expected);
});

test("files alone, and none at all", async ({ page }) => {
  await page.locator("#files").setInputFiles([join(model, "unet/config.json"), join(model, "model_index.json")]);
  const { name, files } = (await run(page, "worker", "files", "list")) as { name: string; files: { path: string }[] };
  expect([name, files.map(({ path }) => path)]).toEqual(["the chosen files", ["config.json", "model_index.json"]]);
  await page.locator("#files").setInputFiles([]);
  await expect(run(page, "page", "files", "list")).rejects.toThrow(/ModelNotFoundError: No files were given/);
});

test("a dropped folder with odd names, more entries than are read at once, links and bookkeeping", async ({ page }) => {
  const folder = await mkdtemp(join(tmpdir(), "dropped-"));
  try {
    for (const name of ["unet", "empty", ".git", "unet/.cache"]) await mkdir(join(folder, name));
    // Chromium's handles have no files whose names Windows would not take, such as those with a question mark.
    const odd = ["é #1&%20 狐", "constructor"];
    const many = Array.from({ length: 150 }, (_, i) => `unet/${String(i).padStart(3, "0")}`);
    for (const name of [...odd, ...many, ".git/config", "unet/.cache/x"])
      await writeFile(join(folder, name), "12345678");
    await symlink("..", join(folder, "unet/above"));
    await drop(page, folder);
    for (const kind of ["dropped entry", "dropped handle"] as const) {
      const { files } = (await run(page, "page", kind, "list")) as { files: { path: string; size: number }[] };
      expect(files).toEqual([...odd, ...many].sort().map((path) => ({ path, size: 8 })));
      expect(await run(page, "page", kind, "open", odd)).toEqual(
        Object.fromEntries(odd.map((path) => [path, [8, "12345678"]])),
      );
    }
  } finally {
    await rm(folder, { recursive: true });
  }
});
