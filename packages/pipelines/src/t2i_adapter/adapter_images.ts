import { RawImage, Tensor, ValueError } from "@diffusers-web/core";
import { MultiAdapter, type T2IAdapter } from "@diffusers-web/models";
import { checkNumber, checkWhole } from "../checks.ts";
import { checkTensorPicture } from "../controlnet/control_images.ts";
import { checkDivisible } from "../stable_diffusion/call_options.ts";
import { checkChannels, type ImageInput, imagesOf } from "../stable_diffusion/image_latents.ts";
import { type StepCallbackOptions, stepCallbackNames } from "../step_callback.ts";

/** What an adapter sees: one picture or several; for several adapters a list with an entry for each of them. */
export type AdapterImageInput = ImageInput | readonly ImageInput[];

/** The options that both pipelines with a T2I-Adapter take, besides those of the pipelines without. */
export interface AdapterOptions extends StepCallbackOptions {
  /**
   * What the adapter sees: a picture for all prompts or one for each, brought to the size of what is drawn. With several
   * adapters, a list with an entry for each. A tensor is `[batch, channels, height, width]` in 0..1, and is taken as it is.
   */
  readonly image?: AdapterImageInput | null;
  /** A multiple of 8. Default: that of `image`, rounded down to what the adapter divides. */
  readonly height?: number | null;
  /** A multiple of 8. Default: that of `image`, rounded down to what the adapter divides. */
  readonly width?: number | null;
  /** The noise to begin with, `[batch, channels, height / 8, width / 8]`. */
  readonly latents?: Tensor | null;
  /** What the adapter's features are multiplied with; a list has one for each adapter. Default 1. */
  readonly adapter_conditioning_scale?: number | readonly number[];
}

/** The names of {@link AdapterOptions}. */
export const adapterOptionNames: readonly (keyof AdapterOptions)[] = [
  "image",
  "height",
  "width",
  "latents",
  "adapter_conditioning_scale",
  ...stepCallbackNames,
];

/** Pictures, or tensors, of one adapter. */
type Pictures = readonly (RawImage | Tensor)[];

/** The pictures of a call, and the size of what is drawn after them. */
export interface AdapterPictures {
  /** A list for each adapter. */
  readonly pictures: readonly Pictures[];
  readonly height: number;
  readonly width: number;
}

function adaptersOf(adapter: T2IAdapter | MultiAdapter): readonly T2IAdapter[] {
  return adapter instanceof MultiAdapter ? adapter.adapters : [adapter];
}

/**
 * Reads the pictures of a call, and finds out the size of what is drawn: that of the first picture, where no other is given.
 *
 * @throws ValueError for no picture, another number of them than there are adapters, one with other channels than its adapter
 * takes, and a size that is no multiple of 8.
 * @see Diffusers `StableDiffusionAdapterPipeline._default_height_width`
 */
export async function readAdapterPictures(
  adapter: T2IAdapter | MultiAdapter,
  { image, height, width }: AdapterOptions,
): Promise<AdapterPictures> {
  const adapters = adaptersOf(adapter);
  const isMulti = adapter instanceof MultiAdapter;
  if (isMulti) checkEach("image", image, adapters.length);
  const pictures = await Promise.all(
    adapters.map((one, i) => readPictures(isMulti ? (image as readonly ImageInput[])[i]! : (image as ImageInput), one)),
  );
  const first = pictures[0]![0]!;
  const [rows, columns] =
    first instanceof Tensor ? (first.dims.slice(-2) as [number, number]) : [first.height, first.width];
  const factor = adapter.downscale_factor;
  if ((height == null && rows < factor) || (width == null && columns < factor)) {
    throw new ValueError(`\`image\` is ${columns} x ${rows}, but the adapter takes at least ${factor} x ${factor}.`, {
      field: "image",
      found: `${columns} x ${rows}`,
      expected: `at least ${factor} x ${factor}`,
    });
  }
  const size = {
    height: height ?? Math.floor(rows / factor) * factor,
    width: width ?? Math.floor(columns / factor) * factor,
  };
  checkDivisible("height", size.height);
  checkDivisible("width", size.width);
  return { pictures, ...size };
}

async function readPictures(image: ImageInput | null | undefined, adapter: T2IAdapter): Promise<Pictures> {
  const { in_channels } = adapter.config;
  const { tensors, others } = imagesOf("image", image);
  for (const tensor of tensors) checkTensorPicture("image", tensor, in_channels);
  if (tensors.length > 0) return tensors;
  const pictures = await Promise.all(others.map((item) => RawImage.read(item)));
  for (const picture of pictures) checkChannels("image", picture, in_channels, "the adapter");
  return pictures;
}

