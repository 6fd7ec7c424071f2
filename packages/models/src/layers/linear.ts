import type { GraphBuilder, Value } from "../graph/builder.ts";
import type { Tokens } from "./layout.ts";

/** Options of a linear layer. */
export interface LinearOptions {
  /** Default true. */
  readonly bias?: boolean;
}

/**
 * A linear layer on rows: `[rows, in]` to `[rows, out]`.
 *
 * @see torch `nn.Linear`, whose `[out, in]` weight a Gemm takes as it is
 */
export function linear(g: GraphBuilder, x: Value, name: string, out: number, options: LinearOptions = {}): Value {
  const [rows, inputs] = x.dims as [number, number];
  const operands = [x, g.weight(`${name}.weight`, [out, inputs])];
  if (options.bias ?? true) operands.push(g.weight(`${name}.bias`, [out]));
  return g.op("Gemm", operands, [rows, out], { transB: 1 });
}

/** A linear layer on each token. */
export function tokensLinear(
  g: GraphBuilder,
  x: Tokens,
  name: string,
  out: number,
  options: LinearOptions = {},
): Tokens {
  return { ...x, channels: out, value: linear(g, x.value, name, out, options) };
}
