/** Downloads kept in IndexedDB: the quota, other schemas, lost connections, reading, persistence. */
import { expect, type Page, test } from "@playwright/test";

const MB = 2 ** 20;

async function load(page: Page): Promise<void> {
  await page.goto("/tests/browser/harness/cache.html");
  await page.waitForFunction("window.tools");
}

/** Sets what the page's origin may store, in bytes; as usual without a size. */
async function setQuota(page: Page, quotaSize?: number): Promise<void> {
  const session = await page.context().newCDPSession(page);
  const origin = new URL(page.url()).origin;
  await session.send("Storage.overrideQuotaForOrigin", { origin, ...(quotaSize === undefined ? {} : { quotaSize }) });
}

test.beforeEach(({ page }) => load(page));

test.describe("no room", () => {
  test("a QuotaError says what is missing and what could go, and what was kept stays", async ({ page }) => {
    await setQuota(page, 22 * MB);
    await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, keep, MB } = window.tools;
      const store = await openIndexedDbStore();
      await keep(store, keyOf("x", "owner/oldest"), 2 * MB);
      await keep(store, keyOf("x", "owner/older"), 6 * MB);
      await keep(store, keyOf("y", "owner/older"), 1 * MB);
      await keep(store, keyOf("x", "owner/new"), 9 * MB);
      // Used now: it goes last.
      await store.open(keyOf("x", "owner/oldest"));
      await keep(store, keyOf("b"), MB);
    });
    const { error, after } = await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, appendUntil, failure, check, MB } = window.tools;
      const store = await openIndexedDbStore();
      const file = await store.begin(keyOf("unet/a"), { path: "unet/a", size: 8 * MB });
      await appendUntil(file, MB, MB);
      const rejected = await failure(appendUntil(file, 8 * MB, 7 * MB));
      return {
        error: rejected,
        after: [
          file.offset,
          file.hash?.[0],
          await check(store, keyOf("b")),
          await check(store, keyOf("x", "owner/new")),
        ],
      };
    });
    expect(after).toEqual([MB, 1, [MB, -1], [9 * MB, -1]]);
    const { storage, ...details } = error.details!;
    expect(error.code).toBe("QUOTA");
    expect(details).toMatchObject({ file: "unet/a", expected: `${7 * MB} bytes free` });
    // Of the quota, Chromium tells pages less than the truth: an estimate in which there is room is not passed on.
    expect(storage).toMatchObject({ needed: 7 * MB, missing: 7 * MB });
    expect(storage!.quota).toBeUndefined();
    // At least the 20 MB that are kept; the database's own files take some.
    expect(storage!.used).toBeGreaterThanOrEqual(20 * MB);
    expect(storage!.evictable).toEqual([
      { endpoint: "https://hub.test", repo: "owner/older", commit: "c1", bytes: 7 * MB },
    ]);
    expect(error.message).toMatch(
      /^unet\/a of owner\/model needs 7\.3 MB more .*, 2\d MB are used: at least 7\.3 MB are missing/,
    );
    expect(error.message).toContain("cache.delete: owner/older, 7.3 MB");

    // What it says to do helps, and the download goes on where it was.
    const resumed = await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, appendUntil, check, cache, MB } = window.tools;
      const store = await openIndexedDbStore();
      const freed = await cache.delete({ repo: "owner/older" });
      const file = await store.begin(keyOf("unet/a"), { path: "unet/a", size: 8 * MB });
      const offset = file.offset;
      await appendUntil(file, 8 * MB, 7 * MB);
      await file.complete();
      return [freed, offset, await check(store, keyOf("unet/a"))];
    });
    expect(resumed).toEqual([7 * MB, MB, [8 * MB, -1]]);
    await setQuota(page);

    // Where the estimate is honest, it is what is told.
    const honest = await page.evaluate(async () => {
      const { quotaError, openDatabase, keyOf, MB } = window.tools;
      const { estimate } = StorageManager.prototype;
      StorageManager.prototype.estimate = async () => ({ usage: 20 * MB, quota: 22 * MB });
      const { details } = await quotaError(await openDatabase(), keyOf("a"), 7 * MB, undefined);
      StorageManager.prototype.estimate = estimate;
      return details;
    });
    expect(honest).toMatchObject({ found: `${2 * MB} bytes free` });
    expect(honest.storage).toMatchObject({ needed: 7 * MB, used: 20 * MB, quota: 22 * MB, missing: 5 * MB });
  });

  test('"or-memory" keeps the rest in memory, and the next page goes on from what fitted', async ({ page }) => {
    await setQuota(page, 6 * MB);
    const found = await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, appendUntil, check, cache, MB } = window.tools;
      const store = await openIndexedDbStore({ cache: "or-memory" });
      const file = await store.begin(keyOf("a"), { path: "a", size: 16 * MB });
      await appendUntil(file, 4 * MB, 2 * MB);
      await appendUntil(file, 12 * MB, 4 * MB);
      const half = [await check(store, keyOf("a")), await cache.size()];
      // As after a cut: the same store goes on.
      const again = await store.begin(keyOf("a"), { path: "a", size: 16 * MB });
      const resumed = [again.offset, again.hash![0]];
      await appendUntil(again, 16 * MB, 4 * MB);
      await again.complete();
      const repo = { endpoint: "https://hub.test", repo: "owner/model" };
      const files = Array.from({ length: 20_000 }, (_, i) => ({
        path: `${"x".repeat(200)}${i}`,
        size: i,
        sha256: "aa",
      }));
      await store.keepListing(repo, "c1", files);
      return {
        ...{ half, resumed },
        whole: await check(store, keyOf("a")),
        listing: (await store.listing(repo, "c1"))?.length,
        elsewhere: await check(await openIndexedDbStore(), keyOf("a")),
      };
    });
    expect(found).toEqual({
      half: [undefined, 4 * MB],
      resumed: [12 * MB, 3],
      whole: [16 * MB, -1],
      listing: 20_000,
      elsewhere: undefined,
    });
    await load(page);
    await setQuota(page);
    const next = await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, appendUntil, check, MB } = window.tools;
      const store = await openIndexedDbStore();
      const file = await store.begin(keyOf("a"), { path: "a", size: 16 * MB });
      const resumed = [file.offset, file.hash![0]];
      await appendUntil(file, 16 * MB, 4 * MB);
      await file.complete();
      return { resumed, check: await check(store, keyOf("a")) };
    });
    expect(next).toEqual({ resumed: [4 * MB, 2], check: [16 * MB, -1] });
  });

  test("a full disk does not keep a whole file from being read", async ({ page }) => {
    await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, keep, MB } = window.tools;
      await keep(await openIndexedDbStore(), keyOf("a"), MB);
    });
    await setQuota(page, 1000);
    // For half a minute Chromium goes by the room that it found before.
    const refused = (): Promise<string | undefined> =>
      page.evaluate(async () => {
        const { openIndexedDbStore, keyOf, keep, failure } = window.tools;
        return (await failure(keep(await openIndexedDbStore(), keyOf("b"), 0))).code;
      });
    await expect.poll(refused, { timeout: 60_000 }).toBe("QUOTA");
    const found = await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, check } = window.tools;
      return check(await openIndexedDbStore(), keyOf("a"));
    });
    expect(found).toEqual([MB, -1]);
    await setQuota(page);
  });
});

