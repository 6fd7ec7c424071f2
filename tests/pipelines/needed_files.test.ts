/** Which files a load takes of those that a source lists: as Diffusers chooses, and all of them fetched at once. */
import { cpSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  DiffusionPipeline,
  type FileInfo,
  IntegrityError,
  type LoadProgress,
  ModelNotFoundError,
  type OpenOptions,
  openSource,
  PNDMScheduler,
  type Source,
  UNet2DModel,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { neededFiles } from "../../packages/pipelines/src/needed_files.ts";
import { componentEntry, type WantedComponent } from "../../packages/pipelines/src/pipeline_loading_utils.ts";
import { fixturePath, fixtureText } from "../support/fixtures.ts";
import { type Hub, startHub } from "../support/hub_server.mjs";

interface Listing {
  readonly model_index: Record<string, unknown>;
  /** By index: the shards that it names. */
  readonly indices: Record<string, string[]>;
  /** Sizes in bytes, by path. */
  readonly files: Record<string, number>;
}

interface Choice {
  readonly listing: string;
  readonly variant: string | null;
  readonly left_out: string[];
  readonly files?: string[];
  readonly error?: string;
}

/** What runs here of a repository. */
function wantedOf({ model_index }: Listing, leftOut: readonly string[]): WantedComponent[] {
  return Object.entries(model_index)
    .filter(([key, pair]) => Array.isArray(pair) && pair[0] !== null && !leftOut.includes(key))
    .map(([key, pair]) => ({ key, entry: componentEntry(key, pair, false) }));
}

function sourceOf({ indices, files }: Listing): { source: Source; listing: FileInfo[]; opened: string[] } {
  const opened: string[] = [];
  const source: Source = {
    name: "owner/name",
    open: async (path) => {
      opened.push(path);
      const shards = indices[path];
      if (shards === undefined) return undefined;
      const text = JSON.stringify({ weight_map: Object.fromEntries(shards.map((shard, i) => [`tensor${i}`, shard])) });
      const bytes = new TextEncoder().encode(text);
      return { path, size: bytes.length, readSync: (begin, end) => bytes.subarray(begin, end), close: () => undefined };
    },
  };
  return { source, listing: Object.entries(files).map(([path, size]) => ({ path, size })), opened };
}

const choices = JSON.parse(fixtureText("loading/file_choice.json")) as Choice[];
const listingOf = (name: string): Listing => JSON.parse(fixtureText(`loading/listings/${name}.json`)) as Listing;
const sorted = (files: readonly FileInfo[]): string[] => files.map(({ path }) => path).sort();

describe("the choice is that of Diffusers", () => {
  test.each(
    choices.map((choice) => [`${choice.listing} ${choice.variant} ${choice.left_out.join()}`, choice] as const),
  )("%s", async (_, { listing: name, variant, left_out, files, error }) => {
    const contents = listingOf(name);
    const { source, listing, opened } = sourceOf(contents);
    const wanted = wantedOf(contents, left_out);
    const chosen = neededFiles(source, listing, wanted, { variant: variant ?? undefined });
    if (error !== undefined) {
      await expect(chosen).rejects.toThrow(ValueError);
      await expect(chosen).rejects.toMatchObject({ details: { field: "variant" } });
      return;
    }
    if (files!.some((file) => file.endsWith(".bin"))) {
      // Python would read the pickle.
      await expect(chosen).rejects.toThrow(UnsupportedModelError);
      await expect(chosen).rejects.toThrow(/text_encoder.*pytorch_model\.bin, a pickle/);
      return;
    }
    const folders = new Set(wanted.map(({ key }) => key));
    const expected = files!.filter((path) => {
      const [folder, file] = path.includes("/") ? path.split("/") : [undefined, path];
      // Diffusers also takes model_index.json, which has been read by now, and what no component asks for: other
      // folders' weights, and of a tokenizer the files that tokenizer.json stands for.
      if (folder === undefined) return file !== "model_index.json";
      const isOld = /^(vocab\.json|merges\.txt)$/.test(file!) && files!.includes(`${folder}/tokenizer.json`);
      return folders.has(folder) && !isOld;
    });
    expect(sorted((await chosen).files)).toEqual(expected.sort());
    // Nothing is read but what tells which shards there are.
    expect(opened.filter((path) => !path.includes(".index."))).toEqual([]);
  });

  test("the table has every layout", () => {
    expect(new Set(choices.map(({ listing }) => listing)).size).toBe(8);
    const all = choices.flatMap(({ files }) => files ?? []);
    expect(all.some((path) => path.endsWith(".fp16.index.json"))).toBe(true);
    expect(choices.filter(({ error }) => error !== undefined).length).toBeGreaterThanOrEqual(3);
  });
});

const unet = "unet/diffusion_pytorch_model";
type ErrorClass = abstract new (...args: never[]) => Error;

describe("what does not fit", () => {
  const without = (path: string) => (listing: Listing) => {
    const { [path]: _, ...files } = listing.files;
    return { ...listing, files };
  };
  test.each<[string, string, string | undefined, (listing: Listing) => Listing, ErrorClass, RegExp]>([
    [
      "a shard that is not there",
      "sharded",
      undefined,
      without(`${unet}-00002-of-00003.safetensors`),
      ModelNotFoundError,
      /owner\/name\/unet has no diffusion_pytorch_model-00002-of-00003\.safetensors, which its .*index\.json names/,
    ],
    [
      "an index that leads out",
      "sharded",
      undefined,
      (listing) => ({
        ...listing,
        indices: { ...listing.indices, [`${unet}.safetensors.index.json`]: ["../x.safetensors"] },
      }),
      IntegrityError,
      /index\.json: found "\.\.\/x\.safetensors"/,
    ],
    [
      "a component without weights",
      "mixed-variants",
      "fp16",
      without("text_encoder/model.safetensors"),
      ModelNotFoundError,
      /text_encoder has no weights for CLIPTextModel: looked for model\.safetensors/,
    ],
    [
      "a component whose weights are a pickle, beside others that are not",
      "mixed-variants",
      undefined,
      without("vae/diffusion_pytorch_model.safetensors"),
      UnsupportedModelError,
      /vae has the weights of AutoencoderKL only as diffusion_pytorch_model\.bin/,
    ],
    [
      "only the variant, and it was not asked for",
      "mixed-variants",
      undefined,
      without(`${unet}.safetensors`),
      ModelNotFoundError,
      /unet has no weights.*has diffusion_pytorch_model\.fp16\.safetensors: pass \{ variant: "fp16" \}/,
    ],
  ])("%s", async (_, name, variant, change, error, message) => {
    const contents = change(listingOf(name));
    const { source, listing } = sourceOf(contents);
    const chosen = neededFiles(source, listing, wantedOf(contents, []), { variant });
    await expect(chosen).rejects.toThrow(error);
    await expect(chosen).rejects.toThrow(message);
  });

  test("a single file comes before an index", async () => {
    const contents = listingOf("sharded");
    const { source, listing } = sourceOf({ ...contents, files: { ...contents.files, [`${unet}.safetensors`]: 8 } });
    const { files } = await neededFiles(source, listing, wantedOf(contents, []));
    expect(sorted(files).filter((path) => path.startsWith("unet/"))).toEqual([
      "unet/config.json",
      `${unet}.safetensors`,
    ]);
  });
});

/** A folder as a source that has to fetch: it tells what it was asked for, and of nothing that it does not list. */
async function recorded(folder: string, tell: (path: string, options?: OpenOptions) => void = () => undefined) {
  const inner = await openSource(folder);
  const events: string[] = [];
  const files = await inner.list!();
  const source: Source = {
    name: "recorded",
    list: async () => files,
    prefetch: async (paths, options) => {
      events.push(`prefetch ${paths.join(" ")}`);
      for (const path of paths) tell(path, options);
    },
    open: async (path, options) => {
      if (!files.some((file) => file.path === path)) throw new Error(`${path} is not listed.`);
      events.push(`open ${path}`);
      return inner.open(path, options);
    },
  };
  return { source, events, files };
}

const sd1 = fixturePath("pipelines/sd1-tiny");
const folder = mkdtempSync(join(tmpdir(), "needed-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const isWeights = (event: string): boolean => event.startsWith("open") && event.endsWith(".safetensors");

describe("a load from a source that lists", () => {
  test("fetches all once, before the first weights are opened, and asks for nothing else", async () => {
    const { source, events, files } = await recorded(sd1);
    await using pipeline = await DiffusionPipeline.from_pretrained(source, { device: "wasm" });
    expect(pipeline.constructor.name).toBe("StableDiffusionPipeline");
    const prefetches = events.filter((event) => event.startsWith("prefetch"));
    const expected = files.map(({ path }) => path).filter((path) => path !== "model_index.json");
    expect(prefetches.map((event) => event.split(" ").slice(1))).toEqual([expected]);
    expect(events.findIndex(isWeights)).toBeGreaterThan(events.indexOf(prefetches[0]!));
    // Each file is opened once.
    const opened = events.filter((event) => event.startsWith("open"));
    expect(new Set(opened).size).toBe(opened.length);
  });

  test("the total is known before the first byte comes, of what is needed only", async () => {
    const { source, files } = await recorded(sd1, (path, options) => {
      const total = files.find((file) => file.path === path)!.size;
      // The VAE's weights have been there before.
      if (path.startsWith("vae/")) return;
      for (const loaded of [0, total]) options!.progress_callback!({ phase: "download", file: path, loaded, total });
    });
    const seen: LoadProgress[] = [];
    const scheduler = await PNDMScheduler.from_pretrained(sd1, { subfolder: "scheduler" });
    await using _ = await DiffusionPipeline.from_pretrained(source, {
      device: "wasm",
      scheduler,
      text_encoder: null,
      tokenizer: null,
      progress_callback: (progress) => seen.push(progress),
    });
    const wanted = files.filter(({ path }) => /^(unet|vae)\//.test(path));
    const total = wanted.reduce((sum, { size }) => sum + size, 0);
    const downloads = seen.filter(({ phase }) => phase === "download");
    expect(downloads[0]).toMatchObject({ loaded_bytes: 0, total_bytes: total, loaded_files: 0, total_files: 4 });
    expect(new Set(downloads.map((one) => one.total_bytes))).toEqual(new Set([total]));
    expect(new Set(downloads.map(({ file }) => file.split("/")[0]))).toEqual(new Set(["unet"]));
    const last = seen.filter(({ phase }) => phase === "build").at(-1)!;
    expect(last).toMatchObject({ loaded_bytes: total, total_bytes: total, loaded_files: 4, total_files: 4 });
  });

  test("what is wrong with a config shows before anything is fetched", async () => {
    const path = join(folder, "config");
    cpSync(sd1, path, { recursive: true });
    const file = join(path, "vae/config.json");
    const config = JSON.parse(readFileSync(file, "utf8")) as object;
    writeFileSync(file, JSON.stringify({ ...config, down_block_types: ["DownBlock3D", "DownBlock3D", "DownBlock3D"] }));
    const { source, events } = await recorded(path);
    const warn = vi.spyOn(console, "warn").mockImplementation(() => undefined);
    await expect(DiffusionPipeline.from_pretrained(source, { device: "wasm" })).rejects.toThrow(/DownBlock3D/);
    warn.mockRestore();
    expect(events.filter((event) => event.startsWith("prefetch") || isWeights(event))).toEqual([]);
  });

  test("a variant where there is one, below a subfolder", async () => {
    const path = join(folder, "variants/deep/model");
    cpSync(sd1, path, { recursive: true });
    renameSync(join(path, `${unet}.safetensors`), join(path, `${unet}.fp16.safetensors`));
    const { source, events } = await recorded(join(folder, "variants"));
    const options = { device: "wasm", subfolder: "deep/model" } as const;
    await using _ = await DiffusionPipeline.from_pretrained(source, { ...options, variant: "fp16" });
    expect(events.filter(isWeights).sort()).toEqual([
      "open deep/model/text_encoder/model.safetensors",
      `open deep/model/${unet}.fp16.safetensors`,
      "open deep/model/vae/diffusion_pytorch_model.safetensors",
    ]);
    await expect(DiffusionPipeline.from_pretrained(source, { ...options, variant: "bf16" })).rejects.toThrow(
      ValueError,
    );
    await expect(DiffusionPipeline.from_pretrained(source, options)).rejects.toThrow(/pass \{ variant: "fp16" \}/);
  });

  test("a model by itself", async () => {
    const { source, events } = await recorded(fixturePath("loading"), (file, options) =>
      options!.progress_callback!({ phase: "download", file, loaded: 1, total: 1 }),
    );
    const seen: LoadProgress[] = [];
    await using _ = await UNet2DModel.from_pretrained(source, {
      device: "wasm",
      subfolder: "sharded-fp16",
      variant: "fp16",
      progress_callback: (progress) => seen.push(progress),
    });
    const stem = "sharded-fp16/diffusion_pytorch_model";
    const shards = [1, 2].map((i) => `${stem}.fp16-0000${i}-of-00002.safetensors`);
    const index = `${stem}.safetensors.index.fp16.json`;
    expect(events).toEqual([
      "open sharded-fp16/config.json",
      `open ${index}`,
      `prefetch ${[index, ...shards].join(" ")}`,
      ...shards.map((shard) => `open ${shard}`),
    ]);
    // A file is announced under the path that is told of it.
    expect(seen.filter(({ phase }) => phase === "download").map((one) => one.total_files)).toEqual([3, 3, 3]);
    expect(seen.at(-1)).toMatchObject({ phase: "build", file: index });
  });
});

describe("from a hub", () => {
  const commit = "c".repeat(40);
  const cache_dir = join(folder, "hub");
  let hub: Hub;
  beforeAll(async () => {
    const revisions = { main: commit };
    hub = await startHub({
      repos: {
        "tiny/sd1": { revisions, commits: { [commit]: sd1 } },
        "tiny/sharded": { revisions, commits: { [commit]: fixturePath("loading") } },
      },
    });
  });
  afterAll(() => hub.close());
  const files = (): string[] => hub.requests.filter(({ kind }) => kind === "resolve").map(({ file }) => file!);

  test("each file once and no other; a second load asks for nothing, and works offline", async () => {
    const options = { device: "wasm", endpoint: hub.url, cache_dir } as const;
    const none = DiffusionPipeline.from_pretrained("tiny/sd1", { ...options, local_files_only: true });
    await expect(none).rejects.toThrow(/tiny\/sd1 at main is not in the cache/);
    expect(hub.requests).toEqual([]);

    const seen: LoadProgress[] = [];
    const progress_callback = (progress: LoadProgress): unknown => seen.push(progress);
    await using _ = await DiffusionPipeline.from_pretrained("tiny/sd1", { ...options, progress_callback });
    expect(new Set(files()).size).toBe(files().length);
    expect(files()).toContain(`${unet}.safetensors`);
    expect(hub.requests.filter(({ status }) => status >= 400)).toEqual([]);
    const downloads = seen.filter(({ phase }) => phase === "download");
    const weights = downloads.find(({ file }) => isWeights(`open ${file}`))!;
    expect(weights.total_bytes).toBe(downloads.at(-1)!.total_bytes);
    const build = seen.find(({ phase }) => phase === "build")!;
    expect(build.loaded_bytes).toBe(build.total_bytes);
    expect(build.loaded_files).toBe(build.total_files);

    hub.requests.length = 0;
    for (const local_files_only of [false, true]) {
      await using second = await DiffusionPipeline.from_pretrained("tiny/sd1", { ...options, local_files_only });
      expect(second.name_or_path).toBe("tiny/sd1");
    }
    expect(hub.requests).toEqual([]);

    await using third = await DiffusionPipeline.from_pretrained("tiny/sd1", { ...options, force_download: true });
    expect(files().filter((file) => file === `${unet}.safetensors`)).toHaveLength(1);
    expect(third.name_or_path).toBe("tiny/sd1");
  });

  test("a model's own options do the same", async () => {
    const subfolder = "sharded-fp16";
    const options = { device: "wasm", endpoint: hub.url, subfolder, variant: "fp16" } as const;
    for (const cache of [false, true]) {
      hub.requests.length = 0;
      await using _ = await UNet2DModel.from_pretrained("tiny/sharded", { ...options, cache, cache_dir });
      expect(files().filter((file) => file.endsWith(".safetensors"))).toHaveLength(2);
      expect(files().every((file) => file.startsWith(`${subfolder}/`))).toBe(true);
    }
    hub.requests.length = 0;
    await using again = await UNet2DModel.from_pretrained("tiny/sharded", {
      ...options,
      cache_dir,
      local_files_only: true,
    });
    expect(again.config._name_or_path).toBe("tiny/sharded");
    const scheduler = PNDMScheduler.from_pretrained("tiny/sd1", {
      subfolder: "scheduler",
      endpoint: hub.url,
      cache_dir: join(folder, "another"),
      local_files_only: true,
    });
    await expect(scheduler).rejects.toThrow(/not in the cache/);
    expect(hub.requests).toEqual([]);
  });
});
