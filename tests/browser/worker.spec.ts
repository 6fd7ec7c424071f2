/**
 * Pipelines in Web Workers: what takes a page. What the two ends say to each other is tested in tests/pipelines/worker.test.ts.
 * The page has a content security policy without `unsafe-eval`, `blob:` and `data:`, and the worker's script as well.
 */
import { RawImage } from "@diffusers-web/core";
import { expect, type Page, test } from "@playwright/test";

test.describe.configure({ mode: "serial" });

/** Relative to the page, as a site of its own would have it. */
const model = "../../fixtures/pipelines/sd1-tiny";
let page: Page;
const reports: string[] = [];

test.beforeAll(async ({ browser }) => {
  page = await browser.newPage();
  page.on("console", (message) => {
    if (message.type() === "error") reports.push(message.text());
  });
  page.on("pageerror", (error) => reports.push(String(error)));
  // A worker goes by the policy that its own script comes with.
  await page.route("**/worker/script.ts*", async (route) => {
    const response = await route.fetch();
    const policy = "script-src 'self' 'wasm-unsafe-eval'";
    await route.fulfill({ response, headers: { ...response.headers(), "content-security-policy": policy } });
  });
  await page.goto("/tests/browser/harness/worker.html");
  await expect.poll(() => page.evaluate(() => "library" in window)).toBe(true);
  await page.evaluate(
    async ([id]) => {
      const { PipelineWorker, StableDiffusionPipeline } = window.library;
      const options = { device: "wasm", safety_checker: null, requires_safety_checker: false } as const;
      window.worker = new PipelineWorker();
      window.direct = await StableDiffusionPipeline.from_pretrained(id, options);
      window.remote = await StableDiffusionPipeline.from_pretrained(id, { ...options, worker: window.worker });
      window.load = (worker, more = {}) =>
        StableDiffusionPipeline.from_pretrained(id, {
          ...options,
          ...more,
          ...(worker === undefined ? {} : { worker }),
        });
      window.call = { height: 32, width: 32, num_inference_steps: 2 };
      window.seeded = (seed) => new window.library.Generator().manual_seed(seed);
      window.outcome = (promise) =>
        promise.then(
          () => "no error",
          (error: Error & { code?: string }) => [error.constructor.name, error.code ?? "", error.message],
        );
    },
    [model] as const,
  );
});
test.afterAll(() => page.close());

type Library = typeof import("@diffusers-web/pipelines");
type Pipeline = InstanceType<Library["StableDiffusionPipeline"]>;
type Worker_ = NonNullable<Parameters<Library["DiffusionPipeline"]["from_pretrained"]>[1]>["worker"];
declare global {
  interface Window {
    direct: Pipeline;
    remote: Pipeline;
    /** Where `remote` lives, and what else need not be in a worker of its own. */
    worker: InstanceType<Library["PipelineWorker"]>;
    load(worker?: Worker_, options?: object): Promise<Pipeline>;
    call: { height: number; width: number; num_inference_steps: number };
    seeded(seed: number): InstanceType<Library["Generator"]>;
    /** The class, the code and the message of what a promise is rejected with. */
    outcome(promise: Promise<unknown>): Promise<unknown>;
  }
}

test("the same picture as in the page, bit for bit", async () => {
  const [direct, remote, states, shown] = await page.evaluate(async () => {
    const generators = [window.seeded(3), window.seeded(3)] as const;
    const pictures = [];
    for (const [i, pipeline] of [window.direct, window.remote].entries()) {
      const { images } = await pipeline("a cat", { ...window.call, generator: generators[i]! });
      pictures.push([...images[0]!.data]);
    }
    const same = generators.map((one) => [...one.get_state().data]);
    return [pictures[0], pictures[1], same, [`${window.direct}`, `${window.remote}`, window.remote.device]] as const;
  });
  expect(direct!.length).toBe(32 * 32 * 3);
  expect(new Set(direct).size).toBeGreaterThan(8);
  expect(remote).toEqual(direct);
  expect(states[1]).toEqual(states[0]);
  expect(shown[1]).toBe(shown[0]);
  expect(shown[0]).toContain(`"_name_or_path": "${model}"`);
  expect(shown[2]).toBe("wasm");
});

