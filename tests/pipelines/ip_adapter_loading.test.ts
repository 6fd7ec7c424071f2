/** What IP-Adapters are loaded of, and what is refused. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  IntegrityError,
  type LoadProgress,
  ModelNotFoundError,
  type Source,
  type StableDiffusionPipeline,
  UnsupportedModelError,
  ValueError,
  WeightsMismatchError,
} from "@diffusers-web/pipelines";
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { startHub } from "../support/hub_server.mjs";
import { base, baseWith, type Change, draw, load, picture, plus, repo, watched } from "../support/ip_adapter.ts";
import { safetensors } from "../support/safetensors.ts";

beforeEach(() => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
});
afterEach(() => vi.restoreAllMocks());

describe("from a hub", () => {
  test("that adapter's file and the encoder's, each once; then from the cache", async () => {
    const [commit, empty] = ["d".repeat(40), "e".repeat(40)];
    const hub = await startHub({
      repos: { "tiny/ip": { revisions: { main: empty, v1: commit }, commits: { [empty]: {}, [commit]: repo } } },
    });
    const cache_dir = mkdtempSync(join(tmpdir(), "ip-"));
    try {
      const seen: LoadProgress[] = [];
      await using pipeline = await load();
      const options = { ...plus, endpoint: hub.url, cache_dir, revision: "v1" };
      await pipeline.load_ip_adapter("tiny/ip", { ...options, progress_callback: (progress) => seen.push(progress) });
      const files = hub.requests.filter(({ kind }) => kind === "resolve").map(({ file }) => file);
      const encoder = ["models/image_encoder/config.json", "models/image_encoder/model.safetensors"];
      expect(files.sort()).toEqual(["models/ip-adapter-plus_sd.safetensors", ...encoder].sort());
      const downloads = seen.filter(({ phase }) => phase === "download");
      const sizes = files.map((file) => readFileSync(`${repo}/${file}`).length);
      const total = sizes.reduce((sum, size) => sum + size, 0);
      // Of the whole load, from its start.
      expect(downloads[0]).toMatchObject({ total_bytes: total, total_files: 3 });
      expect(seen.at(-1)).toMatchObject({ total_bytes: total, loaded_bytes: total, loaded_files: 3 });
      hub.requests.length = 0;
      await pipeline.load_ip_adapter("tiny/ip", { ...options, local_files_only: true });
      expect(hub.requests).toEqual([]);
      // The encoder that is there stays.
      await pipeline.load_ip_adapter("tiny/ip", { ...options, ...base });
      expect(hub.requests.filter(({ kind }) => kind === "resolve").map(({ file }) => file)).toEqual([
        "models/ip-adapter_sd.safetensors",
      ]);
    } finally {
      await hub.close();
      rmSync(cache_dir, { recursive: true });
    }
  });
});

describe("what is wrong leaves the pipeline as it was", () => {
  let pipeline: StableDiffusionPipeline;
  let before: Float32Array;
  beforeAll(async () => {
    pipeline = await load();
    await pipeline.load_ip_adapter(repo, base);
    before = await draw(pipeline, { ip_adapter_image: picture });
    return async () => pipeline.dispose();
  });
  /** A file with nothing but zeros, which is checked by its tensors' names and shapes. */
  const zeros = (shapes: Readonly<Record<string, readonly number[]>>): Uint8Array =>
    safetensors(
      Object.fromEntries(
        Object.entries(shapes).map(([name, shape]) => [
          name,
          ["F16", shape, 2 * shape.reduce((a, b) => a * b)] as const,
        ]),
      ),
    );
  const faceIDPlus = zeros({
    "image_proj.perceiver_resampler.proj_in.weight": [6, 12],
    "ip_adapter.1.to_k_ip.weight": [8, 16],
  });

  test.each<[string, object, Change, new (message: string) => Error, RegExp]>([
    [
      "an adapter of another model",
      { subfolder: "sdxl_models", weight_name: "ip-adapter_sdxl.safetensors" },
      (_, bytes) => bytes,
      WeightsMismatchError,
      /ip-adapter_sdxl\.safetensors does not fit.* ip_adapter\.1\.to_k_ip\.weight: found \[4, 8\], expected \[8, 8\]/,
    ],
    [
      "a pickle",
      { weight_name: "ip-adapter_sd15.bin" },
      (_, bytes) => bytes,
      UnsupportedModelError,
      /ip-adapter_sd15\.bin is no \.safetensors file/,
    ],
    [
      "a file that is not there",
      { ...base, weight_name: "ip-adapter_sd15.safetensors" },
      (_, bytes) => bytes,
      ModelNotFoundError,
      /no file models\/ip-adapter_sd15\.safetensors.*There are: models\/ip-adapter-faceid_sd\.safetensors, .*models\/ip-adapter_sd_light/,
    ],
    ["a damaged file", plus, (_, bytes) => bytes.subarray(0, 900), IntegrityError, /ip-adapter-plus_sd/],
    [
      "no IP-Adapter",
      base,
      () => zeros({ "conv.weight": [2, 2] }),
      WeightsMismatchError,
      /is no IP-Adapter: none.*found conv\.weight/,
    ],
    [
      "one without a projection",
      base,
      () => zeros({ "ip_adapter.1.to_k_ip.weight": [8, 16] }),
      WeightsMismatchError,
      /is no IP-Adapter/,
    ],
    [
      "a LoRA in the file",
      base,
      () => baseWith("ip_adapter.0.to_q_lora.down.weight"),
      UnsupportedModelError,
      /has a LoRA for the UNet beside the IP-Adapter \(ip_adapter\.0\.to_q_lora/,
    ],
    [
      "FaceID Plus",
      base,
      () => faceIDPlus,
      UnsupportedModelError,
      /FaceID Plus, which takes the embeddings of two models/,
    ],
    ["a name that is none", { weight_name: "" }, (_, bytes) => bytes, ValueError, /`weight_name` is ""/],
    ["no name", {}, (_, bytes) => bytes, ValueError, /`weight_name` is nothing/],
    [
      "lists of different lengths",
      { weight_name: ["a.safetensors", "b.safetensors"], subfolder: ["a", "b", "c"] },
      (_, bytes) => bytes,
      ValueError,
      /2 names in `weight_name`, but 3 of `subfolder`/,
    ],
    ["an unknown option", { ...base, variant: "fp16" }, (_, bytes) => bytes, TypeError, /variant/],
  ])("%s", async (_, options, change, error, message) => {
    const { source, open } = await watched(change);
    const loading = pipeline.load_ip_adapter(source, options as typeof base);
    await expect(loading).rejects.toThrow(error);
    await expect(loading).rejects.toThrow(message);
    expect([...open]).toEqual([]);
    expect(pipeline.unet.num_ip_adapters).toBe(1);
    expect(await draw(pipeline, { ip_adapter_image: picture })).toEqual(before);
  });

  test("the encoder is looked for before anything comes, and comes last", async () => {
    await using other = await load();
    const without = await watched((path, bytes) => (path.includes("image_encoder") ? undefined : bytes));
    const loading = other.load_ip_adapter(without.source, base);
    await expect(loading).rejects.toThrow(ModelNotFoundError);
    await expect(loading).rejects.toThrow(/has no models\/image_encoder\/config\.json.*`image_encoder_folder`/);
    expect(without.opened).toEqual([]);
    const { source, opened } = await watched();
    await expect(
      other.load_ip_adapter(source, { subfolder: "models", weight_name: "ip-adapter_lcm.safetensors" }),
    ).rejects.toThrow(WeightsMismatchError);
    expect(opened).toEqual(["models/ip-adapter_lcm.safetensors"]);
    expect([other.image_encoder, other.feature_extractor]).toEqual([null, null]);
    // Cancelled while the encoder comes.
    const controller = new AbortController();
    const slow = await watched((path, bytes) => {
      if (path.endsWith("model.safetensors") && bytes.length > 0) controller.abort(new Error("enough"));
      return bytes;
    });
    const { signal } = controller;
    await expect(other.load_ip_adapter(slow.source, { ...base, signal })).rejects.toThrow("enough");
    expect([[...slow.open], other.unet.num_ip_adapters, other.image_encoder]).toEqual([[], 0, null]);
  });
});

