/** Pipelines that live elsewhere, as in worker.test.ts: their components, several in one worker, and their loads. */
import {
  AutoPipelineForImage2Image,
  CLIPTokenizer,
  DDIMScheduler,
  DeviceError,
  DiffusionPipeline,
  EulerDiscreteScheduler,
  PipelineWorker,
  RawImage,
  StableDiffusionImg2ImgPipeline,
  StableDiffusionPipeline,
  Tensor,
  UNet2DConditionModel,
  UniPCMultistepScheduler,
  UnsupportedModelError,
  ValueError,
  WorkerError,
  ZipDirectory,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fixturePath } from "../support/fixtures.ts";
import { folder, on, seeded, sizes, start } from "../support/worker_port.ts";

let direct: StableDiffusionPipeline;
let remote: StableDiffusionPipeline;
beforeAll(async () => {
  direct = await StableDiffusionPipeline.from_pretrained(folder, on);
  remote = await StableDiffusionPipeline.from_pretrained(folder, { ...on, worker: start });
});
afterAll(async () => {
  await direct.dispose();
  await remote.dispose();
});

/** What both make of the same. */
async function both<T>(run: (pipeline: StableDiffusionPipeline) => Promise<T>): Promise<void> {
  const expected = await run(direct);
  expect(await run(remote)).toEqual(expected);
}

describe("components", () => {
  test("a scheduler is the page's own, and the worker's the same", async () => {
    await both(async (pipeline) => {
      const saved = pipeline.scheduler;
      const euler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, { use_karras_sigmas: true });
      pipeline.scheduler = euler;
      expect(pipeline.scheduler).toBe(euler);
      const shown = `${pipeline}`;
      const first = await pipeline("a cat", { ...sizes, generator: seeded(0), output_type: "latent" });
      euler.register_to_config({ timestep_spacing: "trailing" });
      const second = await pipeline("a cat", { ...sizes, generator: seeded(0), output_type: "latent" });
      expect(second).not.toEqual(first);
      expect(pipeline.scheduler).toBe(euler);
      const shownThen = [`${pipeline}`, `${euler}`, [...euler.timesteps]];
      // A scheduler in a scheduler.
      pipeline.scheduler = new UniPCMultistepScheduler({ solver_p: new DDIMScheduler() as never });
      const third = await pipeline("a cat", { ...sizes, generator: seeded(0), output_type: "latent" });
      pipeline.scheduler = saved;
      expect(pipeline.scheduler).toBe(saved);
      const fourth = await pipeline("a cat", { ...sizes, generator: seeded(0), output_type: "latent" });
      return [shown, shownThen, first, second, third, fourth];
    });
  });

  test("models are called, and their results have methods", async () => {
    await both(async ({ unet, vae, text_encoder, tokenizer }) => {
      const { input_ids } = await tokenizer("a cat", { padding: "max_length" });
      const { last_hidden_state } = await text_encoder(input_ids);
      const { sample } = await unet(Tensor.ones([1, 4, 8, 8]), 10, last_hidden_state!);
      const { latent_dist } = await vae.encode(Tensor.ones([1, 3, 16, 16]));
      const generator = seeded(4);
      const drawn = await latent_dist.sample(generator);
      return [input_ids, sample, latent_dist.mean, drawn, await latent_dist.mode(), generator.get_state()];
    });
  });

  test("methods go by name: switches, moves, and what returns itself", async () => {
    await both(async (pipeline) => {
      await pipeline.enable_vae_slicing();
      await pipeline.enable_attention_slicing(1);
      const images = await pipeline("a cat", { ...sizes, num_images_per_prompt: 2, generator: seeded(0) });
      await pipeline.disable_vae_slicing();
      await pipeline.disable_attention_slicing();
      expect(await pipeline.to("wasm")).toBe(pipeline);
      expect(await pipeline.unet.to("fp32")).toBe(pipeline.unet);
      return images;
    });
    await expect(remote.enable_freeu("x" as never, 1, 1, 1)).rejects.toThrow(ValueError);
    await expect(remote.enable_sequential_cpu_offload()).rejects.toThrow(UnsupportedModelError);
  });

  test("adapters are loaded there", async () => {
    await both(async (pipeline) => {
      const weight_name = "everything.safetensors";
      await pipeline.load_lora_weights(fixturePath("pipelines/lora-tiny"), { weight_name, adapter_name: "a" });
      await pipeline.set_adapters("a", 0.5);
      const there = [await pipeline.get_list_adapters(), await pipeline.get_active_adapters()];
      await pipeline.unload_lora_weights();
      return [there, await pipeline.get_list_adapters()];
    });
    const repo = fixturePath("pipelines/ip-adapter-tiny");
    await both(async (pipeline) => {
      await pipeline.load_ip_adapter(repo, { subfolder: "models", weight_name: "ip-adapter_sd.safetensors" });
      await pipeline.set_ip_adapter_scale(0.7);
      const shown = [`${pipeline}`, pipeline.image_encoder?.config, pipeline.image_encoder?.constructor.name];
      const ip_adapter_image = new RawImage(new Uint8Array(32 * 32 * 3).fill(80), 32, 32, 3);
      const drawn = await pipeline("a cat", { ...sizes, generator: seeded(0), ip_adapter_image });
      await pipeline.unload_ip_adapter();
      return [shown, drawn, `${pipeline}`, pipeline.image_encoder];
    });
  });

  test("a folder of the page is written to", async () => {
    const [here, there] = [new ZipDirectory(), new ZipDirectory()];
    await direct.save_pretrained(here);
    await remote.save_pretrained(there);
    const bytes = async (zip: ZipDirectory) => Buffer.from(await (await zip.toBlob()).arrayBuffer());
    const expected = await bytes(here);
    expect(expected.length).toBeGreaterThan(100_000);
    expect((await bytes(there)).equals(expected)).toBe(true);
  });

  test("a component that is taken out, and put back", async () => {
    const { vae } = remote;
    remote.vae = null as never;
    expect(remote.vae).toBeNull();
    expect(`${remote}`).toContain('"vae": [\n    null,\n    null\n  ]');
    await expect(remote("a cat", sizes)).rejects.toThrow(/loaded without its vae/);
    remote.vae = vae;
    expect(remote.vae).toBe(vae);
    expect((await remote("a cat", sizes)).images).toHaveLength(1);
  });
});

