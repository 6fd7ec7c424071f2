/** What only the store in memory does itself; what it keeps is tested with the downloads. */
import { beforeEach, describe, expect, test } from "vitest";
import { MemoryStore } from "../../packages/core/src/hub/memory_store.ts";
import type { FileKey } from "../../packages/core/src/hub/store.ts";

const key: FileKey = { endpoint: "http://hub", repo: "owner/name", commit: "a".repeat(40), path: "a.bin" };
const other: FileKey = { ...key, path: "b.bin" };
let store: MemoryStore;
beforeEach(() => {
  store = new MemoryStore();
});

/** A task that ends when it is told to. */
function task(): { run: () => Promise<void>; started: boolean; end: (error?: Error) => void } {
  const made = {
    started: false,
    end: (_error?: Error): void => undefined,
    run: () =>
      new Promise<void>((resolve, reject) => {
        made.started = true;
        made.end = (error) => (error === undefined ? resolve() : reject(error));
      }),
  };
  return made;
}
const turn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

describe("exclusive", () => {
  test.each([
    ["ends", undefined],
    ["fails", new Error("broken")],
  ])("the next waits until the one before %s; another file does not", async (_, error) => {
    const [first, second, elsewhere] = [task(), task(), task()];
    const one = store.exclusive(key, first.run);
    const two = store.exclusive(key, second.run);
    const three = store.exclusive(other, elsewhere.run);
    await turn();
    expect([first.started, second.started, elsewhere.started]).toEqual([true, false, true]);
    first.end(error);
    if (error === undefined) await one;
    else await expect(one).rejects.toBe(error);
    await turn();
    expect(second.started).toBe(true);
    second.end();
    elsewhere.end();
    await Promise.all([two, three]);
  });

  test("who gives up waiting does not run, and lets nobody past", async () => {
    const [first, second, third] = [task(), task(), task()];
    const one = store.exclusive(key, first.run);
    const controller = new AbortController();
    const two = store.exclusive(key, second.run, controller.signal);
    const three = store.exclusive(key, third.run);
    const reason = new Error("enough");
    controller.abort(reason);
    await expect(two).rejects.toBe(reason);
    await turn();
    expect(third.started).toBe(false);
    first.end();
    await one;
    await turn();
    expect([second.started, third.started]).toEqual([false, true]);
    third.end();
    await three;
  });
});

test("any range over pieces of any size", async () => {
  const bytes = Uint8Array.from({ length: 50 }, (_, i) => i);
  const partial = await store.begin(key, { path: key.path, size: bytes.length });
  for (const [begin, end] of [
    [0, 1],
    [1, 8],
    [8, 8],
    [8, 30],
    [30, 31],
    [31, 50],
  ]) {
    await partial.append([bytes.slice(begin, end)], undefined);
  }
  expect(await store.open(key)).toBeUndefined();
  await partial.complete();
  const file = (await store.open(key))!;
  for (let begin = 0; begin <= 50; begin++) {
    for (let end = begin; end <= 52; end++) {
      expect([...file.readSync(begin, end)]).toEqual([...bytes.subarray(begin, end)]);
    }
  }
  file.close();
  await store.delete(key);
  expect(await store.open(key)).toBeUndefined();
});
