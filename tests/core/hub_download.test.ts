/** One file from a hub that misbehaves (on this machine) into a store in memory. */
import { createHash } from "node:crypto";
import { IntegrityError, type LoadStep, ModelNotFoundError, QuotaError } from "@diffusers-web/core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { downloadFile } from "../../packages/core/src/hub/download.ts";
import { HubApi } from "../../packages/core/src/hub/hub_api.ts";
import type { FileInfo } from "../../packages/core/src/hub/source.ts";
import type { FileKey } from "../../packages/core/src/hub/store.ts";
import { type Hub, type HubFault, startHub } from "../support/hub_server.mjs";
import { ManualTiming } from "../support/manual_timing.ts";
import { WatchedStore } from "../support/watched_store.ts";

const commit = "a".repeat(40);
const repo = "owner/name";
const large = Uint8Array.from({ length: 100_003 }, (_, i) => (i * 7 + (i >> 8) * 13) % 256);
const text = JSON.stringify({ words: Array.from({ length: 300 }, (_, i) => `word ${i}`) });
const config = new TextEncoder().encode(text);
const sha256 = createHash("sha256").update(large).digest("hex");
const weights: FileInfo = { path: "unet/w.safetensors", size: large.length, sha256, oid: "0".repeat(40) };
const blob = createHash("sha1").update(`blob ${config.length}\0`).update(config).digest("hex");
const small: FileInfo = { path: "config é.json", size: config.length, oid: blob };

let hub: Hub;
let timing: ManualTiming;
let store: WatchedStore;
let steps: LoadStep[];
/** Called with the bytes that are there, at each step. */
let onLoaded: (loaded: number) => void = () => undefined;

beforeAll(async () => {
  const files = { [weights.path]: large, [small.path]: text, "other.safetensors": large };
  hub = await startHub({ repos: { [repo]: { revisions: { main: commit }, commits: { [commit]: files } } } });
});
afterAll(() => hub.close());
beforeEach(async () => {
  await hub.online();
  hub.requests.length = 0;
  timing = new ManualTiming();
  store = new WatchedStore();
  steps = [];
  onLoaded = () => undefined;
});
afterEach(() => {
  hub.clearFaults();
  // Whatever happened, no timer is left.
  expect(timing.pending).toBe(0);
});

const keyOf = ({ path }: FileInfo): FileKey => ({ endpoint: hub.url, repo, commit, path });

function download(info = weights, signal?: AbortSignal, token?: string): Promise<void> {
  const api = new HubApi(hub.url, repo, token, fetch, timing.policy);
  return downloadFile(api.remote(commit, info), keyOf(info), info, store, timing.policy, {
    signal,
    progress_callback: (step) => {
      steps.push(step);
      onLoaded(step.loaded);
    },
  });
}

const errorOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
const arrived = (bytes: number): Promise<void> =>
  new Promise((resolve) => {
    onLoaded = (loaded) => loaded >= bytes && resolve();
  });
const ofBytes = (): typeof hub.requests => hub.requests.filter(({ kind }) => kind === "cdn");
const ranges = (): (string | undefined)[] => ofBytes().map(({ headers }) => headers["range"]);
const kept = async (info = weights): Promise<number> => (await store.begin(keyOf(info), info)).offset;
async function expectWhole(info = weights, bytes: Uint8Array = large): Promise<void> {
  const file = (await store.open(keyOf(info)))!;
  expect(file.size).toBe(bytes.length);
  expect(Buffer.compare(file.readSync(0, file.size), bytes)).toBe(0);
  expect(Buffer.compare(file.readSync(9_990, 20_010), bytes.subarray(9_990, 20_010))).toBe(0);
  expect([...file.readSync(file.size - 2, file.size + 5)]).toEqual([...bytes.subarray(-2)]);
  file.close();
  expect(store.completed).toBe(1);
}

