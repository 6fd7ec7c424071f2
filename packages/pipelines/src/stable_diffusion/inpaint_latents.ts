import { type Generator, RawImage, Tensor, ValueError } from "@diffusers-web/core";
import type { Autoencoder } from "@diffusers-web/models";
import { checkOutputType, checkTensor, checkWhole } from "../checks.ts";
import type { CropRegion } from "../image_crops.ts";
import { VaeImageProcessor } from "../image_processor.ts";
import { interpolateNearest } from "../image_transforms.ts";
import type { OutputType } from "../pipeline_output.ts";
import { encodeImage, type ImageInput, imagesOf, readImage, repeatToBatch } from "./image_latents.ts";

/** The part of a pipeline that prepares a picture and its mask. */
export interface InpaintingParts {
  readonly vae: Autoencoder;
  readonly image_processor: VaeImageProcessor;
  readonly mask_processor: VaeImageProcessor;
}

/** What {@link readInpaintPictures} takes. */
export interface InpaintPicturesOptions {
  readonly image?: ImageInput | null | undefined;
  readonly mask_image?: ImageInput | null | undefined;
  readonly padding_mask_crop?: number | null | undefined;
  /** Of the pictures that are worked on; null: the picture's own, rounded down to whole latents. */
  readonly height: number | null;
  readonly width: number | null;
}

/** What {@link checkInpaintInputs} looks at. */
export interface InpaintInputs extends Pick<InpaintPicturesOptions, "image" | "mask_image" | "padding_mask_crop"> {
  readonly masked_image_latents?: Tensor | null | undefined;
  readonly output_type?: OutputType | undefined;
}

/**
 * What is wrong with a call's pictures, or with the UNet that is to fill them in.
 *
 * @param in_channels those of the UNet
 * @throws ValueError
 */
export function checkInpaintInputs(className: string, options: InpaintInputs, in_channels: number): void {
  if (in_channels !== 4 && in_channels !== 9) {
    throw new ValueError(
      `The UNet takes ${in_channels} channels: to fill in pictures it must take 4 (latents), or 9 (with mask and masked picture).`,
      { className, field: "in_channels", found: String(in_channels), expected: "4 or 9" },
    );
  }
  if (options.masked_image_latents != null) {
    checkTensor("masked_image_latents", options.masked_image_latents, [null, null, null, null]);
  }
  if (options.padding_mask_crop == null) return;
  checkWhole("padding_mask_crop", options.padding_mask_crop, 0);
  for (const field of ["image", "mask_image"] as const) {
    const value = options[field];
    if (value != null && !Array.isArray(value) && !(value instanceof Tensor)) continue;
    const found = value == null ? "nothing" : Array.isArray(value) ? "a list" : "a tensor";
    throw new ValueError(`\`${field}\` is ${found}, but with \`padding_mask_crop\` it must be one picture.`, {
      field,
      found,
      expected: "a picture",
    });
  }
  checkOutputType(options.output_type ?? "image", ["image", "pil"]);
}

/** A picture and its mask, as the models take them. */
export interface InpaintPictures {
  /** `[pictures, channels, height, width]` in -1..1; or latents. */
  readonly init_image: Tensor;
  /** `[masks, 1, height, width]`: 1 where the picture is filled in, else 0. */
  readonly mask_condition: Tensor;
  /** With `padding_mask_crop`, the part that is worked on. */
  readonly crops_coords?: CropRegion;
  /** With `padding_mask_crop`, puts what was made of the part into the original. */
  readonly overlay?: (image: RawImage) => RawImage;
}

/**
 * What prepares masks: gray, and 0 or 1.
 *
 * @param vae_scale_factor pixels for each latent, along one side
 */
export function newMaskProcessor(vae_scale_factor: number): VaeImageProcessor {
  return new VaeImageProcessor({
    vae_scale_factor,
    do_normalize: false,
    do_binarize: true,
    do_convert_grayscale: true,
  });
}

