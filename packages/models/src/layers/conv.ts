import { ValueError } from "@diffusers-web/core";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import { type FeatureMap, mapDims } from "./layout.ts";
import { adapted } from "./low_rank.ts";

/** Options of a convolution; numbers hold for both axes. */
export interface ConvOptions {
  /** Default 3. */
  readonly kernel?: number;
  /** Default 1. */
  readonly stride?: number;
  /** One number, or [top, left, bottom, right]. Default: what keeps the size. */
  readonly padding?: number | readonly [number, number, number, number];
  /** Default true. */
  readonly bias?: boolean;
  /** How far apart the pixels are that a kernel sees. Default 1. */
  readonly dilation?: number;
  /** What `GraphBuilder.derived` made of the checkpoint's weight and bias, in their place. */
  readonly derived?: { readonly weight: Value; readonly bias: Value | null };
}

/** A convolution: `[batch, in, height, width]` to `[batch, out, height', width']`. */
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
  const dilation = options.dilation ?? 1;
  const extent = (kernel - 1) * dilation + 1;
  const pads = typeof padding === "number" ? [padding, padding, padding, padding] : padding;
  const [top, left, bottom, right] = pads as [number, number, number, number];
  const size = {
    batch: x.batch,
    channels: out,
    height: Math.floor((x.height + top + bottom - extent) / stride) + 1,
    width: Math.floor((x.width + left + right - extent) / stride) + 1,
  };
  if (size.height < 1 || size.width < 1) {
    throw new ValueError(
      `The sample is too small: at ${name} it has shrunk to ${x.height}x${x.width} (height x width). Use a larger one.`,
      {
        field: "sample",
        found: `${x.height}x${x.width}`,
        expected: `at least ${extent - top - bottom}x${extent - left - right}`,
      },
    );
  }
  const { derived, ...geometry } = options;
  const { weight, bias } = derived ?? {
    weight: g.weight(`${name}.weight`, [out, x.channels, kernel, kernel]),
    bias: (options.bias ?? true) ? g.weight(`${name}.bias`, [out]) : null,
  };
  const attributes = {
    kernel_shape: [kernel, kernel],
    strides: [stride, stride],
    pads,
    dilations: [dilation, dilation],
    group: 1,
  };
  const operands = [...aligned(g, x, weight), bias];
  const y = g.op("Conv", operands, mapDims(g, size), attributes, spatialDomain(g));
  const value = adapted(g, y, name, {
    down: (at, rank) => conv2d(g, x, at, rank, { ...geometry, bias: false }).value,
    up: (hidden, at, rank, bias) =>
      conv2d(g, { ...size, channels: rank, value: hidden }, at, out, { kernel: 1, bias }).value,
  });
  return { ...size, value };
}

/**
 * A convolution's data and weight, with channels of zeros where the WebGPU kernel would read wrong ones: it takes three at a
 * time when their number is a multiple of three and not of four, and finds the first three only.
 */
function aligned(g: GraphBuilder, x: FeatureMap, weight: Value): [Value, Value] {
  const [out, channels, height, width] = weight.dims as [number, number, number, number];
  const isWrong =
    g.target.layout === "nhwc" && channels > 3 && channels % 3 === 0 && channels % 4 !== 0 && out % 4 === 0;
  if (!isWrong) return [x.value, weight];
  const more = 4 - (channels % 4);
  const dims = mapDims(g, { ...x, channels: channels + more });
  return [
    g.op("Pad", [x.value, g.integers([0, 0, 0, 0, 0, 0, 0, more])], dims),
    g.op("Pad", [weight, g.integers([0, 0, 0, 0, 0, more, 0, 0])], [out, channels + more, height, width]),
  ];
}

/** The mean of every 2x2 square; an odd last row or column is left out. */
export function averagePool2d(g: GraphBuilder, x: FeatureMap): FeatureMap {
  const size = { ...x, height: Math.floor(x.height / 2), width: Math.floor(x.width / 2) };
  const attributes = { kernel_shape: [2, 2], strides: [2, 2] };
  return { ...size, value: g.op("AveragePool", [x.value], mapDims(g, size), attributes, spatialDomain(g)) };
}

/** More pixels around a feature map, [top, left, bottom, right] of them: zeros, or copies of the edge's. */
export function pad2d(
  g: GraphBuilder,
  x: FeatureMap,
  pads: readonly [number, number, number, number],
  mode: "constant" | "edge",
): FeatureMap {
  const [top, left, bottom, right] = pads;
  if (pads.every((count) => count === 0)) return x;
  const size = { ...x, height: x.height + top + bottom, width: x.width + left + right };
  const [before, after] = [
    { height: top, width: left },
    { height: bottom, width: right },
  ].map((side) => mapDims(g, { batch: 0, channels: 0, ...side })) as [readonly number[], readonly number[]];
  const dims = mapDims(g, size);
  return { ...size, value: g.op("Pad", [x.value, g.integers([...before, ...after])], dims, { mode }) };
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

/** The domain of operators over height and width, whose kernels lie as the target's feature maps do. */
export function spatialDomain(g: GraphBuilder): { domain: "" | "com.ms.internal.nhwc" } {
  return { domain: g.target.layout === "nhwc" ? "com.ms.internal.nhwc" : "" };
}