describe("a large file", () => {
  test("comes in parts, and is told of", async () => {
    await download();
    await expectWhole();
    expect(store.parts).toEqual([...Array<number>(10).fill(10_000), 3]);
    expect(hub.requests.map(({ kind, status }) => [kind, status])).toEqual([
      ["resolve", 302],
      ["cdn", 200],
    ]);
    const loaded = steps.map(({ loaded }) => loaded);
    expect(loaded).toEqual([...loaded].sort((a, b) => a - b));
    expect(steps[0]).toEqual({ phase: "download", file: weights.path, loaded: 0, total: large.length });
    expect(steps.at(-1)).toEqual({ phase: "verify", file: weights.path, loaded: large.length, total: large.length });
  });

  test.each([0, 1, 9_999, 10_000, 10_001, 20_000, 55_555, 90_000, 100_000, 100_002])(
    "cut before byte %i",
    async (at) => {
      const fault = hub.fault(weights.path, { cut: at });
      await download();
      expect(fault.hits).toBe(1);
      await expectWhole();
      expect(timing.waits).toEqual([750]);
      expect(store.parts.every((bytes) => bytes <= 10_000)).toBe(true);
      // Nothing is asked for twice but what had not been handed on when the connection broke.
      const [first, second] = ofBytes();
      expect(first!.headers["range"]).toBeUndefined();
      const from = Number(/^bytes=(\d+)-$/.exec(second!.headers["range"] ?? "bytes=0-")?.[1]);
      expect(from).toBeLessThanOrEqual(at);
      expect(second!.sent).toBe(large.length - from);
    },
  );

  test("cut after every part: what arrives resets the count of failures", async () => {
    hub.fault(weights.path, { cut_each: 10_000, times: 1000 });
    await download();
    await expectWhole();
    expect(ofBytes().length).toBeGreaterThan(timing.policy.tries);
  });

  test("silence: after a while the connection counts as dead, and the next goes on at that byte", async () => {
    const fault = hub.fault(weights.path, { stall: 34_567 });
    const there = arrived(34_567);
    const done = download();
    await there;
    await fault.hit;
    await timing.runOutOfPatience();
    await done;
    expect(ranges()).toEqual([undefined, "bytes=34567-"]);
    await expectWhole();
  });

  test("silence for ever", async () => {
    const fault = hub.fault(weights.path, { hold: true, at: "content", times: 1000 });
    const done = errorOf(download());
    for (let hits = 1; hits <= timing.policy.tries; hits++) {
      await expect.poll(() => fault.hits).toBe(hits);
      await timing.runOutOfPatience();
    }
    const error = await done;
    expect(error).toBeInstanceOf(ModelNotFoundError);
    expect((error as Error).message).toMatch(/could not be reached: no byte for/);
  });

  test("what arrived is kept when time passes, although the part is not full", async () => {
    const fault = hub.fault(weights.path, { stall: 34_567 });
    const there = arrived(34_567);
    const done = download();
    await there;
    expect(await kept()).toBe(30_000);
    await timing.keepNow();
    await expect.poll(() => kept()).toBe(34_567);
    fault.release();
    await done;
    expect(ranges()).toEqual([undefined]);
    await expectWhole();
  });

  test.each([1, 10_000, 34_567, 100_002])("cancelled at byte %i: the next load goes on there", async (at) => {
    hub.fault(weights.path, { stall: at });
    const controller = new AbortController();
    const there = arrived(at);
    const done = errorOf(download(weights, controller.signal));
    await there;
    const reason = new Error("changed my mind");
    controller.abort(reason);
    expect(await done).toBe(reason);
    expect(await kept()).toBe(at);
    expect(await store.open(keyOf(weights))).toBeUndefined();
    onLoaded = () => undefined;
    steps = [];
    await download();
    expect(steps[0]!.loaded).toBe(at);
    expect(ranges()).toEqual([undefined, `bytes=${at}-`]);
    await expectWhole();
  });

  test.each([
    ["at the redirect", { hold: true }],
    ["before the first byte", { hold: true, at: "content" }],
    ["between two tries", { status: 503 }],
  ] satisfies [string, HubFault][])("cancelled %s", async (_, settings) => {
    const fault = hub.fault(weights.path, settings);
    const controller = new AbortController();
    const waiting = new Promise<void>((resolve) => {
      timing.onWait = resolve;
    });
    const done = errorOf(download(weights, controller.signal));
    await fault.hit;
    if ("status" in settings) await waiting;
    controller.abort();
    expect(await done).toBe(controller.signal.reason);
    const before = hub.requests.length;
    expect(await errorOf(download(weights, controller.signal))).toBe(controller.signal.reason);
    expect(hub.requests.length).toBe(before);
  });

  test("one wrong byte: fetched once more, from its start", async () => {
    hub.fault(weights.path, { corrupt: 77_777 });
    await download();
    expect(ranges()).toEqual([undefined, undefined]);
    await expectWhole();
  });

  test("a wrong byte each time: discarded, and told; other files stay", async () => {
    const other = { ...weights, path: "other.safetensors" };
    await download(other);
    hub.fault(weights.path, { corrupt: 77_777, times: 1000 });
    const wrong = Uint8Array.from(large);
    wrong[77_777]! ^= 0xff;
    const found = createHash("sha256").update(wrong).digest("hex");
    const error = await errorOf(download());
    expect(error).toBeInstanceOf(IntegrityError);
    expect(error).toMatchObject({ details: { file: weights.path, found, expected: sha256 } });
    expect(await store.open(keyOf(weights))).toBeUndefined();
    expect(await kept()).toBe(0);
    await expectWhole(other);
  });

  test("whole, but not yet marked so when the page was closed: no request", async () => {
    const partial = await store.begin(keyOf(weights), weights);
    const { createSHA256 } = await import("hash-wasm");
    const hash = (await createSHA256()).init().update(large);
    await partial.append([large], hash.save());
    await download();
    expect(hub.requests).toEqual([]);
    await expectWhole();
  });

  test.each([
    ["no state of the hash", undefined],
    ["another version's", Uint8Array.from([1, 2, 3])],
  ])("kept bytes with %s cannot be checked: from the start", async (_, state) => {
    await (await store.begin(keyOf(weights), weights)).append([large.slice(0, 5000)], state);
    await download();
    expect(ranges()).toEqual([undefined]);
    await expectWhole();
  });

  test("cancelled when there is no room either: the reason is what counts", async () => {
    store.room = 0;
    hub.fault(weights.path, { stall: 5000 });
    const controller = new AbortController();
    const there = arrived(5000);
    const done = errorOf(download(weights, controller.signal));
    await there;
    controller.abort();
    expect(await done).toBe(controller.signal.reason);
  });

  test("no room: told at once, what was kept stays", async () => {
    store.room = 3;
    expect(await errorOf(download())).toBeInstanceOf(QuotaError);
    expect(ofBytes()).toHaveLength(1);
    expect(await kept()).toBe(30_000);
    store.room = Number.POSITIVE_INFINITY;
    await download();
    expect(ranges()[1]).toBe("bytes=30000-");
    await expectWhole();
  });
});

