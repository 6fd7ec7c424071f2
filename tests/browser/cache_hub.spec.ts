/** From a hub into IndexedDB and back: a second load, reloads, cuts, wrong bytes, two tabs, no room, no network. */
import { expect, type Page, test } from "@playwright/test";
import { type Hub, startHub } from "../support/hub_server.mjs";
import { bytesOf } from "./harness/cache_bytes.ts";

const MB = 2 ** 20;
const repo = "owner/model";
const commit = "a".repeat(40);
const weights = "unet/diffusion_pytorch_model.safetensors";
const config = "unet/config.json";
const sizes: Record<string, number> = {
  "model_index.json": 2,
  [config]: 2,
  [weights]: 18 * MB,
  "vae/v.safetensors": 3 * MB,
};
const right = Object.entries(sizes).map(([path, size]) => [path, size, -1]);

let hub: Hub;
test.beforeAll(async () => {
  const files = Object.fromEntries(
    Object.entries(sizes).map(([path, size]) => [path, path.endsWith(".json") ? "{}" : bytesOf(0, size)]),
  );
  hub = await startHub({ repos: { [repo]: { revisions: { main: commit }, commits: { [commit]: files } } } });
});
test.afterAll(() => hub.close());
test.beforeEach(async ({ page }) => {
  hub.clearFaults();
  hub.requests.length = 0;
  await open(page);
});

async function open(page: Page): Promise<void> {
  await page.goto("/tests/browser/harness/cache.html");
  await page.waitForFunction("window.tools");
}

/** Loads the model in the page, or says how that failed. */
function load(page: Page, options: object = {}): Promise<unknown> {
  return page.evaluate(
    async ([id, settings]) => {
      const loading = window.tools.loadAll(id, settings);
      return loading.catch(() => window.tools.failure(loading));
    },
    [repo, { endpoint: hub.url, ...options }] as const,
  );
}

/** Where the answers for the weights began, in their order. */
function starts(path: string = weights): number[] {
  return hub.requests
    .filter(({ kind, file }) => kind === "cdn" && file === path)
    .map(({ headers }) => Number(/bytes=(\d+)/.exec(headers["range"] ?? "bytes=0")![1]));
}

test("a second load makes no request: after a reload, in a worker, and without network", async ({ page }) => {
  expect(await load(page)).toEqual(right);
  expect(starts()).toEqual([0]);
  hub.requests.length = 0;
  await open(page);
  expect(await load(page)).toEqual(right);
  const inWorker = [repo, { endpoint: hub.url }] as const;
  expect(await page.evaluate(([id, options]) => window.inWorker("load", id, options), inWorker)).toEqual(right);
  expect(hub.requests).toEqual([]);
  await hub.offline();
  try {
    expect(await load(page)).toEqual(right);
    expect(await load(page, { local_files_only: true })).toEqual(right);
    expect(await load(page, { local_files_only: true, revision: "v2" })).toMatchObject({ code: "MODEL_NOT_FOUND" });
    // What is there in part is not there.
    await page.evaluate(
      async (key) => {
        const { cache, openIndexedDbStore, appendUntil } = window.tools;
        await (await openIndexedDbStore()).delete(key);
        await appendUntil(await (await openIndexedDbStore()).begin(key, { path: key.path, size: 100 }), 50, 50);
        return cache.list();
      },
      { endpoint: hub.url, repo, commit, path: weights },
    );
    expect(await load(page, { local_files_only: true })).toMatchObject({
      code: "MODEL_NOT_FOUND",
      details: { file: weights },
    });
  } finally {
    await hub.online();
  }
});

test("a page that is reloaded in the middle goes on from the last part", async ({ page }) => {
  const stall = hub.fault(weights, { stall: 10 * MB });
  await page.evaluate(([id, endpoint]) => void window.tools.loadAll(id, { endpoint }).catch(() => undefined), [
    repo,
    hub.url,
  ] as const);
  await stall.hit;
  // Two whole parts of the weights, and all other files.
  const kept = 8 * MB + 3 * MB + 4;
  await expect.poll(() => page.evaluate(() => window.tools.cache.size())).toBe(kept);
  await open(page);
  stall.remove();
  hub.requests.length = 0;
  expect(await load(page)).toEqual(right);
  expect(starts()).toEqual([8 * MB]);
  expect(hub.requests.filter(({ file }) => file !== undefined && file !== weights)).toEqual([]);
});

