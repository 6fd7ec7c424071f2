import { configDefaults, type ImageSource, UnsupportedModelError } from "@diffusers-web/core";
import {
  BaseImageProcessor,
  type ImageProcessorConfig,
  type ImageProcessorOptions,
  type ImageProcessorOutput,
  scaled,
  wrongField,
} from "./image_processing_utils.ts";
import { type Planes, roundHalfEven } from "./image_transforms.ts";

/** How a {@link DPTImageProcessor} treats pictures: the fields of its preprocessor_config.json. A flag that is null is off. */
export interface DPTImageProcessorConfig extends ImageProcessorConfig {
  /** Keep the picture's shape: resize so that one side fits `size`, the one that changes less. Default false. */
  keep_aspect_ratio: boolean | null;
  /** Both sides become a multiple of it. Default 1. */
  ensure_multiple_of: number | null;
  /** With `do_pad`: zeros all around, after the normalisation, up to a multiple of it. Default null: none. */
  size_divisor: number | null;
  /** Not built: transformers' two processors disagree on it. */
  do_center_crop: boolean | null;
}

/** The same, in all forms that a file or a caller may write. */
export type DPTImageProcessorOptions = ImageProcessorOptions<DPTImageProcessorConfig>;

export interface DPTImageProcessor {
  /** {@link DPTImageProcessor.preprocess} */
  (images: ImageSource | readonly ImageSource[], options?: DPTImageProcessorOptions): Promise<ImageProcessorOutput>;
}

/**
 * Turns pictures into what a DPTForDepthEstimation takes: resized to its size, normalised.
 *
 * It computes what transformers does with Pillow, to the bit up to the normalisation.
 *
 * @example
 * ```ts
 * const processor = await DPTImageProcessor.from_pretrained("Intel/dpt-hybrid-midas");
 * const { pixel_values } = await processor("photo.jpg");
 * console.log(pixel_values.dims); // [1, 3, 384, 384]
 * ```
 * @see transformers `DPTImageProcessorPil`, which `DPTImageProcessor` is without torchvision
 */
export class DPTImageProcessor extends BaseImageProcessor<DPTImageProcessorConfig> {
  static override readonly name: string = "DPTImageProcessor";
  static override readonly config_defaults: DPTImageProcessorConfig = configDefaults<DPTImageProcessorConfig>({
    do_resize: true,
    size: { height: 384, width: 384 },
    default_to_square: true,
    resample: 3,
    keep_aspect_ratio: false,
    ensure_multiple_of: 1,
    do_rescale: true,
    rescale_factor: 1 / 255,
    do_normalize: true,
    image_mean: [0.5, 0.5, 0.5],
    image_std: [0.5, 0.5, 0.5],
    do_pad: false,
    size_divisor: null,
    do_convert_rgb: null,
    do_center_crop: null,
  });
  static override readonly needed_fields: Readonly<Record<string, readonly string[]>> = {
    ...BaseImageProcessor.needed_fields,
    do_resize: ["size", "resample", "ensure_multiple_of"],
  };
  // Of segmentation maps, and what transformers passes over.
  static override readonly compatible_fields: readonly string[] = [
    ...BaseImageProcessor.compatible_fields,
    ...["do_reduce_labels", "crop_size", "pad_size"],
  ];

  /** @see transformers `get_resize_output_image_size` of DPT */
  protected override resizedTo(
    { size, keep_aspect_ratio, ensure_multiple_of }: DPTImageProcessorConfig,
    height: number,
    width: number,
  ): [number, number] {
    const multiple = ensure_multiple_of!;
    if (!(multiple > 0)) {
      throw wrongField(this.constructor.name, "ensure_multiple_of", String(multiple), "a number above 0");
    }
    const { height: toHeight, width: toWidth } = size!;
    if (!toHeight || !toWidth) {
      const found = JSON.stringify(size);
      throw wrongField(this.constructor.name, "size", found, "a number, [height, width] or { height, width }");
    }
    let down = toHeight / height;
    let across = toWidth / width;
    if (keep_aspect_ratio) {
      if (Math.abs(1 - across) < Math.abs(1 - down)) down = across;
      else across = down;
    }
    const rounded = [down * height, across * width].map((length) => roundHalfEven(length / multiple) * multiple) as [
      number,
      number,
    ];
    if (rounded.every((length) => Number.isInteger(length) && length > 0)) return rounded;
    throw wrongField(
      this.constructor.name,
      "ensure_multiple_of",
      `${multiple}, which makes ${rounded.join(" x ")} of a picture of ${height} x ${width} (height x width)`,
      "one that leaves whole numbers above 0",
    );
  }

  protected override finish(pictures: readonly Planes[], config: DPTImageProcessorConfig): Planes[] {
    const { do_center_crop, do_pad, size_divisor } = config;
    if (do_center_crop) {
      throw new UnsupportedModelError(
        `${this.constructor.name} has \`do_center_crop\`, which is not built: of transformers' two processors one crops, ` +
          "and one does not. Crop the pictures before, and set it to false.",
        { className: this.constructor.name, field: "do_center_crop", found: "true", expected: "false" },
      );
    }
    if (do_pad && size_divisor !== null && !(Number.isInteger(size_divisor) && size_divisor > 0)) {
      throw wrongField(this.constructor.name, "size_divisor", String(size_divisor), "a whole number above 0");
    }
    const finished = pictures.map((picture) => scaled(picture, config));
    return do_pad && size_divisor !== null ? finished.map((one) => padAround(one, size_divisor)) : finished;
  }
}

/**
 * The class that resizes with Pillow, as all here do: pipelines that transformers 5 saved without torchvision ask for it.
 *
 * @see transformers `DPTImageProcessorPil`
 */
export class DPTImageProcessorPil extends DPTImageProcessor {
  static override readonly name: string = "DPTImageProcessorPil";
}

/** @deprecated Older releases' name of {@link DPTImageProcessor}, which early checkpoints ask for. */
export class DPTFeatureExtractor extends DPTImageProcessor {
  static override readonly name: string = "DPTFeatureExtractor";
}

/** Zeros all around, the odd one below and to the right. @see transformers `DPTImageProcessorPil.pad_image` */
function padAround({ data, channels, height, width }: Planes, divisor: number): Planes {
  const [toHeight, toWidth] = [height, width].map((length) => Math.ceil(length / divisor) * divisor) as [
    number,
    number,
  ];
  const [top, left] = [Math.floor((toHeight - height) / 2), Math.floor((toWidth - width) / 2)];
  const padded = new Float32Array(channels * toHeight * toWidth);
  for (let row = 0; row < channels * height; row++) {
    const y = Math.floor(row / height) * toHeight + top + (row % height);
    padded.set(data.subarray(row * width, (row + 1) * width), y * toWidth + left);
  }
  return { data: padded, channels, height: toHeight, width: toWidth };
}
