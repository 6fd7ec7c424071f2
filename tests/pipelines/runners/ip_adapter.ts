import {
  type AnyPipeline,
  ControlNetModel,
  DiffusionPipeline,
  IPAdapterMaskProcessor,
  type IPScaleConfig,
  LatentConsistencyModelImg2ImgPipeline,
  LatentConsistencyModelPipeline,
  LCMScheduler,
  StableDiffusionControlNetImg2ImgPipeline,
  StableDiffusionControlNetInpaintPipeline,
  StableDiffusionControlNetPipeline,
  StableDiffusionImg2ImgPipeline,
  StableDiffusionInpaintPipeline,
  StableDiffusionInstructPix2PixPipeline,
  StableDiffusionPAGImg2ImgPipeline,
  StableDiffusionPAGPipeline,
  StableDiffusionPipeline,
  StableDiffusionXLAdapterPipeline,
  StableDiffusionXLControlNetImg2ImgPipeline,
  StableDiffusionXLControlNetInpaintPipeline,
  StableDiffusionXLControlNetPipeline,
  StableDiffusionXLImg2ImgPipeline,
  StableDiffusionXLInpaintPipeline,
  StableDiffusionXLPAGImg2ImgPipeline,
  StableDiffusionXLPAGPipeline,
  T2IAdapter,
  type Tensor,
  UNet2DConditionModel,
} from "@diffusers-web/pipelines";
import { imageOf, pictureOf, seeded, type Tensors } from "../../support/calls.ts";
import type { FixtureCall, Given, Place } from "./types.ts";

interface AdapterCall extends FixtureCall {
  readonly adapters: readonly string[];
  readonly scale: number | IPScaleConfig | (number | IPScaleConfig)[];
}

export async function load({ device, path }: Place): Promise<Record<string, AnyPipeline>> {
  const unetOf = (name: string) => UNet2DConditionModel.from_pretrained(path(`pipelines/${name}`), { device });
  const controlOf = (name: string) =>
    ControlNetModel.from_pretrained(path(`pipelines/controlnet-tiny/${name}`), { device });
  const sd = await DiffusionPipeline.from_pretrained(path("pipelines/sd1-tiny"), { device });
  const xl = await DiffusionPipeline.from_pretrained(path("pipelines/sdxl-tiny"), { device });
  const unet = await unetOf("img2img-tiny/unet-lcm");
  const lcm = { unet, scheduler: LCMScheduler.from_config(sd.scheduler.config) };
  const controlnet = await controlOf("sd");
  const xlControl = { controlnet: await controlOf("xl") };
  const t2i = {
    unet: await unetOf("t2i-adapter-tiny/unet-xl"),
    adapter: await T2IAdapter.from_pretrained(path("pipelines/t2i-adapter-tiny/adapter-xl"), { device }),
  };
  const pipelines: Record<string, object> = {
    sd,
    img2img: await StableDiffusionImg2ImgPipeline.from_pipe(sd),
    inpaint: await StableDiffusionInpaintPipeline.from_pipe(sd),
    lcm: await StableDiffusionPipeline.from_pipe(sd, { unet }),
    "lcm-text": await LatentConsistencyModelPipeline.from_pipe(sd, lcm),
    "lcm-img2img": await LatentConsistencyModelImg2ImgPipeline.from_pipe(sd, lcm),
    control: await StableDiffusionControlNetPipeline.from_pipe(sd, { controlnet }),
    "control-img2img": await StableDiffusionControlNetImg2ImgPipeline.from_pipe(sd, { controlnet }),
    "control-inpaint": await StableDiffusionControlNetInpaintPipeline.from_pipe(sd, { controlnet }),
    pix2pix: await StableDiffusionInstructPix2PixPipeline.from_pipe(sd, { unet: await unetOf("pix2pix-tiny/unet") }),
    pag: await StableDiffusionPAGPipeline.from_pipe(sd),
    "pag-img2img": await StableDiffusionPAGImg2ImgPipeline.from_pipe(sd),
    xl,
    "xl-img2img": await StableDiffusionXLImg2ImgPipeline.from_pipe(xl),
    "xl-inpaint": await StableDiffusionXLInpaintPipeline.from_pipe(xl),
    "xl-control": await StableDiffusionXLControlNetPipeline.from_pipe(xl, xlControl),
    "xl-control-img2img": await StableDiffusionXLControlNetImg2ImgPipeline.from_pipe(xl, xlControl),
    "xl-control-inpaint": await StableDiffusionXLControlNetInpaintPipeline.from_pipe(xl, xlControl),
    "xl-adapter": await StableDiffusionXLAdapterPipeline.from_pipe(xl, t2i),
    "xl-pag": await StableDiffusionXLPAGPipeline.from_pipe(xl),
    "xl-pag-img2img": await StableDiffusionXLPAGImg2ImgPipeline.from_pipe(xl),
  };
  return pipelines as Record<string, AnyPipeline>;
}

/** What each UNet has been given. */
const adapted = new WeakMap<object, string>();

/** Loads adapters, but what is there already. */
export async function giveAdapters(
  pipeline: AnyPipeline,
  adapters: readonly string[],
  scale: AdapterCall["scale"],
  { path }: Place,
): Promise<void> {
  const subfolder = pipeline.constructor.name.includes("XL") ? "sdxl_models" : "models";
  if (adapted.get(pipeline.unet) !== adapters.join() || pipeline.image_encoder === null) {
    const weight_name = adapters.map((name) => `${name}.safetensors`);
    await pipeline.load_ip_adapter(path("pipelines/ip-adapter-tiny"), { subfolder, weight_name });
    adapted.set(pipeline.unet, adapters.join());
  }
  pipeline.set_ip_adapter_scale(scale);
}

/** As Python does before each call. */
export async function prepare(pipeline: object, call: FixtureCall, { place }: Given): Promise<void> {
  const { adapters, scale } = call as AdapterCall;
  await giveAdapters(pipeline as AnyPipeline, adapters, scale, place);
}

/** The masks of each adapter's pictures, `[1, pictures, height, width]`. */
export async function masksOf(groups: readonly (readonly string[])[], tensors: Tensors): Promise<Tensor[]> {
  const made: Tensor[] = [];
  for (const group of groups) {
    const pictures = group.map((one) => pictureOf(tensors[`picture/${one}`]!));
    const mask = await new IPAdapterMaskProcessor().preprocess(pictures);
    made.push(mask.reshape(1, mask.dims[0]!, mask.dims[2]!, mask.dims[3]!));
  }
  return made;
}

export async function options({ name, options }: FixtureCall, { tensors }: Given): Promise<Record<string, unknown>> {
  const { seed, masks, ...made } = options as FixtureCall["options"] & Record<string, unknown>;
  for (const key of Object.keys(made)) {
    if (/image|embeds/.test(key) && key !== "num_images_per_prompt") {
      made[key] = imageOf(`${name}/${key}`, made[key], tensors);
    }
  }
  if (masks !== undefined) {
    const ip_adapter_masks = await masksOf(masks as string[][], tensors);
    made["cross_attention_kwargs"] = { ...(made["cross_attention_kwargs"] as object), ip_adapter_masks };
  }
  const generator = Array.isArray(seed) ? seed.map(seeded) : seeded(Number(seed));
  return { ...made, generator, output_type: "latent" };
}