test.describe("other schemas", () => {
  test("records without a schema are of no released version: they are dropped", async ({ page }) => {
    const found = await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, keep, check, putRaw, records } = window.tools;
      await putRaw([["https://hub.test/owner/model", new Blob(["of another layout"])]]);
      const store = await openIndexedDbStore();
      await keep(store, keyOf("a"), 10);
      return {
        check: await check(store, keyOf("a")),
        keys: (await records()).map(([key]) => String(key).split(",")[0]),
      };
    });
    expect(found).toEqual({ check: [10, -1], keys: ["persist", "schema", "file", "part"] });
  });

  test("a newer one is named, and cache.clear() helps", async ({ page }) => {
    const found = await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, keep, check, putRaw, failure, cache } = window.tools;
      await putRaw([
        ["schema", 99],
        ["persist", 1],
      ]);
      const errors = [await failure(openIndexedDbStore()), await failure(cache.list())];
      await cache.clear();
      const store = await openIndexedDbStore();
      await keep(store, keyOf("a"), 10);
      return { errors, check: await check(store, keyOf("a")) };
    });
    const error = {
      code: "UNSUPPORTED_MODEL",
      message: expect.stringMatching(/layout 99, this page reads layout 1: .* Reload the page, or .*cache\.clear\(\)/),
      details: { found: "layout 99", expected: "layout 1" },
    };
    expect(found.errors).toEqual([expect.objectContaining(error), expect.objectContaining(error)]);
    expect(found.check).toEqual([10, -1]);
  });

  test("another tab upgrades the database while this one downloads", async ({ page, context }) => {
    await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, appendUntil } = window.tools;
      const file = await (await openIndexedDbStore()).begin(keyOf("a"), { path: "a", size: 30 });
      await appendUntil(file, 10, 10);
      Object.assign(window, { file });
    });
    const other = await context.newPage();
    await load(other);
    await other.evaluate(() => window.tools.putRaw([["schema", 2]]));
    const error = await page.evaluate(() => {
      const { file } = window as never as { file: Parameters<typeof window.tools.appendUntil>[0] };
      return window.tools.failure(window.tools.appendUntil(file, 20, 10));
    });
    expect(error).toMatchObject({ code: "UNSUPPORTED_MODEL", details: { found: "layout 2" } });
    // And nothing was written in the layout of this one.
    const keys = await other.evaluate(async () => (await window.tools.records()).map(([key]) => String(key)));
    expect(keys.filter((key) => key.startsWith("part"))).toHaveLength(1);
  });
});

