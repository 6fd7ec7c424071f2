import {
  ConfigMixin,
  configDefaults,
  type ImageSource,
  RawImage,
  type Resample,
  Tensor,
  ValueError,
} from "@diffusers-web/core";
import { checkNumber } from "./checks.ts";
import { gaussianBlur } from "./image_blur.ts";
import {
  type CropRegion,
  crop,
  getCropRegion,
  overlay,
  type ResizeMode,
  resizeAndCrop,
  resizeAndFill,
} from "./image_crops.ts";
import { interpolateNearest } from "./image_transforms.ts";
import type { OutputType } from "./pipeline_output.ts";

/** How a {@link VaeImageProcessor} treats pictures. */
export interface VaeImageProcessorConfig {
  /** Resize to a multiple of `vae_scale_factor`. Default true. */
  do_resize: boolean;
  /** Default 8. */
  vae_scale_factor: number;
  /** A tensor of so many channels is taken for latents, and left alone. Default 4. */
  vae_latent_channels: number;
  /** Pillow's filter. Default "lanczos". */
  resample: Resample;
  /** Spread 0..1 to -1..1. Default true. */
  do_normalize: boolean;
  /** Make 0 of all below a half, 1 of the rest. Default false. */
  do_binarize: boolean;
  /** Default false. */
  do_convert_rgb: boolean;
  /** Default false. */
  do_convert_grayscale: boolean;
}

/** The size to bring pictures to; default: their own. */
export interface PreprocessOptions {
  readonly height?: number | null;
  readonly width?: number | null;
  /** Default "default". */
  readonly resize_mode?: ResizeMode;
  /** The part of each picture to use; not of tensors. Default: all of it. */
  readonly crops_coords?: CropRegion | null;
}

/**
 * Turns pictures into what a VAE takes, and what it gives into pictures.
 *
 * @see Diffusers `VaeImageProcessor`
 */
export class VaeImageProcessor extends ConfigMixin<VaeImageProcessorConfig> {
  static override readonly name: string = "VaeImageProcessor";
  static override readonly config_defaults: VaeImageProcessorConfig = configDefaults<VaeImageProcessorConfig>({
    do_resize: true,
    vae_scale_factor: 8,
    vae_latent_channels: 4,
    resample: "lanczos",
    do_normalize: true,
    do_binarize: false,
    do_convert_rgb: false,
    do_convert_grayscale: false,
  });

  /** @throws ValueError when pictures should become both RGB and gray. */
  constructor(config: Partial<VaeImageProcessorConfig> = {}) {
    super(config);
    if (this.config.do_convert_rgb && this.config.do_convert_grayscale) {
      throw new ValueError("`do_convert_rgb` and `do_convert_grayscale` are both set: set one of them.", {
        className: "VaeImageProcessor",
        field: "do_convert_grayscale",
      });
    }
  }

  /**
   * Reads pictures, resizes them to a multiple of `vae_scale_factor` and spreads their values to -1..1.
   *
   * @param image one or several; a tensor is `[batch, channels, height, width]` in 0..1, or latents; for a processor that
   * makes pictures gray, it may do without channels
   * @returns `[batch, channels, height, width]`
   * @throws ValueError for what is no picture, and for a tensor with a `resize_mode`.
   */
  async preprocess(image: ImageSource | readonly ImageSource[], options: PreprocessOptions = {}): Promise<Tensor> {
    const { config } = this;
    const { resize_mode = "default", crops_coords } = options;
    const list = (Array.isArray(image) ? image : [image]) as readonly ImageSource[];
    let batch: Tensor;
    if (list.length > 0 && list.every((item) => item instanceof Tensor)) {
      const tensors = list as readonly Tensor[];
      batch = Tensor.cat(
        tensors.map((tensor) => this.batchOf(tensor, tensor === image)),
        0,
      );
      if (batch.dims[1] === config.vae_latent_channels) return batch;
      const [height, width] = this.sizeOf(batch.dims[2]!, batch.dims[3]!, options);
      if (config.do_resize && resize_mode !== "default") {
        throw new ValueError(`\`resize_mode\` is "${resize_mode}", which is for pictures, but a tensor was passed.`, {
          field: "resize_mode",
          found: resize_mode,
          expected: "default",
        });
      }
      if (config.do_resize) batch = interpolateNearest(batch, height, width);
    } else {
      let pictures = await Promise.all(list.map((item) => RawImage.read(item)));
      if (pictures.length === 0) throw new ValueError("There is no picture in the list.", { field: "image" });
      if (crops_coords != null) pictures = pictures.map((picture) => crop(picture, crops_coords));
      const [height, width] = this.sizeOf(pictures[0]!.height, pictures[0]!.width, options);
      if (config.do_resize) pictures = pictures.map((picture) => this.resize(picture, height, width, resize_mode));
      if (config.do_convert_rgb) pictures = pictures.map((picture) => picture.convert(3));
      if (config.do_convert_grayscale) pictures = pictures.map((picture) => picture.convert(1));
      batch = Tensor.cat(
        pictures.map((picture) => picture.toTensor()),
        0,
      );
    }
    // A tensor with values below 0 has been spread already.
    if (config.do_normalize && batch.data.every((value) => value >= 0)) batch = batch.mul(2).sub(1);
    if (config.do_binarize) {
      const halves = batch.data.map((value) => (value < 0.5 ? 0 : 1));
      batch = new Tensor("float32", halves, batch.dims);
    }
    return batch;
  }

