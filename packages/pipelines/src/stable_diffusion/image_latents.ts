import {
  type Generator,
  type ImageSource,
  type RandnTensorOptions,
  RawImage,
  type Scheduler,
  Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/core";
import type { Autoencoder, UNet2DConditionModel, VQModel } from "@diffusers-web/models";
import { checkShare, checkTensor } from "../checks.ts";
import type { PreprocessOptions, VaeImageProcessor } from "../image_processor.ts";
import { schedulerClass } from "../timesteps.ts";

/** One picture, or several; a tensor is `[batch, channels, height, width]` in 0..1, or latents. */
export type ImageInput = ImageSource | readonly ImageSource[];

/** The timesteps of a run that starts midway. */
export interface PartialTimesteps {
  readonly timesteps: number[];
  /** The number of steps that they amount to. */
  readonly num_inference_steps: number;
}

/** @throws ValueError unless `value` is within 0 and 1. */
export function checkStrength(value: unknown): void {
  checkShare("strength", value);
}

/**
 * The last timesteps of a run, as many as `strength` says; the scheduler is told that it begins there.
 *
 * @param timesteps all timesteps of the run, as the scheduler has laid them out
 * @param num_inference_steps the number of steps that they amount to
 * @param strength 0 to 1
 * @see Diffusers `StableDiffusionImg2ImgPipeline.get_timesteps`
 */
export function get_timesteps(
  scheduler: Scheduler,
  timesteps: readonly number[],
  num_inference_steps: number,
  strength: number,
): PartialTimesteps {
  const init_timestep = Math.min(Math.trunc(num_inference_steps * strength), num_inference_steps);
  const t_start = Math.max(num_inference_steps - init_timestep, 0);
  const begin = t_start * scheduler.order;
  scheduler.set_begin_index?.(begin);
  return { timesteps: timesteps.slice(begin), num_inference_steps: num_inference_steps - t_start };
}

/** @throws ValueError when `strength` leaves no timestep of a run. */
export function checkStepsLeft(timesteps: readonly number[], num_inference_steps: number, strength: number): void {
  if (timesteps.length > 0) return;
  throw new ValueError(
    `\`strength\` ${strength} leaves none of the ${num_inference_steps} steps to run: raise it, or num_inference_steps.`,
    { field: "strength", found: String(strength), expected: `at least ${1 / num_inference_steps}` },
  );
}

/**
 * Reads pictures as an autoencoder takes them, `[batch, channels, height, width]` in -1..1; latents come back as they are.
 *
 * @param image a tensor whose number of channels is that of latents is taken for them
 * @throws ValueError for no picture, and for one with another number of channels than the autoencoder takes.
 */
export async function readImage(
  processor: VaeImageProcessor,
  vae: Autoencoder | null,
  image: ImageInput | null | undefined,
  options: PreprocessOptions & { readonly field?: string } = {},
): Promise<Tensor> {
  const { field = "image", ...size } = options;
  return processor.preprocess(await readPictures(processor, vae, image, field), size);
}

/** The pictures or tensors that {@link readImage} makes one tensor of, read and checked. */
export async function readPictures(
  processor: VaeImageProcessor,
  vae: Autoencoder | null,
  image: ImageInput | null | undefined,
  field = "image",
): Promise<readonly (RawImage | Tensor)[]> {
  const { tensors, others } = imagesOf(field, image);
  const channels = (vae?.config as { readonly in_channels?: number } | undefined)?.in_channels ?? 3;
  const latentChannels = processor.config.vae_latent_channels;
  for (const tensor of tensors) {
    checkPictureTensor(field, tensor, [channels, latentChannels]);
    const [width = 0, height = 0] = tensor.dims.slice(-2).reverse();
    if (tensor.dims.at(-3) !== latentChannels) checkLeastSize(field, width, height, processor);
  }
  if (tensors.length > 0) return tensors;
  const pictures = await Promise.all(others.map((item) => RawImage.read(item)));
  for (const picture of pictures) {
    if (!processor.config.do_convert_rgb) checkChannels(field, picture, channels);
    checkLeastSize(field, picture.width, picture.height, processor);
  }
  return pictures;
}

/**
 * What was passed for a picture: tensors, or else.
 *
 * @throws ValueError for nothing, and for both in one list.
 */
export function imagesOf(
  field: string,
  image: ImageInput | null | undefined,
): { readonly tensors: readonly Tensor[]; readonly others: readonly ImageSource[] } {
  const list = (Array.isArray(image) ? image : image == null ? [] : [image]) as readonly ImageSource[];
  if (list.length === 0) {
    const found = image == null ? "nothing" : "[]";
    throw new ValueError(`\`${field}\` is ${found}: pass a picture, or a list of them.`, {
      field,
      found,
      expected: "a picture",
    });
  }
  const tensors = list.filter((item) => item instanceof Tensor);
  if (tensors.length > 0 && tensors.length < list.length) {
    throw new ValueError(`\`${field}\` has tensors and pictures in one list: pass one kind.`, {
      field,
      found: "tensors and pictures",
      expected: "one kind",
    });
  }
  return { tensors, others: tensors.length > 0 ? [] : list };
}

/** @throws ValueError for a picture of another number of channels than the autoencoder (or `taker`) takes: one with alpha, or gray. */
export function checkChannels(field: string, picture: RawImage, channels: number, taker = "the autoencoder"): void {
  if (picture.channels === channels) return;
  const kind =
    picture.channels === 4 ? "a picture with alpha" : picture.channels === 1 ? "a gray picture" : "a picture";
  throw new ValueError(
    `\`${field}\` is ${kind} of ${picture.channels} channels, but ${taker} takes ${channels}: ` +
      `pass picture.convert(${channels}).`,
    { field, found: `${picture.channels} channels`, expected: `${channels} channels` },
  );
}

/** @throws ValueError for what is smaller than one latent. */
export function checkLeastSize(field: string, width: number, height: number, { config }: VaeImageProcessor): void {
  const least = config.vae_scale_factor;
  if (width >= least && height >= least) return;
  throw new ValueError(`\`${field}\` is ${width} x ${height}, expected at least ${least} x ${least}: one latent.`, {
    field,
    found: `${width} x ${height}`,
    expected: `at least ${least} x ${least}`,
  });
}

function checkPictureTensor(field: string, tensor: Tensor, channels: readonly number[]): void {
  const { type, dims } = tensor;
  const found = `${type} [${dims.join(", ")}]`;
  const isPicture = type === "float32" && (dims.length === 3 || dims.length === 4) && tensor.size > 0;
  if (isPicture && channels.includes(dims.at(-3)!)) return;
  const expected = `float32 [batch, ${channels.join(" or ")}, height, width]`;
  throw new ValueError(`\`${field}\` is ${found}, expected ${expected}: pictures in 0..1, or latents.`, {
    field,
    found,
    expected,
  });
}

/** How {@link encodeImage} scales latents. */
export interface EncodeImageOptions {
  /** Whether `latents_mean` and `latents_std` of the config count, where it has them. Default false. */
  readonly uses_statistics?: boolean;
}

/**
 * Latents of pictures as a UNet knows them: drawn from the distribution that the autoencoder gives, and scaled.
 *
 * @param image `[batch, channels, height, width]` in -1..1
 * @param generator one for all, or one for each picture, which are encoded one by one then
 * @see Diffusers `retrieve_latents`, `StableDiffusionInpaintPipeline._encode_vae_image`
 */
export async function encodeImage(
  vae: Autoencoder | VQModel,
  image: Tensor,
  generator: Generator | readonly Generator[] | null | undefined,
  { uses_statistics = false }: EncodeImageOptions = {},
): Promise<Tensor> {
  let latents: Tensor;
  if (Array.isArray(generator)) {
    const items: Tensor[] = [];
    for (let i = 0; i < image.dims[0]!; i++) {
      items.push(await retrieve_latents(vae, image.slice([i, i + 1]), generator[i] as Generator));
    }
    latents = Tensor.cat(items);
  } else latents = await retrieve_latents(vae, image, generator as Generator | null | undefined);

  const { scaling_factor, ...config } = vae.config as typeof vae.config & Statistics;
  const { latents_mean, latents_std } = config as Statistics;
  if (!uses_statistics || latents_mean == null || latents_std == null) return latents.mul(scaling_factor);
  const column = (values: readonly number[]): Tensor =>
    new Tensor("float32", Float32Array.from(values), [1, values.length, 1, 1]);
  return latents.sub(column(latents_mean)).mul(scaling_factor).div(column(latents_std));
}

interface Statistics {
  readonly latents_mean?: readonly number[] | null;
  readonly latents_std?: readonly number[] | null;
}

/** A value of an encoder's distribution, or the latents where it gives them themselves. */
async function retrieve_latents(
  vae: Autoencoder | VQModel,
  image: Tensor,
  generator: RandnTensorOptions["generator"],
): Promise<Tensor> {
  const encoded = await vae.encode(image);
  return "latents" in encoded ? encoded.latents : encoded.latent_dist.sample(generator);
}

/** @throws ValueError unless the batch is a multiple of the number of pictures. */
export function checkRepeatable(field: string, { dims: [found = 0] }: Tensor, batch: number): void {
  if (found <= batch && batch % found === 0) return;
  throw new ValueError(
    `\`${field}\` has ${found} pictures, which cannot be repeated to a batch of ${batch}: ` +
      "pass one, or as many as there are prompts.",
    { field, found: String(found), expected: `a divisor of ${batch}` },
  );
}

/**
 * What a run starts from: latents that were given, or pictures that were read.
 *
 * @throws ValueError for latents of another shape, and as {@link readImage} and {@link checkRepeatable}.
 */
export async function readStart(
  parts: {
    readonly unet: UNet2DConditionModel;
    readonly vae: Autoencoder;
    readonly image_processor: VaeImageProcessor;
  },
  options: { readonly latents?: Tensor | null; readonly image?: ImageInput | null },
  batch: number,
): Promise<{ readonly given: Tensor | undefined; readonly image: Tensor | undefined }> {
  const { latents } = options;
  if (latents != null) {
    checkTensor("latents", latents, [batch, parts.unet.config.in_channels, null, null]);
    return { given: latents, image: undefined };
  }
  const image = await readImage(parts.image_processor, parts.vae, options.image);
  checkRepeatable("image", image, batch);
  return { given: undefined, image };
}

/** Repeats pictures or latents, all of them one after the other, until there are as many as the batch has. */
export function repeatToBatch(tensor: Tensor, batch: number): Tensor {
  const found = tensor.dims[0]!;
  return found === batch ? tensor : Tensor.cat(new Array<Tensor>(batch / found).fill(tensor));
}

/**
 * The latents of the pictures that a batch starts from, without noise. A picture for several of the batch is encoded once,
 * and with a list of generators once for each.
 *
 * @param image what {@link readImage} gave, and {@link checkRepeatable} let pass
 * @see Diffusers `StableDiffusionImg2ImgPipeline.prepare_latents`
 */
export async function initLatents(
  { vae, image_processor }: { readonly vae: Autoencoder; readonly image_processor: VaeImageProcessor },
  image: Tensor,
  batch: number,
  generator: Generator | readonly Generator[],
  options: EncodeImageOptions = {},
): Promise<Tensor> {
  if (image.dims[1] === image_processor.config.vae_latent_channels) return repeatToBatch(image, batch);
  const pictures = Array.isArray(generator) ? repeatToBatch(image, batch) : image;
  return repeatToBatch(await encodeImage(vae, pictures, generator, options), batch);
}

/**
 * Latents diffused to the noise level of a timestep.
 *
 * @throws UnsupportedModelError for a scheduler that cannot add noise.
 */
export function addNoise(scheduler: Scheduler, latents: Tensor, noise: Tensor, timestep: number): Tensor {
  if (scheduler.add_noise !== undefined) return scheduler.add_noise(latents, noise, [timestep]);
  const { name } = schedulerClass(scheduler);
  throw new UnsupportedModelError(`${name} has no add_noise, so a run cannot start from a picture: use another one.`, {
    className: name,
    field: "add_noise",
    expected: "a scheduler with add_noise, such as DDIMScheduler",
  });
}
