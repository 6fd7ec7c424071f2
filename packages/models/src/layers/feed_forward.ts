import { type GraphBuilder, microsoft, type Value } from "../graph/builder.ts";
import { activation } from "./activations.ts";
import type { Tokens } from "./layout.ts";
import { linear } from "./linear.ts";

/**
 * Two linear layers with a gated GELU between them.
 *
 * @param name where the layers are: `0.proj` and `2` below it
 * @see Diffusers `FeedForward` with `activation_fn="geglu"`
 */
export function feedForward(g: GraphBuilder, x: Tokens, name: string): Tokens {
  const inner = 4 * x.channels;
  return { ...x, value: linear(g, geglu(g, x.value, `${name}.0.proj`, inner), `${name}.2`, x.channels) };
}

/**
 * Two linear layers with a GELU between them.
 *
 * @param names of the two layers
 * @see Diffusers `FeedForward` with `activation_fn="gelu"`
 */
export function geluFeedForward(
  g: GraphBuilder,
  x: Tokens,
  names: readonly [string, string],
  { inner, out, bias = true }: { readonly inner: number; readonly out: number; readonly bias?: boolean },
): Tokens {
  const hidden = activation(g, linear(g, x.value, names[0], inner, { bias }), "gelu");
  return { ...x, channels: out, value: linear(g, hidden, names[1], out, { bias }) };
}

/** Half of a linear layer's outputs times the GELU of the other half. */
function geglu(g: GraphBuilder, x: Value, name: string, out: number): Value {
  const rows = x.dims[0]!;
  if (g.target.fused.biasSplitGelu) {
    const projected = linear(g, x, name, 2 * out, { bias: false });
    const operands = [g.reshape(projected, [1, rows, 2 * out]), g.weight(`${name}.bias`, [2 * out])];
    return g.reshape(g.op("BiasSplitGelu", operands, [1, rows, out], {}, microsoft), [rows, out]);
  }
  const projected = linear(g, x, name, 2 * out);
  const halves = [
    [rows, out],
    [rows, out],
  ];
  const [hidden, gate] = g.ops("Split", [projected], halves, { axis: -1, num_outputs: 2 }) as [Value, Value];
  return g.op("Mul", [hidden, g.op("Gelu", [gate], gate.dims, { approximate: "none" })], hidden.dims);
}
