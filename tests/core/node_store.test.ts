/** The hub's cache folder in Node, beside the one that Python's huggingface_hub makes. */
import * as fs from "node:fs";
import { dirname, join } from "node:path";
import { openSource, type Source } from "@diffusers-web/core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { cacheFolder, openNodeStore } from "../../packages/core/src/hub/node_store.ts";
import {
  bytes,
  CacheFolder,
  cacheLayout,
  commit,
  type Entries,
  key,
  repoKey,
  second,
} from "../support/cache_folder.ts";
import { type Hub, startHub } from "../support/hub_server.mjs";

const { repo } = cacheLayout;
const cache = new CacheFolder();

/** All files and links below the cache folder, but for what only one of Python and us keeps there. */
function layout(): Entries {
  const entries: Entries = {};
  for (const name of cache.names()) {
    const stat = fs.lstatSync(join(cache.path, name));
    if (stat.isSymbolicLink()) entries[name] = { link: fs.readlinkSync(join(cache.path, name)) };
    else if (stat.isFile()) entries[name] = { text: fs.readFileSync(join(cache.path, name), "utf8") };
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
    fs.mkdirSync(dirname(join(cache.path, name)), { recursive: true });
    if ("link" in entry) fs.symlinkSync(entry.link, join(cache.path, name));
    else fs.writeFileSync(join(cache.path, name), entry.text);
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

describe("beside Python", () => {
  let hub: Hub;
  beforeAll(async () => {
    hub = await startHub({ repos: { [repo]: { revisions: cacheLayout.revisions, commits: cacheLayout.commits } } });
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
      openSource(repo, { endpoint: hub.url, cache_dir: cache.path, revision });
    await (await open("main")).prefetch!(Object.keys(cacheLayout.commits[commit]!));
    (await (await open("v1.0")).open("model_index.json"))!.close();
    await (await open("refs/pr/1")).prefetch!(["model_index.json", "unet/config.json"]);
    expect(layout()).toEqual(common(cacheLayout.layouts[kind]));
    // Nothing is left of locks and parts.
    const left = cache.names();
    expect(left.filter((name) => /\.lock$|incomplete|tmp/.test(name))).toEqual([]);
    // Where links work the bytes of the second commit's index were there.
    const indexes = hub.requests.filter(({ kind, file }) => kind === "resolve" && file === "model_index.json");
    expect(indexes).toHaveLength(kind === "links" ? 1 : 2);
  });

  describe.each(["links", "copies"] as const)("what Python downloaded: %s", (kind) => {
    beforeEach(() => rebuild(cacheLayout.layouts[kind]));

    test("opens without a request, by revision and by commit", async () => {
      for (const revision of ["main", "v1.0", commit]) {
        const options = { endpoint: hub.url, cache_dir: cache.path, revision, local_files_only: true };
        const source = await openSource(repo, options);
        expect((await source.list!()).map(({ path }) => path).sort()).toEqual(
          Object.keys(cacheLayout.commits[commit]!).sort(),
        );
        expect(await readAll(source, Object.keys(cacheLayout.commits[commit]!))).toEqual(cacheLayout.commits[commit]);
      }
      expect(hub.requests).toEqual([]);
    });

    test("without a listing, and of a part of a commit, is listed by what is there", async () => {
      fs.rmSync(cache.inside("trees"), { recursive: true });
      const whole = (await cache.store.found!(repoKey, commit))!;
      expect(whole.map(({ path }) => path)).toEqual(Object.keys(cacheLayout.commits[commit]!).sort());
      expect(whole.map(({ size }) => size)).toEqual(
        whole.map(({ path }) => bytes(cacheLayout.commits[commit]![path]!).length),
      );
      const source = await openSource(repo, { cache_dir: cache.path, revision: "refs/pr/1", local_files_only: true });
      const files = await source.list!();
      expect(files.map(({ path }) => path)).toEqual(["model_index.json", "unet/config.json"]);
      // The blobs' names say what they hold.
      if (kind === "links") {
        expect(files[0]!.oid).toBe("c75272e53ca4a4edddbfd662b8180e56aa636b34");
        expect(whole.find(({ path }) => path.endsWith(".safetensors"))!.sha256).toMatch(/^[0-9a-f]{64}$/);
      }
      expect(await source.open("unet/diffusion_pytorch_model.safetensors")).toBeUndefined();
      expect(await cache.store.listing(repoKey, second)).toBeUndefined();
      expect(await cache.store.found!(repoKey, "3".repeat(40))).toBeUndefined();
    });

    test("is not downloaded again", async () => {
      const source = await openSource(repo, { endpoint: hub.url, cache_dir: cache.path, revision: "refs/pr/1" });
      await source.prefetch!(["model_index.json", "unet/config.json"]);
      expect(hub.requests.map((request) => request.kind)).toEqual(["api:tree"]);
      // But what Python did not get comes.
      await source.prefetch!(["unet/diffusion_pytorch_model.safetensors"]);
      expect(await readAll(source, Object.keys(cacheLayout.commits[second]!))).toEqual(cacheLayout.commits[second]);
    });
  });

  test("Python's listing is as good as ours, and one that cannot be read is as none", async () => {
    rebuild(cacheLayout.layouts.links);
    const listing = (await cache.store.listing(repoKey, commit))!;
    const weights = listing.find(({ path }) => path === "unet/diffusion_pytorch_model.safetensors")!;
    expect(weights).toMatchObject({
      size: bytes(cacheLayout.commits[commit]![weights.path]!).length,
      sha256: expect.stringMatching(/^[0-9a-f]{64}$/),
    });
    for (const text of ["", "{", "null", "7", '{"format_version": 2, "files": {}}', '{"format_version": 1}', "[]"]) {
      fs.writeFileSync(cache.inside(`trees/${commit}.json`), text);
      const other = await openNodeStore({ cache_dir: cache.path });
      expect(await other.listing(repoKey, commit), text).toBeUndefined();
    }
  });

  test("force_download puts another file in the place of a shared one", async () => {
    rebuild(cacheLayout.layouts.links);
    const blob = cache.inside("blobs/c75272e53ca4a4edddbfd662b8180e56aa636b34");
    fs.writeFileSync(blob, "spoilt by somebody, yet as long.");
    const source = await openSource(repo, { endpoint: hub.url, cache_dir: cache.path, force_download: true });
    await source.prefetch!(["model_index.json"]);
    expect(fs.readFileSync(blob, "utf8")).toBe(cacheLayout.commits[commit]!["model_index.json"]);
    expect(layout()).toEqual(common(cacheLayout.layouts.links));
  });
});

describe("where the folder is", () => {
  test.each(cacheLayout.folders)("as Python decides: $env", ({ env, folder }) => {
    expect(cacheFolder(undefined, env, cacheLayout.home)).toBe(folder);
  });

  test.each([
    ["/given", { HF_HUB_CACHE: "/c" }, "/given"],
    ["~/given", {}, "/someone/given"],
    ["~other/given", {}, "~other/given"],
    [undefined, { HF_HUB_CACHE: "", HF_HOME: "/h" }, "/h/hub"],
  ])("%s %j", (given, env, expected) => {
    expect(cacheFolder(given, env, cacheLayout.home)).toBe(expected);
  });

  test("nothing is made before something is kept", async () => {
    const other = await openNodeStore({ cache_dir: join(cache.path, "a/b") });
    expect(await other.open(key)).toBeUndefined();
    expect(await other.commit(repoKey, "main")).toBeUndefined();
    expect(await other.listing(repoKey, commit)).toBeUndefined();
    expect(await other.found!(repoKey, commit)).toBeUndefined();
    await other.delete(key);
    expect(fs.readdirSync(cache.path)).toEqual([]);
  });
});
