import {
  ConfigMixin,
  configDefaults,
  type ImageSource,
  RawImage,
  type Resample,
  Tensor,
  ValueError,
} from "@diffusers-web/core";
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
   * @param image one or several; a tensor is `[batch, channels, height, width]` in 0..1, or latents
   * @returns `[batch, channels, height, width]`
   */
  async preprocess(image: ImageSource | readonly ImageSource[], options: PreprocessOptions = {}): Promise<Tensor> {
    const { config } = this;
    const list = (Array.isArray(image) ? image : [image]) as readonly ImageSource[];
    let batch: Tensor;
    if (list.length > 0 && list.every((item) => item instanceof Tensor)) {
      const tensors = list as readonly Tensor[];
      const of4 = tensors.map((tensor) => (tensor.dims.length === 4 ? tensor : tensor.unsqueeze(0)));
      batch = Tensor.cat(of4, 0);
      if (batch.dims[1] === config.vae_latent_channels) return batch;
      const [height, width] = this.sizeOf(batch.dims[2]!, batch.dims[3]!, options);
      if (config.do_resize) batch = interpolateNearest(batch, height, width);
    } else {
      let pictures = await Promise.all(list.map((item) => RawImage.read(item)));
      if (pictures.length === 0) throw new ValueError("There is no picture in the list.", { field: "image" });
      const [height, width] = this.sizeOf(pictures[0]!.height, pictures[0]!.width, options);
      const { resample } = config;
      if (config.do_resize) pictures = pictures.map((picture) => picture.resize(width, height, { resample }));
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

  /** The size that pictures of this one are brought to. */
  private sizeOf(height: number, width: number, options: PreprocessOptions): [number, number] {
    const { vae_scale_factor } = this.config;
    const [h, w] = [options.height ?? height, options.width ?? width];
    return [h - (h % vae_scale_factor), w - (w % vae_scale_factor)];
  }
}

/** torch's `interpolate` in its default mode. */
function interpolateNearest(batch: Tensor, height: number, width: number): Tensor {
  const [count, channels, rows, columns] = batch.dims as [number, number, number, number];
  if (rows === height && columns === width) return batch;
  const values = new Float32Array(count * channels * height * width);
  const [scaleY, scaleX] = [Math.fround(rows / height), Math.fround(columns / width)];
  let at = 0;
  for (let plane = 0; plane < count * channels; plane++) {
    for (let y = 0; y < height; y++) {
      const row = plane * rows * columns + Math.min(Math.floor(Math.fround(y * scaleY)), rows - 1) * columns;
      for (let x = 0; x < width; x++) {
        values[at++] = batch.data[row + Math.min(Math.floor(Math.fround(x * scaleX)), columns - 1)]!;
      }
    }
  }
  return new Tensor("float32", values, [count, channels, height, width]);
}
