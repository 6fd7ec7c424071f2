/** Downloads kept in IndexedDB: the store's contract, crashes, two pages, the quota, migration, reading, and `cache`. */
import { type BrowserContext, expect, type Page, test } from "@playwright/test";

const harness = "/tests/browser/harness/cache.html";

async function load(page: Page): Promise<Page> {
  await page.goto(harness);
  await page.waitForFunction("window.tools");
  return page;
}

async function newPage(context: BrowserContext): Promise<Page> {
  return load(await context.newPage());
}

/** The renderer's end: nothing of the page runs any more. */
async function crash(page: Page): Promise<void> {
  const session = await page.context().newCDPSession(page);
  const crashed = page.waitForEvent("crash");
  // It does not answer any more.
  session.send("Page.crash").catch(() => undefined);
  await crashed;
  await page.close();
}

test.beforeEach(({ page }) => load(page));

test.describe("the store's contract", () => {
  test("a file is kept part by part, and is whole only once it is completed", async ({ page }) => {
    const result = await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, appendUntil, check, MB } = window.tools;
      const store = await openIndexedDbStore();
      const key = keyOf("unet/a.safetensors");
      const seen: unknown[] = [await check(store, key)];
      const file = await store.begin(key, { path: key.path, size: 3 * MB, sha256: "aa" });
      seen.push([file.offset, file.hash]);
      await appendUntil(file, 2 * MB, MB);
      seen.push([file.offset, file.hash![0]], await check(store, key));
      await appendUntil(file, 3 * MB, MB);
      seen.push(await check(store, key));
      await file.complete();
      seen.push(await check(store, key));
      return seen;
    });
    expect(result).toEqual([undefined, [0, undefined], [2 * 2 ** 20, 2], undefined, undefined, [3 * 2 ** 20, -1]]);
  });

  test("after a reload it goes on from the last part", async ({ page }) => {
    await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, appendUntil } = window.tools;
      const file = await (await openIndexedDbStore()).begin(keyOf("a"), { path: "a", size: 50_000, sha256: "aa" });
      await appendUntil(file, 20_000, 10_000);
    });
    await load(page);
    const result = await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, appendUntil, check } = window.tools;
      const store = await openIndexedDbStore();
      const file = await store.begin(keyOf("a"), { path: "a", size: 50_000, sha256: "aa" });
      const resumed = [file.offset, file.hash?.[0]];
      await appendUntil(file, 50_000, 10_000);
      await file.complete();
      return { resumed, check: await check(store, keyOf("a")) };
    });
    expect(result).toEqual({ resumed: [20_000, 2], check: [50_000, -1] });
    await load(page);
    expect(
      await page.evaluate(async () =>
        window.tools.check(await window.tools.openIndexedDbStore(), window.tools.keyOf("a")),
      ),
    ).toEqual([50_000, -1]);
  });

  // What is kept is 20 of 50 bytes, with sha256 "aa" and oid "bb".
  const descriptions: [what: string, info: { size: number; sha256?: string; oid?: string }, offset: number][] = [
    ["the same", { size: 50, sha256: "aa", oid: "bb" }, 20],
    ["less known", { size: 50 }, 20],
    ["another size", { size: 51, sha256: "aa", oid: "bb" }, 0],
    ["another hash", { size: 50, sha256: "ab", oid: "bb" }, 0],
    ["another git object", { size: 50, sha256: "aa", oid: "bc" }, 0],
  ];
  for (const [what, info, offset] of descriptions) {
    test(`what is kept is of the file that is described: ${what}`, async ({ page }) => {
      const found = await page.evaluate(async (described) => {
        const { openIndexedDbStore, keyOf, appendUntil, records } = window.tools;
        const store = await openIndexedDbStore();
        await appendUntil(await store.begin(keyOf("a"), { path: "a", size: 50, sha256: "aa", oid: "bb" }), 20, 10);
        const file = await store.begin(keyOf("a"), { path: "a", ...described });
        return [file.offset, (await records()).filter(([key]) => Array.isArray(key) && key[0] === "part").length];
      }, info);
      expect(found).toEqual([offset, offset === 0 ? 0 : 2]);
    });
  }

  test("files are told apart by endpoint, repo, commit and path", async ({ page }) => {
    const found = await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, keep, check } = window.tools;
      const store = await openIndexedDbStore();
      const first = keyOf("a/b", "o/m", "c");
      const others = [
        { ...first, endpoint: "https://other.test" },
        { ...first, repo: "o/m2" },
        { ...first, commit: "c2" },
        { ...first, path: "a/b2" },
        { ...first, path: "a" },
      ];
      await keep(store, first, 10);
      const before = await Promise.all(others.map((key) => check(store, key)));
      for (const key of others) await keep(store, key, 20);
      await store.delete(first);
      return {
        before,
        first: await check(store, first),
        after: await Promise.all(others.map((key) => check(store, key))),
      };
    });
    expect(found.before).toEqual([undefined, undefined, undefined, undefined, undefined]);
    expect(found.first).toBeUndefined();
    expect(found.after).toEqual([20, 20, 20, 20, 20].map((size) => [size, -1]));
  });

  test("discard drops a file, and it can be begun anew with the same object", async ({ page }) => {
    const found = await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, appendUntil, check, records } = window.tools;
      const store = await openIndexedDbStore();
      const file = await store.begin(keyOf("a"), { path: "a", size: 30 });
      await appendUntil(file, 30, 10);
      await file.discard();
      const left = (await records()).length;
      const empty = [file.offset, file.hash];
      await appendUntil(file, 30, 15);
      await file.complete();
      return { left, empty, check: await check(store, keyOf("a")) };
    });
    // What is left says which schema it is, and that persistence was asked for.
    expect(found).toEqual({ left: 2, empty: [0, undefined], check: [30, -1] });
  });

  test("an empty file, and a whole file that is begun again", async ({ page }) => {
    const found = await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, keep, check } = window.tools;
      const store = await openIndexedDbStore();
      await keep(store, keyOf("empty"), 0);
      await keep(store, keyOf("a"), 10);
      const again = await store.begin(keyOf("a"), { path: "a", size: 10 });
      const offset = again.offset;
      await again.complete();
      return { empty: await check(store, keyOf("empty")), offset, check: await check(store, keyOf("a")) };
    });
    expect(found).toEqual({ empty: [0, -1], offset: 10, check: [10, -1] });
  });

  test("too many bytes and too few are refused", async ({ page }) => {
    const errors = await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, appendUntil, bytesOf, failure } = window.tools;
      const file = await (await openIndexedDbStore()).begin(keyOf("a"), { path: "a", size: 30 });
      await appendUntil(file, 20, 10);
      return [await failure(file.complete()), await failure(file.append([bytesOf(20, 31)], undefined)), file.offset];
    });
    expect(errors).toEqual([
      expect.objectContaining({ code: "INTEGRITY", details: { file: "a", found: "20 bytes", expected: "30 bytes" } }),
      expect.objectContaining({
        code: "INTEGRITY",
        details: { file: "a", found: "31 bytes or more", expected: "30 bytes" },
      }),
      20,
    ]);
  });

  test("commits and listings", async ({ page }) => {
    const found = await page.evaluate(async () => {
      const { openIndexedDbStore } = window.tools;
      const store = await openIndexedDbStore();
      const repo = { endpoint: "https://hub.test", repo: "o/m" };
      const before = [await store.commit(repo, "main"), await store.listing(repo, "c1")];
      await store.keepCommit(repo, "main", "c0");
      await store.keepCommit(repo, "main", "c1");
      await store.keepListing(repo, "c1", [{ path: "a", size: 3, sha256: "aa" }]);
      const again = await openIndexedDbStore();
      const other = { ...repo, endpoint: "https://other.test" };
      return {
        before,
        commits: [await again.commit(repo, "main"), await again.commit(repo, "v1"), await again.commit(other, "main")],
        listings: [await again.listing(repo, "c1"), await again.listing(repo, "c0")],
      };
    });
    expect(found).toEqual({
      before: [undefined, undefined],
      commits: ["c1", undefined, undefined],
      listings: [[{ path: "a", size: 3, sha256: "aa" }], undefined],
    });
  });

  test("small parts become one, none is above 64 MiB, and every byte is right", async ({ page }) => {
    const found = await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, appendUntil, bytesOf, check, records, MB } = window.tools;
      const store = await openIndexedDbStore();
      const parts = async (): Promise<unknown[]> =>
        (await records())
          .filter(([key]) => Array.isArray(key) && key[0] === "part")
          .map(([, size]) => (size as number) / MB);
      const file = await store.begin(keyOf("a"), { path: "a", size: 230 * MB });
      const seen: unknown[] = [];
      await appendUntil(file, 24 * MB, 8 * MB);
      seen.push(await parts());
      await appendUntil(file, 32 * MB, 8 * MB);
      seen.push(await parts());
      await appendUntil(file, 64 * MB, 2 * MB);
      seen.push(await parts());
      // Larger than a part, and cut within a chunk.
      await file.append([bytesOf(64 * MB, 160 * MB), bytesOf(160 * MB, 200 * MB)], undefined);
      seen.push(await parts());
      await appendUntil(file, 230 * MB, 15 * MB);
      await file.complete();
      seen.push(await parts());
      return { seen, check: await check(store, keyOf("a")) };
    });
    expect(found.seen).toEqual([[8, 8, 8], [32], [32, 32], [32, 32, 64, 64, 8], [32, 32, 64, 64, 38]]);
    expect(found.check).toEqual([230 * 2 ** 20, -1]);
  });

  test("a lost part, or one that a browser cut, makes the file absent", async ({ page }) => {
    const found = await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, keep, check, putRaw, records } = window.tools;
      const store = await openIndexedDbStore();
      await keep(store, keyOf("a"), 40, 10);
      const part = (await records()).find(([key]) => Array.isArray(key) && key[0] === "part")![0] as string[];
      await putRaw([[part, new Blob(["short"])]]);
      return {
        check: await check(store, keyOf("a")),
        begun: (await store.begin(keyOf("a"), { path: "a", size: 40 })).offset,
      };
    });
    expect(found).toEqual({ check: undefined, begun: 0 });
  });
});

