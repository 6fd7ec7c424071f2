/** `cache`: what is kept is listed, sized, deleted and exported, from a page and from a worker. */
import { expect, type Page, test } from "@playwright/test";

const MB = 2 ** 20;

/** Three models in the order of their use, one of them only in part. */
async function fill(page: Page): Promise<void> {
  await page.goto("/tests/browser/harness/cache.html");
  await page.waitForFunction("window.tools");
  await page.evaluate(async () => {
    const { openIndexedDbStore, keyOf, keep, appendUntil, MB } = window.tools;
    const store = await openIndexedDbStore();
    const later = (): Promise<void> =>
      new Promise((resolve) => {
        const start = Date.now();
        const wait = (): void => (Date.now() > start ? resolve() : void setTimeout(wait));
        wait();
      });
    await keep(store, keyOf("unet/a.safetensors", "owner/old", "c1"), 3 * MB, MB);
    await keep(store, keyOf("model_index.json", "owner/old", "c1"), 100);
    await later();
    await keep(store, keyOf("unet/a.safetensors", "owner/old", "c2"), 2 * MB);
    await later();
    const partial = await store.begin(keyOf("vae/b.safetensors", "owner/new"), { path: "vae/b.safetensors", size: MB });
    await appendUntil(partial, 1000, 1000);
    for (const [repo, commit] of [
      ["owner/old", "c2"],
      ["owner/new", "c1"],
    ] as const) {
      await store.keepCommit({ endpoint: "https://hub.test", repo }, "main", commit);
      await store.keepListing({ endpoint: "https://hub.test", repo }, commit, []);
    }
    await store.keepListing({ endpoint: "https://hub.test", repo: "owner/old" }, "c1", []);
  });
}

test.beforeEach(({ page }) => fill(page));

const models = [
  { endpoint: "https://hub.test", repo: "owner/old", commit: "c1", bytes: 3 * MB + 100, files: 2, whole: true },
  { endpoint: "https://hub.test", repo: "owner/old", commit: "c2", bytes: 2 * MB, files: 1, whole: true },
  { endpoint: "https://hub.test", repo: "owner/new", commit: "c1", bytes: 1000, files: 1, whole: false },
];

test("list, size and what could go", async ({ page }) => {
  const start = await page.evaluate(() => Date.now());
  const found = await page.evaluate(async () => {
    const { cache, MB } = window.tools;
    const named = async (bytes: number): Promise<string[]> =>
      (await cache.evictable(bytes)).map(({ repo, commit }) => `${repo}@${commit}`);
    return {
      list: await cache.list(),
      size: await cache.size(),
      evictable: [await named(0), await named(1), await named(3 * MB + 101), await named(100 * MB)],
    };
  });
  expect(found.list.map(({ last_used, ...rest }) => rest)).toEqual(models);
  for (const { last_used } of found.list) {
    expect(last_used).toBeInstanceOf(Date);
    expect(Math.abs(last_used.getTime() - start)).toBeLessThan(60_000);
  }
  expect(found.size).toBe(5 * MB + 1100);
  expect(found.evictable).toEqual([
    [],
    ["owner/old@c1"],
    ["owner/old@c1", "owner/old@c2"],
    ["owner/old@c1", "owner/old@c2", "owner/new@c1"],
  ]);
});

test("opening a file makes its model the last to go", async ({ page }) => {
  const order = await page.evaluate(async () => {
    const { openIndexedDbStore, keyOf, cache } = window.tools;
    (await (await openIndexedDbStore()).open(keyOf("model_index.json", "owner/old", "c1")))!.close();
    return (await cache.list()).map(({ commit }) => commit);
  });
  expect(order).toEqual(["c2", "c1", "c1"]);
});

const deletions: [
  model: { repo: string; commit?: string; endpoint?: string },
  freed: number,
  left: string[],
  commits: (string | undefined)[],
  listings: boolean[],
][] = [
  [{ repo: "owner/old" }, 5 * MB + 100, ["new c1"], [undefined, "c1"], [false, false, true]],
  [{ repo: "owner/old", commit: "c1" }, 3 * MB + 100, ["old c2", "new c1"], ["c2", "c1"], [false, true, true]],
  [{ repo: "owner/old", commit: "c2" }, 2 * MB, ["old c1", "new c1"], [undefined, "c1"], [true, false, true]],
  [
    { repo: "owner/new", endpoint: "https://hub.test" },
    1000,
    ["old c1", "old c2"],
    ["c2", undefined],
    [true, true, false],
  ],
  [
    { repo: "owner/old", endpoint: "https://other.test" },
    0,
    ["old c1", "old c2", "new c1"],
    ["c2", "c1"],
    [true, true, true],
  ],
  [{ repo: "owner/ol" }, 0, ["old c1", "old c2", "new c1"], ["c2", "c1"], [true, true, true]],
];
for (const [model, freed, left, commits, listings] of deletions) {
  test(`delete ${JSON.stringify(model)}`, async ({ page }) => {
    const found = await page.evaluate(async (key) => {
      const { openIndexedDbStore, cache, records } = window.tools;
      const store = await openIndexedDbStore();
      const repo = (name: string): { endpoint: string; repo: string } => ({ endpoint: "https://hub.test", repo: name });
      return {
        freed: await cache.delete(key),
        left: (await cache.list()).map((one) => `${one.repo.slice(6)} ${one.commit}`),
        commits: [await store.commit(repo("owner/old"), "main"), await store.commit(repo("owner/new"), "main")],
        listings: [
          (await store.listing(repo("owner/old"), "c1")) !== undefined,
          (await store.listing(repo("owner/old"), "c2")) !== undefined,
          (await store.listing(repo("owner/new"), "c1")) !== undefined,
        ],
        // What the parts have together: none is left behind.
        bytes: (await records())
          .filter(([id]) => Array.isArray(id) && id[0] === "part")
          .reduce((sum, [, size]) => sum + (size as number), 0),
      };
    }, model);
    expect(found).toEqual({ freed, left, commits, listings, bytes: 5 * MB + 1100 - freed });
  });
}

