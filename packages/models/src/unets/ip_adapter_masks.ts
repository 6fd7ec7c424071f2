/**
 * A mask for an attention's queries: what Diffusers makes of a mask of the picture's size, with its bicubic interpolation,
 * and with zeros after or a cut where the aspect ratios differ.
 *
 * @param mask `height * width` numbers
 * @returns `queries` numbers
 * @see Diffusers `IPAdapterMaskProcessor.downsample`
 */
export function downsampleMask(mask: Float32Array, height: number, width: number, queries: number): Float32Array {
  const ratio = width / height;
  // At least one: Diffusers divides by zero for a mask that is far wider than the picture.
  let rows = Math.max(1, Math.trunc(Math.sqrt(queries / ratio)));
  rows += queries % rows === 0 ? 0 : 1;
  const columns = Math.floor(queries / rows);
  const result = new Float32Array(queries);
  result.set(resizeBicubic(mask, height, width, rows, columns).subarray(0, queries));
  return result;
}

/** @see torch `F.interpolate` with `mode="bicubic"`, without antialiasing */
function resizeBicubic(
  image: Float32Array,
  height: number,
  width: number,
  rows: number,
  columns: number,
): Float32Array {
  const vertical = cubicTaps(height, rows);
  const horizontal = cubicTaps(width, columns);
  const result = new Float32Array(rows * columns);
  vertical.forEach((down, row) => {
    horizontal.forEach((across, column) => {
      let sum = 0;
      for (const [y, a] of down) for (const [x, b] of across) sum += a * b * image[y * width + x]!;
      result[row * columns + column] = sum;
    });
  });
  return result;
}

/** For each of `to` pixels, the four pixels it is made of, with their weights. */
function cubicTaps(from: number, to: number): [pixel: number, weight: number][][] {
  return Array.from({ length: to }, (_, i) => {
    const position = ((i + 0.5) * from) / to - 0.5;
    const floor = Math.floor(position);
    return [-1, 0, 1, 2].map((offset) => {
      const pixel = Math.min(from - 1, Math.max(0, floor + offset));
      return [pixel, cubic(Math.abs(position - floor - offset))];
    });
  });
}

/** Keys' cubic kernel with a = -0.75. */
function cubic(distance: number): number {
  const a = -0.75;
  if (distance <= 1) return ((a + 2) * distance - (a + 3)) * distance ** 2 + 1;
  return distance < 2 ? a * (((distance - 5) * distance + 8) * distance - 4) : 0;
}
