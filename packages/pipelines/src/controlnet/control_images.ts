import { RawImage, Tensor, ValueError } from "@diffusers-web/core";
import type { ControlNetModel } from "@diffusers-web/models";
import type { PreprocessOptions, VaeImageProcessor } from "../image_processor.ts";
import { checkLeastSize, type ImageInput, imagesOf } from "../stable_diffusion/image_latents.ts";
import type { InpaintPictures } from "../stable_diffusion/inpaint_latents.ts";
import { type ControlNet, netsOf } from "./control_options.ts";

/**
 * What the nets follow: a picture, or one for each prompt. A tensor is `[batch, channels, height, width]` in 0..1. For
 * several nets a list, with a picture or pictures for each.
 */
export type ControlImageInput = ImageInput | readonly ImageInput[];

/** How pictures are prepared for ControlNets. */
export interface ControlImageOptions extends PreprocessOptions {
  /** What the option is called. */
  readonly field: string;
  /** How many prompts there are. */
  readonly batch_size: number;
  /** Default 1. */
  readonly num_images_per_prompt?: number | undefined;
  /** Whether each is there twice, for the half of the batch without the prompt. */
  readonly twice: boolean;
  /** Whether a list may have a list for each prompt, with a picture for each net. Default false. */
  readonly allows_nested?: boolean;
}

/**
 * The pictures for each net, `[batch, channels, height, width]` with guidance twice, all of one size: that of the
 * options, or of the first picture, rounded down to whole latents.
 *
 * @throws ValueError for no picture, pictures for another number of nets or prompts, and for tensors that no net takes.
 * @see Diffusers `StableDiffusionControlNetPipeline.check_image`, `prepare_image`
 */
export async function prepareControlImages(
  processor: VaeImageProcessor,
  controlnet: ControlNet,
  image: ControlImageInput | null | undefined,
  options: ControlImageOptions,
): Promise<readonly Tensor[]> {
  const nets = netsOf(controlnet);
  const inputs = "nets" in controlnet ? forEachNet(image, nets.length, options) : [image];
  const prepared: Tensor[] = [];
  for (const [i, net] of nets.entries()) {
    const one = await prepareImage(processor, net, inputs[i] as ImageInput | null | undefined, options);
    checkControlSize(options.field, one, (prepared[0] ?? one).dims.slice(-2));
    prepared.push(one);
  }
  return prepared;
}

/** What was passed for each of several nets. */
function forEachNet(
  image: unknown,
  nets: number,
  { field, allows_nested = false }: ControlImageOptions,
): readonly unknown[] {
  const wrong = (found: string, expected: string): ValueError =>
    new ValueError(`\`${field}\` is ${found}, but there are ${nets} ControlNets: pass ${expected}.`, {
      field,
      found,
      expected,
    });
  const each = `a list of ${nets}, a picture for each`;
  if (image == null) throw wrong("nothing", each);
  if (!Array.isArray(image)) throw wrong("no list", each);
  if (!image.some(Array.isArray)) {
    if (image.length === nets) return image;
    throw wrong(`a list of ${image.length}`, each);
  }
  if (!allows_nested)
    throw wrong("a list of lists", `${each}; pictures that differ from prompt to prompt are tensors of a batch`);
  const rows = image as unknown[];
  if (!rows.every((row) => Array.isArray(row) && row.length === nets)) {
    throw wrong("a list of lists of other lengths", `a list of ${nets} for each prompt`);
  }
  return Array.from({ length: nets }, (_, net) => (rows as unknown[][]).map((row) => row[net]));
}

async function prepareImage(
  processor: VaeImageProcessor,
  { config: { conditioning_channels } }: ControlNetModel,
  image: ImageInput | null | undefined,
  { field, batch_size, num_images_per_prompt = 1, twice, allows_nested, ...options }: ControlImageOptions,
): Promise<Tensor> {
  const { tensors, others } = imagesOf(field, image);
  const { height, width } = options;
  for (const tensor of tensors) {
    checkTensorPicture(field, tensor, conditioning_channels);
    checkLeastSize(field, width ?? tensor.dims.at(-1)!, height ?? tensor.dims.at(-2)!, processor);
  }
  const pictures = await Promise.all(others.map((one) => RawImage.read(one)));
  for (const picture of pictures) {
    checkLeastSize(field, width ?? picture.width, height ?? picture.height, processor);
    if (conditioning_channels === 3) continue;
    const [found, expected] = ["a picture", `a tensor of ${conditioning_channels} channels`];
    throw new ValueError(`\`${field}\` is ${found}, but the ControlNet takes ${expected}.`, { field, found, expected });
  }
  // Of a tensor a crop is not taken, as in Diffusers.
  const prepared = await processor.preprocess(tensors.length > 0 ? tensors : pictures, options);
  const count = prepared.dims[0]!;
  if (count !== 1 && count !== batch_size) {
    const [found, expected] = [`${count} pictures`, batch_size === 1 ? "one" : `one, or ${batch_size}`];
    throw new ValueError(`\`${field}\` has ${found} for ${batch_size} prompts: pass ${expected}.`, {
      field,
      found,
      expected,
    });
  }
  const repeated = prepared.repeat_interleave(
    count === 1 ? batch_size * num_images_per_prompt : num_images_per_prompt,
    0,
  );
  return twice ? Tensor.cat([repeated, repeated]) : repeated;
}

/** @throws ValueError for a tensor that is no picture of so many channels, or no batch of them. */
export function checkTensorPicture(field: string, { type, dims, size }: Tensor, channels: number): void {
  const isPicture = type === "float32" && (dims.length === 3 || dims.length === 4) && size > 0;
  if (isPicture && dims.at(-3) === channels) return;
  const [found, expected] = [`${type} [${dims.join(", ")}]`, `float32 [batch, ${channels}, height, width]`];
  throw new ValueError(`\`${field}\` is ${found}, expected ${expected}: pictures in 0..1.`, { field, found, expected });
}

/**
 * @param expected height and width of the other pictures
 * @throws ValueError for what a net follows that is of another size.
 */
export function checkControlSize(field: string, image: Tensor, [rows, columns]: readonly number[]): void {
  const [height, width] = image.dims.slice(-2);
  if (height === rows && width === columns) return;
  const [found, expected] = [`${width} x ${height}`, `${columns} x ${rows}`];
  throw new ValueError(
    `\`${field}\` has a picture of ${found} where ${expected} is expected: pass \`height\` and \`width\`, to which all are brought.`,
    { field, found, expected },
  );
}

/** @throws ValueError for latents in place of the picture, and for a mask of another size. */
export function checkMaskedPictures(
  { config }: VaeImageProcessor,
  { init_image, mask_condition }: Pick<InpaintPictures, "init_image" | "mask_condition">,
): void {
  if (init_image.dims[1] === config.vae_latent_channels) {
    const [found, expected] = ["latents", "a picture"];
    throw new ValueError(`\`image\` is ${found}, of which the masked part cannot be taken out: pass ${expected}.`, {
      field: "image",
      found,
      expected,
    });
  }
  checkControlSize("mask_image", mask_condition, init_image.dims.slice(-2));
}
