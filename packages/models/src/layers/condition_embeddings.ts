import type { GraphBuilder, Value } from "../graph/builder.ts";
import { activation } from "./activations.ts";
import { scaledDotProductAttention } from "./attention.ts";
import { conv2d } from "./conv.ts";
import { concatTokens, type FeatureMap, type Tokens } from "./layout.ts";
import { linear, tokensLinear } from "./linear.ts";
import { layerNorm } from "./norm.ts";

/** A value `[rows, channels]` as sequences of length 1. */
function rowTokens(value: Value): Tokens {
  const [batch, channels] = value.dims as [number, number];
  return { value, batch, length: 1, channels };
}

/** Normalises each row of `[rows, channels]`. */
function rowNorm(g: GraphBuilder, x: Value, name: string): Value {
  return layerNorm(g, rowTokens(x), name).value;
}

/**
 * A text's tokens as one time embedding `[batch, dim]`.
 *
 * @see Diffusers `TextTimeEmbedding`
 */
export function textTimeEmbedding(g: GraphBuilder, text: Tokens, name: string, dim: number, heads: number): Value {
  const pooled = attentionPooling(g, layerNorm(g, text, `${name}.norm1`), `${name}.pool`, heads);
  return rowNorm(g, linear(g, pooled, `${name}.proj`, dim), `${name}.norm2`);
}

/**
 * The mean of the tokens, with a learned term, looks at itself and at all tokens: `[batch, channels]`.
 *
 * @see Diffusers `AttentionPooling`
 */
function attentionPooling(g: GraphBuilder, x: Tokens, name: string, heads: number): Value {
  const { batch, length, channels } = x;
  const sequence = g.reshape(x.value, [batch, length, channels]);
  const mean = g.op("ReduceMean", [sequence, g.integers([1])], [batch, channels], { keepdims: 0 });
  const term = g.weight(`${name}.positional_embedding`, [1, channels]);
  const token = rowTokens(g.op("Add", [mean, term], mean.dims));
  const all = concatTokens(g, token, x);
  const query = tokensLinear(g, token, `${name}.q_proj`, channels);
  const key = tokensLinear(g, all, `${name}.k_proj`, channels);
  const value = tokensLinear(g, all, `${name}.v_proj`, channels);
  return scaledDotProductAttention(g, query, key, value, { heads }).value;
}

/**
 * A pooled text and an image's embedding as one time embedding `[batch, dim]`.
 *
 * @see Diffusers `TextImageTimeEmbedding`
 */
export function textImageTimeEmbedding(g: GraphBuilder, text: Value, image: Value, name: string, dim: number): Value {
  const projected = rowNorm(g, linear(g, text, `${name}.text_proj`, dim), `${name}.text_norm`);
  return g.op("Add", [linear(g, image, `${name}.image_proj`, dim), projected], projected.dims);
}

/**
 * An image's embedding as a time embedding `[batch, dim]`.
 *
 * @see Diffusers `ImageTimeEmbedding`
 */
export function imageTimeEmbedding(g: GraphBuilder, image: Value, name: string, dim: number): Value {
  return rowNorm(g, linear(g, image, `${name}.image_proj`, dim), `${name}.image_norm`);
}

/** Output channels and stride of the convolutions over a hint. */
const hintLayers = [
  [16, 1],
  [16, 1],
  [32, 2],
  [32, 1],
  [96, 2],
  [96, 1],
  [256, 2],
  [4, 1],
] as const;

/**
 * A picture, an eighth of its size, that is laid beside the latents.
 *
 * @returns 4 channels
 * @see Diffusers `ImageHintTimeEmbedding`
 */
export function hintBlock(g: GraphBuilder, hint: FeatureMap, name: string): FeatureMap {
  let hidden = hint;
  hintLayers.forEach(([out, stride], i) => {
    if (i > 0) hidden = { ...hidden, value: activation(g, hidden.value, "silu") };
    hidden = conv2d(g, hidden, `${name}.input_hint_block.${2 * i}`, out, { stride, padding: 1 });
  });
  return hidden;
}

/** An image's embedding as `tokens` tokens of `dim` channels. */
export function imageTokens(g: GraphBuilder, image: Value, name: string, tokens: number, dim: number): Tokens {
  const batch = image.dims[0]!;
  const wide = linear(g, image, name, tokens * dim);
  return { batch, length: tokens, channels: dim, value: g.reshape(wide, [batch * tokens, dim]) };
}

/**
 * An image's embedding `[batch, channels]` in place of a text: 32 tokens.
 *
 * @see Diffusers `ImageProjection`
 */
export function imageProjection(g: GraphBuilder, image: Value, name: string, dim: number, tokens = 32): Tokens {
  return layerNorm(g, imageTokens(g, image, `${name}.image_embeds`, tokens, dim), `${name}.norm`);
}

/**
 * An image's embedding `[batch, channels]` as 10 tokens before those of the text.
 *
 * @see Diffusers `TextImageProjection`
 */
export function textImageProjection(g: GraphBuilder, text: Tokens, image: Value, name: string, dim: number): Tokens {
  const tokens = imageTokens(g, image, `${name}.image_embeds`, 10, dim);
  return concatTokens(g, tokens, tokensLinear(g, text, `${name}.text_proj`, dim));
}
