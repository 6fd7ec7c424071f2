/** LoRAs on WASM, elementwise against Diffusers and PEFT: tests/fixtures/pipelines/make_lora.py. */
import {
  AutoPipelineForImage2Image,
  AutoPipelineForInpainting,
  type FuseLoraOptions,
  Generator,
  RawImage,
  type Scheduler,
  StableDiffusionPipeline,
  StableDiffusionXLPipeline,
  schedulerRegistry,
  type Tensor,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { type FixtureTensor, fixturePath, fixtureTensors, fixtureText } from "../support/fixtures.ts";

type Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline;
type Step =
  | readonly ["load", string, string | null]
  | readonly ["set", string | string[], never]
  | readonly ["delete", string]
  | readonly ["fuse" | "unfuse", FuseLoraOptions]
  | readonly ["unload" | "disable" | "enable"];

interface Case {
  readonly name: string;
  readonly checkpoint: "sd1-tiny" | "sdxl-tiny";
  readonly steps: readonly Step[];
  readonly options: Readonly<Record<string, unknown>> & { readonly seed: number };
  readonly scheduler?: { readonly class: string; readonly kwargs: object };
  readonly active: readonly string[];
  readonly list: Readonly<Record<string, string[]>>;
}

const cases = JSON.parse(fixtureText("pipelines/lora.json")) as Case[];
const expected = fixtureTensors("pipelines/lora.safetensors");
const folder = fixturePath("pipelines/lora-tiny");
const pictureOf = ({ data, dims: [height, width, channels = 1] }: FixtureTensor): RawImage =>
  new RawImage(data as Uint8Array, width!, height!, channels as 1 | 3);

const pipelines = {} as Record<Case["checkpoint"], Pipeline>;
const originals = {} as Record<Case["checkpoint"], Scheduler>;

async function open(name: Case["checkpoint"]): Promise<void> {
  const [path, options] = [fixturePath(`pipelines/${name}`), { device: "wasm" }] as const;
  pipelines[name] =
    name === "sd1-tiny"
      ? await StableDiffusionPipeline.from_pretrained(path, options)
      : await StableDiffusionXLPipeline.from_pretrained(path, options);
  originals[name] = pipelines[name].scheduler;
}

beforeAll(async () => {
  // Python warns of a file that does not change a component, and of what becomes of fused weights.
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
  await open("sd1-tiny");
  await open("sdxl-tiny");
});
afterAll(async () => {
  for (const pipeline of Object.values(pipelines)) await pipeline.dispose();
});

async function apply(pipeline: Pipeline, steps: readonly Step[]): Promise<void> {
  for (const [step, ...given] of steps) {
    const [first, second] = given as [never, never];
    if (step === "load") {
      await pipeline.load_lora_weights(folder, { weight_name: `${first}.safetensors`, adapter_name: second });
    } else if (step === "set") pipeline.set_adapters(first, second);
    else if (step === "delete") pipeline.delete_adapters(first);
    else if (step === "fuse") pipeline.fuse_lora(first);
    else if (step === "unfuse") pipeline.unfuse_lora(first);
    else if (step === "unload") pipeline.unload_lora_weights();
    else if (step === "disable") pipeline.disable_lora();
    else pipeline.enable_lora();
  }
}

/** The latents of a case's call. */
async function latentsOf(
  pipeline: Pipeline,
  { options, scheduler }: Pick<Case, "options" | "scheduler">,
): Promise<Tensor> {
  const { seed, image, mask_image, ...rest } = options;
  const generator = new Generator().manual_seed(seed);
  if (scheduler !== undefined) {
    const cls = schedulerRegistry[scheduler.class]!;
    pipeline.scheduler = cls.from_config(pipeline.scheduler.config, scheduler.kwargs);
  }
  const given = {
    ...rest,
    ...(image === undefined ? {} : { image: pictureOf(expected["given/image"]!) }),
    ...(mask_image === undefined ? {} : { mask_image: pictureOf(expected["given/mask_image"]!) }),
    generator,
    output_type: "latent",
  } as never;
  const auto = mask_image !== undefined ? AutoPipelineForInpainting : AutoPipelineForImage2Image;
  const user = image === undefined ? pipeline : ((await auto.from_pipe(pipeline)) as unknown as Pipeline);
  const { images } = await (user as StableDiffusionPipeline)(given);
  return images as unknown as Tensor;
}

test.each(cases.map((one) => [one.name, one] as const))("%s", async (name, one) => {
  const pipeline = pipelines[one.checkpoint];
  pipeline.scheduler = originals[one.checkpoint];
  await apply(pipeline, one.steps);
  expect(pipeline.get_active_adapters()).toEqual(one.active);
  expect(pipeline.get_list_adapters()).toEqual(one.list);
  const latents = await latentsOf(pipeline, one);
  expect(latents.dims).toEqual(expected[name]!.dims);
  expectClose(latents.data, expected[name]!.data, 5e-5, name);

  pipeline.unfuse_lora();
  pipeline.unload_lora_weights();
  if (pipeline.num_fused_loras === 0) return;
  // What a case fused for good ends with the pipeline.
  await pipeline.dispose();
  await open(one.checkpoint);
});