describe("a server that refuses", () => {
  test.each([
    ["503", { status: 503, times: 3 }, [750, 1500, 3000]],
    ["500 where the bytes are", { status: 500, times: 4, at: "content" }, [750, 1500, 3000, 4500]],
    ["429 with a time", { status: 429, retry_after: 7, times: 2 }, [7000, 7000]],
    ["429 without", { status: 429 }, [5000]],
    ["a hang-up", { reset: true }, [750]],
  ] satisfies [string, HubFault, number[]][])("%s: tried again", async (_, settings, waits) => {
    hub.fault(weights.path, settings);
    await download();
    expect(timing.waits).toEqual(waits);
    await expectWhole();
  });

  test("for ever", async () => {
    const fault = hub.fault(weights.path, { status: 503, times: 1000 });
    const error = await errorOf(download());
    expect(error).toBeInstanceOf(ModelNotFoundError);
    expect(error).toMatchObject({ details: { file: weights.path, found: "HTTP 503" } });
    expect(fault.hits).toBe(timing.policy.tries);
  });

  test("a signed address that has expired: another is asked for", async () => {
    const fault = hub.fault(weights.path, { expire: 0 });
    void fault.hit.then(() => fault.remove());
    await download();
    expect(hub.requests.slice(0, 3).map(({ kind, status }) => [kind, status])).toEqual([
      ["resolve", 302],
      ["cdn", 403],
      ["resolve", 302],
    ]);
    await expectWhole();
  });

  test("a file that the hub lists and does not have", async () => {
    hub.fault(weights.path, { hide: true });
    const error = await errorOf(download());
    expect(error).toBeInstanceOf(ModelNotFoundError);
    expect((error as Error).message).toContain(`${repo} has no file ${weights.path} at ${commit}`);
    expect(hub.requests).toHaveLength(1);
  });

  test("the network goes while a file comes: what arrived is kept, and goes on later", async () => {
    hub.fault(weights.path, { stall: 34_567 });
    const there = arrived(34_567);
    const done = errorOf(download());
    await there;
    await hub.offline();
    const error = await done;
    expect(error).toBeInstanceOf(ModelNotFoundError);
    expect((error as Error).message).toMatch(/could not be reached/);
    expect(timing.waits).toHaveLength(timing.policy.tries - 1);
    expect(await kept()).toBe(34_567);
    await hub.online();
    await download();
    expect(ranges()).toEqual([undefined, "bytes=34567-"]);
    await expectWhole();
  });

  test("without ranges: what is there is skipped", async () => {
    hub.fault(weights.path, { no_ranges: true });
    hub.fault(weights.path, { cut: 55_555 });
    await download();
    expect(ofBytes().map(({ status }) => status)).toEqual([200, 200]);
    await expectWhole();
  });

  test("without ranges, and cut each time at the same place: given up", async () => {
    hub.fault(weights.path, { no_ranges: true });
    hub.fault(weights.path, { cut: 30_000, times: 1000 });
    const error = await errorOf(download());
    expect(error).toBeInstanceOf(IntegrityError);
    expect((error as Error).message).toMatch(/ended after \d+ bytes of 100003/);
    expect(ofBytes().length).toBeLessThanOrEqual(2 * timing.policy.tries);
  });

  test.each([
    ["longer", 100_500, /100003 were expected/],
    ["shorter", 60_000, /60000 bytes.*100003 were expected/],
  ])("%s than it is listed", async (_, length, message) => {
    hub.fault(weights.path, { length });
    const error = await errorOf(download());
    expect(error).toBeInstanceOf(IntegrityError);
    expect((error as Error).message).toMatch(message);
    expect(await store.open(keyOf(weights))).toBeUndefined();
  });

  test("the token goes to the hub and never further", async () => {
    await download(weights, undefined, "hf_test");
    hub.fault(small.path, { cut: 100 });
    await download(small, undefined, "hf_test");
    expect(hub.leaks).toEqual([]);
    expect(ofBytes()).toHaveLength(1);
    const told = hub.requests.filter(({ host }) => host === "hub");
    expect(new Set(told.map(({ headers }) => headers["authorization"]))).toEqual(new Set(["Bearer hf_test"]));
  });
});

