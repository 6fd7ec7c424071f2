/** Calls with IP-Adapters that are refused, and who frees what. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  CLIPVisionModelWithProjection,
  DeviceError,
  DiffusionPipeline,
  Generator,
  max_memory_allocated,
  memory_allocated,
  reset_peak_memory_stats,
  StableDiffusionAdapterPipeline,
  StableDiffusionDepth2ImgPipeline,
  StableDiffusionImg2ImgPipeline,
  StableDiffusionPipeline,
  T2IAdapter,
  Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { fixturePath } from "../support/fixtures.ts";
import { base, call, device, draw, load, picture, plus, repo, watched } from "../support/ip_adapter.ts";
import { checkpoint } from "../support/onnx_exports.ts";

beforeEach(() => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
});
afterEach(() => vi.restoreAllMocks());

describe("a call is refused", () => {
  let pipeline: StableDiffusionPipeline;
  beforeAll(async () => {
    pipeline = await load();
    await pipeline.load_ip_adapter(repo, base);
    return async () => pipeline.dispose();
  });
  const embeds = (...dims: number[]): Tensor => Tensor.zeros(dims);

  test.each<[string, object, RegExp]>([
    ["both", { ip_adapter_image: picture, ip_adapter_image_embeds: [embeds(2, 1, 6)] }, /were both given/],
    ["neither", {}, /has 1 IP-Adapters, but neither `ip_adapter_image` nor/],
    ["embeddings outside of a list", { ip_adapter_image_embeds: embeds(2, 1, 6) }, /is a tensor, expected a list/],
    ["no embeddings", { ip_adapter_image_embeds: [] }, /`ip_adapter_image_embeds` is \[\], expected a list/],
    ["two dims", { ip_adapter_image_embeds: [embeds(2, 6)] }, /embeds\[0\]` is float32 \[2, 6\], expected a list/],
    ["no tensor", { ip_adapter_image_embeds: [picture] }, /embeds\[0\]` is object, expected a list/],
    [
      "too many pictures",
      { ip_adapter_image: [picture, picture] },
      /has 2 entries, but the UNet has 1 .*\[\[first, second\]\]/,
    ],
    ["too many embeddings", { ip_adapter_image_embeds: [embeds(2, 1, 6), embeds(2, 1, 6)] }, /has 2 entries/],
    [
      "no negative ones",
      { ip_adapter_image_embeds: [embeds(1, 1, 6)] },
      /with guidance it must have the negative ones first/,
    ],
    ["another width", { ip_adapter_image_embeds: [embeds(2, 1, 7)] }, /takes \[\.\.\., pictures, 6\]/],
    ["a sequence", { ip_adapter_image_embeds: [embeds(2, 1, 5, 6)] }, /takes \[\.\.\., pictures, 6\]/],
    ["pixels of another size", { ip_adapter_image: embeds(1, 3, 32, 32) }, /24x24.*has 32x32/],
  ])("%s", async (_, options, message) => {
    const drawing = draw(pipeline, options);
    await expect(drawing).rejects.toThrow(message);
    await expect(drawing).rejects.toThrow(ValueError);
  });

  test("pictures without an adapter", async () => {
    await using plain = await load();
    await expect(draw(plain, { ip_adapter_image: picture })).rejects.toThrow(
      /has 0 IP-Adapters. load_ip_adapter\(\) comes/,
    );
    await expect(draw(plain, { ip_adapter_image_embeds: [embeds(2, 1, 6)] })).rejects.toThrow(ValueError);
    expect(() => plain.set_ip_adapter_scale(0.5)).toThrow(/found 1 scales, but 0 IP-Adapters are set/);
    await expect(plain.encode_image(picture)).rejects.toThrow(/has no image_encoder/);
    await expect(plain.prepare_ip_adapter_image_embeds({})).rejects.toThrow(ValueError);
  });

  test("pictures for a face's adapter, and for one of another image encoder", async () => {
    await using faces = await load();
    await faces.load_ip_adapter(repo, { subfolder: "models", weight_name: "ip-adapter-faceid_sd.safetensors" });
    await expect(draw(faces, { ip_adapter_image: picture })).rejects.toThrow(/one for faces \(FaceID\)/);
    const options = { subfolder: "sdxl_models/image_encoder", device } as const;
    await faces.image_encoder!.dispose();
    faces.image_encoder = await CLIPVisionModelWithProjection.from_pretrained(repo, options);
    await faces.load_ip_adapter(repo, base);
    await expect(draw(faces, { ip_adapter_image: embeds(1, 3, 16, 16) })).rejects.toThrow(
      /of width 10, but the IP-Adapter takes 6/,
    );
  });

  test("classes that take none in Diffusers either", async () => {
    expect("load_ip_adapter" in StableDiffusionDepth2ImgPipeline.prototype).toBe(false);
    await using adapter = await T2IAdapter.from_pretrained(fixturePath("pipelines/t2i-adapter-tiny/adapter"), {
      device,
    });
    const sketch = await StableDiffusionAdapterPipeline.from_pipe(pipeline, { adapter });
    const loading = sketch.load_ip_adapter(repo, base);
    await expect(loading).rejects.toThrow(UnsupportedModelError);
    await expect(loading).rejects.toThrow(
      /StableDiffusionAdapterPipeline takes no IP-Adapter, nor does it in Diffusers/,
    );
  });

  test("a UNet whose graph is fixed", async () => {
    await using exported = await DiffusionPipeline.from_pretrained(checkpoint("optimum"), { device });
    await expect(exported.load_ip_adapter(repo, base)).rejects.toThrow(/an ORTUnet, whose graph is fixed/);
    expect(() => exported.set_ip_adapter_scale(1)).toThrow(UnsupportedModelError);
    await expect(exported("a cat", { ...call, ip_adapter_image: picture })).rejects.toThrow(UnsupportedModelError);
  });
});

describe("owners", () => {
  test("files are closed when adapters go, and with the model; the encoder that was loaded is freed", async () => {
    const pipeline = await load();
    const { source, open } = await watched();
    await pipeline.load_ip_adapter(source, plus);
    const encoderFile = "models/image_encoder/model.safetensors";
    expect([...open].sort()).toEqual([encoderFile, "models/ip-adapter-plus_sd.safetensors"]);
    const first = await draw(pipeline, { ip_adapter_image: picture });
    await pipeline.load_ip_adapter(source, base);
    await draw(pipeline, { ip_adapter_image: picture });
    expect([...open].sort()).toEqual([encoderFile, "models/ip-adapter_sd.safetensors"]);
    const encoder = pipeline.image_encoder!;
    await pipeline.unload_ip_adapter();
    await draw(pipeline);
    expect([[...open], encoder.is_disposed]).toEqual([[], true]);
    await pipeline.load_ip_adapter(source, plus);
    expect(await draw(pipeline, { ip_adapter_image: picture })).toEqual(first);
    await pipeline.dispose();
    expect([...open]).toEqual([]);
    expect(memory_allocated()).toBe(0);
  });

  test("an encoder of the caller's own is used, and stays", async () => {
    const options = { subfolder: "models/image_encoder", device } as const;
    await using image_encoder = await CLIPVisionModelWithProjection.from_pretrained(repo, options);
    const path = fixturePath("pipelines/sd1-tiny");
    await using pipeline = await StableDiffusionPipeline.from_pretrained(path, { device, image_encoder });
    const { source, opened } = await watched();
    await pipeline.load_ip_adapter(source, base);
    expect(opened).toEqual(["models/ip-adapter_sd.safetensors"]);
    expect(pipeline.feature_extractor!.config.size).toEqual({ shortest_edge: 24 });
    await draw(pipeline, { ip_adapter_image: picture });
    await pipeline.unload_ip_adapter();
    expect([pipeline.image_encoder, image_encoder.is_disposed]).toEqual([null, false]);
  });

  test("pipelines that share a UNet share its adapters, and each may load them again", async () => {
    await using pipeline = await load();
    await pipeline.load_ip_adapter(repo, base);
    const img2img = await StableDiffusionImg2ImgPipeline.from_pipe(pipeline);
    const drawOver = async (options: object): Promise<Tensor> =>
      (
        await img2img("a cat", {
          ...call,
          image: picture,
          strength: 1,
          generator: new Generator().manual_seed(0),
          ...options,
        })
      ).images as unknown as Tensor;
    const seen = await drawOver({ ip_adapter_image: picture });
    await pipeline.unload_ip_adapter();
    const plain = await drawOver({});
    expect(plain.data).not.toEqual(seen.data);
    await expect(img2img.encode_image(picture)).rejects.toThrow(DeviceError);
    await img2img.load_ip_adapter(repo, base);
    expect(await drawOver({ ip_adapter_image: picture })).toEqual(seen);
    await img2img.dispose();
  });

  test("offloaded and moved models keep their adapters", async () => {
    await using pipeline = await load();
    await pipeline.load_ip_adapter(repo, base);
    const expected = await draw(pipeline, { ip_adapter_image: picture });
    const all = memory_allocated();
    await pipeline.enable_model_cpu_offload();
    reset_peak_memory_stats();
    expect(await draw(pipeline, { ip_adapter_image: picture })).toEqual(expected);
    expect(memory_allocated()).toBe(0);
    expect(max_memory_allocated()).toBeLessThan(all);
    pipeline.remove_all_hooks();
    await pipeline.to("fp32");
    expect(await draw(pipeline, { ip_adapter_image: picture })).toEqual(expected);
  });

  test("a saved pipeline has its encoder, and is loaded with it", async () => {
    const folder = mkdtempSync(join(tmpdir(), "ip-"));
    try {
      await using pipeline = await load();
      await pipeline.load_ip_adapter(repo, base);
      const expected = await draw(pipeline, { ip_adapter_image: picture });
      await pipeline.save_pretrained(folder);
      await using saved = (await DiffusionPipeline.from_pretrained(folder, {
        device,
      })) as unknown as StableDiffusionPipeline;
      expect(saved.image_encoder).toBeInstanceOf(CLIPVisionModelWithProjection);
      expect(saved.unet.num_ip_adapters).toBe(0);
      // Only the adapter is wanting.
      const { source, opened } = await watched();
      await saved.load_ip_adapter(source, base);
      expect(opened).toEqual(["models/ip-adapter_sd.safetensors"]);
      expect(await draw(saved, { ip_adapter_image: picture })).toEqual(expected);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
