/**
 * Pipelines that live elsewhere, over a MessageChannel in place of a worker: all that the two ends say to each other. What
 * takes a page (workers that start and crash, frames, pictures of the page) is in tests/browser/worker.spec.ts.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  AutoPipelineForImage2Image,
  CLIPTokenizer,
  DDIMScheduler,
  DeviceError,
  DiffusionPipeline,
  EulerAncestralDiscreteScheduler,
  EulerDiscreteScheduler,
  Generator,
  IntegrityError,
  ModelNotFoundError,
  PipelineWorker,
  PNDMScheduler,
  RawImage,
  StableDiffusionImg2ImgPipeline,
  StableDiffusionPipeline,
  serveWorker,
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

const folder = fixturePath("pipelines/sd1-tiny");
const on = { device: "wasm", safety_checker: null, requires_safety_checker: false } as const;

/** What `worker: () => new Worker(...)` gives in a page. */
function start(): MessagePort {
  const { port1, port2 } = new MessageChannel();
  serveWorker(port2);
  return port1;
}

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

const seeded = (seed: number): Generator => new Generator().manual_seed(seed);
const sizes = { height: 32, width: 32, num_inference_steps: 2 } as const;
/** What both make of the same. */
async function both<T>(run: (pipeline: StableDiffusionPipeline) => Promise<T>): Promise<void> {
  const expected = await run(direct);
  expect(await run(remote)).toEqual(expected);
}

describe("what is seen of it", () => {
  test("class, config, components, device and Python's repr", async () => {
    expect(remote).toBeInstanceOf(StableDiffusionPipeline);
    expect(remote.constructor).toBe(StableDiffusionPipeline);
    expect(remote.config).toEqual(direct.config);
    expect(() => {
      (remote as { config: unknown }).config = {};
    }).toThrow(TypeError);
    for (const name of ["unet", "vae", "text_encoder", "scheduler"] as const) {
      expect(`${remote[name]}`, name).toBe(`${direct[name]}`);
      expect(remote[name].constructor.name).toBe(direct[name].constructor.name);
    }
    expect(`${remote}`).toBe(`${direct}`);
    expect(remote.scheduler).toBeInstanceOf(PNDMScheduler);
    expect(Object.keys(remote.components)).toEqual(Object.keys(direct.components));
    expect(remote.safety_checker).toBeNull();
    expect([remote.device, remote.dtype, remote.name_or_path]).toEqual(["wasm", "float32", folder]);
    expect(remote.unet.device_info).toEqual(direct.unet.device_info);
    expect(remote.unet.config.block_out_channels).toEqual(direct.unet.config.block_out_channels);
    expect(() => {
      (remote.unet.config as { sample_size: number }).sample_size = 1;
    }).toThrow(TypeError);
    expect([remote.vae_scale_factor, remote.interrupt]).toEqual([direct.vae_scale_factor, false]);
    // What is awaited is not taken for a promise.
    expect(await Promise.resolve(remote)).toBe(remote);
  });

  test("a getter of the call at hand", async () => {
    const seen: unknown[] = [];
    for (const pipeline of [direct, remote]) {
      await pipeline("a cat", {
        ...{ ...sizes, generator: seeded(0), guidance_scale: 3, output_type: "latent" },
        callback_on_step_end: (pipe) => {
          seen.push([pipe === pipeline, pipe.guidance_scale, pipe.num_timesteps, pipe.do_classifier_free_guidance]);
          seen.push([...pipe.scheduler.timesteps]);
          return {};
        },
      });
    }
    expect(seen.slice(seen.length / 2)).toEqual(seen.slice(0, seen.length / 2));
    expect(seen[0]).toEqual([true, 3, 3, true]);
  });
});

