/** ControlNets on WASM, elementwise against Diffusers, with the same seeds: tests/fixtures/pipelines/make_controlnet.py. */
import { Generator, RawImage, type Scheduler, schedulerRegistry, Tensor } from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { fixturePath, fixtureTensors, fixtureText } from "../support/fixtures.ts";
import { expectSamePicture } from "../support/pictures.ts";
import { load } from "./runners/controlnet.ts";

interface Call {
  name: string;
  checkpoint: string;
  scheduler: { class: string; kwargs: object } | null;
  options: Record<string, unknown> & { seed: number | number[] };
}

type Shapes = number[] | number[][];

const { calls, printed, callbacks } = JSON.parse(fixtureText("pipelines/controlnet.json")) as {
  calls: Call[];
  printed: Record<string, string>;
  callbacks: Record<string, [number, number, Record<string, Shapes>][]>;
};
const expected = fixtureTensors("pipelines/controlnet.safetensors");
const sd = fixturePath("pipelines/sd1-tiny");
const xl = fixturePath("pipelines/sdxl-tiny");
const seeded = (seed: number): Generator => new Generator().manual_seed(seed);
const tensorOf = (name: string): Tensor => {
  const { data, dims } = expected[name]!;
  return new Tensor("float32", data as Float32Array, dims);
};
const picture = (name: string): RawImage => {
  const { data, dims } = expected[`picture/${name}`]!;
  return new RawImage(data as Uint8Array, dims[1]!, dims[0]!, (dims[2] ?? 1) as 1 | 3 | 4);
};
/** Rounding differs between engines, and grows over the steps. The issue allows 1e-3. */
const tolerance = 1e-4;

/** The pipelines of several classes, which are called alike here. */
interface Called {
  (options: object): Promise<{ images: Tensor | RawImage[] }>;
  scheduler: Scheduler;
  readonly num_timesteps: number;
  dispose(): Promise<void>;
}

const pipelines: Record<string, Called> = {};
const originals: Record<string, Scheduler> = {};
beforeAll(async () => {
  // Diffusers warns of long prompts as well.
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
  Object.assign(pipelines, await load({ device: "wasm", path: fixturePath }));
  for (const [name, { scheduler }] of Object.entries(pipelines)) originals[name] = scheduler;
});
afterAll(async () => {
  for (const pipeline of Object.values(pipelines)) await pipeline.dispose();
});

test.each(Object.keys(printed).filter((name) => !name.includes(" ")))("%s prints as in Python", (name) => {
  pipelines[name]!.scheduler = originals[name]!;
  expect(`${pipelines[name]}`.replace(sd, "PATH").replace(xl, "PATH")).toBe(printed[name]);
});

/** A picture by name, a list of them (or of lists), or the tensor that Python drew. */
function imageOf(image: unknown, name: string): unknown {
  if (typeof image === "string") return picture(image);
  const list = image as unknown[];
  if (typeof list[0] === "number") return tensorOf(name);
  return list.map((one, i) => imageOf(one, `${name}/${i}`));
}

describe("calls", () => {
  test.each(calls.map((call) => [call.name, call] as const))("%s", async (name, call) => {
    const pipeline = pipelines[call.checkpoint]!;
    pipeline.scheduler = originals[call.checkpoint]!;
    if (call.scheduler !== null) {
      const cls = schedulerRegistry[call.scheduler.class]!;
      pipeline.scheduler = cls.from_config(pipeline.scheduler.config, call.scheduler.kwargs);
    }
    const { seed, low: _low, normal: _normal, ...rest } = call.options;
    for (const key of ["image", "mask_image", "control_image"]) {
      if (key in rest) rest[key] = imageOf(rest[key], `given/${name}/${key}`);
    }
    for (const key of ["prompt_embeds", "negative_prompt_embeds", "latents"]) {
      if (key in rest) rest[key] = tensorOf(`${name}/${key}`);
    }
    if ("timesteps" in rest || "sigmas" in rest) delete rest["num_inference_steps"];

    // The latents that the picture is decoded of are those of the last step.
    let latents: Tensor | undefined;
    const drawn = expected[`${name}/image`];
    const { images } = await pipeline({
      ...rest,
      generator: Array.isArray(seed) ? seed.map(seeded) : seeded(seed),
      output_type: drawn === undefined ? "latent" : "image",
      callback_on_step_end: (_: unknown, __: unknown, ___: unknown, tensors: { latents: Tensor }) => {
        latents = tensors.latents;
      },
    });
    const latent = expected[`${name}/latent`]!;
    expect(latents!.dims).toEqual(latent.dims);
    expectClose(latents!.data, latent.data as Float32Array, tolerance, name);
    if (drawn === undefined) return;
    const made = images as RawImage[];
    expect([made.length, made[0]!.height, made[0]!.width]).toEqual(drawn.dims.slice(0, 3));
    expectSamePicture(
      made.flatMap((image) => [...image.data]),
      drawn.data,
    );
  });
});

describe("callbacks", () => {
  type Value = Tensor | Tensor[];
  type Change = (value: Value) => Value;
  const of = (change: (value: Tensor) => Tensor): Change => {
    return (value) => (Array.isArray(value) ? value.map(change) : change(value));
  };
  const half = of((x) => x.mul(0.5));
  const texts = { latents: of((x) => x.mul(0.9)), prompt_embeds: of((x) => x.add(0.1)) };
  const added = { add_text_embeds: half, add_time_ids: of((x) => x.add(3)) };
  const small = { height: 12, width: 12 };
  const start = (): object => ({ image: picture("other"), control_image: picture("photo") });
  const cases: [string, Record<string, Change>, () => object][] = [
    ["cn", { ...texts, image: half }, () => ({ image: picture("photo") })],
    ["multi", { image: half }, () => ({ image: [picture("photo"), picture("other")] })],
    ["img2img", { control_image: half }, start],
    // What is returned for the mask does not count, as in Diffusers.
    ["inpaint", { control_image: half, mask: half }, () => ({ ...start(), mask_image: picture("mask") })],
    ["xl", { ...texts, ...added, image: half }, () => ({ image: picture("photo"), ...small })],
    ["xl-img2img", { ...added, control_image: half }, () => ({ ...start(), ...small })],
    ["xl-inpaint", { ...added, control_image: half }, () => ({ ...start(), mask_image: picture("mask"), ...small })],
  ];
  const shapes = (value: Value): unknown =>
    value instanceof Tensor ? [...value.dims] : value.map((one) => [...one.dims]);

  test.each(cases)("%s: tensors are seen, and replaced", async (key, replace, options) => {
    const pipeline = pipelines[key]!;
    pipeline.scheduler = originals[key]!;
    const seen: unknown[] = [];
    const { images } = await pipeline({
      prompt: calls[0]!.options["prompt"],
      num_inference_steps: 4,
      output_type: "latent",
      generator: seeded(0),
      ...options(),
      callback_on_step_end_tensor_inputs: Object.keys(callbacks[key]![0]![2]),
      callback_on_step_end: (pipe: unknown, i: number, t: number, tensors: Record<string, Value>) => {
        expect(pipe).toBe(pipeline);
        seen.push([i, t, Object.fromEntries(Object.entries(tensors).map(([name, value]) => [name, shapes(value)]))]);
        return Object.fromEntries(Object.entries(replace).map(([name, change]) => [name, change(tensors[name]!)]));
      },
    });
    expect(seen).toEqual(callbacks[key]);
    expect(pipeline.num_timesteps).toBe(seen.length);
    expectClose((images as Tensor).data, expected[`callback ${key}/latent`]!.data as Float32Array, tolerance);
  });
});
