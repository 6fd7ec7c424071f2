/** ControlNets on WASM, elementwise against Diffusers, with the same seeds: tests/fixtures/pipelines/make_controlnet.py. */
import { type RawImage, type Scheduler, Tensor } from "@diffusers-web/pipelines";
import { describe, expect, test } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { pictureOf, seeded } from "../support/calls.ts";
import { openSet, testCalls } from "../support/fixture_set.ts";
import { fixturePath } from "../support/fixtures.ts";
import * as runner from "./runners/controlnet.ts";
import type { FixtureSet } from "./runners/types.ts";

type Shapes = number[] | number[][];

interface Fixture extends FixtureSet {
  readonly printed: Record<string, string>;
  readonly callbacks: Record<string, [number, number, Record<string, Shapes>][]>;
}

/** The pipelines of several classes, which are called alike here. */
interface Called {
  (options: object): Promise<{ images: Tensor | RawImage[] }>;
  scheduler: Scheduler;
  readonly num_timesteps: number;
}

const opened = openSet<Fixture, Called>("controlnet", runner);
const { expected, fresh } = opened;
const { calls, printed, callbacks } = opened.fixture;
const sd = fixturePath("pipelines/sd1-tiny");
const xl = fixturePath("pipelines/sdxl-tiny");
const picture = (name: string): RawImage => pictureOf(expected[`picture/${name}`]!);
/** Rounding differs between engines, and grows over the steps. The issue allows 1e-3. */
const tolerance = 1e-4;

test.each(Object.keys(printed).filter((name) => !name.includes(" ")))("%s prints as in Python", (name) => {
  expect(`${fresh(name)}`.replace(sd, "PATH").replace(xl, "PATH")).toBe(printed[name]);
});

testCalls(opened, tolerance);

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
    const pipeline = fresh(key);
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
