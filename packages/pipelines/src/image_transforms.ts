import { RawImage, type Resample, Tensor, ValueError } from "@diffusers-web/core";

/** A picture between the steps of a processor, `[channels, height, width]`. */
export interface Planes {
  readonly data: Float32Array;
  readonly channels: number;
  readonly height: number;
  readonly width: number;
}

/** A size to bring pictures to, in one of the ways that transformers' processors know. */
export interface SizeDict {
  readonly height?: number | null;
  readonly width?: number | null;
  /** The shorter side; the other one follows. Together with `longest_edge`: as large as both allow. */
  readonly shortest_edge?: number | null;
  readonly longest_edge?: number | null;
  /** With `max_width`: as large as fits into both. */
  readonly max_height?: number | null;
  readonly max_width?: number | null;
  readonly min_pixels?: number | null;
  readonly max_pixels?: number | null;
}

/** The picture's values, 0 to 255, channel by channel. */
export function planesOf({ data, channels, height, width }: RawImage): Planes {
  const plane = height * width;
  const values = new Float32Array(data.length);
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < channels; c++) values[c * plane + i] = data[i * channels + c]!;
  }
  return { data: values, channels, height, width };
}

/** A colour over another one that is opaque: whole numbers, with 7 bits behind the point. @see Pillow `AlphaComposite.c` */
export function blend(color: number, alpha: number, under: number): number {
  const sum = 128 * (color * alpha + under * (255 - alpha) + 128);
  return ((sum >> 8) + sum) >> 15;
}

/** The picture in three channels; what is transparent lies on white. @see transformers `convert_to_rgb` */
export function convertToRgb(image: RawImage): RawImage {
  if (image.channels !== 4) return image.convert(3);
  const { data, width, height } = image;
  const rgb = new Uint8ClampedArray(width * height * 3);
  for (let i = 0; i < width * height; i++) {
    const alpha = data[i * 4 + 3]!;
    for (let c = 0; c < 3; c++) rgb[i * 3 + c] = blend(data[i * 4 + c]!, alpha, 255);
  }
  return new RawImage(rgb, width, height, 3);
}

/**
 * The same for the planes of a tensor: gray in all channels, transparency on white.
 *
 * @param isWhole whether the values are bytes, 0 to 255; else they are 0 to 1
 * @throws ValueError for values outside of that, of a tensor with transparency.
 */
export function planesToRgb(planes: Planes, isWhole: boolean): Planes {
  const { data, channels, height, width } = planes;
  if (channels === 3) return planes;
  const plane = height * width;
  const rgb = new Float32Array(3 * plane);
  const white = isWhole ? 255 : 1;
  if (channels === 4 && !data.every((value) => value >= 0 && value <= white)) {
    throw new ValueError("A tensor with an alpha channel must hold values in 0..1 to be converted to RGB.", {
      field: "image",
      found: "values outside of 0..1",
      expected: "0..1",
    });
  }
  for (let i = 0; i < 3 * plane; i++) {
    if (channels === 1) rgb[i] = data[i % plane]!;
    else {
      const alpha = data[3 * plane + (i % plane)]! / white;
      const blend = alpha * data[i]! + (1 - alpha) * white;
      rgb[i] = isWhole ? Math.round(blend) : blend;
    }
  }
  return { data: rgb, channels: 3, height, width };
}

/**
 * The height and width that a picture is resized to.
 *
 * @throws ValueError for a size that says neither.
 * @see transformers `PilBackend.resize`
 */
export function resizedSize(size: SizeDict, height: number, width: number): [number, number] {
  const { shortest_edge: shortest, longest_edge: longest, max_height, max_width } = size;
  if (shortest && longest) return sizeBetween(height, width, shortest, longest);
  if (shortest) {
    const long = Math.trunc((shortest * Math.max(height, width)) / Math.min(height, width));
    return width <= height ? [long, shortest] : [shortest, long];
  }
  if (max_height && max_width) {
    const scale = Math.min(max_height / height, max_width / width);
    return [Math.trunc(height * scale), Math.trunc(width * scale)];
  }
  if (size.height && size.width) return [size.height, size.width];
  throw new ValueError(
    `\`size\` is ${JSON.stringify(size)}, expected height and width, max_height and max_width, or shortest_edge.`,
    { field: "size", found: JSON.stringify(size), expected: "{ height, width } or { shortest_edge }" },
  );
}

/** @see transformers `get_size_with_aspect_ratio` */
function sizeBetween(height: number, width: number, shortest: number, longest: number): [number, number] {
  const [short, long] = [Math.min(height, width), Math.max(height, width)];
  const isCut = (long / short) * shortest > longest;
  const raw = isCut ? (longest * short) / long : shortest;
  const size = isCut ? roundHalfEven(raw) : shortest;
  if (short === size) return [height, width];
  return width < height ? [Math.trunc((raw * height) / width), size] : [size, Math.trunc((raw * width) / height)];
}

/** To the nearest whole number; halves to the even one, as Python's `round`. */
export function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/**
 * Resizes what came from a tensor: by way of bytes, as transformers does it.
 *
 * @throws ValueError for values that are neither bytes nor within 0..1.
 * @see transformers `image_transforms.resize`
 */