test("the page goes on while the worker works, and arrays that are passed stay the page's", async () => {
  const { frames, lengths, same } = await page.evaluate(async () => {
    const latents = window.seeded(1).randn([1, 4, 8, 8]);
    const options = { ...window.call, num_inference_steps: 8, latents, output_type: "tensor" } as const;
    let frames = 0;
    let isOver = false;
    const count = (): void => {
      frames += 1;
      if (!isOver) requestAnimationFrame(count);
    };
    requestAnimationFrame(count);
    const there = await window.remote("a cat", options);
    isOver = true;
    const here = await window.direct("a cat", options);
    return {
      frames,
      lengths: [latents.data.length, there.images.data.length],
      same: there.images.data.every((value, i) => value === here.images.data[i]),
    };
  });
  expect(frames).toBeGreaterThan(0);
  expect(lengths).toEqual([256, 3072]);
  expect(same).toBe(true);
});

test("what a page shows can be passed: a canvas, an <img>, an address below the page, a bitmap, a Blob", async () => {
  const gray = await new RawImage(new Uint8Array(32 * 32 * 3).fill(99), 32, 32, 3).toBlob("image/png");
  const body = Buffer.from(await gray.arrayBuffer());
  await page.route("**/harness/gray.png", (route) => route.fulfill({ body, contentType: "image/png" }));
  const results = await page.evaluate(async () => {
    const { StableDiffusionImg2ImgPipeline } = window.library;
    const canvas = Object.assign(document.createElement("canvas"), { width: 32, height: 32 });
    const context = canvas.getContext("2d")!;
    context.fillRect(0, 0, 32, 32);
    context.fillStyle = "rgb(200, 60, 20)";
    context.fillRect(4, 4, 20, 20);
    const blob = (await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, "image/jpeg")))!;
    const img = Object.assign(new Image(), { src: canvas.toDataURL() });
    const bitmap = await createImageBitmap(canvas);
    const sources = [canvas, img, bitmap, blob, [canvas], context.getImageData(0, 0, 32, 32), "gray.png"];
    const pipelines = [
      await StableDiffusionImg2ImgPipeline.from_pipe(window.direct),
      await StableDiffusionImg2ImgPipeline.from_pipe(window.remote),
    ];
    const options = { strength: 0.9, num_inference_steps: 2 };
    // All at once: those that have to be read first do not let others pass.
    const calls = pipelines.map((pipeline) => {
      const generator = window.seeded(0);
      return Promise.all(sources.map((image) => pipeline("a", { ...options, image, generator })));
    });
    const [here, there] = await Promise.all(calls);
    const same = here!.map(({ images }, i) =>
      images[0]!.data.every((value, j) => value === there![i]!.images[0]!.data[j]),
    );
    return [same, bitmap.width];
  });
  expect(results).toEqual([Array(7).fill(true), 32]);
});

test("results are given away, not copied; a worker of the page's own", async () => {
  const said = await page.evaluate(async () => {
    const worker = window.startOwn();
    const pipeline = await window.load(worker);
    window.said = [];
    const { images } = await pipeline("a cat", { ...window.call, num_images_per_prompt: 2 });
    await new Promise((resolve) => setTimeout(resolve, 50));
    const calls = [...window.said];
    window.said = [];
    const { images: latents } = await pipeline("a cat", { ...window.call, output_type: "latent" });
    await new Promise((resolve) => setTimeout(resolve, 50));
    const latentCalls = [...window.said];
    await pipeline.dispose();
    // The worker is the page's: it is there for another.
    const again = await window.load(worker);
    const { images: other } = await again("a cat", window.call);
    // What goes wrong in it besides is the page's affair, until it is gone.
    worker.postMessage("throw");
    const { images: more } = await again("a cat", window.call);
    const waiting = window.outcome(again("a cat", { ...window.call, num_inference_steps: 500 }));
    worker.postMessage("close");
    const counts = [images, other, more].map(({ length }) => length);
    return [calls, latentCalls, latents.dims, counts, await waiting];
  });
  const ended = ["WorkerError", "WORKER", expect.stringMatching(/The worker has ended/)];
  expect(said).toEqual([[{ given: 2, left: [0] }], [{ given: 1, left: [0] }], [1, 4, 8, 8], [2, 1, 1], ended]);
});

