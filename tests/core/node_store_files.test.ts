/** Files in the hub's cache folder: in parts, whole, damaged, unreadable, of odd names. */
import * as fs from "node:fs";
import { join } from "node:path";
import { IntegrityError, ModelNotFoundError, QuotaError, ValueError } from "@diffusers-web/core";
import { beforeEach, describe, expect, test } from "vitest";
import { openNodeStore } from "../../packages/core/src/hub/node_store.ts";
import type { FileInfo } from "../../packages/core/src/hub/source.ts";
import { bytes, CacheFolder, commit, key, repoKey, second, sha256 } from "../support/cache_folder.ts";
import { withoutRights } from "../support/rights.ts";

const cache = new CacheFolder();

describe("a file while it is downloaded", () => {
  const info: FileInfo = { path: key.path, size: 10, sha256 };
  const data = (): string => cache.inside(`blobs/${sha256}.diffusers-web.incomplete`);
  const state = new Uint8Array([0, 1, 254, 255]);
  beforeEach(() => cache.store.keepListing(repoKey, commit, [info]));

  test("is kept part by part, goes on, and becomes whole in one step", async () => {
    const first = await cache.store.begin(key, info);
    expect([first.offset, first.hash]).toEqual([0, undefined]);
    await first.append([bytes("01"), bytes(""), bytes("234")], state);
    expect([first.offset, first.hash]).toEqual([5, state]);
    expect(await cache.store.open(key)).toBeUndefined();
    // What a crash leaves: bytes whose part was never finished.
    fs.appendFileSync(data(), "rubbish");
    const again = await (await openNodeStore({ cache_dir: cache.path })).begin(key, info);
    expect([again.offset, again.hash]).toEqual([5, state]);
    expect(fs.readFileSync(data(), "utf8")).toBe("01234");
    await again.append([bytes("56789")], undefined);
    await again.complete();
    const file = (await cache.store.open(key))!;
    expect([file.path, file.size, new TextDecoder().decode(file.readSync(3, 7))]).toEqual([key.path, 10, "3456"]);
    file.close();
    expect(fs.readdirSync(cache.inside("blobs"))).toEqual([sha256]);
    expect(fs.readlinkSync(cache.inside(`snapshots/${commit}/${key.path}`))).toBe(`../../../blobs/${sha256}`);
  });

  test.each<[string, () => void]>([
    ["its bytes are lost", () => fs.truncateSync(data(), 4)],
    ["its state is lost", () => fs.rmSync(data().replace(".incomplete", ".state.incomplete"))],
    ["its state is no JSON", () => fs.writeFileSync(data().replace(".incomplete", ".state.incomplete"), '{"for')],
  ])("starts anew when %s", async (_, harm) => {
    await (await cache.store.begin(key, info)).append([bytes("01234")], state);
    harm();
    const again = await cache.store.begin(key, info);
    expect([again.offset, again.hash]).toEqual([0, undefined]);
  });

  test("starts anew when the hub lists something else", async () => {
    await (await cache.store.begin(key, info)).append([bytes("01234")], state);
    expect((await cache.store.begin(key, { ...info, size: 11 })).offset).toBe(0);
    await (await cache.store.begin(key, info)).append([bytes("01234")], state);
    expect((await cache.store.begin(key, { ...info, sha256: "cd".repeat(32) })).offset).toBe(0);
  });

  test("is never whole with bytes missing, nor goes on behind a gap", async () => {
    const partial = await cache.store.begin(key, info);
    await partial.append([bytes("01234")], undefined);
    await expect(partial.complete()).rejects.toThrow(IntegrityError);
    fs.truncateSync(data(), 2);
    await expect(partial.append([bytes("5")], undefined)).rejects.toThrow(/2 bytes are in .* 5 were kept/);
    // `hf cache prune` of Python removes what was left behind, and what is under way.
    fs.rmSync(data());
    await expect(partial.append([bytes("5")], undefined)).rejects.toThrow(IntegrityError);
    expect(await cache.store.open(key)).toBeUndefined();
  });

  test("discarded, nothing is left of it", async () => {
    const partial = await cache.store.begin(key, info);
    await partial.append([bytes("01234")], state);
    await partial.discard();
    expect(fs.readdirSync(cache.inside("blobs"))).toEqual([]);
    expect((await cache.store.begin(key, info)).offset).toBe(0);
  });

  test("an empty file, one that is not listed, and one without an id", async () => {
    for (const [path, extra] of [
      ["empty", {}],
      ["odd names/é #1?&%20 狐", { oid: "../../../../outside" }],
      ["a/b/c/d", { oid: "12".repeat(20) }],
    ] as const) {
      const other = { ...key, path };
      const partial = await cache.store.begin(other, { path, size: 0, ...extra });
      await partial.complete();
      const file = (await cache.store.open(other))!;
      expect([file.path, file.size]).toEqual([path, 0]);
      file.close();
    }
    const blobs = fs.readdirSync(cache.inside("blobs")).sort();
    expect(blobs).toEqual(["12".repeat(20), expect.stringMatching(/^unlisted-/), expect.stringMatching(/^unlisted-/)]);
    // Such a name is no hash.
    const found = (await cache.store.found!(repoKey, commit))!;
    expect(found.find(({ path }) => path === "empty")).toEqual({ path: "empty", size: 0 });
  });

  test.runIf(fs.existsSync("/dev/full"))("a full disk says how much is missing, and keeps what there is", async () => {
    const partial = await cache.store.begin(key, info);
    fs.symlinkSync("/dev/full", data());
    const full = partial.append([bytes("01234")], undefined);
    await expect(full).rejects.toThrow(QuotaError);
    await expect(full).rejects.toThrow(/no room for unet\/weights\.safetensors: 10 bytes are missing, \d+ are free/);
    fs.rmSync(data());
    await partial.append([bytes("01234")], undefined);
    fs.rmSync(data());
    fs.symlinkSync("/dev/full", data());
    await expect(partial.append([bytes("5")], undefined)).rejects.toThrow(/5 bytes are missing/);
    expect(partial.offset).toBe(5);
  });

  test("a folder of someone else's is read, and not written to", async () => {
    const partial = await cache.store.begin(key, info);
    await partial.append([bytes("0123456789")], undefined);
    await partial.complete();
    await cache.store.keepCommit(repoKey, "main", commit);
    const setMode = (mode: number): void => {
      for (const name of ["", ...cache.names()]) {
        if (fs.lstatSync(join(cache.path, name)).isDirectory()) fs.chmodSync(join(cache.path, name), mode);
      }
    };
    setMode(0o555);
    await withoutRights(async () => {
      (await cache.store.open(key))!.close();
      await cache.store.keepCommit(repoKey, "main", commit);
      const refused = cache.store.begin({ ...key, commit: second, path: "other" }, { path: "other", size: 1 });
      await expect(refused).rejects.toThrow(ValueError);
      await expect(refused).rejects.toThrow(/may not be written to: EACCES.*cache_dir/);
      await expect(cache.store.keepCommit(repoKey, "main", second)).rejects.toThrow(ValueError);
    }).finally(() => setMode(0o755));
  });
});

