import type { GraphBuilder } from "../graph/builder.ts";
import { conv2d } from "./conv.ts";
import { type FeatureMap, mapDims } from "./layout.ts";

/** A height and width. */
export interface Size {
  readonly height: number;
  readonly width: number;
}

/** Enlarges by nearest neighbour, to twice the size or to the size given. */
export function upsampleNearest(g: GraphBuilder, x: FeatureMap, to?: Size): FeatureMap {
  const size = { ...x, height: to?.height ?? x.height * 2, width: to?.width ?? x.width * 2 };
  const dims = mapDims(g, size);
  const attributes = { mode: "nearest", coordinate_transformation_mode: "asymmetric", nearest_mode: "floor" };
  const isDouble = size.height === x.height * 2 && size.width === x.width * 2;
  const inputs = isDouble
    ? [x.value, null, g.constant(g.target.layout === "nhwc" ? [1, 2, 2, 1] : [1, 1, 2, 2], [4], "float32")]
    : [x.value, null, null, g.integers(dims)];
  return { ...size, value: g.op("Resize", inputs, dims, attributes) };
}

/**
 * Enlarges, then convolves.
 *
 * @see Diffusers `Upsample2D`
 */
export function upsample2D(g: GraphBuilder, x: FeatureMap, name: string, to?: Size): FeatureMap {
  return conv2d(g, upsampleNearest(g, x, to), `${name}.conv`, x.channels);
}