test("a connection that is lost is opened again, once", async ({ page }) => {
  const found = await page.evaluate(async () => {
    const { openIndexedDbStore, keyOf, keep, check, failure, appendUntil } = window.tools;
    const store = await openIndexedDbStore();
    await keep(store, keyOf("a"), 10);
    // What Safari on iOS does to a page that was in the background.
    const { transaction } = IDBDatabase.prototype;
    let lost = 0;
    const lose = (times: number): void => {
      lost = times;
      IDBDatabase.prototype.transaction = function (...names: Parameters<typeof transaction>) {
        if (lost-- > 0) throw new DOMException("Connection to Indexed Database server lost.", "UnknownError");
        return transaction.apply(this, names);
      };
    };
    lose(1);
    const once = await check(store, keyOf("a"));
    const file = await store.begin(keyOf("b"), { path: "b", size: 10 });
    lose(1);
    await appendUntil(file, 10, 10);
    await file.complete();
    lose(2);
    const twice = await failure(check(store, keyOf("a")));
    return { once, b: await check(store, keyOf("b")), twice: twice.name };
  });
  expect(found).toEqual({ once: [10, -1], b: [10, -1], twice: "UnknownError" });
});

test("where IndexedDB cannot be opened, that is said, or memory takes its place", async ({ page }) => {
  const found = await page.evaluate(async () => {
    const { openIndexedDbStore, keyOf, keep, check, failure } = window.tools;
    // As private windows do in some browsers.
    IDBFactory.prototype.open = () => {
      throw new DOMException("A mutation operation was attempted.", "InvalidStateError");
    };
    const store = await openIndexedDbStore({ cache: "or-memory" });
    await keep(store, keyOf("a"), 10);
    return { error: await failure(openIndexedDbStore()), check: await check(store, keyOf("a")) };
  });
  expect(found.error).toMatchObject({ code: "DEVICE", message: expect.stringContaining("{ cache: false }") });
  expect(found.check).toEqual([10, -1]);
});