test("a page that crashes while it appends loses at most the part in flight", async ({ context }) => {
  test.slow();
  const part = 8 * 2 ** 20;
  let offset = 0;
  for (let round = 0; round < 4; round++) {
    const page = await newPage(context);
    const resumed = await page.evaluate(async (size) => {
      const { openIndexedDbStore, keyOf, bytesOf } = window.tools;
      const file = await (await openIndexedDbStore()).begin(keyOf("a"), { path: "a", size: 8 * size });
      const begun = file.offset;
      const wrong = file.hash?.[0] !== (begun === 0 ? undefined : begun / size);
      await file.append([bytesOf(begun, begun + size)], new Uint8Array([begun / size + 1]));
      // Not awaited.
      const next = bytesOf(begun + size, begun + 2 * size);
      file.append([next], new Uint8Array([begun / size + 2])).catch(() => undefined);
      return { begun, wrong };
    }, part);
    await crash(page);
    expect(resumed.wrong).toBe(false);
    // All that had been awaited, and perhaps the one that was not.
    expect([offset, offset + part]).toContain(resumed.begun);
    offset = resumed.begun + part;
  }
  const page = await newPage(context);
  const result = await page.evaluate(async (size) => {
    const { openIndexedDbStore, keyOf, appendUntil, check } = window.tools;
    const store = await openIndexedDbStore();
    const before = await check(store, keyOf("a"));
    const file = await store.begin(keyOf("a"), { path: "a", size: 8 * size });
    await appendUntil(file, 8 * size, size);
    await file.complete();
    return { before, check: await check(store, keyOf("a")) };
  }, part);
  expect(result).toEqual({ before: undefined, check: [8 * part, -1] });
});