export function resizePlanes(planes: Planes, height: number, width: number, resample: Resample): Planes {
  const { data, channels } = planes;
  const isWhole = data.every((value) => {
    const whole = Math.trunc(value);
    return Math.abs(value - whole) <= 1e-8 + 1e-5 * Math.abs(whole);
  });
  const limit = isWhole ? 255 : 1;
  const stranger = data.find((value) => !(value >= 0 && value <= limit));
  if (stranger !== undefined) {
    throw new ValueError(`A tensor to be resized as a picture holds ${stranger}, expected values in 0..${limit}.`, {
      field: "image",
      found: String(stranger),
      expected: `0..${limit}`,
    });
  }
  const plane = planes.height * planes.width;
  const bytes = new Uint8ClampedArray(data.length);
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < channels; c++) {
      const value = data[c * plane + i]!;
      bytes[i * channels + c] = Math.trunc(isWhole ? value : Math.fround(value * 255));
    }
  }
  const image = new RawImage(bytes, planes.width, planes.height, channels as 1 | 3 | 4);
  const resized = planesOf(image.resize(width, height, { resample }));
  return isWhole ? resized : rescale(resized, 1 / 255);
}

/** The middle of a picture; where it is too small, zeros around it. @see transformers `center_crop` */
export function centerCrop(planes: Planes, cropHeight: number, cropWidth: number): Planes {
  const { data, channels, height, width } = planes;
  // Negative where zeros stand before the picture; the odd pixel is Python's `//`.
  const top = Math.floor((height - cropHeight) / 2);
  const left = Math.floor((width - cropWidth) / 2);
  const cropped = new Float32Array(channels * cropHeight * cropWidth);
  let at = 0;
  for (let c = 0; c < channels; c++) {
    for (let y = top; y < top + cropHeight; y++) {
      for (let x = left; x < left + cropWidth; x++, at++) {
        if (y >= 0 && y < height && x >= 0 && x < width) cropped[at] = data[(c * height + y) * width + x]!;
      }
    }
  }
  return { data: cropped, channels, height: cropHeight, width: cropWidth };
}

/** Zeros below and to the right, up to the given size. */
export function padPlanes(planes: Planes, toHeight: number, toWidth: number): Planes {
  const { data, channels, height, width } = planes;
  if (height > toHeight || width > toWidth) {
    throw new ValueError(
      `A picture of ${height} x ${width} (height x width) cannot be padded to ${toHeight} x ${toWidth}.`,
      {
        field: "pad_size",
        found: `${height} x ${width}`,
        expected: `at most ${toHeight} x ${toWidth}`,
      },
    );
  }
  const padded = new Float32Array(channels * toHeight * toWidth);
  for (let row = 0; row < channels * height; row++) {
    const to = (Math.floor(row / height) * toHeight + (row % height)) * toWidth;
    padded.set(data.subarray(row * width, (row + 1) * width), to);
  }
  return { data: padded, channels, height: toHeight, width: toWidth };
}

/** Each value times `factor`. */
export function rescale(planes: Planes, factor: number): Planes {
  return { ...planes, data: planes.data.map((value) => value * factor) };
}

/**
 * `(x - mean) / std`, by channel.
 *
 * @throws ValueError for lists of another length than there are channels.
 */
export function normalize(planes: Planes, mean: number | readonly number[], std: number | readonly number[]): Planes {
  const { data, channels } = planes;
  const of = (field: string, values: number | readonly number[]): Float32Array => {
    if (typeof values === "number") return new Float32Array(channels).fill(values);
    if (values.length === channels) return Float32Array.from(values);
    throw new ValueError(
      `\`${field}\` has ${values.length} values, but the picture has ${channels} channels. Set do_convert_rgb, or give a ` +
        "value for each channel.",
      { field, found: `${values.length} values`, expected: `${channels} values` },
    );
  };
  const means = of("image_mean", mean);
  const stds = of("image_std", std);
  const plane = planes.height * planes.width;
  const normed = data.map((value, i) => {
    const c = Math.floor(i / plane);
    return Math.fround(value - means[c]!) / stds[c]!;
  });
  return { ...planes, data: normed };
}

/**
 * The pictures of a tensor.
 *
 * @param tensor `[channels, height, width]` or `[batch, channels, height, width]`, of 1, 3 or 4 channels
 * @throws ValueError for another shape.
 */
export function planesOfTensor(tensor: Tensor): Planes[] {
  const dims = tensor.dims.length === 3 ? [1, ...tensor.dims] : tensor.dims;
  const [batch, channels, height, width] = dims as [number, number, number, number];
  if (dims.length !== 4 || ![1, 3, 4].includes(channels) || tensor.size === 0) {
    throw new ValueError(`A tensor of shape [${tensor.dims.join(", ")}] is no picture and no batch of pictures.`, {
      field: "image",
      found: `[${tensor.dims.join(", ")}]`,
      expected: "[channels, height, width] or [batch, channels, height, width] with 1, 3 or 4 channels",
    });
  }
  const values = tensor.to("float32").data;
  const size = channels * height * width;
  return Array.from({ length: batch }, (_, i) => ({
    data: values.slice(i * size, (i + 1) * size),
    channels,
    height,
    width,
  }));
}

/** torch's `interpolate` in its default mode. @param batch `[batch, channels, height, width]` */
export function interpolateNearest(batch: Tensor, height: number, width: number): Tensor {
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
