import type { GraphBuilder, Value } from "../graph/builder.ts";
import { activation } from "../layers/activations.ts";
import { scaledDotProductAttention } from "../layers/attention.ts";
import { add, type Tokens } from "../layers/layout.ts";
import { tokensLinear } from "../layers/linear.ts";
import { layerNorm } from "../layers/norm.ts";

/** What the layers of CLIP's two encoders have in common. */
export interface CLIPEncoderConfig {
  hidden_size: number;
  intermediate_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  /** E.g. quick_gelu (OpenAI's CLIP) or gelu (OpenCLIP). */
  hidden_act: string;
  layer_norm_eps: number;
}

/** What tokens look at. */
export interface CLIPAttentionMasks {
  /** Added to the scores: `[batch or 1, 1, length, length]`. */
  readonly scores?: Value | undefined;
  /** 0 for tokens that look at nothing, whose attention is 0: `[batch * length, 1]`. Left out when there are none. */
  readonly rows?: Value | undefined;
}

/**
 * The layers, one after the other.
 *
 * @param at the name of the module, e.g. `text_model.encoder`
 * @returns the input, then the output of each layer
 * @see transformers `CLIPEncoder`
 */
export function clipEncoder(
  g: GraphBuilder,
  x: Tokens,
  at: string,
  config: CLIPEncoderConfig,
  masks: CLIPAttentionMasks = {},
): readonly Tokens[] {
  const states = [x];
  for (let i = 0; i < config.num_hidden_layers; i++) {
    states.push(clipEncoderLayer(g, states[i]!, `${at}.layers.${i}`, config, masks));
  }
  return states;
}

/** @see transformers `CLIPEncoderLayer` */
function clipEncoderLayer(
  g: GraphBuilder,
  x: Tokens,
  at: string,
  config: CLIPEncoderConfig,
  masks: CLIPAttentionMasks,
): Tokens {
  const normed = layerNorm(g, x, `${at}.layer_norm1`, config.layer_norm_eps);
  const hidden = add(g, clipAttention(g, normed, `${at}.self_attn`, config, masks), x);
  return add(
    g,
    clipMlp(g, layerNorm(g, hidden, `${at}.layer_norm2`, config.layer_norm_eps), `${at}.mlp`, config),
    hidden,
  );
}

/** @see transformers `CLIPAttention` */
function clipAttention(
  g: GraphBuilder,
  x: Tokens,
  at: string,
  { hidden_size, num_attention_heads: heads }: CLIPEncoderConfig,
  { scores, rows }: CLIPAttentionMasks,
): Tokens {
  const [q, k, v] = ["q_proj", "k_proj", "v_proj"].map((which) =>
    tokensLinear(g, x, `${at}.${which}`, hidden_size),
  ) as [Tokens, Tokens, Tokens];
  let mixed = scaledDotProductAttention(g, q, k, v, scores === undefined ? { heads } : { heads, mask: scores });
  if (rows !== undefined) mixed = { ...mixed, value: g.op("Mul", [mixed.value, rows], mixed.value.dims) };
  return tokensLinear(g, mixed, `${at}.out_proj`, hidden_size);
}

/** @see transformers `CLIPMLP` */
function clipMlp(g: GraphBuilder, x: Tokens, at: string, config: CLIPEncoderConfig): Tokens {
  const wide = tokensLinear(g, x, `${at}.fc1`, config.intermediate_size);
  const active = { ...wide, value: activation(g, wide.value, config.hidden_act) };
  return tokensLinear(g, active, `${at}.fc2`, config.hidden_size);
}
