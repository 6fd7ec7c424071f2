import { RawImage, type Resample, ValueError } from "@diffusers-web/core";
import { blend } from "./image_transforms.ts";

/** A part of a picture in pixels: left, upper, right, lower; the last two are outside. May lie beyond the picture. */
export type CropRegion = readonly [x1: number, y1: number, x2: number, y2: number];

/**
 * How a picture is brought to a size of other proportions: "default" stretches it; "fill" fits all of it in, and continues
 * its border; "crop" cuts off what is too much. The latter two are for pictures only, and give RGB.
 */
export type ResizeMode = "default" | "fill" | "crop";

/**
 * The part of a picture in which all of a mask lies, in the proportions that the picture is worked on in where it has
 * room for them.
 *
 * @param pad how many pixels around the mask belong to it
 * @throws ValueError for a mask that is black, if `pad` is not as large as the picture.
 * @see Diffusers `VaeImageProcessor.get_crop_region`
 */
export function getCropRegion(mask_image: RawImage, width: number, height: number, pad: number): CropRegion {
  // 1. the region that contains all that is masked
  const mask = mask_image.convert(1);
  const [w, h] = [mask.width, mask.height];
  let [left, top, right, bottom] = [w, h, 0, 0];
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      if (mask.data[y * w + x] === 0) continue;
      [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
      [top, bottom] = [Math.min(top, y), Math.max(bottom, y + 1)];
    }
  }
  // 2. padding
  const [x1, y1] = [Math.max(left - pad, 0), Math.max(top - pad, 0)];
  const [x2, y2] = [Math.min(right + pad, w), Math.min(bottom + pad, h)];
  if (x1 >= x2 || y1 >= y2) {
    throw new ValueError("The mask is black all over, so there is nothing to crop to: white is what is filled in.", {
      field: "mask_image",
      found: "no pixel above 0",
      expected: "some white",
    });
  }
  // 3. the proportions
  const ratio = width / height;
  if ((x2 - x1) / (y2 - y1) > ratio) {
    const [low, high] = widened(y1, y2, (x2 - x1) / ratio, h);
    return [x1, low, x2, high];
  }
  const [low, high] = widened(x1, x2, (y2 - y1) * ratio, w);
  return [low, y1, high, y2];
}

/** A range made `desired` long on both sides, shifted so that it lies within 0 and `end`, and cut if it is too long. */
function widened(from: number, to: number, desired: number, end: number): [number, number] {
  const more = Math.trunc(desired - (to - from));
  let low = from - Math.floor(more / 2);
  let high = to + more - Math.floor(more / 2);
  if (high >= end) [low, high] = [low - (high - end), end];
  if (low < 0) [low, high] = [0, high - low];
  return [low, Math.min(high, end)];
}

/** A part of a picture; what lies beyond it is 0. @see Pillow `Image.crop` */
export function crop(image: RawImage, [x1, y1, x2, y2]: CropRegion): RawImage {
  const part = blank(x2 - x1, y2 - y1, image.channels);
  paste(part, image, -x1, -y1);
  return part;
}

/** @see Diffusers `VaeImageProcessor._resize_and_fill` */
export function resizeAndFill(image: RawImage, width: number, height: number, resample: Resample): RawImage {
  const [ratio, ratioBefore] = [width / height, image.width / image.height];
  const w = ratio < ratioBefore ? width : Math.floor((image.width * height) / image.height);
  const h = ratio >= ratioBefore ? height : Math.floor((image.height * width) / image.width);
  const resized = image.resize(w, h, { resample });
  const filled = centered(resized, width, height);

  // What is empty gets the border's colours.
  const [x, y] = [half(width) - half(w), half(height) - half(h)];
  if (ratio < ratioBefore && y > 0) {
    const [above, below] = [0, 1].map((end) => border(resized, "row", end === 1).resize(width, y, stretch));
    paste(filled, above!.convert(3), 0, 0);
    paste(filled, below!.convert(3), 0, y + h);
  } else if (ratio > ratioBefore && x > 0) {
    const [before, after] = [0, 1].map((end) => border(resized, "column", end === 1).resize(x, height, stretch));
    paste(filled, before!.convert(3), 0, 0);
    paste(filled, after!.convert(3), x + w, 0);
  }
  return filled;
}

