/** One process, one load at a time for a file of the hub's cache folder. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "vite";
import { expect, test } from "vitest";
import { openNodeStore } from "../../packages/core/src/hub/node_store.ts";
import type { FileInfo } from "../../packages/core/src/hub/source.ts";
import { bytes, CacheFolder, commit, key, repoFolder, repoKey, sha256 } from "../support/cache_folder.ts";

const cache = new CacheFolder();

const lock = (): string => {
  const [name] = fs.readdirSync(join(cache.path, ".locks", repoFolder));
  return join(cache.path, ".locks", repoFolder, name!);
};

test("two stores never do the same file at once, but different ones", async () => {
  const other = await openNodeStore({ cache_dir: cache.path });
  const running = { a: 0, b: 0 };
  let bothRun = (): void => undefined;
  const overlapped = new Promise<void>((resolve) => {
    bothRun = resolve;
  });
  const work = (name: "a" | "b") => async (): Promise<void> => {
    running[name]++;
    expect(running[name]).toBe(1);
    if (running.a === 1 && running.b === 1) bothRun();
    await overlapped;
    await new Promise((resolve) => setImmediate(resolve));
    running[name]--;
  };
  await Promise.all(
    [cache.store, other, cache.store, other].flatMap((each) =>
      (["a", "b"] as const).map((path) => each.exclusive({ ...key, path }, work(path))),
    ),
  );
  expect(fs.readdirSync(join(cache.path, ".locks", repoFolder))).toEqual([]);
});

test("it ends with the task, and who waits can give up", async () => {
  await expect(cache.store.exclusive(key, () => Promise.reject(new Error("no")))).rejects.toThrow("no");
  let release = (): void => undefined;
  let entered = (): void => undefined;
  const inIt = new Promise<void>((resolve) => {
    entered = resolve;
  });
  const held = cache.store.exclusive(key, () => {
    entered();
    return new Promise<void>((resolve) => {
      release = resolve;
    });
  });
  await inIt;
  const controller = new AbortController();
  const waiting = cache.store.exclusive(key, () => Promise.resolve("ran"), controller.signal);
  const reason = new Error("changed my mind");
  controller.abort(reason);
  await expect(waiting).rejects.toBe(reason);
  await expect(cache.store.exclusive(key, () => Promise.resolve("ran"), AbortSignal.abort(reason))).rejects.toBe(
    reason,
  );
  release();
  await held;
  expect(await cache.store.exclusive(key, () => Promise.resolve("ran"))).toBe("ran");
});

test.each<[string, string, number, boolean]>([
  ["of a process that is gone", JSON.stringify({ token: "x", host: hostname(), pid: 2 ** 22 + 1 }), 11, true],
  ["of one that went just now", JSON.stringify({ token: "x", host: hostname(), pid: 2 ** 22 + 1 }), 5, false],
  ["of this machine, silent for a while", JSON.stringify({ token: "x", host: hostname(), pid: 1 }), 300, false],
  ["of another machine, silent for a while", JSON.stringify({ token: "x", host: "elsewhere", pid: 1 }), 61, true],
  ["of another machine, at work", JSON.stringify({ token: "x", host: "elsewhere", pid: 1 }), 30, false],
  ["without a name, long ago", "", 61, true],
])("a lock %s", async (_, text, age, isTaken) => {
  await cache.store.exclusive(key, async () => undefined);
  let file = "";
  await cache.store.exclusive(key, async () => {
    file = lock();
  });
  fs.writeFileSync(file, text);
  const then = new Date(Date.now() - age * 1000);
  fs.utimesSync(file, then, then);
  const signal = isTaken ? undefined : AbortSignal.timeout(400);
  const result = cache.store.exclusive(key, () => Promise.resolve("ran"), signal);
  if (isTaken) expect(await result).toBe("ran");
  else await expect(result).rejects.toMatchObject({ name: "TimeoutError" });
});

test("several that find a dead lock do not all take it", async () => {
  const stores = await Promise.all([1, 2, 3, 4].map(() => openNodeStore({ cache_dir: cache.path })));
  for (let round = 0; round < 20; round++) {
    let file = "";
    await cache.store.exclusive(key, async () => {
      file = lock();
    });
    fs.writeFileSync(file, JSON.stringify({ token: "dead", host: hostname(), pid: 2 ** 22 + 1 }));
    fs.utimesSync(file, new Date(0), new Date(0));
    let running = 0;
    const task = async (): Promise<void> => {
      expect(++running).toBe(1);
      await new Promise((resolve) => setImmediate(resolve));
      running--;
    };
    await Promise.all(stores.map((each) => each.exclusive(key, task)));
  }
});

test("across processes, of which one is killed in the middle of a file", async () => {
  const script = join(cache.path, "store.mjs");
  await build({
    configFile: false,
    logLevel: "silent",
    build: {
      ssr: fileURLToPath(new URL("../../packages/core/src/hub/node_store.ts", import.meta.url)),
      outDir: cache.path,
      emptyOutDir: false,
      rolldownOptions: { output: { entryFileNames: "store.mjs" } },
    },
  });
  const info: FileInfo = { path: key.path, size: 8, sha256 };
  await cache.store.keepListing(repoKey, commit, [info]);
  const code = `
    const { openNodeStore } = await import(${JSON.stringify(script)});
    const store = await openNodeStore({ cache_dir: ${JSON.stringify(cache.path)} });
    await store.exclusive(${JSON.stringify(key)}, async () => {
      const partial = await store.begin(${JSON.stringify(key)}, ${JSON.stringify(info)});
      await partial.append([new TextEncoder().encode("0123")], new Uint8Array([7]));
      console.log("kept");
      await new Promise(() => process.stdin.resume());
    });`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", code], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const exit = once(child, "exit");
  try {
    expect(String(await Promise.race([once(child.stdout, "data"), exit]))).toBe("kept\n");
    // While it lives, its lock holds.
    const waiting = cache.store.exclusive(key, () => Promise.resolve("ran"), AbortSignal.timeout(300));
    await expect(waiting).rejects.toMatchObject({ name: "TimeoutError" });
  } finally {
    child.kill("SIGKILL");
    await exit;
  }
  // Not to wait for the seconds that a lock outlives its process.
  const then = new Date(Date.now() - 11_000);
  fs.utimesSync(lock(), then, then);
  await cache.store.exclusive(key, async () => {
    const partial = await cache.store.begin(key, info);
    expect([partial.offset, partial.hash]).toEqual([4, new Uint8Array([7])]);
    await partial.append([bytes("4567")], undefined);
    await partial.complete();
  });
  const file = (await cache.store.open(key))!;
  expect(new TextDecoder().decode(file.readSync(0, 8))).toBe("01234567");
  file.close();
});
