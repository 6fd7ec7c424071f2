import { ValueError } from "@diffusers-web/core";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import { type AttentionLayerOptions, attention, checkMask } from "./attention.ts";
import { add, type FeatureMap, fromTokens, type Tokens, toTokens } from "./layout.ts";
import { adaGroupNorm, layerNorm } from "./norm.ts";

/** Options of {@link kAttentionBlock}. */
export interface KAttentionOptions {
  /** The size of a head; as many heads as fit into the channels. */
  readonly headDim: number;
  /** Whether a self-attention comes first. */
  readonly addSelfAttention: boolean;
  /** The text; absent: the pixels look at themselves. */
  readonly context?: Tokens | undefined;
  /** Added to the scores of the attention to pixels: `[batch, 1, 1, tokens]`. */
  readonly mask?: Value | undefined;
  /** Added to the scores of the attention to the text. */
  readonly contextMask?: Value | undefined;
}

/**
 * Attention over the pixels of a feature map, after normalisations that the time embedding scales and shifts.
 *
 * @param temb the time embedding `[batch, dim]`
 * @throws ValueError for a head that is larger than the channels.
 * @see Diffusers `KAttentionBlock`
 */
export function kAttentionBlock(
  g: GraphBuilder,
  x: FeatureMap,
  temb: Value,
  name: string,
  { headDim, addSelfAttention, context, mask, contextMask }: KAttentionOptions,
): FeatureMap {
  const groups = Math.max(1, Math.floor(x.channels / 32));
  if (headDim > x.channels) {
    throw new ValueError(
      `${name}: a head of size \`attention_head_dim\` ${headDim} is too large for ${x.channels} channels.`,
      {
        field: "attention_head_dim",
        found: String(headDim),
        expected: `at most ${x.channels}`,
      },
    );
  }
  const layer = { heads: Math.floor(x.channels / headDim), headDim, bias: true };
  const attend = (map: FeatureMap, norm: string, attn: string, options: AttentionLayerOptions): FeatureMap => {
    const normed = adaGroupNorm(g, map, temb, `${name}.${norm}`, { groups, eps: 1e-5 });
    const tokens = toTokens(g, normed);
    const field = options.context === undefined ? "attention_mask" : "encoder_attention_mask";
    checkMask(options.mask, options.context ?? tokens, field, `${name}.${attn}`);
    const mixed = attention(g, tokens, `${name}.${attn}`, options);
    return add(g, fromTokens(g, mixed, map.height, map.width), map);
  };

  const hidden = addSelfAttention ? attend(x, "norm1", "attn1", { ...layer, mask }) : x;
  const normCross = `${name}.attn2.norm_cross`;
  if (context === undefined) {
    // In the checkpoint all the same, though there is no text to normalise.
    for (const part of ["weight", "bias"]) g.read(`${normCross}.${part}`, [x.channels]);
    return attend(hidden, "norm2", "attn2", { ...layer, mask });
  }
  return attend(hidden, "norm2", "attn2", { ...layer, context: layerNorm(g, context, normCross), mask: contextMask });
}
