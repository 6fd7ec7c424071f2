import { ValueError } from "@diffusers-web/core";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import { spatialDomain } from "./conv.ts";
import { type FeatureMap, mapDims } from "./layout.ts";

/** Pixels on each side: top, left, bottom, right. */
export type Pads = readonly [number, number, number, number];

/** Options of {@link maxPool2d}; numbers hold for both axes. */
export interface MaxPoolOptions {
  readonly kernel: number;
  readonly stride: number;
  /** Zeros around. */
  readonly pads: Pads;
  /** Whether no value is below zero: then the operator's own padding, which is below all, gives the same. */
  readonly isNonNegative: boolean;
}

/** The largest of every square; what is left over at the right and the bottom is not looked at. */
export function maxPool2d(g: GraphBuilder, x: FeatureMap, options: MaxPoolOptions): FeatureMap {
  const { kernel, stride, pads, isNonNegative } = options;
  const [top, left, bottom, right] = pads;
  const input = isNonNegative ? x : zerosAround(g, x, pads);
  const size = {
    ...x,
    height: Math.floor((x.height + top + bottom - kernel) / stride) + 1,
    width: Math.floor((x.width + left + right - kernel) / stride) + 1,
  };
  if (size.height < 1 || size.width < 1) {
    throw new ValueError(
      `The sample is too small: before a pooling it has shrunk to ${x.height}x${x.width} (height x width). Use a larger one.`,
      { found: `${x.height}x${x.width}`, expected: `at least ${kernel - top - bottom}x${kernel - left - right}` },
    );
  }
  const attributes = {
    kernel_shape: [kernel, kernel],
    strides: [stride, stride],
    pads: isNonNegative ? pads : [0, 0, 0, 0],
  };
  return { ...size, value: g.op("MaxPool", [input.value], mapDims(g, size), attributes, spatialDomain(g)) };
}

/** By concatenation: the engine makes the pooling's own padding of a Pad before it, and loses the zeros. */
function zerosAround(g: GraphBuilder, x: FeatureMap, [top, left, bottom, right]: Pads): FeatureMap {
  const rowAxis = g.target.layout === "nhwc" ? 1 : 2;
  const join = (map: FeatureMap, before: number, after: number, side: "height" | "width"): FeatureMap => {
    const zeros = (count: number): Value[] => {
      if (count === 0) return [];
      const dims = mapDims(g, { ...map, [side]: count });
      return [g.constant(new Float32Array(dims.reduce((product, dim) => product * dim, 1)), dims)];
    };
    const parts = [...zeros(before), map.value, ...zeros(after)];
    if (parts.length === 1) return map;
    const size = { ...map, [side]: map[side] + before + after };
    const axis = side === "height" ? rowAxis : rowAxis + 1;
    return { ...size, value: g.op("Concat", parts, mapDims(g, size), { axis }) };
  };
  return join(join(x, top, bottom, "height"), left, right, "width");
}
