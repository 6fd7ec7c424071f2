/**
 * Pipelines that live elsewhere, over a MessageChannel in place of a worker: all that the two ends say to each other. What
 * takes a page (workers that start and crash, frames, pictures of the page) is in tests/browser/worker.spec.ts.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  DeviceError,
  DiffusionPipeline,
  EulerAncestralDiscreteScheduler,
  EulerDiscreteScheduler,
  IntegrityError,
  ModelNotFoundError,
  PNDMScheduler,
  RawImage,
  StableDiffusionImg2ImgPipeline,
  StableDiffusionPipeline,
  Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
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
