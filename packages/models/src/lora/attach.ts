import type { GraphBuilder, Value } from "../graph/builder.ts";
import type { LoraAdapter } from "./lora_adapter.ts";

/** An adapter that changes a layer, and the entry of the graph's input that scales it there. */
export interface LoraPart {
  readonly adapter: LoraAdapter;
  readonly group: number;
}

/**
 * Makes a builder emit adapters beside the layers, scaled by entries of one input, `lora_scales`.
 *
 * @param parts by layer
 * @param groups how many entries the input has
 */
export function attach(g: GraphBuilder, parts: ReadonlyMap<string, readonly LoraPart[]>, groups: number): void {
  let scales: Value | undefined;
  g.layerAdapters = (layer) => {
    const module = plainName(layer);
    return (parts.get(module) ?? []).map(({ adapter, group }) => {
      scales ??= g.input("lora_scales", [groups]);
      const { weights, prefix } = adapter;
      return { weights, module, prefix, rank: adapter.rank(module), scale: entry(g, scales, group) };
    });
  };
}

/** A layer's name without what stands before it in some files of text encoders. */
export function plainName(layer: string): string {
  return layer.replace(/^text_model\./, "");
}

function entry(g: GraphBuilder, list: Value, at: number): Value {
  if (list.dims[0] === 1) return list;
  return g.op("Slice", [list, g.integers([at]), g.integers([at + 1]), g.integers([0])], [1]);
}
