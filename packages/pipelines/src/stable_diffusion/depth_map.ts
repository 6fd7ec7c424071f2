import { Tensor, ValueError } from "@diffusers-web/core";

/**
 * Depth as a UNet takes it: at the size of the latents, and each picture's spread over -1..1.
 *
 * @param depth `[batch, height, width]`
 * @returns `[batch, 1, rows, columns]`
 * @throws ValueError for depth that is the same everywhere.
 * @see Diffusers `StableDiffusionDepth2ImgPipeline.prepare_depth_map`
 */
export function spreadDepth(depth: Tensor, rows: number, columns: number): Tensor {
  const resized = interpolateBicubic(depth, rows, columns);
  const batch = depth.dims[0]!;
  const size = rows * columns;
  for (let i = 0; i < batch; i++) {
    const values = resized.subarray(i * size, (i + 1) * size);
    let least = Number.POSITIVE_INFINITY;
    let most = Number.NEGATIVE_INFINITY;
    for (const value of values) {
      least = Math.min(least, value);
      most = Math.max(most, value);
    }
    const range = Math.fround(most - least);
    if (!(range > 0 && range < Number.POSITIVE_INFINITY)) {
      throw new ValueError(
        `The depth of picture ${i + 1} lies between ${least} and ${most}: it has no range to spread.`,
        {
          field: "depth_map",
          found: `${least} to ${most}`,
          expected: "finite values that differ",
        },
      );
    }
    for (let j = 0; j < size; j++) values[j] = Math.fround(2 * Math.fround(values[j]! - least)) / range - 1;
  }
  return new Tensor("float32", resized, [batch, 1, rows, columns]);
}

/** torch's `interpolate(mode="bicubic", align_corners=False)` of the last two dimensions. */
function interpolateBicubic({ data, dims }: Tensor, height: number, width: number): Float32Array {
  const [count, rows, columns] = dims as [number, number, number];
  const source = data as Float32Array;
  const [down, across] = [taps(rows, height), taps(columns, width)];
  const resized = new Float32Array(count * height * width);
  let at = 0;
  for (let plane = 0; plane < count; plane++) {
    for (const vertical of down) {
      for (const horizontal of across) {
        let sum = 0;
        for (const [row, weight] of vertical) {
          const begin = (plane * rows + row) * columns;
          let line = 0;
          for (const [column, factor] of horizontal) line += factor * source[begin + column]!;
          sum += weight * line;
        }
        resized[at++] = sum;
      }
    }
  }
  return resized;
}

/** For each place, the four it is made of and their weights, of a cubic convolution whose parameter is -0.75. */
function taps(from: number, to: number): readonly (readonly [place: number, weight: number])[][] {
  const scale = Math.fround(from / to);
  return Array.from({ length: to }, (_, i) => {
    const place = Math.fround(Math.fround(scale * (i + 0.5)) - 0.5);
    const first = Math.floor(place);
    const t = Math.fround(place - first);
    return [outer(1 + t), inner(t), inner(1 - t), outer(2 - t)].map((weight, tap) => [
      Math.min(Math.max(first - 1 + tap, 0), from - 1),
      weight,
    ]);
  });
}

const A = -0.75;

/** The weight of a value whose distance is at most 1. */
function inner(x: number): number {
  return ((A + 2) * x - (A + 3)) * x * x + 1;
}

/** The weight of a value whose distance is from 1 to 2. */
function outer(x: number): number {
  return ((A * x - 5 * A) * x + 8 * A) * x - 4 * A;
}