describe("other sources", () => {
  test("chosen files, and no image encoder", async () => {
    await using pipeline = await load();
    await pipeline.load_ip_adapter(repo, base);
    const [prepared] = await pipeline.prepare_ip_adapter_image_embeds({ ip_adapter_image: picture });
    const expected = await draw(pipeline, { ip_adapter_image: picture });
    await pipeline.unload_ip_adapter();
    const files = [new File([readFileSync(`${repo}/models/${base.weight_name}`)], base.weight_name)];
    await pipeline.load_ip_adapter(files, { weight_name: base.weight_name, image_encoder_folder: null });
    expect(console.warn).toHaveBeenCalledWith(expect.stringContaining("No image encoder is loaded"));
    expect(await draw(pipeline, { ip_adapter_image_embeds: [prepared!] })).toEqual(expected);
    await expect(draw(pipeline, { ip_adapter_image: picture })).rejects.toThrow(/has no image_encoder/);
  });

  test("a source that lists nothing, the encoder's folder from the root, and a source for each adapter", async () => {
    await using pipeline = await load();
    const { source, opened } = await watched();
    const silent: Source = { name: "silent", open: source.open };
    await pipeline.load_ip_adapter([silent, repo], {
      weight_name: ["models/ip-adapter_sd.safetensors", "ip-adapter-plus_sd.safetensors"],
      subfolder: ["", "models/"],
      image_encoder_folder: "models/image_encoder",
    });
    expect([...opened].sort()).toEqual([
      "models/image_encoder/config.json",
      "models/image_encoder/model.safetensors",
      "models/ip-adapter_sd.safetensors",
    ]);
    expect(pipeline.unet.ip_adapter_inputs.map(({ takes }) => takes)).toEqual(["image_embeds", "hidden_states"]);
    await draw(pipeline, { ip_adapter_image: [picture, [picture, picture]] });
    await expect(
      pipeline.load_ip_adapter(silent, { weight_name: "a.safetensors", image_encoder_folder: null }),
    ).rejects.toThrow(/silent has no file a\.safetensors/);
  });

  test("what is no adapter's in its file is left out", async () => {
    const more = baseWith("clip.weight");
    await using pipeline = await load();
    const { source } = await watched((path, bytes) => (path.endsWith(base.weight_name) ? more : bytes));
    await pipeline.load_ip_adapter(source, base);
    expect(console.warn).toHaveBeenCalledWith(expect.stringContaining("clip.weight"));
    await draw(pipeline, { ip_adapter_image: picture });
  });
});