describe("whole files", () => {
  test("cut short by a crash of the machine, a file is not whole", async () => {
    await cache.put("a", "0123456789", { oid: "12".repeat(20) });
    await cache.store.keepListing(repoKey, commit, [{ path: "a", size: 10, oid: "12".repeat(20) }]);
    (await cache.store.open({ ...key, path: "a" }))!.close();
    fs.truncateSync(cache.inside(`blobs/${"12".repeat(20)}`), 9);
    expect(await cache.store.open({ ...key, path: "a" })).toBeUndefined();
  });

  test("opening marks as used now, and leaves when it was changed", async () => {
    await cache.put("a", "0", { oid: "12".repeat(20) });
    const blob = cache.inside(`blobs/${"12".repeat(20)}`);
    fs.utimesSync(blob, new Date("2020-01-01"), new Date("2021-01-01"));
    (await cache.store.open({ ...key, path: "a" }))!.close();
    expect(fs.statSync(blob).mtime).toEqual(new Date("2021-01-01"));
    expect(Date.now() - fs.statSync(blob).atimeMs).toBeLessThan(60_000);
  });

  test("links that lead nowhere, in a circle or to a folder, and names that are none", async () => {
    await cache.put("a", "0");
    const snapshot = cache.inside(`snapshots/${commit}`);
    fs.symlinkSync("../../blobs/gone", join(snapshot, "dangling"));
    fs.symlinkSync("circle", join(snapshot, "circle"));
    fs.symlinkSync("..", join(snapshot, "above"));
    fs.mkdirSync(join(snapshot, "folder"));
    const paths = ["dangling", "circle", "above", "folder", "a/b", "", ".", "x".repeat(300), "a\0b"];
    for (const path of [...paths, "../../refs/main", "/etc/hostname", "..\\x", "folder/../a"]) {
      expect(await cache.store.open({ ...key, path }), path).toBeUndefined();
    }
    expect((await cache.store.found!(repoKey, commit))!.map(({ path }) => path)).toContain("a");
    // A link in the way of a file gives way to it.
    await cache.put("dangling", "new");
    (await cache.store.open({ ...key, path: "dangling" }))!.close();
  });

  test.each([
    { repo: "../x" },
    { repo: "a/../b" },
    { repo: "a/b/c" },
    { repo: "" },
    { commit: ".." },
    { commit: "" },
    { path: "../../x" },
    { path: "/x" },
    { path: "" },
  ])("nothing is written outside: %j", async (part) => {
    const begun = cache.store.begin({ ...key, ...part }, { path: "x", size: 0 });
    await expect(begun).rejects.toThrow(ValueError);
    await expect(cache.store.delete({ ...key, ...part })).rejects.toThrow(ValueError);
    expect(fs.readdirSync(cache.path)).toEqual([]);
  });

  test("deleting frees the bytes once nothing else is of them", async () => {
    const shared = { oid: "12".repeat(20) };
    await cache.put("x/y/a", "0", shared);
    await cache.put("b", "0", shared, second);
    await cache.put("b", "0", shared);
    await cache.store.delete({ ...key, path: "x/y/a" });
    expect(fs.readdirSync(cache.inside(`snapshots/${commit}`))).toEqual(["b"]);
    await cache.store.delete({ ...key, path: "b" });
    expect(fs.existsSync(cache.inside(`blobs/${shared.oid}`))).toBe(true);
    await cache.store.delete({ ...key, commit: second, path: "b" });
    expect(fs.readdirSync(cache.inside("blobs"))).toEqual([]);
    expect(await cache.store.open({ ...key, commit: second, path: "b" })).toBeUndefined();
    // A part of one, too.
    await (await cache.store.begin(key, { path: key.path, size: 2 })).append([bytes("0")], undefined);
    await cache.store.delete(key);
    expect(fs.readdirSync(cache.inside("blobs"))).toEqual([]);
  });

  test("revisions", async () => {
    for (const revision of ["main", "v1.0", "refs/pr/1"]) {
      await cache.store.keepCommit(repoKey, revision, commit);
      expect(fs.readFileSync(cache.inside(`refs/${revision}`), "utf8")).toBe(commit);
      await cache.store.keepCommit(repoKey, revision, second);
      expect(await cache.store.commit(repoKey, revision)).toBe(second);
    }
    await cache.store.keepCommit(repoKey, commit, commit);
    expect(fs.existsSync(cache.inside(`refs/${commit}`))).toBe(false);
    expect(await cache.store.commit(repoKey, commit)).toBe(commit);
    for (const revision of ["none", "refs", "../../x", "/etc/hostname", "main/x"]) {
      expect(await cache.store.commit(repoKey, revision), revision).toBeUndefined();
    }
    await expect(cache.store.keepCommit(repoKey, "../x", commit)).rejects.toThrow(ValueError);
    fs.writeFileSync(cache.inside("refs/main"), "../../../x\n");
    expect(await cache.store.commit(repoKey, "main")).toBeUndefined();
  });

  test("a file that may not be read says so", async () => {
    await cache.put("a", "0");
    fs.chmodSync(cache.path, 0o755);
    fs.chmodSync(cache.inside(`snapshots/${commit}/a`), 0o000);
    await withoutRights(async () => {
      await expect(cache.store.open({ ...key, path: "a" })).rejects.toThrow(ModelNotFoundError);
      await expect(cache.store.open({ ...key, path: "a" })).rejects.toThrow(/a is there, but may not be read: EACCES/);
    });
  });
});