describe("calls", () => {
  test("the same pictures, and the caller's generator as far on", async () => {
    const mine = { direct: seeded(3), remote: seeded(3) };
    const options = { ...sizes, num_images_per_prompt: 2 };
    const expected = await direct(["a cat", "a dog"], { ...options, generator: mine.direct });
    const result = await remote(["a cat", "a dog"], { ...options, generator: mine.remote });
    expect(result).toEqual(expected);
    expect(result.images[0]).toBeInstanceOf(RawImage);
    expect(result.images).toHaveLength(4);
    expect(mine.remote.get_state()).toEqual(mine.direct.get_state());
    // On where it stopped.
    expect(await remote("a cat", { ...sizes, generator: mine.remote })).toEqual(
      await direct("a cat", { ...sizes, generator: mine.direct }),
    );
    expect(mine.remote.get_state()).toEqual(mine.direct.get_state());
  });

  test("prompt among the options, embeddings, latents, tensors; the caller keeps its arrays", async () => {
    await both(async (pipeline) => {
      const latents = seeded(1).randn([1, 4, 8, 8]);
      const { prompt_embeds, negative_prompt_embeds } = await pipeline.encode_prompt("a cat", {
        do_classifier_free_guidance: true,
      });
      const options = { prompt_embeds, negative_prompt_embeds, latents, ...sizes, output_type: "tensor" } as const;
      const { images } = await pipeline(options);
      expect(images).toBeInstanceOf(Tensor);
      expect([latents.data.length, prompt_embeds.data.length > 0]).toEqual([256, true]);
      const other = await pipeline({ prompt: "a dog", ...sizes, generator: [seeded(1)], output_type: "latent" });
      return [images, other, prompt_embeds];
    });
  });

  test("several at once are taken in order, with one generator for all", async () => {
    await both(async (pipeline) => {
      const generator = seeded(5);
      const call = (prompt: string) => pipeline(prompt, { ...sizes, generator, output_type: "latent" });
      const results = await Promise.all([call("a"), call("b"), call("a")]);
      return [results, generator.get_state()];
    });
  });

  test("a generator that is seeded anew while a call draws from it", async () => {
    const generator = seeded(7);
    remote.scheduler = EulerAncestralDiscreteScheduler.from_config(remote.scheduler.config);
    const first = remote("a", { ...sizes, generator, output_type: "latent" });
    generator.manual_seed(8);
    const second = remote("a", { ...sizes, generator, output_type: "latent" });
    const [a, b] = await Promise.all([first, second]);
    direct.scheduler = EulerAncestralDiscreteScheduler.from_config(direct.scheduler.config);
    const again = seeded(8);
    expect(a).toEqual(await direct("a", { ...sizes, generator: seeded(7), output_type: "latent" }));
    expect(b).toEqual(await direct("a", { ...sizes, generator: again, output_type: "latent" }));
    expect(generator.get_state()).toEqual(again.get_state());
  });

  test("a picture of the caller's", async () => {
    const image = new RawImage(new Uint8Array(32 * 32 * 3).fill(99), 32, 32, 3);
    const here = await StableDiffusionImg2ImgPipeline.from_pipe(direct);
    const there = await StableDiffusionImg2ImgPipeline.from_pipe(remote);
    const call = (pipeline: StableDiffusionImg2ImgPipeline) =>
      pipeline("a dog", { image, strength: 0.9, num_inference_steps: 2, generator: seeded(0) });
    expect(await call(there)).toEqual(await call(here));
    expect(image.data).toHaveLength(3072);
  });
});

describe("callbacks", () => {
  test("may replace tensors, and are shown those they ask for", async () => {
    await both(async (pipeline) => {
      const seen: unknown[] = [];
      const result = await pipeline("a cat", {
        ...{ ...sizes, generator: seeded(0), output_type: "latent" },
        callback_on_step_end: async (_pipe, step, timestep, { latents, prompt_embeds }) => {
          seen.push(step, timestep, latents, prompt_embeds!.dims);
          await new Promise((resolve) => setTimeout(resolve, 1));
          return { latents: latents!.mul(0.5) };
        },
        callback_on_step_end_tensor_inputs: ["latents", "prompt_embeds"],
      });
      return [seen, result];
    });
  });

  test("may interrupt", async () => {
    await both(async (pipeline) => {
      let steps = 0;
      const result = await pipeline("a cat", {
        ...{ ...sizes, num_inference_steps: 5, generator: seeded(0), output_type: "latent" },
        callback_on_step_end: (pipe) => {
          steps += 1;
          if (steps === 2) pipe._interrupt = true;
        },
      });
      return [steps, result, pipeline.interrupt];
    });
  });

  test("may draw from the call's generator, and change a field of the pipeline", async () => {
    await both(async (pipeline) => {
      const generator = seeded(2);
      const result = await pipeline("a cat", {
        ...{ ...sizes, num_inference_steps: 3, generator, output_type: "latent" },
        callback_on_step_end: (pipe, step, _t, { latents }) => {
          if (step === 1) (pipe as unknown as { _guidance_scale: number })._guidance_scale = 1.5;
          return { latents: latents!.add(generator.randn(latents!.dims)) };
        },
      });
      return [result, generator.get_state()];
    });
  });

  test("what they throw is what the call throws", async () => {
    class Mine extends Error {}
    const mine = new Mine("enough");
    const throwing = () => {
      throw mine;
    };
    const call = remote("a cat", { ...sizes, callback_on_step_end: throwing });
    expect(await call.catch((error: unknown) => error)).toBe(mine);
    await both((pipeline) => pipeline("a cat", { ...sizes, generator: seeded(0) }));
  });
});