test("a call is cancelled between two steps, and the next one runs", async () => {
  const [steps, reason, next] = await page.evaluate(async () => {
    const controller = new AbortController();
    let steps = 0;
    const call = window.remote("a cat", {
      ...{ ...window.call, num_inference_steps: 500, signal: controller.signal },
      callback_on_step_end: () => {
        steps += 1;
        if (steps === 3) setTimeout(() => controller.abort());
      },
    });
    const reason = await call.catch((error: unknown) => error === controller.signal.reason);
    return [steps, reason, (await window.remote("a cat", window.call)).images.length] as const;
  });
  expect(steps).toBeLessThan(100);
  expect([reason, next]).toEqual([true, 1]);
});

test("a callback replaces tensors, interrupts, and its error is the page's own", async () => {
  const results = await page.evaluate(async () => {
    const run = async (pipeline: Pipeline): Promise<unknown> => {
      let steps = 0;
      const { images } = await pipeline("a cat", {
        ...{ ...window.call, num_inference_steps: 9, generator: window.seeded(0), output_type: "latent" },
        callback_on_step_end: async (pipe, step, _t, { latents }) => {
          steps += 1;
          if (step === 2) pipe._interrupt = true;
          return { latents: latents!.mul(0.9) };
        },
      });
      return [steps, [...images.data]];
    };
    const mine = new Error("mine");
    const failing = window.remote("a cat", {
      ...window.call,
      callback_on_step_end: () => {
        throw mine;
      },
    });
    const isMine = await failing.catch((error: unknown) => error === mine);
    return [await run(window.direct), await run(window.remote), isMine];
  });
  expect(results[1]).toEqual(results[0]);
  expect((results[0] as number[])[0]).toBe(3);
  expect(results[2]).toBe(true);
});

test("progress is told once a frame at most, and the last event always", async () => {
  const { frames, events, loaded, total, direct } = await page.evaluate(async () => {
    let direct = 0;
    await (await window.load(undefined, { progress_callback: () => direct++ })).dispose();
    let frames = 0;
    let isOver = false;
    const count = (): void => {
      frames += 1;
      if (!isOver) requestAnimationFrame(count);
    };
    requestAnimationFrame(count);
    const events: { loaded_bytes: number; total_bytes: number }[] = [];
    const pipeline = await window.load(window.worker, {
      progress_callback: (event: (typeof events)[0]) => events.push(event),
    });
    isOver = true;
    const { loaded_bytes: loaded, total_bytes: total } = events.at(-1)!;
    await pipeline.dispose();
    return { frames, events: events.length, loaded, total, direct };
  });
  expect(direct).toBeGreaterThan(10);
  expect(events).toBeGreaterThan(0);
  // The last one does not wait for a frame.
  expect(events).toBeLessThanOrEqual(frames + 1);
  expect(loaded).toBe(total);
  expect(total).toBeGreaterThan(200_000);
});

