/** What a call tells of itself while it runs, and previews of its latents. */
import { fileURLToPath } from "node:url";
import {
  AutoencoderTiny,
  DDIMPipeline,
  Generator,
  type RawImage,
  type RunProgress,
  StableDiffusionImg2ImgPipeline,
  StableDiffusionPipeline,
  type Tensor,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { decodePreview } from "../../packages/pipelines/src/preview.ts";
import { RunTimings, RunWatch } from "../../packages/pipelines/src/run_progress.ts";
import { fixturePath } from "../support/fixtures.ts";

const emojiPath = fileURLToPath(new URL("../../demo/public/models/emoji-diffusion", import.meta.url));

/** A watch over a clock that is set by hand. */
function watched(timings = new RunTimings()) {
  const seen: RunProgress[] = [];
  const clock = { now: 1000 };
  const watch = new RunWatch(
    (progress) => seen.push(progress),
    timings,
    () => clock.now,
  );
  const pass = (milliseconds: number, what: "stepped" | "decode" | "done"): RunProgress => {
    clock.now += milliseconds;
    watch[what]();
    return seen.at(-1)!;
  };
  return { seen, clock, watch, pass };
}

describe("the time left", () => {
  test("is told once a step other than the first has been measured", () => {
    const { seen, clock, watch, pass } = watched();
    expect(seen).toEqual([{ phase: "prepare", step: 0, steps: 0, elapsed_seconds: 0, seconds_left: undefined }]);
    clock.now += 500;
    watch.denoise(4, "size");
    expect(seen.at(-1)).toEqual({ phase: "denoise", step: 0, steps: 4, elapsed_seconds: 0.5, seconds_left: undefined });
    expect(pass(9000, "stepped").seconds_left).toBeUndefined();
    expect(pass(1000, "stepped")).toMatchObject({ step: 2, seconds_left: 2, elapsed_seconds: 10.5 });
    expect(pass(1000, "stepped").seconds_left).toBe(1);
    expect(pass(1000, "stepped").seconds_left).toBe(0);
    expect(pass(0, "decode")).toMatchObject({ phase: "decode", seconds_left: undefined });
    expect(pass(3000, "done")).toMatchObject({ phase: "done", step: 4, seconds_left: 0, elapsed_seconds: 15.5 });
  });

  test("counts what follows the steps in later calls of the same size, from their first step on", () => {
    const timings = new RunTimings();
    const first = watched(timings);
    first.watch.denoise(2, "size");
    first.pass(9000, "stepped");
    first.pass(1000, "stepped");
    first.pass(0, "decode");
    first.pass(3000, "done");

    const second = watched(timings);
    second.watch.denoise(2, "size");
    expect(second.seen.at(-1)!.seconds_left).toBe(5);
    expect(second.pass(1000, "stepped").seconds_left).toBe(4);
    expect(second.pass(2000, "stepped").seconds_left).toBeCloseTo(3);
    expect(second.pass(0, "decode").seconds_left).toBe(3);

    const other = watched(timings);
    other.watch.denoise(2, "another size");
    expect(other.seen.at(-1)!.seconds_left).toBeUndefined();
  });
});

describe("a call", () => {
  let pipeline: StableDiffusionPipeline;
  beforeAll(async () => {
    pipeline = await StableDiffusionPipeline.from_pretrained(emojiPath, { device: "wasm" });
  });
  afterAll(() => pipeline.dispose());

  const summary = (seen: readonly RunProgress[]): string[] =>
    seen.map(({ phase, step, steps }) => `${phase} ${step}/${steps}`);

  test("tells each step", async () => {
    const seen: RunProgress[] = [];
    const options = {
      num_inference_steps: 3,
      output_type: "latent",
      generator: new Generator().manual_seed(0),
    } as const;
    const plain = await pipeline("a cat", options);
    const told = await pipeline("a cat", {
      ...options,
      generator: new Generator().manual_seed(0),
      progress_callback: (progress) => seen.push(progress),
    });
    expect(told.images.data).toEqual(plain.images.data);
    expect(summary(seen)).toEqual([
      "prepare 0/0",
      "denoise 0/3",
      "denoise 1/3",
      "denoise 2/3",
      "denoise 3/3",
      "decode 3/3",
      "done 3/3",
    ]);
    // The call before has measured the steps.
    expect(seen[1]!.seconds_left).toBeGreaterThan(0);
    for (const [i, { elapsed_seconds }] of seen.entries()) {
      expect(elapsed_seconds).toBeGreaterThanOrEqual(seen[i - 1]?.elapsed_seconds ?? 0);
    }
  });

  test("counts the steps that a strength leaves", async () => {
    const seen: RunProgress[] = [];
    const img2img = await StableDiffusionImg2ImgPipeline.from_pipe(pipeline);
    const { images } = await pipeline("a cat", { num_inference_steps: 1 });
    await img2img("a dog", {
      image: images[0]!,
      strength: 0.5,
      num_inference_steps: 4,
      output_type: "latent",
      progress_callback: (progress) => seen.push(progress),
    });
    expect(seen.at(-1)).toMatchObject({ phase: "done", step: 2, steps: 2, seconds_left: 0 });
  });

  test("that is interrupted ends, one that fails does not", async () => {
    const seen: RunProgress[] = [];
    const options = {
      num_inference_steps: 4,
      output_type: "latent",
      progress_callback: (p: RunProgress) => seen.push(p),
    } as const;
    await pipeline("a cat", {
      ...options,
      callback_on_step_end: (pipe) => {
        pipe._interrupt = true;
      },
    });
    expect(summary(seen).slice(-3)).toEqual(["denoise 1/4", "decode 1/4", "done 1/4"]);
    seen.length = 0;
    const controller = new AbortController();
    const call = pipeline("a cat", {
      ...options,
      signal: controller.signal,
      callback_on_step_end: () => controller.abort(),
    });
    await expect(call).rejects.toMatchObject({ name: "AbortError" });
    expect(seen.at(-1)!.phase).toBe("denoise");
  });

  test("of an unconditional pipeline tells as well", async () => {
    const seen: RunProgress[] = [];
    const ddim = await DDIMPipeline.from_pretrained(fixturePath("pipelines/ddim-tiny"), { device: "wasm" });
    await ddim({ num_inference_steps: 2, progress_callback: (progress) => seen.push(progress) });
    await ddim.dispose();
    expect(summary(seen).slice(-2)).toEqual(["decode 2/2", "done 2/2"]);
  });
});

describe("previews", () => {
  let pipeline: StableDiffusionPipeline;
  let latents: Tensor;
  beforeAll(async () => {
    pipeline = await StableDiffusionPipeline.from_pretrained(emojiPath, { device: "wasm" });
    const options = { num_inference_steps: 8, guidance_scale: 2, output_type: "latent" } as const;
    ({ images: latents } = await pipeline(["a cat", "a fox on a purple background"], {
      ...options,
      generator: new Generator().manual_seed(3),
    }));
  });
  afterAll(() => pipeline.dispose());

  /** How alike two lists of numbers are: Pearson's correlation. */
  function correlation(a: ArrayLike<number>, b: ArrayLike<number>): number {
    const n = a.length;
    const mean = (x: ArrayLike<number>): number => Array.from(x).reduce((sum, value) => sum + value, 0) / n;
    const [ma, mb] = [mean(a), mean(b)];
    let [ab, aa, bb] = [0, 0, 0];
    for (let i = 0; i < n; i++) {
      ab += (a[i]! - ma) * (b[i]! - mb);
      aa += (a[i]! - ma) ** 2;
      bb += (b[i]! - mb) ** 2;
    }
    return ab / Math.sqrt(aa * bb);
  }

  test("without a decoder of their own are a projection of the latents that looks like the picture", async () => {
    const { sample } = await pipeline.vae.decode(latents.div(pipeline.vae.config.scaling_factor));
    const pictures = pipeline.image_processor.postprocess(sample, "image") as RawImage[];
    const previews = await pipeline.decode_preview(latents);
    expect(previews).toHaveLength(2);
    for (const [i, preview] of previews.entries()) {
      expect([preview.width, preview.height, preview.channels]).toEqual([16, 16, 3]);
      const small = pictures[i]!.resize(16, 16, { resample: "box" });
      // 0.95 and 0.92 were measured
      expect(correlation(preview.data, small.data)).toBeGreaterThan(0.85);
    }
  });

  test("with a decoder of their own are its pictures", async () => {
    const tiny = await AutoencoderTiny.from_pretrained(fixturePath("pipelines/img2img-tiny/vae-tiny"), {
      device: "wasm",
    });
    const { vae, image_processor } = pipeline;
    const previews = await decodePreview({ vae, image_processor, preview_decoder: tiny }, latents);
    const { sample } = await tiny.decode(latents);
    expect(previews.map(({ data }) => data)).toEqual(
      (pipeline.image_processor.postprocess(sample, "image") as RawImage[]).map(({ data }) => data),
    );
    pipeline.preview_decoder = tiny;
    expect((await pipeline.decode_preview(latents))[0]!.data).toEqual(previews[0]!.data);
    pipeline.preview_decoder = null;
    expect(`${pipeline}`).not.toContain("preview");
    await tiny.dispose();
  });
});
