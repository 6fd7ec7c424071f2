import { ValueError } from "@diffusers-web/core";
import type { GraphBuilder } from "../graph/builder.ts";
import { type FeatureMap, mapDims } from "./layout.ts";

/** Options of a convolution; numbers hold for both axes. */
export interface ConvOptions {
  /** Default 3. */
  readonly kernel?: number;
  /** Default 1. */
  readonly stride?: number;
  /** One number, or [top, left, bottom, right]. Default: what keeps the size. */
  readonly padding?: number | readonly [number, number, number, number];
}

/** A convolution with bias: `[batch, in, height, width]` to `[batch, out, height', width']`. */
export function conv2d(
  g: GraphBuilder,
  x: FeatureMap,
  name: string,
  out: number,
  options: ConvOptions = {},
): FeatureMap {
  const kernel = options.kernel ?? 3;
  const stride = options.stride ?? 1;
  const padding = options.padding ?? Math.floor((kernel - 1) / 2);
  const pads = typeof padding === "number" ? [padding, padding, padding, padding] : padding;
  const [top, left, bottom, right] = pads as [number, number, number, number];
  const size = {
    batch: x.batch,
    channels: out,
    height: Math.floor((x.height + top + bottom - kernel) / stride) + 1,
    width: Math.floor((x.width + left + right - kernel) / stride) + 1,
  };
  if (size.height < 1 || size.width < 1) {
    throw new ValueError(
      `The sample is too small: at ${name} it has shrunk to ${x.height}x${x.width} (height x width). Use a larger one.`,
      { found: `${x.height}x${x.width}`, expected: `at least ${kernel - top - bottom}x${kernel - left - right}` },
    );
  }
  const weight = g.weight(`${name}.weight`, [out, x.channels, kernel, kernel]);
  const bias = g.weight(`${name}.bias`, [out]);
  const attributes = {
    kernel_shape: [kernel, kernel],
    strides: [stride, stride],
    pads,
    dilations: [1, 1],
    group: 1,
  };
  return {
    ...size,
    value: g.op("Conv", [x.value, weight, bias], mapDims(g, size), attributes, spatialDomain(g)),
  };
}

/** The mean of every 2x2 square; an odd last row or column is left out. */
export function averagePool2d(g: GraphBuilder, x: FeatureMap): FeatureMap {
  const size = { ...x, height: Math.floor(x.height / 2), width: Math.floor(x.width / 2) };
  const attributes = { kernel_shape: [2, 2], strides: [2, 2] };
  return { ...size, value: g.op("AveragePool", [x.value], mapDims(g, size), attributes, spatialDomain(g)) };
}

/**
 * Halves a feature map with a convolution of stride 2.
 *
 * @param padding 0 pads the right and the bottom only
 * @see Diffusers `Downsample2D`
 */
export function downsample2D(g: GraphBuilder, x: FeatureMap, name: string, padding: number): FeatureMap {
  return conv2d(g, x, `${name}.conv`, x.channels, { stride: 2, padding: padding === 0 ? [0, 0, 1, 1] : padding });
}

function spatialDomain(g: GraphBuilder): { domain: "" | "com.ms.internal.nhwc" } {
  return { domain: g.target.layout === "nhwc" ? "com.ms.internal.nhwc" : "" };
}
