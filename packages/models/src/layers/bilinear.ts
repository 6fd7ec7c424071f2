import type { GraphBuilder, Value } from "../graph/builder.ts";
import { type FeatureMap, mapDims } from "./layout.ts";
import type { Size } from "./upsampling.ts";

/**
 * Another size, each pixel mixed of its four neighbours.
 *
 * @param alignCorners whether the outermost pixels' centres stay where they are; else the picture's edges do
 * @see torch `interpolate(mode="bilinear")`
 */
export function resizeBilinear(g: GraphBuilder, x: FeatureMap, to: Size, alignCorners: boolean): FeatureMap {
  if (x.height === to.height && x.width === to.width) return x;
  const size = { ...x, height: to.height, width: to.width };
  const dims = mapDims(g, size);
  if (g.target.layout === "nhwc") return { ...size, value: mixed(g, x, to, alignCorners) };
  const attributes = {
    mode: "linear",
    coordinate_transformation_mode: alignCorners ? "align_corners" : "half_pixel",
  };
  return { ...size, value: g.op("Resize", [x.value, null, null, g.integers(dims)], dims, attributes) };
}

/** By two matrix products: the engine's Resize on WebGPU mixes wrong pixels of channels-last maps, and says nothing. */
function mixed(
  g: GraphBuilder,
  { value, batch, height, width, channels }: FeatureMap,
  to: Size,
  align: boolean,
): Value {
  const product = (x: Value, groups: number, from: number, into: number, length: number): Value => {
    const rows = g.reshape(x, [groups, from, length]);
    return from === into ? rows : g.op("MatMul", [mixture(g, from, into, align), rows], [groups, into, length]);
  };
  const tall = product(value, batch, height, to.height, width * channels);
  const wide = product(tall, batch * to.height, width, to.width, channels);
  return g.reshape(wide, [batch, to.height, to.width, channels]);
}

/** What each of `to` places takes of `from`: `[to, from]`, two entries in a row. */
function mixture(g: GraphBuilder, from: number, to: number, alignCorners: boolean): Value {
  const shares = new Float32Array(to * from);
  for (const [i, [first, second, share]] of neighbours(from, to, alignCorners).entries()) {
    shares[i * from + first]! += 1 - share;
    shares[i * from + second]! += share;
  }
  return g.constant(shares, [to, from]);
}

/**
 * The same for numbers in TypeScript, edges kept: `[from.height, from.width, channels]` to `[to.height, to.width, channels]`.
 */
export function resizeBilinearRows(values: Float32Array, from: Size, to: Size, channels: number): Float32Array {
  if (from.height === to.height && from.width === to.width) return values;
  const result = new Float32Array(to.height * to.width * channels);
  const rows = neighbours(from.height, to.height, false);
  const columns = neighbours(from.width, to.width, false);
  let at = 0;
  for (const [top, bottom, down] of rows) {
    for (const [left, right, across] of columns) {
      const [a, b] = [(top * from.width + left) * channels, (top * from.width + right) * channels];
      const [c, d] = [(bottom * from.width + left) * channels, (bottom * from.width + right) * channels];
      for (let k = 0; k < channels; k++) {
        const upper = values[a + k]! * (1 - across) + values[b + k]! * across;
        const lower = values[c + k]! * (1 - across) + values[d + k]! * across;
        result[at++] = upper * (1 - down) + lower * down;
      }
    }
  }
  return result;
}

/** For each place of `to`: the places of `from` before and after it, and the second one's share. */
function neighbours(
  from: number,
  to: number,
  alignCorners: boolean,
): readonly (readonly [first: number, second: number, share: number])[] {
  return Array.from({ length: to }, (_, i) => {
    const place = alignCorners ? (i * (from - 1)) / Math.max(to - 1, 1) : Math.max(((i + 0.5) * from) / to - 0.5, 0);
    const first = Math.min(Math.floor(place), from - 1);
    return [first, Math.min(first + 1, from - 1), place - first];
  });
}