/**
 * Reads a picture and its mask, both brought to the size that is worked on.
 *
 * @throws ValueError for no picture, no mask, and for what cannot be either.
 */
export async function readInpaintPictures(
  { vae, image_processor, mask_processor }: InpaintingParts,
  { image, mask_image, padding_mask_crop, height, width }: InpaintPicturesOptions,
): Promise<InpaintPictures> {
  const size = { height, width };
  if (padding_mask_crop == null) {
    return {
      mask_condition: await readMask(mask_processor, mask_image, size),
      init_image: await readImage(image_processor, vae, image, size),
    };
  }
  const [mask, original] = await Promise.all(
    [imagesOf("mask_image", mask_image), imagesOf("image", image)].map(({ others }) => RawImage.read(others[0]!)),
  );
  checkSameSize(mask!, original!);
  const { vae_scale_factor } = mask_processor.config;
  const whole = (length: number): number => length - (length % vae_scale_factor);
  const [columns, rows] = [whole(width ?? original!.width), whole(height ?? original!.height)];
  const crops_coords = mask_processor.get_crop_region(mask!, columns, rows, padding_mask_crop);
  const cropped = { height: rows, width: columns, crops_coords, resize_mode: "fill" } as const;
  return {
    crops_coords,
    mask_condition: await mask_processor.preprocess(mask!, cropped),
    init_image: await image_processor.preprocess(original!, cropped),
    overlay: (made) => image_processor.apply_overlay(mask!, original!, made, crops_coords),
  };
}

async function readMask(
  processor: VaeImageProcessor,
  mask_image: ImageInput | null | undefined,
  size: { readonly height: number | null; readonly width: number | null },
): Promise<Tensor> {
  const { tensors, others } = imagesOf("mask_image", mask_image);
  if (tensors.length === 0) return processor.preprocess(others, size);
  for (const tensor of tensors) checkMaskTensor(tensor, tensor === mask_image);
  return processor.preprocess(mask_image as Tensor | Tensor[], size);
}

/** @param isAlone whether it is all that was passed, so that three dimensions may be a batch without channels */
function checkMaskTensor(tensor: Tensor, isAlone: boolean): void {
  const { type, dims, size } = tensor;
  const fits = [2, 3, 4].includes(dims.length) && (dims.length === 2 || (isAlone && dims.length === 3));
  if (type === "float32" && size > 0 && (fits || ([3, 4].includes(dims.length) && dims.at(-3) === 1))) return;
  const found = `${type} [${dims.join(", ")}]`;
  const expected = "float32 [batch, 1, height, width], without a batch or channels as well";
  throw new ValueError(`\`mask_image\` is ${found}, expected ${expected}: 1 where the picture is filled in, else 0.`, {
    field: "mask_image",
    found,
    expected,
  });
}

/**
 * The picture without what is masked, which is 0 there (gray).
 *
 * @throws ValueError for latents in place of the picture, and for masks that are neither one nor as many as the pictures.
 */
export function maskedImage({ init_image, mask_condition }: InpaintPictures, latentChannels: number): Tensor {
  const [pictures, masks] = [init_image.dims[0]!, mask_condition.dims[0]!];
  if (init_image.dims[1] === latentChannels) {
    throw new ValueError(
      "`image` is latents, of which the masked part cannot be taken out: pass `masked_image_latents` as well.",
      { field: "masked_image_latents", found: "nothing", expected: "latents of the masked picture" },
    );
  }
  if (pictures !== masks && pictures !== 1 && masks !== 1) {
    throw new ValueError(`There are ${masks} masks for ${pictures} pictures: pass one, or one for each.`, {
      field: "mask_image",
      found: `${masks} masks`,
      expected: pictures === 1 ? "1" : `1 or ${pictures}`,
    });
  }
  const kept = mask_condition.data.map((value) => (value < 0.5 ? 1 : 0));
  return init_image.mul(new Tensor("float32", kept, mask_condition.dims));
}

