import { type GraphBuilder, microsoft, type Value } from "../graph/builder.ts";
import { add, divide, type FeatureMap, fromTokens, type Tokens, toTokens } from "./layout.ts";
import { tokensLinear } from "./linear.ts";
import { groupNorm } from "./norm.ts";

/** Options of scaled dot-product attention. */
export interface AttentionOptions {
  readonly heads: number;
  /** Added to the scores: `[batch or 1, 1, query length, key length]`. */
  readonly mask?: Value;
  /** Computes in float32 whatever the target's type, for models whose scores overflow float16. */
  readonly upcast?: boolean;
}

/** `softmax(q k^T / sqrt(head size) + mask) v` for each head; channels are the heads side by side. */
export function scaledDotProductAttention(
  g: GraphBuilder,
  q: Tokens,
  k: Tokens,
  v: Tokens,
  options: AttentionOptions,
): Tokens {
  const type = options.upcast ? "float32" : g.target.dtype;
  const [query, key, value] = [q, k, v].map((x) => {
    const sequence = g.reshape(x.value, [x.batch, x.length, x.channels]);
    return g.cast(sequence, type);
  }) as [Value, Value, Value];
  const mask = options.mask === undefined ? null : g.cast(options.mask, type);
  const result = g.target.fused.attention
    ? g.op(
        "MultiHeadAttention",
        [query, key, value, null, null, mask],
        query.dims,
        { num_heads: options.heads },
        microsoft,
      )
    : plainAttention(g, query, key, value, mask, options.heads);
  return { ...q, value: g.reshape(g.cast(result, g.target.dtype), [q.batch * q.length, q.channels]) };
}

function plainAttention(
  g: GraphBuilder,
  query: Value,
  key: Value,
  value: Value,
  mask: Value | null,
  heads: number,
): Value {
  const [batch, length, channels] = query.dims as [number, number, number];
  const keys = key.dims[1]!;
  const size = channels / heads;
  const split = (x: Value, perm: readonly number[]): Value => {
    const dims = [batch, x.dims[1]!, heads, size];
    return g.op(
      "Transpose",
      [g.reshape(x, dims)],
      perm.map((axis) => dims[axis]!),
      { perm },
    );
  };
  const scale = g.constant([1 / Math.sqrt(size)], [], query.type as "float32" | "float16");
  const scaled = g.op("Mul", [split(query, [0, 2, 1, 3]), scale], [batch, heads, length, size]);
  const scoreDims = [batch, heads, length, keys];
  let scores = g.op("MatMul", [scaled, split(key, [0, 2, 3, 1])], scoreDims);
  if (mask !== null) scores = g.op("Add", [scores, mask], scoreDims);
  const weights = g.op("Softmax", [scores], scoreDims, { axis: -1 });
  const mixed = g.op("MatMul", [weights, split(value, [0, 2, 1, 3])], [batch, heads, length, size]);
  const merged = g.op("Transpose", [mixed], [batch, length, heads, size], { perm: [0, 2, 1, 3] });
  return g.reshape(merged, query.dims);
}

/** Options of {@link attention}. */
export interface AttentionLayerOptions {
  readonly heads: number;
  readonly headDim: number;
  /** Where keys and values come from. Default: the tokens themselves. */
  readonly context?: Tokens;
  /** Whether the projections to query, key and value have a bias. Default false. */
  readonly bias?: boolean;
  readonly upcast?: boolean;
}

/**
 * Attention with its projections.
 *
 * @see Diffusers `Attention` with `AttnProcessor2_0`
 */
export function attention(g: GraphBuilder, x: Tokens, name: string, options: AttentionLayerOptions): Tokens {
  const { heads, headDim, bias = false, upcast = false } = options;
  const inner = heads * headDim;
  const context = options.context ?? x;
  const query = tokensLinear(g, x, `${name}.to_q`, inner, { bias });
  const key = tokensLinear(g, context, `${name}.to_k`, inner, { bias });
  const value = tokensLinear(g, context, `${name}.to_v`, inner, { bias });
  const mixed = scaledDotProductAttention(g, query, key, value, { heads, upcast });
  return tokensLinear(g, mixed, `${name}.to_out.0`, x.channels);
}

/** Options of {@link attentionBlock2D}. */
export interface AttentionBlockOptions {
  /** The size of a head; as many heads as fit into the channels. */
  readonly headDim: number;
  /** null: no normalisation before. */
  readonly groups: number | null;
  readonly eps: number;
  /** What the result is divided by. Default 1. */
  readonly outputScaleFactor?: number;
}

/**
 * Self-attention over the pixels of a feature map, with a residual connection: what autoencoders and unconditional
 * UNets use.
 *
 * @see Diffusers `Attention` with `_from_deprecated_attn_block=True`
 */
export function attentionBlock2D(
  g: GraphBuilder,
  x: FeatureMap,
  name: string,
  { headDim, groups, eps, outputScaleFactor = 1 }: AttentionBlockOptions,
): FeatureMap {
  const normed = groups === null ? x : groupNorm(g, x, `${name}.group_norm`, { groups, eps });
  const heads = Math.floor(x.channels / headDim);
  const mixed = attention(g, toTokens(g, normed), name, { heads, headDim, bias: true });
  return divide(g, add(g, fromTokens(g, mixed, x.height, x.width), x), outputScaleFactor);
}
