import type { GraphBuilder } from "../graph/builder.ts";
import { activation } from "./activations.ts";
import { conv2d } from "./conv.ts";
import { add, type FeatureMap } from "./layout.ts";
import { groupNorm } from "./norm.ts";
import { upsampleNearest } from "./upsampling.ts";

/**
 * A group normalisation whose scale and shift at each pixel come from another feature map, the quantised latents.
 *
 * @param zq the map that conditions: enlarged or shrunk to `x`'s size by nearest neighbour
 * @param act an activation to apply to the result, by its config name
 * @see Diffusers `SpatialNorm`, https://arxiv.org/abs/2209.09002
 */
export function spatialNorm(g: GraphBuilder, x: FeatureMap, zq: FeatureMap, name: string, act?: string): FeatureMap {
  const sized = upsampleNearest(g, zq, x);
  const normed = groupNorm(g, x, `${name}.norm_layer`, { groups: 32, eps: 1e-6 });
  const scale = conv2d(g, sized, `${name}.conv_y`, x.channels, { kernel: 1 });
  const shift = conv2d(g, sized, `${name}.conv_b`, x.channels, { kernel: 1 });
  const scaled = { ...x, value: g.op("Mul", [normed.value, scale.value], x.value.dims) };
  const result = add(g, scaled, shift);
  return act === undefined ? result : { ...result, value: activation(g, result.value, act) };
}
