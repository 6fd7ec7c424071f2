/** IP-Adapters on WASM, elementwise against Diffusers, with the same seeds: tests/fixtures/pipelines/make_ip_adapter.py. */
import {
  IPAdapterMaskProcessor,
  type RawImage,
  type Tensor,
  type UNet2DConditionModel,
} from "@diffusers-web/pipelines";
import { expect, test } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { pictureOf, seeded } from "../support/calls.ts";
import { openSet, testCalls } from "../support/fixture_set.ts";
import { fixturePath } from "../support/fixtures.ts";
import * as runner from "./runners/ip_adapter.ts";
import type { FixtureSet } from "./runners/types.ts";

interface Fixture extends FixtureSet {
  readonly printed: Record<string, unknown>;
}

const opened = openSet<Fixture>("ip_adapter", runner);
const { expected, pipelines, originals } = opened;
const { calls, printed } = opened.fixture;
const place = { device: "wasm", path: fixturePath } as const;
const here = fixturePath("pipelines");
const picture = (name: string): RawImage => pictureOf(expected[`picture/${name}`]!);
/** Rounding differs between engines, and grows over the steps. The issue allows 1e-3. */
const tolerance = 1e-4;

testCalls(opened, tolerance);

const masked = calls.flatMap(({ name, options: { masks } }) => (masks === undefined ? [] : [[name, masks] as const]));
test.each(masked)("%s: masks are those of Python", async (name, masks) => {
  const made = await runner.masksOf(masks as string[][], expected);
  for (const [i, mask] of made.entries()) {
    const { data, dims } = expected[`${name}/masks/${i}`]!;
    expect([mask.dims, [...mask.data]]).toEqual([dims, Array.from(data, Number)]);
  }
});

const close = (actual: Tensor, name: string): void => {
  expect(actual.dims).toEqual(expected[name]!.dims);
  expectClose(actual.data, expected[name]!.data as Float32Array, tolerance, name);
};

test.each([
  ["sd", "ip-adapter_sd", "image_embeds"],
  ["xl", "ip-adapter-plus_sdxl", "hidden_states"],
])("%s: pictures are encoded as in Python", async (key, adapter, takes) => {
  const pipeline = pipelines[key]!;
  await runner.giveAdapters(pipeline, [adapter], 1, place);
  const two = [picture("odd"), picture("tall")];
  for (const output_hidden_states of [false, true]) {
    const embeds = await pipeline.encode_image(two, { num_images_per_prompt: 2, output_hidden_states });
    const name = `encode_image/${key}/${output_hidden_states ? "True" : "False"}`;
    close(embeds.image_embeds, `${name}/image_embeds`);
    close(embeds.uncond_image_embeds, `${name}/uncond_image_embeds`);
  }
  for (const do_classifier_free_guidance of [false, true]) {
    const options = { ip_adapter_image: [two], num_images_per_prompt: 2, do_classifier_free_guidance };
    const [embeds] = await pipeline.prepare_ip_adapter_image_embeds(options);
    close(embeds!, `prepare/${key}/${do_classifier_free_guidance ? "True" : "False"}`);
    if (!do_classifier_free_guidance) continue;
    // What was prepared stands for the pictures.
    const { unet } = pipeline as { unet: UNet2DConditionModel };
    expect(unet.ip_adapter_inputs).toMatchObject([{ takes }]);
    const call = { num_inference_steps: 1, output_type: "latent" } as const;
    const draw = async (given: object): Promise<Tensor> =>
      (await pipeline("a cat", { ...call, ...given, generator: seeded(1) })).images;
    const prepared = await pipeline.prepare_ip_adapter_image_embeds({ ip_adapter_image: [two] });
    const drawn = await draw({ ip_adapter_image: [two] });
    expect(await draw({ ip_adapter_image_embeds: prepared })).toEqual(drawn);
  }
});

test.each(["sd", "xl"])("%s prints as in Python, and draws without adapters once they are unloaded", async (key) => {
  const pipeline = pipelines[key]!;
  const print = (): string => `${pipeline}`.replace(here, "HERE");
  await runner.giveAdapters(pipeline, [key === "sd" ? "ip-adapter_sd" : "ip-adapter_sdxl"], 1, place);
  expect(print()).toBe(printed[`${key} loaded`]);
  expect(pipeline.feature_extractor!.config).toMatchObject(
    Object.fromEntries(
      Object.entries(printed[`${key} feature_extractor`]!).filter(([name]) => name !== "image_processor_type"),
    ),
  );
  const encoder = pipeline.image_encoder!;
  await pipeline.unload_ip_adapter();
  expect(print()).toBe(printed[`${key} unloaded`]);
  expect([pipeline.image_encoder, encoder.is_disposed]).toEqual([null, true]);
  pipeline.scheduler = originals[key]!;
  const call = { num_inference_steps: 2, generator: seeded(0), output_type: "latent" } as const;
  close((await pipeline("a photo of a red fox!", call)).images, `unloaded/${key}`);
});

test("the masks' processor prints as in Python, but for what it lacks", () => {
  expect(`${new IPAdapterMaskProcessor()}`).toBe((printed["masks"] as string).replace('  "reducing_gap": null,\n', ""));
});