describe("several in one worker", () => {
  test("pipelines of another's components", async () => {
    const img2img = await StableDiffusionImg2ImgPipeline.from_pipe(remote, { scheduler: new DDIMScheduler() });
    const here = await StableDiffusionImg2ImgPipeline.from_pipe(direct, { scheduler: new DDIMScheduler() });
    expect(img2img).toBeInstanceOf(StableDiffusionImg2ImgPipeline);
    expect(img2img.unet).toBe(remote.unet);
    expect(img2img.scheduler).not.toBe(remote.scheduler);
    expect(`${img2img}`).toBe(`${here}`);
    const auto = await AutoPipelineForImage2Image.from_pipe(remote);
    expect(auto).toBeInstanceOf(StableDiffusionImg2ImgPipeline);
    expect((auto as { unet: unknown }).unet).toBe(remote.unet);
  });

  test("components that are loaded by themselves", async () => {
    const worker = new PipelineWorker(start);
    const [first, unet] = await Promise.all([
      DiffusionPipeline.from_pretrained(folder, { ...on, worker }),
      worker.load(UNet2DConditionModel, folder, { subfolder: "unet", device: "wasm" }),
    ]);
    expect(first).toBeInstanceOf(StableDiffusionPipeline);
    expect(unet.config.sample_size).toBe(direct.unet.config.sample_size);
    const tokenizer = await worker.load(CLIPTokenizer, folder, { subfolder: "tokenizer" });
    const pipeline = await AutoPipelineForImage2Image.from_pretrained(folder, { ...on, unet, tokenizer, worker });
    expect(pipeline).toBeInstanceOf(StableDiffusionImg2ImgPipeline);
    expect([pipeline.unet === unet, pipeline.tokenizer === tokenizer]).toEqual([true, true]);
    await pipeline.dispose();
    // The worker is the caller's.
    const again = await worker.load(UNet2DConditionModel, folder, { subfolder: "unet", device: "wasm" });
    expect(again.device).toBe("wasm");
    const pending = again(Tensor.ones([1, 4, 8, 8]), 1, Tensor.ones([1, 4, 32]));
    worker.terminate();
    await expect(pending).rejects.toThrow(WorkerError);
    await expect(worker.load(UNet2DConditionModel, folder)).rejects.toThrow(/ended by terminate/);
  });
});

test("progress: the last event is told before the load is over, and what a listener throws ends it", async () => {
  const events: { phase: string; loaded_bytes: number; total_bytes: number }[] = [];
  const pipeline = await StableDiffusionPipeline.from_pretrained(folder, {
    ...{ ...on, worker: start },
    progress_callback: (event) => events.push(event),
  });
  const loaded = events.at(-1)!;
  expect(loaded.loaded_bytes).toBe(loaded.total_bytes);
  const before = events.length;
  await pipeline("a cat", sizes);
  expect(events.length).toBeGreaterThan(before);
  expect(["upload", "compile"]).toContain(events.at(-1)!.phase);
  // The worker ends with its pipeline, whatever was taken out of that.
  pipeline.vae = null as never;
  await pipeline.dispose();
  await pipeline.dispose();
  await expect(pipeline("a cat", sizes)).rejects.toThrow(DeviceError);
  await expect(pipeline("a cat", sizes)).rejects.toThrow(/This StableDiffusionPipeline is disposed/);

  const mine = new Error("no more");
  const throwing = () => {
    throw mine;
  };
  const told: object[] = [];
  await remote("a cat", { ...sizes, progress_callback: (progress) => told.push(progress) });
  expect(told.length).toBeGreaterThan(0);
  const call = remote("a cat", { ...sizes, progress_callback: throwing });
  expect(await call.catch((error: unknown) => error)).toBe(mine);
  const load = StableDiffusionPipeline.from_pretrained(folder, {
    ...{ ...on, worker: start },
    progress_callback: throwing,
  });
  expect(await load.catch((error: unknown) => error)).toBe(mine);
});