  /**
   * Brings what a VAE gave back to 0..1, as pictures or as a tensor; latents are given back as they are.
   *
   * @param image `[batch, channels, height, width]`, around -1..1
   * @param output_type default "image"
   * @param do_denormalize for each picture, whether its values are to be brought back from -1..1. Default: all
   */
  postprocess(
    image: Tensor,
    output_type: OutputType = "image",
    do_denormalize?: readonly boolean[],
  ): RawImage[] | Tensor {
    if (output_type === "latent") return image;
    const { data, dims } = image;
    const values = new Float32Array(data.length);
    const size = data.length / dims[0]!;
    for (let i = 0; i < values.length; i++) {
      const back = do_denormalize?.[Math.floor(i / size)] ?? this.config.do_normalize;
      // NaN stays NaN, as in torch.
      values[i] = back ? Math.min(Math.max(Math.fround(data[i]! * 0.5) + 0.5, 0), 1) : data[i]!;
    }
    const tensor = new Tensor("float32", values, dims);
    if (output_type === "tensor" || output_type === "pt") return tensor;
    return Array.from({ length: dims[0]! }, (_, i) => RawImage.fromTensor(tensor.slice([i, i + 1])));
  }

  /**
   * The part of a picture in which all of a mask lies, widened to the proportions of `width` and `height`: with it a small
   * part of a large picture is worked on at full size.
   *
   * @param mask_image white is what is masked
   * @param width of the picture that is worked on
   * @param height of the picture that is worked on
   * @param pad how many pixels around the mask belong to the part. Default 0
   * @throws ValueError for a mask that is black all over.
   * @see Diffusers `VaeImageProcessor.get_crop_region`
   */
  get_crop_region(mask_image: RawImage, width: number, height: number, pad = 0): CropRegion {
    return getCropRegion(mask_image, width, height, pad);
  }

  /**
   * Lays what a mask leaves of the original over a picture: where the mask is black, the original stays to the bit.
   *
   * @param mask of the original's size
   * @param crop_coords the part of the original that `image` shows, which is resized to it. Default: all of it
   * @returns RGB
   * @throws ValueError for a mask of another size than the original.
   * @see Diffusers `VaeImageProcessor.apply_overlay`
   */
  apply_overlay(mask: RawImage, init_image: RawImage, image: RawImage, crop_coords?: CropRegion | null): RawImage {
    if (crop_coords == null) return overlay(mask, init_image, image);
    const [x, y, x2, y2] = crop_coords;
    const part = this.resize(image, y2 - y, x2 - x, "crop");
    const { width, height } = init_image;
    return overlay(mask, init_image, crop(part, [-x, -y, width - x, height - y]));
  }

  /**
   * A picture, such as a mask, blurred with a Gauss filter: with {@link apply_overlay}, a soft transition.
   *
   * @param blur_factor the standard deviation in pixels. Default 4
   * @throws ValueError for one below 0.
   * @see Diffusers `VaeImageProcessor.blur`
   */
  blur(image: RawImage, blur_factor = 4): RawImage {
    checkNumber("blur_factor", blur_factor, 0);
    return gaussianBlur(image, blur_factor);
  }

  private resize(image: RawImage, height: number, width: number, mode: ResizeMode): RawImage {
    const { resample } = this.config;
    if (mode === "fill") return resizeAndFill(image, width, height, resample);
    if (mode === "crop") return resizeAndCrop(image, width, height, resample);
    return image.resize(width, height, { resample });
  }

  /** A tensor with a batch and channels. @param isAlone whether it is all that was passed, not one of a list */
  private batchOf(tensor: Tensor, isAlone: boolean): Tensor {
    const { length } = tensor.dims;
    if (length === 4) return tensor;
    const isGray = this.config.do_convert_grayscale;
    if (length === 3) return tensor.unsqueeze(isGray && isAlone ? 1 : 0);
    if (length === 2 && isGray) return tensor.unsqueeze(0).unsqueeze(0);
    throw new ValueError(`A tensor of shape [${tensor.dims.join(", ")}] is not a picture.`, {
      field: "image",
      found: `[${tensor.dims.join(", ")}]`,
      expected: isGray ? "2 to 4 dimensions" : "[channels, height, width] or [batch, channels, height, width]",
    });
  }

  /** The size that pictures of this one are brought to. */
  private sizeOf(height: number, width: number, options: PreprocessOptions): [number, number] {
    const { vae_scale_factor } = this.config;
    const [h, w] = [options.height ?? height, options.width ?? width];
    return [h - (h % vae_scale_factor), w - (w % vae_scale_factor)];
  }
}

/**
 * Prepares masks for IP-Adapters, gray and 0 or 1: they say where in the picture each of an adapter's pictures acts.
 *
 * @example
 * ```ts
 * const masks = await new IPAdapterMaskProcessor().preprocess([left, right], { height: 512, width: 512 });
 * const ip_adapter_masks = [masks.reshape(1, 2, 512, 512)]; // of one adapter, which is shown two pictures
 * pipeline.set_ip_adapter_scale([[0.7, 0.7]]);
 * await pipeline(prompt, { ip_adapter_image: [[first, second]], cross_attention_kwargs: { ip_adapter_masks } });
 * ```
 * @see Diffusers `IPAdapterMaskProcessor`
 */
export class IPAdapterMaskProcessor extends VaeImageProcessor {
  static override readonly name: string = "IPAdapterMaskProcessor";
  static override readonly config_defaults: VaeImageProcessorConfig = configDefaults<VaeImageProcessorConfig>({
    ...VaeImageProcessor.config_defaults,
    do_normalize: false,
    do_binarize: true,
    do_convert_grayscale: true,
  });
}
