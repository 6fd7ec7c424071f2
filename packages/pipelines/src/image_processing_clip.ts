import { type ConfigDict, configDefaults, type ImageSource } from "@diffusers-web/core";
import {
  BaseImageProcessor,
  type ImageProcessorConfig,
  type ImageProcessorOptions,
  type ImageProcessorOutput,
  scaled,
  wrongField,
} from "./image_processing_utils.ts";
import { centerCrop, type Planes, padPlanes, resizedSize, type SizeDict } from "./image_transforms.ts";

/** How a {@link CLIPImageProcessor} treats pictures: the fields of its preprocessor_config.json. A flag that is null is off. */
export interface CLIPImageProcessorConfig extends ImageProcessorConfig {
  /** Cut the middle out; where the picture is too small, zeros around it. Default true. */
  do_center_crop: boolean | null;
  /** Default `{ height: 224, width: 224 }`. */
  crop_size: SizeDict | null;
  /** With `do_pad`: zeros to the right and below up to this size. Default null: the largest picture's. */
  pad_size: SizeDict | null;
}

/** The same, in all forms that a file or a caller may write. */
export type CLIPImageProcessorOptions = ImageProcessorOptions<CLIPImageProcessorConfig>;

export interface CLIPImageProcessor {
  /** {@link CLIPImageProcessor.preprocess} */
  (images: ImageSource | readonly ImageSource[], options?: CLIPImageProcessorOptions): Promise<ImageProcessorOutput>;
}

/**
 * Turns pictures into what CLIP's image encoder takes: RGB, the shorter side at the model's size, the middle cut out,
 * normalised.
 *
 * It computes what transformers does with Pillow, to the bit up to the normalisation.
 *
 * @example
 * ```ts
 * const processor = await CLIPImageProcessor.from_pretrained("openai/clip-vit-large-patch14");
 * const { pixel_values } = await processor("photo.jpg");
 * console.log(pixel_values.dims); // [1, 3, 224, 224]
 * ```
 * @see transformers `CLIPImageProcessorPil`, which `CLIPImageProcessor` is without torchvision
 */
export class CLIPImageProcessor extends BaseImageProcessor<CLIPImageProcessorConfig> {
  static override readonly name: string = "CLIPImageProcessor";
  static override readonly config_defaults: CLIPImageProcessorConfig = configDefaults<CLIPImageProcessorConfig>({
    do_resize: true,
    size: { shortest_edge: 224 },
    default_to_square: false,
    resample: 3,
    do_center_crop: true,
    crop_size: { height: 224, width: 224 },
    do_rescale: true,
    rescale_factor: 1 / 255,
    do_normalize: true,
    image_mean: [0.48145466, 0.4578275, 0.40821073],
    image_std: [0.26862954, 0.26130258, 0.27577711],
    do_convert_rgb: true,
    do_pad: null,
    pad_size: null,
  });
  static override readonly needed_fields: Readonly<Record<string, readonly string[]>> = {
    ...BaseImageProcessor.needed_fields,
    do_center_crop: ["crop_size"],
  };
  static override readonly compatible_fields: readonly string[] = [
    ...BaseImageProcessor.compatible_fields,
    "use_square_size",
  ];

  /** A flag of the first releases in place of a size. */
  static override prepare_config(config: ConfigDict): ConfigDict {
    return config["use_square_size"] ? { ...config, size: { height: 224, width: 224 } } : config;
  }

  protected override resizedTo(
    { size }: CLIPImageProcessorConfig,
    height: number,
    width: number,
  ): [height: number, width: number] {
    return resizedSize(size!, height, width);
  }

  /** Crops, rescales, normalises and pads. */
  protected override finish(pictures: readonly Planes[], config: CLIPImageProcessorConfig): Planes[] {
    const finished = pictures.map((picture) => scaled(this.cropped(picture, config), config));
    return config.do_pad === true ? padded(finished, config.pad_size) : finished;
  }

  private cropped(picture: Planes, { do_center_crop, crop_size }: CLIPImageProcessorConfig): Planes {
    if (!do_center_crop) return picture;
    const { height, width } = crop_size!;
    if (height && width) return centerCrop(picture, height, width);
    throw wrongField(this.constructor.name, "crop_size", JSON.stringify(crop_size), "{ height, width }");
  }
}

/**
 * The class that resizes with Pillow, as all here do: pipelines that transformers 5 saved without torchvision ask for it.
 *
 * @see transformers `CLIPImageProcessorPil`
 */
export class CLIPImageProcessorPil extends CLIPImageProcessor {
  static override readonly name: string = "CLIPImageProcessorPil";
}

/** @deprecated Older releases' name of {@link CLIPImageProcessor}, which early checkpoints ask for. */
export class CLIPFeatureExtractor extends CLIPImageProcessor {
  static override readonly name: string = "CLIPFeatureExtractor";
}

function padded(pictures: readonly Planes[], size: SizeDict | null): Planes[] {
  const height = size?.height ?? Math.max(...pictures.map((one) => one.height));
  const width = size?.width ?? Math.max(...pictures.map((one) => one.width));
  return pictures.map((picture) => padPlanes(picture, height, width));
}
