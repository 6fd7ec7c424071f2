import type { GraphBuilder, Value } from "../graph/builder.ts";
import { channelDims, type FeatureMap } from "./layout.ts";

/** How FreeU weighs what meets in an up block. */
export interface FreeU {
  /** Factor of the skip's lowest frequencies: `s1` or `s2`. */
  readonly skip: number;
  /** Factor of the first half of the backbone's channels: `b1` or `b2`. */
  readonly backbone: number;
}

/**
 * Strengthens the backbone's features and weakens the low frequencies of the skip's.
 *
 * @see https://huggingface.co/papers/2309.11497
 * @see Diffusers `apply_freeu`
 */
export function applyFreeU(
  g: GraphBuilder,
  hidden: FeatureMap,
  skip: FeatureMap,
  freeU: FreeU | undefined,
): [hidden: FeatureMap, skip: FeatureMap] {
  if (freeU === undefined) return [hidden, skip];
  const scaled = scaleFirstHalf(g, hidden, freeU.backbone);
  // Diffusers scales in place, so that a skip that is the backbone itself (no block in the middle) is scaled too.
  const isSame = hidden.value.name === skip.value.name;
  return [scaled, fourierFilter(g, isSame ? scaled : skip, freeU.skip)];
}

function scaleFirstHalf(g: GraphBuilder, x: FeatureMap, factor: number): FeatureMap {
  const half = Math.floor(x.channels / 2);
  const factors = Array.from({ length: x.channels }, (_, i) => (i < half ? factor : 1));
  return { ...x, value: g.op("Mul", [x.value, g.constant(factors, channelDims(g, 1, x.channels))], x.value.dims) };
}

/**
 * Scales the frequencies 0 and -1 of each axis, all four combinations of them, in float32.
 *
 * That is `x + (scale - 1) P x`, where P keeps those frequencies: with a = 2 pi row / height and b = 2 pi column / width,
 * its real part is spanned by 1, and by cosine and sine of a, of b and of a + b. So P is two products with a matrix of
 * seven rows, and no Fourier transform is needed.
 *
 * @see Diffusers `fourier_filter` with `threshold=1`
 */
function fourierFilter(g: GraphBuilder, x: FeatureMap, scale: number): FeatureMap {
  const { batch, channels, height, width } = x;
  const pixels = height * width;
  const isLast = g.target.layout === "nhwc";
  const waves = lowWaves(height, width);
  const count = waves.length;
  const rows = Float32Array.from(waves.flat());
  const columns = new Float32Array(rows.length);
  waves.forEach((wave, i) => {
    wave.forEach((value, pixel) => {
      columns[pixel * count + i] = value;
    });
  });
  const back = (matrix: Float32Array): Float32Array => matrix.map((value) => value * (scale - 1));
  const single = g.cast(x.value, "float32");
  let low: Value;
  if (isLast) {
    const flat = g.reshape(single, [batch, pixels, channels]);
    const spectrum = g.op("MatMul", [g.constant(rows, [count, pixels], "float32"), flat], [batch, count, channels]);
    low = g.op("MatMul", [g.constant(back(columns), [pixels, count], "float32"), spectrum], flat.dims);
  } else {
    const flat = g.reshape(single, [batch * channels, pixels]);
    const spectrum = g.op("MatMul", [flat, g.constant(columns, [pixels, count], "float32")], [flat.dims[0]!, count]);
    low = g.op("MatMul", [spectrum, g.constant(back(rows), [count, pixels], "float32")], flat.dims);
  }
  const sum = g.op("Add", [single, g.reshape(low, single.dims)], single.dims);
  return { ...x, value: g.cast(sum, g.target.dtype) };
}

/** What spans the frequencies 0 and -1 of both axes, each wave over all pixels, of a size that P is their sum of squares. */
function lowWaves(height: number, width: number): number[][] {
  const norm = 1 / Math.sqrt(height * width);
  // An axis of one pixel has the frequency 0 only.
  const rowTurns = height > 1 ? [0, 1] : [0];
  const columnTurns = width > 1 ? [0, 1] : [0];
  const waves: number[][] = [];
  for (const r of rowTurns) {
    for (const c of columnTurns) {
      const angles = Array.from(
        { length: height * width },
        (_, pixel) => 2 * Math.PI * ((r * Math.floor(pixel / width)) / height + (c * (pixel % width)) / width),
      );
      waves.push(angles.map((angle) => Math.cos(angle) * norm));
      if (r + c > 0) waves.push(angles.map((angle) => Math.sin(angle) * norm));
    }
  }
  return waves;
}
