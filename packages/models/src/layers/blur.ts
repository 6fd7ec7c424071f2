import { ValueError } from "@diffusers-web/core";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import { spatialDomain } from "./conv.ts";
import { type FeatureMap, mapDims } from "./layout.ts";

/** What lies beyond a feature map's edge: nothing, or its mirror image. */
export type Edge = "zero" | "reflect";

// [1, 3, 3, 1] along both axes.
const taps = [1, 3, 3, 1];
const kernel = taps.flatMap((y) => taps.map((x) => x * y));

/** The kernel with the given sum, once for each channel. */
function depthwise(g: GraphBuilder, channels: number, sum: number): Value {
  const one = kernel.map((weight) => (weight * sum) / 64);
  return g.constant(new Array<readonly number[]>(channels).fill(one).flat(), [channels, 1, 4, 4]);
}

/**
 * Halves a feature map with the blur [1, 3, 3, 1]; an odd last row or column is blurred into the one before.
 *
 * @see Diffusers `FirDownsample2D` and `downsample_2d` (edge "zero"), `KDownsample2D` ("reflect")
 */
export function blurDownsample2D(g: GraphBuilder, x: FeatureMap, edge: Edge): FeatureMap {
  const padded = edge === "reflect" ? reflectPad(g, x) : x;
  const size = { ...x, height: Math.floor(x.height / 2), width: Math.floor(x.width / 2) };
  checkSize(x, 2);
  const attributes = {
    kernel_shape: [4, 4],
    strides: [2, 2],
    pads: edge === "reflect" ? [0, 0, 0, 0] : [1, 1, 1, 1],
    dilations: [1, 1],
    group: x.channels,
  };
  const inputs = [padded.value, depthwise(g, x.channels, 1)];
  return { ...size, value: g.op("Conv", inputs, mapDims(g, size), attributes, spatialDomain(g)) };
}

/**
 * Doubles a feature map with the blur [1, 3, 3, 1].
 *
 * @see Diffusers `FirUpsample2D` and `upsample_2d` (edge "zero"), `KUpsample2D` ("reflect")
 */
export function blurUpsample2D(g: GraphBuilder, x: FeatureMap, edge: Edge): FeatureMap {
  const padded = edge === "reflect" ? reflectPad(g, x) : x;
  const size = { ...x, height: x.height * 2, width: x.width * 2 };
  // The mirrored pixels are cut off again.
  const pad = edge === "reflect" ? 3 : 1;
  const attributes = {
    kernel_shape: [4, 4],
    strides: [2, 2],
    pads: [pad, pad, pad, pad],
    dilations: [1, 1],
    group: x.channels,
  };
  const inputs = [padded.value, depthwise(g, x.channels, 4)];
  return { ...size, value: g.op("ConvTranspose", inputs, mapDims(g, size), attributes, spatialDomain(g)) };
}

/** One mirrored pixel on each side. */
function reflectPad(g: GraphBuilder, x: FeatureMap): FeatureMap {
  checkSize(x, 2);
  const size = { ...x, height: x.height + 2, width: x.width + 2 };
  const pad = mapDims(g, { batch: 0, channels: 0, height: 1, width: 1 });
  const value = g.op("Pad", [x.value, g.integers([...pad, ...pad])], mapDims(g, size), { mode: "reflect" });
  return { ...size, value };
}

function checkSize(x: FeatureMap, least: number): void {
  if (x.height >= least && x.width >= least) return;
  throw new ValueError(
    `The sample is too small: where it is resampled it has shrunk to ${x.height}x${x.width} (height x width). Use a larger one.`,
    { found: `${x.height}x${x.width}`, expected: `at least ${least}x${least}` },
  );
}
