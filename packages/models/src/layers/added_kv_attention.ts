import type { GraphBuilder, Value } from "../graph/builder.ts";
import { checkMask, scaledDotProductAttention } from "./attention.ts";
import { add, concatTokens, type FeatureMap, fromTokens, type Tokens, toTokens } from "./layout.ts";
import { tokensLinear } from "./linear.ts";
import { groupNorm, layerNorm } from "./norm.ts";

/** Options of {@link addedKVAttention}. */
export interface AddedKVAttentionOptions {
  /** The size of a head; as many heads as fit into the channels. */
  readonly headDim: number;
  readonly groups: number;
  /** The text; absent: the pixels, before they are normalised. */
  readonly context?: Tokens | undefined;
  /** Whether the pixels look at the text only, not at each other as well. */
  readonly onlyCrossAttention: boolean;
  /** How the text is normalised first. */
  readonly crossAttentionNorm: "layer_norm" | "group_norm" | null;
  /** Added to the scores of the text's tokens: `[batch, 1, 1, length]`. */
  readonly mask?: Value | undefined;
  /** What the mask is called where it is given. */
  readonly maskField?: "attention_mask" | "encoder_attention_mask";
}

/**
 * One attention over both the text and the pixels of a feature map, with a residual connection.
 *
 * @see Diffusers `Attention` with `AttnAddedKVProcessor2_0`
 */
export function addedKVAttention(
  g: GraphBuilder,
  x: FeatureMap,
  name: string,
  { headDim, groups, context, onlyCrossAttention, crossAttentionNorm, mask, maskField }: AddedKVAttentionOptions,
): FeatureMap {
  const heads = Math.floor(x.channels / headDim);
  const inner = heads * headDim;
  const pixels = toTokens(g, groupNorm(g, x, `${name}.group_norm`, { groups, eps: 1e-5 }));
  const normCross = `${name}.norm_cross`;
  const text = context === undefined ? toTokens(g, x) : normText(g, context, normCross, crossAttentionNorm);
  if (context === undefined && crossAttentionNorm !== null) {
    // In the checkpoint all the same, though there is no text to normalise.
    for (const part of ["weight", "bias"]) g.read(`${normCross}.${part}`, [x.channels]);
  }

  const query = tokensLinear(g, pixels, `${name}.to_q`, inner);
  let key = tokensLinear(g, text, `${name}.add_k_proj`, inner);
  let value = tokensLinear(g, text, `${name}.add_v_proj`, inner);
  if (!onlyCrossAttention) {
    key = concatTokens(g, key, tokensLinear(g, pixels, `${name}.to_k`, inner));
    value = concatTokens(g, value, tokensLinear(g, pixels, `${name}.to_v`, inner));
  }
  const padded = padMask(g, mask, pixels.length);
  checkMask(padded, key, maskField ?? "encoder_attention_mask", `${name} (with the pixels added to the mask)`);
  const mixed = scaledDotProductAttention(g, query, key, value, { heads, mask: padded });
  const projected = tokensLinear(g, mixed, `${name}.to_out.0`, x.channels);
  return add(g, fromTokens(g, projected, x.height, x.width), x);
}

/** As Diffusers pads a mask that is not the pixels' own: 0 for each of them. */
function padMask(g: GraphBuilder, mask: Value | undefined, pixels: number): Value | undefined {
  if (mask === undefined || mask.dims[3] === pixels) return mask;
  const [batch] = mask.dims as [number];
  const zeros = g.constant(new Float32Array(batch * pixels), [batch, 1, 1, pixels]);
  return g.op("Concat", [mask, zeros], [batch, 1, 1, mask.dims[3]! + pixels], { axis: 3 });
}

function normText(
  g: GraphBuilder,
  text: Tokens,
  name: string,
  norm: AddedKVAttentionOptions["crossAttentionNorm"],
): Tokens {
  if (norm === null) return text;
  if (norm === "layer_norm") return layerNorm(g, text, name);
  // Groups of channels over all tokens: the tokens as the pixels of a narrow map.
  return toTokens(g, groupNorm(g, fromTokens(g, text, text.length, 1), name, { groups: 32, eps: 1e-5 }));
}
