import { RawImage } from "@diffusers-web/core";

/**
 * A picture blurred with a Gauss filter, as three box filters that come close to it, to the bit of Pillow's.
 *
 * @param radius the standard deviation in pixels
 * @see Pillow `ImageFilter.GaussianBlur`; Gwosdek et al., "Theoretical Foundations of Gaussian Convolution by Extended Box
 * Filtering" (2011), eq. (7), (11), (14)
 */
export function gaussianBlur(image: RawImage, radius: number): RawImage {
  const { width, height, channels, metadata } = image;
  let data = image.data.slice();
  const box = boxRadius(radius);
  if (box > 0) {
    for (let i = 0; i < PASSES; i++) data = boxBlur(data, height, width, channels, box);
    for (let i = 0; i < PASSES; i++) data = boxBlur(data, 1, height, width * channels, box);
  }
  return new RawImage(data, width, height, channels, { ...metadata });
}

const PASSES = 3;
const { fround } = Math;

/** How far a box reaches, with a fraction, of which so many passes amount to a Gauss filter. */
function boxRadius(radius: number): number {
  const sigma2 = fround(fround(fround(radius) * fround(radius)) / PASSES);
  const length = fround(Math.sqrt(12 * sigma2 + 1));
  const l = fround(Math.floor((length - 1) / 2));
  const above = fround(fround(2 * l + 1) * fround(fround(l * fround(l + 1)) - fround(3 * sigma2)));
  const below = fround(6 * fround(sigma2 - fround(fround(l + 1) * fround(l + 1))));
  return fround(l + fround(above / below));
}

/** One pass along one dimension: `outer` groups of `count` steps of `inner` bytes; the last step goes on beyond the border. */
function boxBlur(
  source: Uint8ClampedArray,
  outer: number,
  count: number,
  inner: number,
  reach: number,
): Uint8ClampedArray<ArrayBuffer> {
  const whole = Math.trunc(reach);
  // Weights of the steps within and of the one beyond on each side, in 2^-24.
  const weight = Math.trunc(fround(2 ** 24 / fround(fround(reach * 2) + 1)));
  const far = Math.trunc((2 ** 24 - (whole * 2 + 1) * weight) / 2);
  const result = new Uint8ClampedArray(source.length);
  for (let o = 0; o < outer; o++) {
    for (let k = 0; k < inner; k++) {
      const start = o * count * inner + k;
      const at = (i: number): number => source[start + Math.min(Math.max(i, 0), count - 1) * inner]!;
      let sum = 0;
      for (let i = -whole - 1; i < whole; i++) sum += at(i);
      for (let i = 0; i < count; i++) {
        sum += at(i + whole) - at(i - whole - 1);
        const bulk = sum * weight + (at(i - whole - 1) + at(i + whole + 1)) * far;
        result[start + i * inner] = Math.floor((bulk + 2 ** 23) / 2 ** 24);
      }
    }
  }
  return result;
}
