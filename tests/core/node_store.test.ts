/** The hub's cache folder in Node, against the one that Python's huggingface_hub makes. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import { homedir, hostname, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  IntegrityError,
  ModelNotFoundError,
  openSource,
  QuotaError,
  type Source,
  ValueError,
} from "@diffusers-web/core";
import { build } from "vite";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { cacheFolder, openNodeStore } from "../../packages/core/src/hub/node_store.ts";
import type { FileInfo } from "../../packages/core/src/hub/source.ts";
import type { FileKey, HubStore, RepoKey } from "../../packages/core/src/hub/store.ts";
import { fixtureText } from "../support/fixtures.ts";
import { type Hub, startHub } from "../support/hub_server.mjs";

type Entries = Record<string, { link: string } | { text: string }>;
const fixture = JSON.parse(fixtureText("hub/cache_layout.json")) as {
  repo: string;
  revisions: Record<string, string>;
  commits: Record<string, Record<string, string>>;
  layouts: Record<"links" | "copies", Entries>;
  home: string;
  folders: { env: Record<string, string>; folder: string }[];
};
const { repo } = fixture;
const commit = fixture.revisions["main"]!;
const second = fixture.revisions["refs/pr/1"]!;
const repoFolder = `models--${repo.replace("/", "--")}`;
const repoKey: RepoKey = { endpoint: "http://127.0.0.1:9", repo };
const sha256 = "ab".repeat(32);
const key: FileKey = { ...repoKey, commit, path: "unet/weights.safetensors" };
const bytes = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(text);

let folder: string;
let store: HubStore;
beforeEach(async () => {
  folder = fs.mkdtempSync(join(tmpdir(), "hub-cache-"));
  store = await openNodeStore({ cache_dir: folder });
});
afterEach(() => fs.rmSync(folder, { recursive: true }));

/** All files and links below the cache folder, but for what only one of Python and us keeps there. */
function layout(): Entries {
  const entries: Entries = {};
  for (const name of fs.readdirSync(folder, { recursive: true, encoding: "utf8" }).sort()) {
    const stat = fs.lstatSync(join(folder, name));
    if (stat.isSymbolicLink()) entries[name] = { link: fs.readlinkSync(join(folder, name)) };
    else if (stat.isFile()) entries[name] = { text: fs.readFileSync(join(folder, name), "utf8") };
  }
  return common(entries);
}