test("errors are of their classes", async () => {
  const outcomes = await page.evaluate(async () => {
    const { worker } = window;
    const { DiffusionPipeline } = window.library;
    const file = (name: string, text: string): File => new File([text], name);
    const index = JSON.stringify({ _class_name: "StableDiffusionPipeline", unet: ["diffusers", "NoSuchModel"] });
    return Promise.all([
      window.outcome(window.remote("a cat", { ...window.call, height: 33 })),
      window.outcome(window.remote("a cat", { hight: 32 } as never)),
      window.outcome(DiffusionPipeline.from_pretrained("./none", { worker })),
      window.outcome(DiffusionPipeline.from_pretrained([file("model_index.json", index)], { worker })),
      window.outcome(DiffusionPipeline.from_pretrained([file("model_index.json", "{")], { worker })),
      window.outcome(window.remote("a cat", { latents: document } as never)),
    ]);
  });
  expect(outcomes).toEqual([
    ["ValueError", "VALUE", expect.stringContaining("33")],
    ["TypeError", "", expect.stringContaining("`height`")],
    ["ModelNotFoundError", "MODEL_NOT_FOUND", expect.stringContaining("./none has no model_index.json")],
    ["ValueError", "VALUE", expect.stringContaining("StableDiffusionPipeline needs")],
    ["IntegrityError", "INTEGRITY", expect.stringContaining("model_index.json")],
    ["TypeError", "", expect.stringMatching(/passed to the worker/)],
  ]);
});

test("a worker that fails or cannot be started rejects what waits", async () => {
  const outcomes = await page.evaluate(async () => {
    const { DiffusionPipeline } = window.library;
    const missing = (): Worker => new Worker("/tests/browser/harness/none.js", { type: "module" });
    const results = [await window.outcome(DiffusionPipeline.from_pretrained("./x", { worker: missing }))];
    let worker: Worker | undefined;
    const pipeline = await window.load(() => {
      worker = window.startOwn();
      return worker;
    });
    const options = { ...window.call, num_inference_steps: 500 };
    const calls = [pipeline("a cat", options), pipeline("a dog", options)].map(window.outcome);
    worker!.postMessage("throw");
    results.push(...(await Promise.all(calls)), await window.outcome(pipeline("a cat", options)));
    await pipeline.dispose();
    return results;
  });
  const failed = (message: RegExp) => ["WorkerError", "WORKER", expect.stringMatching(message)];
  expect(outcomes).toEqual([
    failed(/script could not be loaded/),
    ...[1, 2, 3].map(() => failed(/The worker failed: .*out of order/)),
  ]);
});

test("two pipelines in two workers, at the same time; disposing one ends its worker alone", async () => {
  const results = await page.evaluate(async () => {
    const [a, b] = await Promise.all([window.load(true), window.load(true)]);
    const options = { ...window.call, generator: undefined };
    const [{ images: one }, { images: two }, { images: here }] = await Promise.all([
      a("a cat", { ...options, generator: window.seeded(1) }),
      b("a cat", { ...options, generator: window.seeded(1) }),
      window.direct("a cat", { ...options, generator: window.seeded(1) }),
    ]);
    const same = [one, two].map((images) => images[0]!.data.every((value, i) => value === here[0]!.data[i]));
    await a.dispose();
    const after = await window.outcome(a("a cat", options));
    const other = (await b("a cat", options)).images.length;
    await b.dispose();
    return [same, after, other];
  });
  expect(results).toEqual([[true, true], ["DeviceError", "DEVICE", expect.stringContaining("is disposed")], 1]);
});

test("files and folders of the visitor's are passed on", async () => {
  const results = await page.evaluate(async () => {
    const { DiffusionPipeline } = window.library;
    const root = await (await navigator.storage.getDirectory()).getDirectoryHandle("saved", { create: true });
    // Written by the worker, read by it.
    await window.remote.save_pretrained(root);
    const pipeline = await DiffusionPipeline.from_pretrained(root, { worker: window.worker, device: "wasm" });
    const options = { ...window.call, output_type: "latent" } as const;
    const [there, here] = [
      await pipeline("a cat", { ...options, generator: window.seeded(0) }),
      await window.direct("a cat", { ...options, generator: window.seeded(0) }),
    ];
    const name = pipeline.name_or_path;
    await pipeline.dispose();
    return [name, there.images.data.every((value, i) => value === here.images.data[i])];
  });
  expect(results).toEqual(["saved", true]);
});

test("nothing was reported to the console", () => {
  // But for the script that is not there, the error that was thrown on purpose, and the development server's own affairs.
  expect(reports.filter((text) => !/none\.js|404|out of order|^\[vite\]/.test(text))).toEqual([]);
});