test("clear", async ({ page }) => {
  const found = await page.evaluate(async () => {
    const { cache, records } = window.tools;
    await cache.clear();
    return [await cache.list(), await cache.size(), (await records()).map(([key]) => key)];
  });
  expect(found).toEqual([[], 0, ["persist", "schema"]]);
});

test("export writes the files as they lie in the repository", async ({ page }) => {
  const found = await page.evaluate(async () => {
    const { cache, differs, failure, keyOf, openIndexedDbStore } = window.tools;
    const root = await navigator.storage.getDirectory();
    const folder = (name: string): Promise<FileSystemDirectoryHandle> =>
      root.getDirectoryHandle(name, { create: true });
    const files = async (parent: FileSystemDirectoryHandle, prefix = ""): Promise<[string, number, number][]> => {
      const all: [string, number, number][] = [];
      for await (const [name, handle] of parent.entries()) {
        if (handle.kind === "directory") {
          all.push(...(await files(handle as FileSystemDirectoryHandle, `${prefix}${name}/`)));
        } else {
          const file = await (handle as FileSystemFileHandle).getFile();
          all.push([prefix + name, file.size, differs(new Uint8Array(await file.arrayBuffer()), 0)]);
        }
      }
      return all.sort();
    };
    const first = await folder("first");
    const written = await cache.export("owner/old", first, { commit: "c1" });
    // Over files that are there, and the commit that was used last.
    (await (await openIndexedDbStore()).open(keyOf("unet/a.safetensors", "owner/old", "c2")))!.close();
    const latest = await cache.export("owner/old", first);
    const empty = await folder("empty");
    const signal = AbortSignal.abort(new RangeError("enough"));
    return {
      ...{ written, latest },
      first: await files(first),
      partial: await failure(cache.export("owner/new", empty)),
      none: await failure(cache.export("owner/none", empty)),
      stopped: await failure(cache.export("owner/old", empty, { signal })),
      empty: await files(empty),
    };
  });
  expect(found.written).toEqual(["model_index.json", "unet/a.safetensors"]);
  expect(found.latest).toEqual(["unet/a.safetensors"]);
  expect(found.first).toEqual([
    ["model_index.json", 100, -1],
    ["unet/a.safetensors", 2 * MB, -1],
  ]);
  expect(found.partial).toMatchObject({
    code: "INTEGRITY",
    details: { file: "vae/b.safetensors", found: "1000 bytes", expected: `${MB} bytes` },
  });
  expect(found.none).toMatchObject({ code: "MODEL_NOT_FOUND", message: expect.stringContaining("owner/none") });
  expect(found.stopped).toEqual({ name: "RangeError", message: "enough" });
  expect(found.empty).toEqual([]);
});

test("in a worker", async ({ page }) => {
  expect(await page.evaluate(() => window.inWorker("api", "owner/old"))).toEqual({
    repos: ["owner/old", "owner/old", "owner/new"],
    size: 5 * MB + 1100,
    exported: expect.arrayContaining(["unet/a.safetensors"]),
    persisted: false,
    freed: 5 * MB + 100,
    left: 1000,
  });
});

test("misuse is named", async ({ page }) => {
  const found = await page.evaluate(async () => {
    const { cache, failure } = window.tools;
    return [
      await failure(cache.delete({ repos: "x" } as never)),
      await failure(cache.delete({} as never)),
      await failure(cache.evictable(Number.NaN)),
      await failure(cache.export("owner/old", undefined as never, { commits: "c1" } as never)),
    ];
  });
  expect(found).toEqual([
    expect.objectContaining({ name: "TypeError", message: expect.stringContaining("Did you mean `repo`?") }),
    expect.objectContaining({ name: "TypeError", message: expect.stringContaining("{ repo }") }),
    expect.objectContaining({ code: "VALUE" }),
    expect.objectContaining({ name: "TypeError", message: expect.stringContaining("Did you mean `commit`?") }),
  ]);
});
