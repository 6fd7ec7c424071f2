import type { GraphBuilder } from "../graph/builder.ts";
import { type FeatureMap, mapDims } from "./layout.ts";

/**
 * A graph input `[batch, channels, height, width]` with each square of `factor` x `factor` pixels as one of
 * `channels * factor * factor` channels: each channel's pixels stay together, row by row.
 *
 * @param dims height and width are multiples of `factor`
 * @see torch `nn.PixelUnshuffle`
 */
export function unshuffledInput(g: GraphBuilder, name: string, dims: readonly number[], factor: number): FeatureMap {
  const [batch, channels, fullHeight, fullWidth] = dims as [number, number, number, number];
  const [height, width] = [fullHeight / factor, fullWidth / factor];
  const size = { batch, channels: channels * factor * factor, height, width };
  const split = g.reshape(g.input(name, dims), [batch, channels, height, factor, width, factor]);
  const perm = g.target.layout === "nhwc" ? [0, 2, 4, 1, 3, 5] : [0, 1, 3, 5, 2, 4];
  const gathered = g.op(
    "Transpose",
    [split],
    perm.map((axis) => split.dims[axis]!),
    { perm },
  );
  return { ...size, value: g.reshape(gathered, mapDims(g, size)) };
}