test.describe("two pages at once", () => {
  test("one has the file for itself, the other waits, or stops waiting", async ({ page, context }) => {
    const other = await newPage(context);
    await page.evaluate(async () => {
      const store = await window.tools.openIndexedDbStore();
      await new Promise<void>((started) => {
        const task = (): Promise<string> =>
          new Promise((resolve) => {
            Object.assign(window, { finish: resolve });
            started();
          });
        Object.assign(window, { first: store.exclusive(window.tools.keyOf("a"), task) });
      });
    });
    const waits = await other.evaluate(async () => {
      const { openIndexedDbStore, keyOf, failure } = window.tools;
      const store = await openIndexedDbStore();
      const order: string[] = [];
      Object.assign(window, { order });
      const second = store.exclusive(keyOf("a"), async () => order.push("second"));
      Object.assign(window, { second });
      const stop = new AbortController();
      const third = failure(store.exclusive(keyOf("a"), async () => order.push("third"), stop.signal));
      order.push(await store.exclusive(keyOf("b"), async () => "another file"));
      stop.abort(new RangeError("enough"));
      return {
        order: [...order],
        third: await third,
        late: await failure(store.exclusive(keyOf("b"), async () => order.push("late"), stop.signal)),
      };
    });
    const enough = { name: "RangeError", message: "enough" };
    expect(waits).toEqual({ order: ["another file"], third: enough, late: enough });
    await page.evaluate("window.finish('done')");
    expect(await page.evaluate("window.first")).toBe("done");
    await other.evaluate("window.second");
    expect(await other.evaluate("window.order")).toEqual(["another file", "second"]);
  });

  test("a page that is closed lets go of the file", async ({ page, context }) => {
    const other = await newPage(context);
    await other.evaluate(async () => {
      const store = await window.tools.openIndexedDbStore();
      await new Promise<void>((started) => {
        store.exclusive(window.tools.keyOf("a"), () => new Promise<void>(() => started())).catch(() => undefined);
      });
    });
    const second = page.evaluate(async () =>
      (await window.tools.openIndexedDbStore()).exclusive(window.tools.keyOf("a"), async () => "mine"),
    );
    await other.close();
    expect(await second).toBe("mine");
  });

  test("an error of the task is the caller's, and the file is free again", async ({ page }) => {
    const found = await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, failure } = window.tools;
      const store = await openIndexedDbStore();
      const failed = await failure(
        store.exclusive(keyOf("a"), async () => {
          throw new RangeError("of the task");
        }),
      );
      return [failed, await store.exclusive(keyOf("a"), async () => "free")];
    });
    expect(found).toEqual([{ name: "RangeError", message: "of the task" }, "free"]);
  });

  test("who writes unlocked what another wrote or deleted meanwhile is told so", async ({ page, context }) => {
    const other = await newPage(context);
    const begin = async (): Promise<void> => {
      const { openIndexedDbStore, keyOf, appendUntil } = window.tools;
      const file = await (await openIndexedDbStore()).begin(keyOf("a"), { path: "a", size: 30 });
      await appendUntil(file, 10, 10);
      Object.assign(window, { file });
    };
    const append = (): Promise<{ code?: string; details?: unknown }> => {
      const { file } = window as never as { file: Parameters<typeof window.tools.appendUntil>[0] };
      return window.tools.failure(window.tools.appendUntil(file, file.offset + 10, 10));
    };
    await page.evaluate(begin);
    await other.evaluate(async () => {
      const { openIndexedDbStore, keyOf, appendUntil } = window.tools;
      await appendUntil(await (await openIndexedDbStore()).begin(keyOf("a"), { path: "a", size: 30 }), 20, 10);
    });
    const written = await page.evaluate(append);
    expect(written).toMatchObject({ code: "INTEGRITY", details: { found: "20 bytes of another tab's" } });
    const kept = await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf } = window.tools;
      return (await (await openIndexedDbStore()).begin(keyOf("a"), { path: "a", size: 30 })).offset;
    });
    expect(kept).toBe(20);
    await other.evaluate(() => window.tools.cache.clear());
    expect(await page.evaluate(append)).toMatchObject({ code: "INTEGRITY", details: { found: "nothing" } });
  });

  test("a database that another tab deletes is opened again", async ({ page, context }) => {
    const other = await newPage(context);
    const found = await page.evaluate(async () => {
      const store = await window.tools.openIndexedDbStore();
      await window.tools.keep(store, window.tools.keyOf("a"), 10);
      Object.assign(window, { store });
      return window.tools.cache.size();
    });
    expect(found).toBe(10);
    // It would wait for ever if the first page did not close its connection.
    await other.evaluate(() => window.tools.deleteDatabase());
    const after = await page.evaluate(async () => {
      const { store } = window as never as { store: Parameters<typeof window.tools.check>[0] };
      return window.tools.failure(window.tools.check(store, window.tools.keyOf("a")));
    });
    expect(after).toMatchObject({ name: "none" });
  });
});
