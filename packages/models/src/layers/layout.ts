import { ValueError } from "@diffusers-web/core";
import type { GraphBuilder, Value } from "../graph/builder.ts";

/** A batch of feature maps. How it lies in memory is the target's matter: `value.dims` is in that order. */
export interface FeatureMap {
  readonly value: Value;
  readonly batch: number;
  readonly channels: number;
  readonly height: number;
  readonly width: number;
}

/** A batch of sequences, two-dimensional: `value` is `[batch * length, channels]`, so that a linear layer is one Gemm. */
export interface Tokens {
  readonly value: Value;
  readonly batch: number;
  readonly length: number;
  readonly channels: number;
}

type MapSize = Omit<FeatureMap, "value">;

/** The dims of a feature map in the target's order. */
export function mapDims(g: GraphBuilder, { batch, channels, height, width }: MapSize): readonly number[] {
  return g.target.layout === "nhwc" ? [batch, height, width, channels] : [batch, channels, height, width];
}

/** The dims of values per batch item and channel that broadcast over a feature map. */
export function channelDims(g: GraphBuilder, batch: number, channels: number): readonly number[] {
  return mapDims(g, { batch, channels, height: 1, width: 1 });
}

/** The axis of a feature map's channels. */
export function channelAxis(g: GraphBuilder): number {
  return g.target.layout === "nhwc" ? 3 : 1;
}

/** A graph input `[batch, channels, height, width]`. */
export function mapInput(g: GraphBuilder, name: string, dims: readonly number[]): FeatureMap {
  const [batch, channels, height, width] = dims as [number, number, number, number];
  const size = { batch, channels, height, width };
  const value = g.input(name, dims);
  if (g.target.layout === "nchw") return { ...size, value };
  return { ...size, value: g.op("Transpose", [value], mapDims(g, size), { perm: [0, 2, 3, 1] }) };
}

/** Makes a feature map an output `[batch, channels, height, width]` of the graph. */
export function mapOutput(g: GraphBuilder, name: string, map: FeatureMap): void {
  const dims = [map.batch, map.channels, map.height, map.width];
  g.output(name, g.target.layout === "nchw" ? map.value : g.op("Transpose", [map.value], dims, { perm: [0, 3, 1, 2] }));
}

/** The pixels of a feature map as a sequence of length `height * width`, row by row. */
export function toTokens(g: GraphBuilder, map: FeatureMap): Tokens {
  const { batch, channels, height, width } = map;
  const last =
    g.target.layout === "nhwc"
      ? map.value
      : g.op("Transpose", [map.value], [batch, height, width, channels], { perm: [0, 2, 3, 1] });
  const length = height * width;
  return { batch, length, channels, value: g.reshape(last, [batch * length, channels]) };
}

/** A sequence as a feature map of the given size: the reverse of {@link toTokens}. */
export function fromTokens(g: GraphBuilder, tokens: Tokens, height: number, width: number): FeatureMap {
  const { batch, channels } = tokens;
  const last = g.reshape(tokens.value, [batch, height, width, channels]);
  const size = { batch, channels, height, width };
  if (g.target.layout === "nhwc") return { ...size, value: last };
  return { ...size, value: g.op("Transpose", [last], mapDims(g, size), { perm: [0, 3, 1, 2] }) };
}

/** A graph input `[batch, length, channels]`, as tokens. */
export function tokensInput(g: GraphBuilder, name: string, dims: readonly number[]): Tokens {
  const [batch, length, channels] = dims as [number, number, number];
  return { batch, length, channels, value: g.reshape(g.input(name, dims), [batch * length, channels]) };
}

/**
 * Two feature maps, one's channels after the other's; a second one without channels is nothing.
 *
 * @throws ValueError for different heights or widths.
 */
export function concatChannels(g: GraphBuilder, a: FeatureMap, b: FeatureMap): FeatureMap {
  if (b.channels === 0) return a;
  if (a.height !== b.height || a.width !== b.width) {
    throw new ValueError(
      `The sample's size does not survive the way down and up: feature maps of ${a.height}x${a.width} and ` +
        `${b.height}x${b.width} (height x width) meet. Use a height and width that are multiples of the model's downscale factor.`,
      { field: "sample", found: `${a.height}x${a.width}`, expected: `${b.height}x${b.width}` },
    );
  }
  const size = { ...a, channels: a.channels + b.channels };
  return { ...size, value: g.op("Concat", [a.value, b.value], mapDims(g, size), { axis: channelAxis(g) }) };
}

/** Two sequences, one after the other. */
export function concatTokens(g: GraphBuilder, a: Tokens, b: Tokens): Tokens {
  const { batch, channels } = a;
  const length = a.length + b.length;
  const sequences = [a, b].map((x) => g.reshape(x.value, [batch, x.length, channels]));
  const joined = g.op("Concat", sequences, [batch, length, channels], { axis: 1 });
  return { ...a, length, value: g.reshape(joined, [batch * length, channels]) };
}

/** The sum of two feature maps, or of two sequences, of the same size. */
export function add<T extends FeatureMap | Tokens>(g: GraphBuilder, a: T, b: T): T {
  return { ...a, value: g.op("Add", [a.value, b.value], a.value.dims) };
}

/** A feature map divided by a number. */
export function divide<T extends FeatureMap | Tokens>(g: GraphBuilder, a: T, divisor: number): T {
  if (divisor === 1) return a;
  return { ...a, value: g.op("Div", [a.value, g.constant([divisor], [])], a.value.dims) };
}

/** `x * factor + term`, with numbers. */
export function affine(g: GraphBuilder, x: FeatureMap, factor: number, term: number): FeatureMap {
  const scaled = g.op("Mul", [x.value, g.constant([factor], [])], x.value.dims);
  return { ...x, value: g.op("Add", [scaled, g.constant([term], [])], x.value.dims) };
}

/** The mean of each channel over all pixels: a feature map of 1x1. Summed in float32, which holds it. */
export function spatialMean(g: GraphBuilder, x: FeatureMap): FeatureMap {
  const size = { ...x, height: 1, width: 1 };
  const axes = g.integers(g.target.layout === "nhwc" ? [1, 2] : [2, 3]);
  const mean = g.op("ReduceMean", [g.cast(x.value, "float32"), axes], mapDims(g, size), { keepdims: 1 });
  return { ...size, value: g.cast(mean, x.value.type) };
}
