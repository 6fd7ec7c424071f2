import { type GraphBuilder, microsoft, type Value } from "../graph/builder.ts";
import { attention } from "./attention.ts";
import { add, type FeatureMap, fromTokens, type Tokens, toTokens } from "./layout.ts";
import { linear, tokensLinear } from "./linear.ts";
import { groupNorm, layerNorm } from "./norm.ts";

/** Options of {@link transformer2D}. */
export interface Transformer2DOptions {
  readonly heads: number;
  readonly headDim: number;
  /** How many transformer blocks. */
  readonly layers: number;
  readonly groups: number;
  /** The text: `[batch * length, cross_attention_dim]`. */
  readonly context: Tokens;
  /** Whether the first attention of a block looks at the text as well. */
  readonly onlyCrossAttention: boolean;
  readonly upcastAttention: boolean;
}

/**
 * Transformer blocks over the pixels of a feature map, with a residual connection.
 *
 * The projections in and out are linear layers on tokens either way: a 1x1 convolution's `[out, in, 1, 1]` weight is the
 * same numbers (`use_linear_projection` only tells how they were saved).
 *
 * @see Diffusers `Transformer2DModel` with continuous input
 */
export function transformer2D(g: GraphBuilder, x: FeatureMap, name: string, options: Transformer2DOptions): FeatureMap {
  const inner = options.heads * options.headDim;
  const normed = groupNorm(g, x, `${name}.norm`, { groups: options.groups, eps: 1e-6 });
  let hidden = tokensLinear(g, toTokens(g, normed), `${name}.proj_in`, inner);
  for (let i = 0; i < options.layers; i++) {
    hidden = basicTransformerBlock(g, hidden, `${name}.transformer_blocks.${i}`, options);
  }
  const projected = tokensLinear(g, hidden, `${name}.proj_out`, x.channels);
  return add(g, fromTokens(g, projected, x.height, x.width), x);
}

/** @see Diffusers `BasicTransformerBlock` with `norm_type="layer_norm"` */
function basicTransformerBlock(g: GraphBuilder, x: Tokens, name: string, options: Transformer2DOptions): Tokens {
  const { heads, headDim, context, upcastAttention: upcast } = options;
  const first = options.onlyCrossAttention ? { context } : {};

  let hidden = add(
    g,
    attention(g, layerNorm(g, x, `${name}.norm1`), `${name}.attn1`, { heads, headDim, upcast, ...first }),
    x,
  );
  const crossed = attention(g, layerNorm(g, hidden, `${name}.norm2`), `${name}.attn2`, {
    heads,
    headDim,
    upcast,
    context,
  });
  hidden = add(g, crossed, hidden);
  return add(g, feedForward(g, layerNorm(g, hidden, `${name}.norm3`), `${name}.ff.net`), hidden);
}

/** @see Diffusers `FeedForward` with `activation_fn="geglu"` */
function feedForward(g: GraphBuilder, x: Tokens, name: string): Tokens {
  const inner = 4 * x.channels;
  return { ...x, value: linear(g, geglu(g, x.value, `${name}.0.proj`, inner), `${name}.2`, x.channels) };
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