/** @see Diffusers `VaeImageProcessor._resize_and_crop` */
export function resizeAndCrop(image: RawImage, width: number, height: number, resample: Resample): RawImage {
  const [ratio, ratioBefore] = [width / height, image.width / image.height];
  const w = ratio > ratioBefore ? width : Math.floor((image.width * height) / image.height);
  const h = ratio <= ratioBefore ? height : Math.floor((image.height * width) / image.width);
  return centered(image.resize(w, h, { resample }), width, height);
}

/**
 * Lays what a mask leaves of the original over a picture.
 *
 * @param mask where the picture shows: white; of the original's size
 * @throws ValueError for a mask of another size.
 * @see Diffusers `VaeImageProcessor.apply_overlay`; Pillow `Paste.c`, `Convert.c`, `AlphaComposite.c`
 */
export function overlay(mask: RawImage, original: RawImage, image: RawImage): RawImage {
  const { width, height } = original;
  if (mask.width !== width || mask.height !== height) {
    const [found, expected] = [`${mask.width} x ${mask.height}`, `${width} x ${height}`];
    throw new ValueError(`The mask is ${found} and the picture ${expected}: to lay one over the other, resize one.`, {
      field: "mask",
      found,
      expected,
    });
  }
  const result = image.convert(3);
  const [shown, over] = [mask.convert(1).data, original.convert(4).data];
  for (let y = 0; y < Math.min(height, image.height); y++) {
    for (let x = 0; x < Math.min(width, image.width); x++) {
      const at = y * width + x;
      const kept = 255 - shown[at]!;
      const opacity = over[at * 4 + 3]!;
      const alpha = divide255(opacity * kept);
      for (let c = 0; c < 3; c++) {
        // Colours times alpha, times what the mask leaves; then without alpha again.
        const color = divide255(divide255(over[at * 4 + c]! * opacity) * kept);
        const to = (y * image.width + x) * 3 + c;
        result.data[to] = blend(straight(color, alpha), alpha, result.data[to]!);
      }
    }
  }
  return result;
}

/** A colour of which alpha is taken out. @see Pillow `Convert.c` */
function straight(color: number, alpha: number): number {
  return alpha === 0 || alpha === 255 ? color : Math.min(Math.trunc((255 * color) / alpha), 255);
}

/** A number over 255, rounded. */
function divide255(value: number): number {
  const sum = value + 128;
  return ((sum >> 8) + sum) >> 8;
}

const stretch = { resample: "nearest" } as const;

/**
 * One line of pixels, as Pillow's bicubic filter has it at the very border of a picture: it continues the difference
 * between the last two lines by an eighth.
 */
function border(image: RawImage, kind: "row" | "column", atEnd: boolean): RawImage {
  const length = kind === "row" ? image.height : image.width;
  const [last, second] = atEnd ? [length - 1, Math.max(length - 2, 0)] : [0, Math.min(1, length - 1)];
  const line = (i: number): RawImage =>
    crop(image, kind === "row" ? [0, i, image.width, i + 1] : [i, 0, i + 1, image.height]);
  const { data: a, channels, width, height } = line(last);
  const { data: b } = line(second);
  const isRgba = channels === 4;
  // Pillow filters colours times alpha.
  const factor = (data: Uint8ClampedArray, i: number): number => (isRgba && i % 4 !== 3 ? data[i | 3]! : 255);
  const values = a.map((value, i) => {
    const [from, next] = [divide255(value * factor(a, i)), divide255(b[i]! * factor(b, i))];
    return (9 * from - next + 4) >> 3;
  });
  const colors = values.map((value, i) => straight(value, factor(values, i)));
  return new RawImage(colors, width, height, channels);
}

function half(length: number): number {
  return Math.floor(length / 2);
}

/** A picture in the middle of a black one of another size, in RGB. */
function centered(image: RawImage, width: number, height: number): RawImage {
  const result = blank(width, height, 3);
  paste(result, image.convert(3), half(width) - half(image.width), half(height) - half(image.height));
  return result;
}

function blank(width: number, height: number, channels: 1 | 3 | 4): RawImage {
  return new RawImage(new Uint8ClampedArray(width * height * channels), width, height, channels);
}

/** Writes one picture into another one of as many channels, where it lies within. */
function paste(onto: RawImage, image: RawImage, x: number, y: number): void {
  const { channels } = onto;
  const [from, to] = [Math.max(0, -x), Math.min(image.width, onto.width - x)];
  for (let row = Math.max(0, -y); row < Math.min(image.height, onto.height - y) && from < to; row++) {
    const line = image.data.subarray((row * image.width + from) * channels, (row * image.width + to) * channels);
    onto.data.set(line, ((row + y) * onto.width + x + from) * channels);
  }
}
