import type { GraphBuilder } from "../graph/builder.ts";
import { attention } from "./attention.ts";
import { feedForward } from "./feed_forward.ts";
import { add, concatTokens, type Tokens } from "./layout.ts";
import { tokensLinear } from "./linear.ts";
import { layerNorm } from "./norm.ts";

/**
 * Lets pixels attend to the objects that a picture is grounded on, as far as two learned gates are open.
 *
 * @param objects what the position net made of boxes and phrases
 * @see Diffusers `GatedSelfAttentionDense`
 */
export function gatedSelfAttentionDense(
  g: GraphBuilder,
  x: Tokens,
  objects: Tokens,
  name: string,
  { heads, headDim }: { readonly heads: number; readonly headDim: number },
): Tokens {
  const projected = tokensLinear(g, objects, `${name}.linear`, x.channels);
  // Only the pixels' results are used, so that only they are queries.
  const query = layerNorm(g, x, `${name}.norm1`);
  const context = concatTokens(g, query, layerNorm(g, projected, `${name}.norm1`));
  const mixed = attention(g, query, `${name}.attn`, { heads, headDim, context });
  const hidden = add(g, x, gated(g, mixed, `${name}.alpha_attn`));
  const fed = feedForward(g, layerNorm(g, hidden, `${name}.norm2`), `${name}.ff.net`);
  return add(g, hidden, gated(g, fed, `${name}.alpha_dense`));
}

/** Times the hyperbolic tangent of a scalar of the checkpoint. */
function gated(g: GraphBuilder, x: Tokens, alpha: string): Tokens {
  const gate = g.constant([Math.tanh(g.read(alpha, [])[0]!)], []);
  return { ...x, value: g.op("Mul", [x.value, gate], x.value.dims) };
}