describe("signals", () => {
  test("end a call between two steps, with their reason; the next one runs", async () => {
    const controller = new AbortController();
    const reason = { any: "thing" };
    let steps = 0;
    const call = remote("a cat", {
      ...{ ...sizes, num_inference_steps: 50, signal: controller.signal },
      callback_on_step_end: () => {
        steps += 1;
        if (steps === 2) controller.abort(reason);
      },
    });
    const waiting = remote("a cat", { ...sizes, generator: seeded(0) });
    expect(await call.catch((error: unknown) => error)).toBe(reason);
    expect(steps).toBeLessThan(5);
    expect(await waiting).toEqual(await direct("a cat", { ...sizes, generator: seeded(0) }));
    const aborted = remote("a cat", { ...sizes, signal: AbortSignal.abort() });
    await expect(aborted).rejects.toMatchObject({ name: "AbortError" });
  });

  test("end a load, and a call that waits", async () => {
    const load = DiffusionPipeline.from_pretrained(folder, { ...on, worker: start, signal: AbortSignal.abort("no") });
    expect(await load.catch((error: unknown) => error)).toBe("no");
    const controller = new AbortController();
    const running = remote("a cat", sizes);
    const waiting = remote("a cat", { ...sizes, signal: controller.signal });
    controller.abort();
    await expect(waiting).rejects.toBe(controller.signal.reason);
    await running;
  });
});

describe("errors", () => {
  let damaged = "";
  beforeAll(() => {
    damaged = mkdtempSync(join(tmpdir(), "damaged-"));
    writeFileSync(join(damaged, "model_index.json"), "{");
  });
  afterAll(() => rmSync(damaged, { recursive: true }));

  test.each([
    ["ValueError", ValueError, () => remote("a cat", { ...sizes, height: 33 })],
    ["TypeError", TypeError, () => remote("a cat", { steps: 3 } as never)],
    ["TypeError", TypeError, () => (remote as (...args: unknown[]) => unknown)("a cat", {}, {})],
    ["ModelNotFoundError", ModelNotFoundError, () => load("/nothing/here")],
    ["IntegrityError", IntegrityError, () => load(damaged)],
    ["UnsupportedModelError", UnsupportedModelError, () => load(folder, { fetch })],
    ["UnsupportedModelError", UnsupportedModelError, () => StableDiffusionPipeline.from_single_file("x.ckpt", single)],
    ["DeviceError", DeviceError, () => remote.to("webgpu")],
  ] as const)("%s", async (name, cls, run) => {
    const error = (await (run() as Promise<unknown>).catch((thrown: unknown) => thrown)) as Error;
    expect(error).toBeInstanceOf(cls);
    expect(error.name).toBe(name);
    expect(error.message.length).toBeGreaterThan(10);
  });

  const single = { ...on, tokenizer: null, worker: start };
  function load(from: string, options: object = {}): Promise<unknown> {
    return DiffusionPipeline.from_pretrained(from, { ...on, worker: start, ...options });
  }

  test("what cannot be passed is refused by name", async () => {
    const { unet, tokenizer, scheduler } = direct;
    expect(() => {
      remote.unet = unet;
    }).toThrow(/`unet` is an? UNet2DConditionModel that lives in the page/);
    await expect(load(folder, { tokenizer })).rejects.toThrow(/`options.tokenizer` is a CLIPTokenizer that lives/);
    class Own extends EulerDiscreteScheduler {}
    expect(() => {
      remote.scheduler = new Own();
    }).toThrow(UnsupportedModelError);
    expect(remote.scheduler).not.toBe(scheduler);
    const other = await StableDiffusionPipeline.from_pretrained(folder, { ...on, worker: start });
    expect(() => {
      remote.vae = other.vae;
    }).toThrow(/`vae` lives in another worker/);
    await other.dispose();
    class Data {
      x = 1;
    }
    await expect(remote("a cat", { latents: new Data() } as never)).rejects.toThrow(/`options.latents` is a Data/);
    await expect(remote("a cat", { latents: [Symbol("x")] } as never)).rejects.toThrow(TypeError);
    const source = { name: "mine", open: async () => undefined };
    const own = DiffusionPipeline.from_pretrained(source, { worker: start });
    await expect(own).rejects.toThrow(/source of your own cannot be passed/);
    const no = DiffusionPipeline.from_pretrained(folder, { worker: {} as never });
    await expect(no).rejects.toThrow(/`worker` is true, a Worker/);
    const none = DiffusionPipeline.from_pretrained(folder, { worker: true });
    await expect(none).rejects.toThrow(UnsupportedModelError);
    await expect(none).rejects.toThrow(/Node does not have/);
    class MyPipeline extends StableDiffusionPipeline {
      static override readonly name = "MyPipeline";
    }
    const unknown = MyPipeline.from_pretrained(folder, { ...on, worker: start });
    await expect(unknown).rejects.toThrow(/The worker knows no class MyPipeline/);
  });
});

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