describe("a small file", () => {
  const whole = async (): Promise<void> => {
    const file = (await store.open(keyOf(small)))!;
    expect(new TextDecoder().decode(file.readSync(0, file.size))).toBe(text);
  };

  test("is kept when it is whole and right", async () => {
    await download(small);
    expect(store.parts).toEqual([config.length]);
    expect(hub.requests.map(({ kind }) => kind)).toEqual(["resolve", "cache"]);
    expect(steps.at(-1)).toEqual({ phase: "verify", file: small.path, loaded: small.size, total: small.size });
    await whole();
  });

  test.each([
    ["cut", { cut: 100 }],
    ["one wrong byte", { corrupt: 100 }],
    ["a hang-up", { reset: true, at: "content" }],
  ] satisfies [string, HubFault][])("%s", async (_, settings) => {
    const fault = hub.fault(small.path, settings);
    await download(small);
    expect(fault.hits).toBe(1);
    await whole();
  });

  test("wrong each time", async () => {
    hub.fault(small.path, { corrupt: 100, times: 1000 });
    const error = await errorOf(download(small));
    expect(error).toBeInstanceOf(IntegrityError);
    expect(error).toMatchObject({ details: { file: small.path, expected: blob } });
    expect(store.parts).toEqual([]);
  });
});
