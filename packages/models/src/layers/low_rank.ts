import type { GraphBuilder, Value } from "../graph/builder.ts";

/** How a kind of layer applies the two matrices of a low-rank change. */
export interface LowRankLayer {
  /** The layer's input through a layer of the same kind and geometry, without bias. @param rank its outputs */
  readonly down: (name: string, rank: number) => Value;
  /** From there to the layer's outputs: linear, or a 1x1 convolution. */
  readonly up: (hidden: Value, name: string, rank: number, bias: boolean) => Value;
}

/**
 * A layer's output, with what the model's LoRA adapters add to it: `y + scale * B(A(x))` for each.
 *
 * @param name the layer's
 * @see PEFT `LoraLayer`
 */
export function adapted(g: GraphBuilder, y: Value, name: string, { down, up }: LowRankLayer): Value {
  return g.adaptersOf(name).reduce((sum, { weights, module, prefix, rank, scale }) => {
    const scaled = (x: Value): Value => g.op("Mul", [x, scale], x.dims);
    const change = g.withWeights(weights, prefix, () => {
      const hidden = down(`${module}.lora_A`, rank);
      const at = `${module}.lora_B`;
      // The bias is scaled as well; without one, the few values in the middle are scaled.
      return g.has(`${at}.bias`) ? scaled(up(hidden, at, rank, true)) : up(scaled(hidden), at, rank, false);
    });
    return g.op("Add", [sum, change], y.dims);
  }, y);
}
