import type { GraphBuilder, Value } from "../graph/builder.ts";
import type { Tokens } from "./layout.ts";
import { adapted } from "./low_rank.ts";

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
  const y = g.op("Gemm", operands, [rows, out], { transB: 1 });
  return adapted(g, y, name, {
    down: (at, rank) => linear(g, x, at, rank, { bias: false }),
    up: (hidden, at, _rank, bias) => linear(g, hidden, at, out, { bias }),
  });
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