test.describe("reading", () => {
  test("in a worker: ranges within a part, over several, at the edges and beyond", async ({ page }) => {
    await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, appendUntil, MB } = window.tools;
      const file = await (await openIndexedDbStore()).begin(keyOf("a"), { path: "a", size: 101 * MB });
      await appendUntil(file, 101 * MB, 40 * MB);
      await file.complete();
    });
    const ranges: [begin: number, end: number, length: number][] = [
      [0, 8, 8],
      [40 * MB - 3, 40 * MB, 3],
      [40 * MB, 40 * MB + 3, 3],
      [40 * MB - 3, 40 * MB + 3, 6],
      [30 * MB, 90 * MB, 60 * MB],
      [0, 101 * MB, 101 * MB],
      [101 * MB - 5, 101 * MB + 5, 5],
      [5, 5, 0],
      [102 * MB, 103 * MB, 0],
    ];
    const asked = ranges.map(([begin, end]) => [begin, end]);
    const read = await page.evaluate((all) => window.inWorker("read", "a", all), asked);
    expect(read).toEqual({ size: 101 * MB, read: ranges.map(([, , length]) => [length, -1]), afterClose: 0 });
  });

  test("in a window the file is in memory, up to what an ArrayBuffer holds", async ({ page }) => {
    const found = await page.evaluate(async () => {
      const { openBlobs, bytesOf, differs, failure, MB } = window.tools;
      // In more than one slice, and with an empty Blob between.
      const blobs = [new Blob([bytesOf(0, 65 * MB)]), new Blob([]), new Blob([bytesOf(65 * MB, 70 * MB)])];
      const file = await openBlobs("a", blobs);
      const read = [file.size, differs(file.readSync(60 * MB, 70 * MB), 60 * MB), file.readSync(7, 9).length];
      file.close();
      const stopped = openBlobs("a", blobs, { signal: AbortSignal.abort(new RangeError("enough")) });
      const huge = new Array(512).fill(blobs[0]);
      return {
        read,
        closed: file.readSync(0, 1).length,
        stopped: await failure(stopped),
        huge: await failure(openBlobs("h", huge)),
      };
    });
    expect(found.read).toEqual([70 * MB, -1, 2]);
    expect(found.closed).toBe(0);
    expect(found.stopped).toEqual({ name: "RangeError", message: "enough" });
    expect(found.huge).toMatchObject({
      code: "DEVICE",
      message: expect.stringContaining("Load the model in a Worker"),
    });
  });

  test("an open file stays readable after it is deleted", async ({ page }) => {
    const found = await page.evaluate(async () => {
      const { openIndexedDbStore, keyOf, keep, differs, cache, MB } = window.tools;
      const store = await openIndexedDbStore();
      await keep(store, keyOf("a"), MB);
      const file = (await store.open(keyOf("a")))!;
      await cache.delete({ repo: "owner/model" });
      return differs(file.readSync(0, MB), 0);
    });
    expect(found).toBe(-1);
  });
});

test("persistence is asked for once, by a window, when the first file is begun", async ({ page, context }) => {
  await context.addInitScript(() => {
    if (typeof window === "undefined") return;
    const asked: string[] = [];
    Object.assign(window, { asked });
    StorageManager.prototype.persisted = async () => false;
    StorageManager.prototype.persist = async () => {
      asked.push("persist");
      return false;
    };
  });
  await load(page);
  expect(await page.evaluate(() => window.inWorker("begin", "a"))).toBe(0);
  expect(await page.evaluate("window.asked")).toEqual([]);
  await page.evaluate(async () => {
    const { openIndexedDbStore, keyOf, check, cache } = window.tools;
    await check(await openIndexedDbStore(), keyOf("a"));
    await cache.list();
  });
  expect(await page.evaluate("window.asked")).toEqual([]);
  const begin = async (): Promise<void> => {
    const { openIndexedDbStore, keyOf } = window.tools;
    for (const path of ["a", "b"]) await (await openIndexedDbStore()).begin(keyOf(path), { path, size: 10 });
  };
  await page.evaluate(begin);
  await page.waitForFunction("window.asked.length > 0");
  // Neither after a reload, nor after the cache was emptied, nor on demand.
  await page.evaluate(() => window.tools.cache.clear());
  expect(await page.evaluate(() => window.tools.cache.persist())).toBe(false);
  expect(await page.evaluate("window.asked")).toEqual(["persist"]);
  await load(page);
  await page.evaluate(begin);
  expect(await page.evaluate(() => window.tools.cache.persist())).toBe(false);
  expect(await page.evaluate("window.asked")).toEqual([]);
});