/** For which latents {@link inpaintImageLatents} and {@link prepare_mask_latents} prepare pictures. */
export interface InpaintLatentsOptions {
  readonly batch: number;
  /** `[rows, columns]` of the latents. */
  readonly size: readonly [number, number];
  readonly generator: Generator | readonly Generator[];
}

/**
 * The latents of the pictures that are filled in, without noise, for each picture of the batch. Each picture is encoded once,
 * with the first generators of a list.
 *
 * @param init_image pictures, as many as divide the batch; or latents
 * @throws ValueError for latents of another size.
 * @see Diffusers `StableDiffusionInpaintPipeline.prepare_latents`
 */
export async function inpaintImageLatents(
  { vae, image_processor }: InpaintingParts,
  init_image: Tensor,
  { batch, size, generator }: InpaintLatentsOptions,
): Promise<Tensor> {
  const isLatents = init_image.dims[1] === image_processor.config.vae_latent_channels;
  if (isLatents) checkTensor("image", init_image, [null, null, ...size]);
  return repeatToBatch(isLatents ? init_image : await encodeImage(vae, init_image, generator), batch);
}

/** What {@link prepare_mask_latents} takes besides a mask and a masked picture. */
export interface MaskLatentsOptions extends InpaintLatentsOptions {
  readonly do_classifier_free_guidance: boolean;
}

/** What {@link prepare_mask_latents} gives; with guidance, each twice. */
export interface MaskLatents<Masked> {
  /** `[batch or 2 * batch, 1, rows, columns]` */
  readonly mask: Tensor;
  /** `[batch or 2 * batch, channels, rows, columns]`, if there was a masked picture. */
  readonly masked_image_latents: Masked;
}

/**
 * A mask in the latents' size, and the latents of the masked picture, for each picture of the batch.
 *
 * @param mask_condition one, or as many as divide the batch
 * @param masked_image pictures, as many as divide the batch; or latents; or none, for a UNet that does not see them
 * @see Diffusers `StableDiffusionInpaintPipeline.prepare_mask_latents`
 */
export async function prepare_mask_latents<T extends Tensor | undefined>(
  { vae, image_processor }: InpaintingParts,
  mask_condition: Tensor,
  masked_image: T,
  { batch, size, generator, do_classifier_free_guidance }: MaskLatentsOptions,
): Promise<MaskLatents<T>> {
  const isLatents = masked_image?.dims[1] === image_processor.config.vae_latent_channels;
  if (isLatents) checkTensor("masked_image_latents", masked_image, [null, null, ...size]);
  const encoded =
    isLatents || masked_image === undefined ? masked_image : await encodeImage(vae, masked_image, generator);
  const twice = (tensor: Tensor): Tensor => (do_classifier_free_guidance ? Tensor.cat([tensor, tensor]) : tensor);
  return {
    mask: twice(repeatToBatch(interpolateNearest(mask_condition, ...size), batch)),
    masked_image_latents: (encoded && twice(repeatToBatch(encoded, batch))) as T,
  };
}

/** @throws ValueError unless latents, mask and masked picture make up the UNet's 9 channels. */
export function checkNineChannels(...tensors: readonly [latents: Tensor, mask: Tensor, masked: Tensor]): void {
  const counts = tensors.map(({ dims }) => dims[1]!);
  if (counts.reduce((sum, count) => sum + count, 0) === 9) return;
  const found = counts.join(" + ");
  throw new ValueError(
    `The UNet takes 9 channels, but latents, mask and masked picture have ${found}: the VAE is of another model.`,
    { field: "in_channels", found, expected: "4 + 1 + 4" },
  );
}

function checkSameSize(mask: RawImage, image: RawImage): void {
  if (mask.width === image.width && mask.height === image.height) return;
  const [found, expected] = [`${mask.width} x ${mask.height}`, `${image.width} x ${image.height}`];
  throw new ValueError(
    `\`mask_image\` is ${found}, but \`image\` is ${expected}: with \`padding_mask_crop\` they must be of one size.`,
    { field: "mask_image", found, expected },
  );
}