/** @throws ValueError unless `list` has an entry for each of several adapters. */
function checkEach(field: string, list: unknown, count: number): void {
  if (Array.isArray(list) && list.length === count) return;
  const found = Array.isArray(list) ? `a list of ${list.length}` : list == null ? "nothing" : "one for all";
  throw new ValueError(
    `\`${field}\` is ${found}, but there are ${count} adapters: pass a list with an entry for each.`,
    {
      field,
      found,
      expected: `a list of ${count}`,
    },
  );
}

/** @throws ValueError for scales that are no numbers, or are not as many as there are adapters; and for `callback_steps`. */
export function checkAdapterOptions(
  adapter: T2IAdapter | MultiAdapter,
  { adapter_conditioning_scale: scale = 1, callback_steps = 1 }: AdapterOptions,
): void {
  checkWhole("callback_steps", callback_steps);
  if (!Array.isArray(scale)) {
    checkNumber("adapter_conditioning_scale", scale);
    return;
  }
  for (const one of scale as readonly unknown[]) checkNumber("adapter_conditioning_scale", one);
  checkEach("adapter_conditioning_scale", scale, adaptersOf(adapter).length);
}

/** How an adapter's features are made for a call. */
export interface FeatureOptions {
  readonly scale: number | readonly number[];
  /** How many pictures the call makes. */
  readonly batch: number;
  readonly num_images_per_prompt: number;
  /** Whether the UNet runs without the text as well. */
  readonly guided: boolean;
  /** How many blocks the UNet has on its way down. */
  readonly blocks: number;
}

/**
 * What the UNet adds to its feature maps, `[batch or 2 * batch, channels, height, width]` each.
 *
 * @throws ValueError for another number of pictures than prompts, and tensors of another size than what is drawn.
 * @see Diffusers `_preprocess_adapter_image`, and step 7 of `StableDiffusionAdapterPipeline.__call__`
 */
export async function adapterFeatures(
  adapter: T2IAdapter | MultiAdapter,
  { pictures, height, width }: AdapterPictures,
  { scale, batch, num_images_per_prompt, guided, blocks }: FeatureOptions,
): Promise<Tensor[]> {
  const prompts = batch / num_images_per_prompt;
  const inputs = pictures.map((list) => adapterInput(list, height, width, adapter.downscale_factor));
  for (const { dims } of inputs) {
    if (dims[0] === prompts || dims[0] === 1) continue;
    throw new ValueError(
      `\`image\` has ${dims[0]} pictures, but there are ${prompts} prompts: pass one, or as many as there are prompts.`,
      { field: "image", found: String(dims[0]), expected: prompts === 1 ? "1" : `1 or ${prompts}` },
    );
  }
  const isAlone = inputs.every(({ dims }) => dims[0] === 1);
  let features: Tensor[];
  if (adapter instanceof MultiAdapter) {
    const scales = typeof scale === "number" ? inputs.map(() => scale) : scale;
    features = await adapter(inputs, scales);
  } else {
    const [factor] = typeof scale === "number" ? [scale] : scale;
    features = (await adapter(inputs[0]!)).map((feature) => feature.mul(factor!));
  }
  // As in Diffusers: without guidance one picture's features broadcast over the prompts, those for the middle do not fit then.
  if (isAlone && batch > 1 && num_images_per_prompt === 1 && !guided) return features.slice(0, blocks);
  // As in Diffusers, all pictures come one after the other for each picture of a prompt, unlike the prompts.
  const times = (isAlone ? batch : num_images_per_prompt) * (guided ? 2 : 1);
  return features.map((feature) => Tensor.cat(new Array<Tensor>(times).fill(feature)));
}

/** An adapter's pictures as one tensor, `[batch, channels, height, width]`. */
function adapterInput(pictures: Pictures, height: number, width: number, factor: number): Tensor {
  const resized = pictures.map((picture) => {
    if (!(picture instanceof Tensor)) return picture.resize(width, height, { resample: "lanczos" }).toTensor();
    checkTensorSize(picture, height, width, factor);
    return picture.dims.length === 3 ? picture.unsqueeze(0) : picture;
  });
  return Tensor.cat(resized);
}

/** @throws ValueError for a tensor whose features are not of the size of the UNet's. */
function checkTensorSize({ dims }: Tensor, height: number, width: number, factor: number): void {
  const [rows, columns] = dims.slice(-2) as [number, number];
  if (rows === Math.ceil(height / factor) * factor && columns === Math.ceil(width / factor) * factor) return;
  throw new ValueError(
    `\`image\` is a tensor of ${columns} x ${rows}, but what is drawn is ${width} x ${height}: ` +
      `pass a tensor of that size, of multiples of ${factor}.`,
    { field: "image", found: `${columns} x ${rows}`, expected: `${width} x ${height}` },
  );
}
