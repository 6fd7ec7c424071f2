import type { Transformer2DOptions } from "../../layers/transformer_2d.ts";
import type { BlockOptions } from "./types.ts";

/** What a block's options mean for the transformer after its residual block `i`. */
export function transformerOptions({ out, resnet, transformer }: BlockOptions, i: number): Transformer2DOptions {
  const { heads, layers } = transformer!;
  return { ...transformer!, layers: layers[i]!, headDim: Math.floor(out / heads), groups: resnet.groups };
}
