/** IP-Adapters on WASM, elementwise against Diffusers, with the same seeds: tests/fixtures/pipelines/make_ip_adapter.py. */
import {
  type AnyPipeline,
  Generator,
  type ImageInput,
  IPAdapterMaskProcessor,
  type IPScaleConfig,
  RawImage,
  type Scheduler,
  schedulerRegistry,
  Tensor,
  type UNet2DConditionModel,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { type FixtureTensor, fixturePath, fixtureTensors, fixtureText } from "../support/fixtures.ts";
import { load } from "./runners/ip_adapter.ts";

interface Call {
  name: string;
  pipeline: string;
  adapters: string[];
  scale: number | IPScaleConfig | (number | IPScaleConfig)[];
  scheduler: { class: string; kwargs: object } | null;
  options: Record<string, unknown> & { seed: number | number[]; masks?: string[][] };
}

const { calls, printed } = JSON.parse(fixtureText("pipelines/ip_adapter.json")) as {
  calls: Call[];
  printed: Record<string, unknown>;
};
const expected = fixtureTensors("pipelines/ip_adapter.safetensors");
const here = fixturePath("pipelines");
const repo = fixturePath("pipelines/ip-adapter-tiny");
const tensorOf = ({ data, dims }: FixtureTensor): Tensor =>
  new Tensor("float32", Float32Array.from(data, Number), dims);
const seeded = (seed: number): Generator => new Generator().manual_seed(seed);
const picture = (name: string): RawImage => {
  const { data, dims } = expected[`picture/${name}`]!;
  return new RawImage(data as Uint8Array, dims[1]!, dims[0]!, (dims[2] ?? 1) as 1 | 3);
};
/** Rounding differs between engines, and grows over the steps. The issue allows 1e-3. */
const tolerance = 1e-4;

const pipelines: Record<string, AnyPipeline> = {};
const originals: Record<string, Scheduler> = {};
beforeAll(async () => {
  // Diffusers warns of long prompts as well.
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
  Object.assign(pipelines, await load({ device: "wasm", path: fixturePath }));
  for (const [name, pipeline] of Object.entries(pipelines)) originals[name] = pipeline.scheduler;
});
afterAll(async () => {
  for (const pipeline of Object.values(pipelines)) await pipeline.dispose();
});

/** What each UNet has been given. */
const adapted = new Map<unknown, string>();

/** As Python does before each call; what is there already is not loaded again. */
async function giveAdapters(pipeline: AnyPipeline, names: readonly string[]): Promise<void> {
  const subfolder = pipeline.constructor.name.includes("XL") ? "sdxl_models" : "models";
  if (adapted.get(pipeline.unet) === names.join() && pipeline.image_encoder !== null) return;
  await pipeline.load_ip_adapter(repo, { subfolder, weight_name: names.map((name) => `${name}.safetensors`) });
  adapted.set(pipeline.unet, names.join());
}

/** A picture by name, a list of them, or the tensor that Python drew. */
function imageOf(image: unknown, name: string): ImageInput {
  if (typeof image === "string") return picture(image);
  const list = image as unknown[];
  if (typeof list[0] === "number") return tensorOf(expected[name]!);
  return list.map((one, i) => imageOf(one, `${name}/${i}`)) as ImageInput;
}

describe("calls", () => {
  test.each(calls.map((call) => [call.name, call] as const))("%s", async (name, call) => {
    const pipeline = pipelines[call.pipeline]!;
    pipeline.scheduler = originals[call.pipeline]!;
    if (call.scheduler !== null) {
      const cls = schedulerRegistry[call.scheduler.class]!;
      pipeline.scheduler = cls.from_config(pipeline.scheduler.config, call.scheduler.kwargs);
    }
    await giveAdapters(pipeline, call.adapters);
    pipeline.set_ip_adapter_scale(call.scale);
    const { seed, masks, ...options } = call.options;
    for (const key of Object.keys(options)) {
      if (/image|embeds/.test(key) && key !== "num_images_per_prompt")
        options[key] = imageOf(options[key], `${name}/${key}`);
    }
    if (masks !== undefined) {
      const ip_adapter_masks: Tensor[] = [];
      for (const [i, group] of masks.entries()) {
        const made = await new IPAdapterMaskProcessor().preprocess(group.map(picture));
        const mask = made.reshape(1, ...[made.dims[0]!, made.dims[2]!, made.dims[3]!]);
        const { data, dims } = expected[`${name}/masks/${i}`]!;
        expect([mask.dims, [...mask.data]]).toEqual([dims, Array.from(data, Number)]);
        ip_adapter_masks.push(mask);
      }
      options["cross_attention_kwargs"] = { ip_adapter_masks };
    }
    const generator = Array.isArray(seed) ? seed.map(seeded) : seeded(seed);
    const { images } = await pipeline({ ...options, generator, output_type: "latent" });
    const latent = expected[`${name}/latent`]!;
    expect(images.dims).toEqual(latent.dims);
    expectClose(images.data, latent.data as Float32Array, tolerance, name);
  });
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
  await giveAdapters(pipeline, [adapter]);
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
  await giveAdapters(pipeline, [key === "sd" ? "ip-adapter_sd" : "ip-adapter_sdxl"]);
  expect(print()).toBe(printed[`${key} loaded`]);
  expect(pipeline.feature_extractor!.config).toMatchObject(
    Object.fromEntries(
      Object.entries(printed[`${key} feature_extractor`]!).filter(([name]) => name !== "image_processor_type"),
    ),
  );
  const encoder = pipeline.image_encoder!;
  await pipeline.unload_ip_adapter();
  adapted.delete(pipeline.unet);
  expect(print()).toBe(printed[`${key} unloaded`]);
  expect([pipeline.image_encoder, encoder.is_disposed]).toEqual([null, true]);
  pipeline.scheduler = originals[key]!;
  const call = { num_inference_steps: 2, generator: seeded(0), output_type: "latent" } as const;
  close((await pipeline("a photo of a red fox!", call)).images, `unloaded/${key}`);
});

test("the masks' processor prints as in Python, but for what it lacks", () => {
  expect(`${new IPAdapterMaskProcessor()}`).toBe((printed["masks"] as string).replace('  "reducing_gap": null,\n', ""));
});
