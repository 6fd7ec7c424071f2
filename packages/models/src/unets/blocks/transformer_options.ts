import type { Transformer2DOptions } from "../../layers/transformer_2d.ts";
import type { BlockOptions } from "./types.ts";

/** What a block's options mean for the transformer after its residual block `i`. */
export function transformerOptions(options: BlockOptions, i: number, onlyCrossAttention?: boolean): Transformer2DOptions {
  return {
    heads: options.heads,
    headDim: Math.floor(options.out / options.heads),
    layers: options.transformerLayers[i]!,
    groups: options.resnet.groups,
    context: options.context!,
    onlyCrossAttention: onlyCrossAttention ?? options.onlyCrossAttention,
    upcastAttention: options.upcastAttention,
  };
}