function common(entries: Entries): Entries {
  const kept = Object.entries(entries).filter(([name]) => !/^\.locks\/|\/trees\/|\/\.diffusers-web\//.test(name));
  return { ...Object.fromEntries(kept), "CACHEDIR.TAG": { text: "" } };
}

/** The cache folder as Python made it. */
function rebuild(entries: Entries): void {
  for (const [name, entry] of Object.entries(entries)) {
    fs.mkdirSync(dirname(join(folder, name)), { recursive: true });
    if ("link" in entry) fs.symlinkSync(entry.link, join(folder, name));
    else fs.writeFileSync(join(folder, name), entry.text);
  }
}

async function readAll(source: Source, paths: Iterable<string>): Promise<Record<string, string>> {
  const texts: Record<string, string> = {};
  for (const path of paths) {
    const file = (await source.open(path))!;
    texts[path] = new TextDecoder().decode(file.readSync(0, file.size));
    file.close();
  }
  return texts;
}

const inside = (path: string): string => join(folder, repoFolder, path);
const exists = (path: string): boolean => fs.existsSync(inside(path));

describe("beside Python", () => {
  let hub: Hub;
  beforeAll(async () => {
    hub = await startHub({ repos: { [repo]: { revisions: fixture.revisions, commits: fixture.commits } } });
  });
  afterAll(() => hub.close());
  beforeEach(() => {
    hub.requests.length = 0;
  });
  afterEach(() => {
    delete process.env["HF_HUB_DISABLE_SYMLINKS"];
  });

  test.each(["links", "copies"] as const)("what we download lies as what Python downloads: %s", async (kind) => {
    if (kind === "copies") process.env["HF_HUB_DISABLE_SYMLINKS"] = "1";
    const open = (revision: string): Promise<Source> =>
      openSource(repo, { endpoint: hub.url, cache_dir: folder, revision });
    await (await open("main")).prefetch!(Object.keys(fixture.commits[commit]!));
    (await (await open("v1.0")).open("model_index.json"))!.close();
    await (await open("refs/pr/1")).prefetch!(["model_index.json", "unet/config.json"]);
    expect(layout()).toEqual(common(fixture.layouts[kind]));
    // Nothing is left of locks and parts.
    const left = fs.readdirSync(folder, { recursive: true, encoding: "utf8" });
    expect(left.filter((name) => /\.lock$|incomplete|tmp/.test(name))).toEqual([]);
    // Where links work the bytes of the second commit's index were there.
    const indexes = hub.requests.filter(({ kind, file }) => kind === "resolve" && file === "model_index.json");
    expect(indexes).toHaveLength(kind === "links" ? 1 : 2);
  });

  describe.each(["links", "copies"] as const)("what Python downloaded: %s", (kind) => {
    beforeEach(() => rebuild(fixture.layouts[kind]));

    test("opens without a request, by revision and by commit", async () => {
      for (const revision of ["main", "v1.0", commit]) {
        const options = { endpoint: hub.url, cache_dir: folder, revision, local_files_only: true };
        const source = await openSource(repo, options);
        expect((await source.list!()).map(({ path }) => path).sort()).toEqual(
          Object.keys(fixture.commits[commit]!).sort(),
        );
        expect(await readAll(source, Object.keys(fixture.commits[commit]!))).toEqual(fixture.commits[commit]);
      }
      expect(hub.requests).toEqual([]);
    });

    test("without a listing, and of a part of a commit, is listed by what is there", async () => {
      fs.rmSync(inside("trees"), { recursive: true });
      const whole = (await store.found!(repoKey, commit))!;
      expect(whole.map(({ path }) => path)).toEqual(Object.keys(fixture.commits[commit]!).sort());
      expect(whole.map(({ size }) => size)).toEqual(
        whole.map(({ path }) => bytes(fixture.commits[commit]![path]!).length),
      );
      const source = await openSource(repo, { cache_dir: folder, revision: "refs/pr/1", local_files_only: true });
      const files = await source.list!();
      expect(files.map(({ path }) => path)).toEqual(["model_index.json", "unet/config.json"]);
      // The blobs' names say what they hold.
      if (kind === "links") {
        expect(files[0]!.oid).toBe("c75272e53ca4a4edddbfd662b8180e56aa636b34");
        expect(whole.find(({ path }) => path.endsWith(".safetensors"))!.sha256).toMatch(/^[0-9a-f]{64}$/);
      }
      expect(await source.open("unet/diffusion_pytorch_model.safetensors")).toBeUndefined();
      expect(await store.listing(repoKey, second)).toBeUndefined();
      expect(await store.found!(repoKey, "3".repeat(40))).toBeUndefined();
    });

    test("is not downloaded again", async () => {
      const source = await openSource(repo, { endpoint: hub.url, cache_dir: folder, revision: "refs/pr/1" });
      await source.prefetch!(["model_index.json", "unet/config.json"]);
      expect(hub.requests.map((request) => request.kind)).toEqual(["api:tree"]);
      // But what Python did not get comes.
      await source.prefetch!(["unet/diffusion_pytorch_model.safetensors"]);
      expect(await readAll(source, Object.keys(fixture.commits[second]!))).toEqual(fixture.commits[second]);
    });
  });

  test("Python's listing is as good as ours, and one that cannot be read is as none", async () => {
    rebuild(fixture.layouts.links);
    const listing = (await store.listing(repoKey, commit))!;
    const weights = listing.find(({ path }) => path === "unet/diffusion_pytorch_model.safetensors")!;
    expect(weights).toMatchObject({
      size: bytes(fixture.commits[commit]![weights.path]!).length,
      sha256: expect.stringMatching(/^[0-9a-f]{64}$/),
    });
    for (const text of ["", "{", "null", "7", '{"format_version": 2, "files": {}}', '{"format_version": 1}', "[]"]) {
      fs.writeFileSync(inside(`trees/${commit}.json`), text);
      const other = await openNodeStore({ cache_dir: folder });
      expect(await other.listing(repoKey, commit), text).toBeUndefined();
    }
  });

  test("force_download puts another file in the place of a shared one", async () => {
    rebuild(fixture.layouts.links);
    const blob = inside("blobs/c75272e53ca4a4edddbfd662b8180e56aa636b34");
    fs.writeFileSync(blob, "spoilt by somebody, yet as long.");
    const source = await openSource(repo, { endpoint: hub.url, cache_dir: folder, force_download: true });
    await source.prefetch!(["model_index.json"]);
    expect(fs.readFileSync(blob, "utf8")).toBe(fixture.commits[commit]!["model_index.json"]);
    expect(layout()).toEqual(common(fixture.layouts.links));
  });
});

describe("where the folder is", () => {
  test.each(fixture.folders)("as Python decides: $env", ({ env, folder }) => {
    expect(cacheFolder(undefined, env, fixture.home)).toBe(folder);
  });

  test.each([
    ["/given", { HF_HUB_CACHE: "/c" }, "/given"],
    ["~/given", {}, "/home/someone/given"],
    ["~other/given", {}, "~other/given"],
    [undefined, { HF_HUB_CACHE: "", HF_HOME: "/h" }, "/h/hub"],
  ])("%s %j", (given, env, expected) => {
    expect(cacheFolder(given, env, fixture.home)).toBe(expected);
  });

  test("nothing is made before something is kept", async () => {
    const other = await openNodeStore({ cache_dir: join(folder, "a/b") });
    expect(await other.open(key)).toBeUndefined();
    expect(await other.commit(repoKey, "main")).toBeUndefined();
    expect(await other.listing(repoKey, commit)).toBeUndefined();
    expect(await other.found!(repoKey, commit)).toBeUndefined();
    await other.delete(key);
    expect(fs.readdirSync(folder)).toEqual([]);
    expect(homedir()).not.toBe(folder);
  });
});

describe("a file while it is downloaded", () => {
  const info: FileInfo = { path: key.path, size: 10, sha256 };
  const data = (): string => inside(`blobs/${sha256}.diffusers-web.incomplete`);
  const state = new Uint8Array([0, 1, 254, 255]);
  beforeEach(() => store.keepListing(repoKey, commit, [info]));

  test("is kept part by part, goes on, and becomes whole in one step", async () => {
    const first = await store.begin(key, info);
    expect([first.offset, first.hash]).toEqual([0, undefined]);
    await first.append([bytes("01"), bytes(""), bytes("234")], state);
    expect([first.offset, first.hash]).toEqual([5, state]);
    expect(await store.open(key)).toBeUndefined();
    // What a crash leaves: bytes whose part was never finished.
    fs.appendFileSync(data(), "rubbish");
    const again = await (await openNodeStore({ cache_dir: folder })).begin(key, info);
    expect([again.offset, again.hash]).toEqual([5, state]);
    expect(fs.readFileSync(data(), "utf8")).toBe("01234");
    await again.append([bytes("56789")], undefined);
    await again.complete();
    const file = (await store.open(key))!;
    expect([file.path, file.size, new TextDecoder().decode(file.readSync(3, 7))]).toEqual([key.path, 10, "3456"]);
    file.close();
    expect(fs.readdirSync(inside("blobs"))).toEqual([sha256]);
    expect(fs.readlinkSync(inside(`snapshots/${commit}/${key.path}`))).toBe(`../../../blobs/${sha256}`);
  });

  test.each<[string, () => void]>([
    ["its bytes are lost", () => fs.truncateSync(data(), 4)],
    ["its state is lost", () => fs.rmSync(data().replace(".incomplete", ".state.incomplete"))],
    ["its state is no JSON", () => fs.writeFileSync(data().replace(".incomplete", ".state.incomplete"), '{"for')],
  ])("starts anew when %s", async (_, harm) => {
    await (await store.begin(key, info)).append([bytes("01234")], state);
    harm();
    const again = await store.begin(key, info);
    expect([again.offset, again.hash]).toEqual([0, undefined]);
  });

  test("starts anew when the hub lists something else", async () => {
    await (await store.begin(key, info)).append([bytes("01234")], state);
    expect((await store.begin(key, { ...info, size: 11 })).offset).toBe(0);
    await (await store.begin(key, info)).append([bytes("01234")], state);
    expect((await store.begin(key, { ...info, sha256: "cd".repeat(32) })).offset).toBe(0);
  });

  test("is never whole with bytes missing, nor goes on behind a gap", async () => {
    const partial = await store.begin(key, info);
    await partial.append([bytes("01234")], undefined);
    await expect(partial.complete()).rejects.toThrow(IntegrityError);
    fs.truncateSync(data(), 2);
    await expect(partial.append([bytes("5")], undefined)).rejects.toThrow(/2 bytes are in .* 5 were kept/);
    // `hf cache prune` of Python removes what was left behind, and what is under way.
    fs.rmSync(data());
    await expect(partial.append([bytes("5")], undefined)).rejects.toThrow(IntegrityError);
    expect(await store.open(key)).toBeUndefined();
  });

  test("discarded, nothing is left of it", async () => {
    const partial = await store.begin(key, info);
    await partial.append([bytes("01234")], state);
    await partial.discard();
    expect(fs.readdirSync(inside("blobs"))).toEqual([]);
    expect((await store.begin(key, info)).offset).toBe(0);
  });

  test("an empty file, one that is not listed, and one without an id", async () => {
    for (const [path, extra] of [
      ["empty", {}],
      ["odd names/é #1?&%20 狐", { oid: "../../../../outside" }],
      ["a/b/c/d", { oid: "12".repeat(20) }],
    ] as const) {
      const other = { ...key, path };
      const partial = await store.begin(other, { path, size: 0, ...extra });
      await partial.complete();
      const file = (await store.open(other))!;
      expect([file.path, file.size]).toEqual([path, 0]);
      file.close();
    }
    const blobs = fs.readdirSync(inside("blobs")).sort();
    expect(blobs).toEqual(["12".repeat(20), expect.stringMatching(/^unlisted-/), expect.stringMatching(/^unlisted-/)]);
    // Such a name is no hash.
    const found = (await store.found!(repoKey, commit))!;
    expect(found.find(({ path }) => path === "empty")).toEqual({ path: "empty", size: 0 });
  });

  test.runIf(fs.existsSync("/dev/full"))("a full disk says how much is missing, and keeps what there is", async () => {
    const partial = await store.begin(key, info);
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
    const partial = await store.begin(key, info);
    await partial.append([bytes("0123456789")], undefined);
    await partial.complete();
    await store.keepCommit(repoKey, "main", commit);
    for (const name of ["", ...fs.readdirSync(folder, { recursive: true, encoding: "utf8" })]) {
      if (fs.lstatSync(join(folder, name)).isDirectory()) fs.chmodSync(join(folder, name), 0o555);
    }
    // Root may write everywhere.
    const isRoot = process.getuid?.() === 0;
    if (isRoot) process.seteuid!(65534);
    try {
      (await store.open(key))!.close();
      await store.keepCommit(repoKey, "main", commit);
      const refused = store.begin({ ...key, commit: second, path: "other" }, { path: "other", size: 1 });
      await expect(refused).rejects.toThrow(ValueError);
      await expect(refused).rejects.toThrow(/may not be written to: EACCES.*cache_dir/);
      await expect(store.keepCommit(repoKey, "main", second)).rejects.toThrow(ValueError);
    } finally {
      if (isRoot) process.seteuid!(0);
      for (const name of ["", ...fs.readdirSync(folder, { recursive: true, encoding: "utf8" })]) {
        if (fs.lstatSync(join(folder, name)).isDirectory()) fs.chmodSync(join(folder, name), 0o755);
      }
    }
  });
});

describe("whole files", () => {
  const put = async (path: string, text: string, extra: Partial<FileInfo> = {}, at = commit): Promise<void> => {
    const partial = await store.begin({ ...key, commit: at, path }, { path, size: text.length, ...extra });
    await partial.append([bytes(text)], undefined);
    await partial.complete();
  };

  test("cut short by a crash of the machine, a file is not whole", async () => {
    await put("a", "0123456789", { oid: "12".repeat(20) });
    await store.keepListing(repoKey, commit, [{ path: "a", size: 10, oid: "12".repeat(20) }]);
    (await store.open({ ...key, path: "a" }))!.close();
    fs.truncateSync(inside(`blobs/${"12".repeat(20)}`), 9);
    expect(await store.open({ ...key, path: "a" })).toBeUndefined();
  });

  test("opening marks as used now, and leaves when it was changed", async () => {
    await put("a", "0", { oid: "12".repeat(20) });
    const blob = inside(`blobs/${"12".repeat(20)}`);
    fs.utimesSync(blob, new Date("2020-01-01"), new Date("2021-01-01"));
    (await store.open({ ...key, path: "a" }))!.close();
    expect(fs.statSync(blob).mtime).toEqual(new Date("2021-01-01"));
    expect(Date.now() - fs.statSync(blob).atimeMs).toBeLessThan(60_000);
  });

  test("links that lead nowhere, in a circle or to a folder, and names that are none", async () => {
    await put("a", "0");
    const snapshot = inside(`snapshots/${commit}`);
    fs.symlinkSync("../../blobs/gone", join(snapshot, "dangling"));
    fs.symlinkSync("circle", join(snapshot, "circle"));
    fs.symlinkSync("..", join(snapshot, "above"));
    fs.mkdirSync(join(snapshot, "folder"));
    const paths = ["dangling", "circle", "above", "folder", "a/b", "", ".", "x".repeat(300), "a\0b"];
    for (const path of [...paths, "../../refs/main", "/etc/hostname", "..\\x", "folder/../a"]) {
      expect(await store.open({ ...key, path }), path).toBeUndefined();
    }
    expect((await store.found!(repoKey, commit))!.map(({ path }) => path)).toContain("a");
    // A link in the way of a file gives way to it.
    await put("dangling", "new");
    (await store.open({ ...key, path: "dangling" }))!.close();
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
    const begun = store.begin({ ...key, ...part }, { path: "x", size: 0 });
    await expect(begun).rejects.toThrow(ValueError);
    await expect(store.delete({ ...key, ...part })).rejects.toThrow(ValueError);
    expect(fs.readdirSync(folder)).toEqual([]);
  });

  test("deleting frees the bytes once nothing else is of them", async () => {
    const shared = { oid: "12".repeat(20) };
    await put("x/y/a", "0", shared);
    await put("b", "0", shared, second);
    await put("b", "0", shared);
    await store.delete({ ...key, path: "x/y/a" });
    expect(fs.readdirSync(inside(`snapshots/${commit}`))).toEqual(["b"]);
    await store.delete({ ...key, path: "b" });
    expect(exists(`blobs/${shared.oid}`)).toBe(true);
    await store.delete({ ...key, commit: second, path: "b" });
    expect(fs.readdirSync(inside("blobs"))).toEqual([]);
    expect(await store.open({ ...key, commit: second, path: "b" })).toBeUndefined();
    // A part of one, too.
    await (await store.begin(key, { path: key.path, size: 2 })).append([bytes("0")], undefined);
    await store.delete(key);
    expect(fs.readdirSync(inside("blobs"))).toEqual([]);
  });

  test("revisions", async () => {
    for (const revision of ["main", "v1.0", "refs/pr/1"]) {
      await store.keepCommit(repoKey, revision, commit);
      expect(fs.readFileSync(inside(`refs/${revision}`), "utf8")).toBe(commit);
      await store.keepCommit(repoKey, revision, second);
      expect(await store.commit(repoKey, revision)).toBe(second);
    }
    await store.keepCommit(repoKey, commit, commit);
    expect(exists(`refs/${commit}`)).toBe(false);
    expect(await store.commit(repoKey, commit)).toBe(commit);
    for (const revision of ["none", "refs", "../../x", "/etc/hostname", "main/x"]) {
      expect(await store.commit(repoKey, revision), revision).toBeUndefined();
    }
    await expect(store.keepCommit(repoKey, "../x", commit)).rejects.toThrow(ValueError);
    fs.writeFileSync(inside("refs/main"), "../../../x\n");
    expect(await store.commit(repoKey, "main")).toBeUndefined();
  });

  test("a file that may not be read says so", async () => {
    await put("a", "0");
    fs.chmodSync(folder, 0o755);
    fs.chmodSync(inside(`snapshots/${commit}/a`), 0o000);
    const isRoot = process.getuid?.() === 0;
    if (isRoot) process.seteuid!(65534);
    try {
      await expect(store.open({ ...key, path: "a" })).rejects.toThrow(ModelNotFoundError);
      await expect(store.open({ ...key, path: "a" })).rejects.toThrow(/a is there, but may not be read: EACCES/);
    } finally {
      if (isRoot) process.seteuid!(0);
    }
  });
});

describe("one at a time", () => {
  const lock = (): string => {
    const [name] = fs.readdirSync(join(folder, ".locks", repoFolder));
    return join(folder, ".locks", repoFolder, name!);
  };

  test("two stores never do the same file at once, but different ones", async () => {
    const other = await openNodeStore({ cache_dir: folder });
    const running = { a: 0, b: 0 };
    let most = 0;
    const work = (name: "a" | "b") => async (): Promise<void> => {
      running[name]++;
      expect(running[name]).toBe(1);
      most = Math.max(most, running.a + running.b);
      await new Promise((resolve) => setTimeout(resolve, 20));
      running[name]--;
    };
    await Promise.all(
      [store, other, store, other].flatMap((each) =>
        (["a", "b"] as const).map((path) => each.exclusive({ ...key, path }, work(path))),
      ),
    );
    expect(most).toBe(2);
    expect(fs.readdirSync(join(folder, ".locks", repoFolder))).toEqual([]);
  });

  test("it ends with the task, and who waits can give up", async () => {
    await expect(store.exclusive(key, () => Promise.reject(new Error("no")))).rejects.toThrow("no");
    let release = (): void => undefined;
    let entered = (): void => undefined;
    const inIt = new Promise<void>((resolve) => {
      entered = resolve;
    });
    const held = store.exclusive(key, () => {
      entered();
      return new Promise<void>((resolve) => {
        release = resolve;
      });
    });
    await inIt;
    const controller = new AbortController();
    const waiting = store.exclusive(key, () => Promise.resolve("ran"), controller.signal);
    const reason = new Error("changed my mind");
    controller.abort(reason);
    await expect(waiting).rejects.toBe(reason);
    await expect(store.exclusive(key, () => Promise.resolve("ran"), AbortSignal.abort(reason))).rejects.toBe(reason);
    release();
    await held;
    expect(await store.exclusive(key, () => Promise.resolve("ran"))).toBe("ran");
  });

  test.each<[string, string, number, boolean]>([
    ["of a process that is gone", JSON.stringify({ token: "x", host: hostname(), pid: 2 ** 22 + 1 }), 11, true],
    ["of one that went just now", JSON.stringify({ token: "x", host: hostname(), pid: 2 ** 22 + 1 }), 5, false],
    ["of this machine, silent for a while", JSON.stringify({ token: "x", host: hostname(), pid: 1 }), 300, false],
    ["of another machine, silent for a while", JSON.stringify({ token: "x", host: "elsewhere", pid: 1 }), 61, true],
    ["of another machine, at work", JSON.stringify({ token: "x", host: "elsewhere", pid: 1 }), 30, false],
    ["without a name, long ago", "", 61, true],
  ])("a lock %s", async (_, text, age, isTaken) => {
    await store.exclusive(key, async () => undefined);
    let file = "";
    await store.exclusive(key, async () => {
      file = lock();
    });
    fs.writeFileSync(file, text);
    const then = new Date(Date.now() - age * 1000);
    fs.utimesSync(file, then, then);
    const result = store.exclusive(key, () => Promise.resolve("ran"), AbortSignal.timeout(400));
    if (isTaken) expect(await result).toBe("ran");
    else await expect(result).rejects.toMatchObject({ name: "TimeoutError" });
  });

  test("several that find a dead lock do not all take it", async () => {
    const stores = await Promise.all([1, 2, 3, 4].map(() => openNodeStore({ cache_dir: folder })));
    for (let round = 0; round < 20; round++) {
      let file = "";
      await store.exclusive(key, async () => {
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
    const script = join(folder, "store.mjs");
    await build({
      configFile: false,
      logLevel: "silent",
      build: {
        ssr: fileURLToPath(new URL("../../packages/core/src/hub/node_store.ts", import.meta.url)),
        outDir: folder,
        emptyOutDir: false,
        rolldownOptions: { output: { entryFileNames: "store.mjs" } },
      },
    });
    const info: FileInfo = { path: key.path, size: 8, sha256 };
    await store.keepListing(repoKey, commit, [info]);
    const code = `
      const { openNodeStore } = await import(${JSON.stringify(script)});
      const store = await openNodeStore({ cache_dir: ${JSON.stringify(folder)} });
      await store.exclusive(${JSON.stringify(key)}, async () => {
        const partial = await store.begin(${JSON.stringify(key)}, ${JSON.stringify(info)});
        await partial.append([new TextEncoder().encode("0123")], new Uint8Array([7]));
        console.log("kept");
        await new Promise((resolve) => setTimeout(resolve, 60_000));
      });`;
    const child = spawn(process.execPath, ["--input-type=module", "-e", code], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(child.stdout, "data");
    // While it lives, its lock holds.
    const waiting = store.exclusive(key, () => Promise.resolve("ran"), AbortSignal.timeout(300));
    await expect(waiting).rejects.toMatchObject({ name: "TimeoutError" });
    child.kill("SIGKILL");
    await once(child, "exit");
    // Not to wait for the seconds that a lock outlives its process.
    const then = new Date(Date.now() - 11_000);
    fs.utimesSync(lock(), then, then);
    await store.exclusive(key, async () => {
      const partial = await store.begin(key, info);
      expect([partial.offset, partial.hash]).toEqual([4, new Uint8Array([7])]);
      await partial.append([bytes("4567")], undefined);
      await partial.complete();
    });
    const file = (await store.open(key))!;
    expect(new TextDecoder().decode(file.readSync(0, 8))).toBe("01234567");
    file.close();
  });
});