const cuts: [what: string, at: number][] = [
  ["the first byte", 1],
  ["a part's end", 4 * MB],
  ["before a part's end", 8 * MB - 1],
  ["after a part's end", 12 * MB + 1],
  ["the middle of a part", 14 * MB],
  ["the last byte", 18 * MB - 2],
];
for (const [what, at] of cuts) {
  test(`a cut at ${what} loses no part that had arrived`, async ({ page }) => {
    // The connection ends only when all whole parts have arrived: what a browser has not handed on goes with it.
    const stall = hub.fault(weights, { stall: at });
    const cut = hub.fault(weights, { cut: at + 1 });
    const loading = load(page);
    await stall.hit;
    const parts = at - (at % (4 * MB));
    await expect.poll(() => page.evaluate(() => window.tools.cache.size())).toBe(parts + 3 * MB + 4);
    stall.release();
    expect(await loading).toEqual(right);
    expect(cut.hits).toBe(1);
    const [first, second, ...more] = starts();
    expect([first, more]).toEqual([0, []]);
    expect(second).toBeGreaterThanOrEqual(parts);
    expect(second).toBeLessThanOrEqual(at + 1);
  });
}

test("a wrong byte: the file is fetched once more, and if that is wrong too it alone is discarded", async ({
  page,
}) => {
  hub.fault(weights, { corrupt: 9 * MB });
  expect(await load(page)).toEqual(right);
  expect(starts()).toEqual([0, 0]);

  await page.evaluate(() => window.tools.cache.clear());
  const fault = hub.fault(weights, { corrupt: 9 * MB, times: 2 });
  expect(await load(page)).toMatchObject({ code: "INTEGRITY", details: { file: weights } });
  expect(await page.evaluate(() => window.tools.cache.size())).toBe(3 * MB + 4);
  fault.remove();
  hub.requests.length = 0;
  expect(await load(page)).toEqual(right);
  expect(starts()).toEqual([0]);
  expect(starts("vae/v.safetensors")).toEqual([]);
});

test("two tabs that load the same model download it once", async ({ page, context }) => {
  const other = await context.newPage();
  await open(other);
  const stall = hub.fault(weights, { stall: 6 * MB });
  const first = load(page);
  await stall.hit;
  const second = load(other);
  await other.waitForFunction(async () => ((await navigator.locks.query()).pending ?? []).length > 0);
  stall.release();
  expect(await Promise.all([first, second])).toEqual([right, right]);
  expect(starts()).toEqual([0]);
});

test("no room: what arrived is kept, and is there when there is room", async ({ page }) => {
  const session = await page.context().newCDPSession(page);
  const { origin } = new URL(page.url());
  await session.send("Storage.overrideQuotaForOrigin", { origin, quotaSize: 14 * MB });
  const error = (await load(page)) as { code: string; details: { file: string; storage: { missing: number } } };
  expect(error).toMatchObject({ code: "QUOTA", details: { storage: { evictable: [] } } });
  const kept = await page.evaluate(() => window.tools.cache.size());
  expect(kept).toBeGreaterThan(4 * MB);
  // With "or-memory" the same load succeeds, and what it had no room for is gone with the page.
  expect(await load(page, { cache: "or-memory" })).toEqual(right);
  await open(page);
  hub.requests.length = 0;
  await session.send("Storage.overrideQuotaForOrigin", { origin });
  // Chromium goes by the room that it found before, for half a minute.
  const retried = async (): Promise<unknown> => load(page);
  await expect.poll(retried, { timeout: 60_000 }).toEqual(right);
  expect(starts()[0]).toBeGreaterThanOrEqual(4 * MB);
});
