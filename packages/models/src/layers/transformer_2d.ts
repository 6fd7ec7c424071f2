import type { GraphBuilder, Value } from "../graph/builder.ts";
import { attention, checkMask } from "./attention.ts";
import { feedForward } from "./feed_forward.ts";
import { gatedSelfAttentionDense } from "./gated_self_attention.ts";
import { add, type FeatureMap, fromTokens, type Tokens, toTokens } from "./layout.ts";
import { tokensLinear } from "./linear.ts";
import { groupNorm, layerNorm } from "./norm.ts";

/** What the attentions of a model are told besides the text. */
export interface AttentionConditions {
  /** Added to the scores of each first attention (self-attention): `[batch, 1, 1, tokens]`. */
  readonly mask?: Value | undefined;
  /** Added to the scores of each second attention (to the text): `[batch, 1, 1, tokens]`. */
  readonly contextMask?: Value | undefined;
  /** The objects that `attention_type: "gated"` attends to; absent: its layers are skipped. */
  readonly objects?: Tokens | undefined;
  /** What the queries of the second attention `name` see in pictures (IP-Adapter), added to what they see in the text. */
  readonly images?: ((query: Tokens, name: string, options: HeadOptions) => Tokens) | undefined;
}

/** The heads of an attention. */
export interface HeadOptions {
  readonly heads: number;
  readonly upcast: boolean;
}

/** Options of {@link transformer2D}. */
export interface Transformer2DOptions {
  readonly heads: number;
  readonly headDim: number;
  /** How many transformer blocks. */
  readonly layers: number;
  readonly groups: number;
  /** The text: `[batch * length, cross_attention_dim]`; absent: both attentions look at the pixels (AudioLDM). */
  readonly context?: Tokens | undefined;
  /** Whether the first attention of a block looks at the text as well. */
  readonly onlyCrossAttention: boolean;
  readonly upcastAttention: boolean;
  readonly conditions?: AttentionConditions | undefined;
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
  const { heads, headDim, context, upcastAttention: upcast, conditions = {} } = options;
  const { mask, contextMask, objects, images } = conditions;
  const first = options.onlyCrossAttention ? { context } : {};

  // 1. self-attention
  checkMask(mask, first.context ?? x, "attention_mask", `${name}.attn1`);
  let hidden = add(
    g,
    attention(g, layerNorm(g, x, `${name}.norm1`), `${name}.attn1`, { heads, headDim, upcast, mask, ...first }),
    x,
  );

  // 2. GLIGEN
  if (objects !== undefined) hidden = gatedSelfAttentionDense(g, hidden, objects, `${name}.fuser`, { heads, headDim });

  // 3. cross-attention
  checkMask(contextMask, context ?? hidden, "encoder_attention_mask", `${name}.attn2`);
  const crossed = attention(g, layerNorm(g, hidden, `${name}.norm2`), `${name}.attn2`, {
    heads,
    headDim,
    upcast,
    context,
    mask: contextMask,
    added: images && ((query) => images(query, `${name}.attn2`, { heads, upcast })),
  });
  hidden = add(g, crossed, hidden);

  // 4. feed-forward
  return add(g, feedForward(g, layerNorm(g, hidden, `${name}.norm3`), `${name}.ff.net`), hidden);
}
