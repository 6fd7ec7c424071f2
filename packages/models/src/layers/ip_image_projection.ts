import { UnsupportedModelError, WeightsMismatchError } from "@diffusers-web/core";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import type { WeightSource } from "../graph/types.ts";
import { scaledDotProductAttention } from "./attention.ts";
import { imageTokens } from "./condition_embeddings.ts";
import { geluFeedForward } from "./feed_forward.ts";
import { add, concatTokens, type Tokens } from "./layout.ts";
import { linear, tokensLinear } from "./linear.ts";
import { layerNorm } from "./norm.ts";

/** What an IP-Adapter takes of a picture. */
export interface IPAdapterInput {
  /**
   * Of the image encoder: `image_embeds`, one embedding `[images, dim]`, or `hidden_states`, the whole sequence of the last
   * layer but one, `[images, length, dim]`. `face`: the embedding of a face recogniser, `[images, dim]`.
   */
  readonly takes: "image_embeds" | "hidden_states" | "face";
  /** Channels that it takes. */
  readonly dim: number;
}

/** What an IP-Adapter makes of a picture's embedding: the layers `image_proj.*` of its file. */
export interface IPImageProjection extends IPAdapterInput {
  /** Channels of the tokens that it gives. */
  readonly out: number;
  /** Emits the tokens of a batch of pictures. */
  emit(g: GraphBuilder, embeds: Tokens): Tokens;
}

/**
 * The projection that an adapter's file has.
 *
 * @throws UnsupportedModelError for an IP-Adapter FaceID Plus.
 * @throws WeightsMismatchError for a file that is no IP-Adapter.
 * @see Diffusers `UNet2DConditionLoadersMixin._convert_ip_adapter_image_proj_to_diffusers`
 */
export function ipImageProjection(weights: WeightSource): IPImageProjection {
  const has = (name: string): boolean => weights.shape(`image_proj.${name}`) !== undefined;
  if (has("proj.weight")) return imageProjection(weights);
  if (has("proj.3.weight")) return fullImageProjection(weights);
  if (has("perceiver_resampler.proj_in.weight")) {
    const found = "image_proj.perceiver_resampler.proj_in.weight";
    throw new UnsupportedModelError(
      `${weights.file} has ${found}: it is an IP-Adapter FaceID Plus, which takes the embeddings of two models, and is not ` +
        "built. Use an IP-Adapter, IP-Adapter Plus, Full (also for faces) or FaceID.",
      { className: "IPAdapter", field: "image_proj", file: weights.file, tensors: [found] },
    );
  }
  if (has("norm.weight")) return faceIDImageProjection(weights);
  if (has("latents")) return plusImageProjection(weights);
  throw new WeightsMismatchError(
    `${weights.file} is no IP-Adapter: found none of image_proj.proj.weight, image_proj.proj.3.weight, image_proj.norm.weight and image_proj.latents.`,
    { file: weights.file, found: "no image_proj", expected: "image_proj.* and ip_adapter.*" },
  );
}

/** A dim of one of the projection's tensors; what does not fit is found when the graph is emitted. */
function dimOf(weights: WeightSource, name: string, axis: number): number {
  return weights.shape(`image_proj.${name}`)?.[axis] ?? 0;
}

/** Four tokens from one embedding. @see Diffusers `ImageProjection` */
function imageProjection(weights: WeightSource): IPImageProjection {
  const count = 4;
  const out = Math.floor(dimOf(weights, "proj.weight", 0) / count);
  return {
    takes: "image_embeds",
    dim: dimOf(weights, "proj.weight", 1),
    out,
    emit: (g, embeds) => layerNorm(g, imageTokens(g, embeds.value, "image_proj.proj", count, out), "image_proj.norm"),
  };
}

/** A token for each of the vision model's. @see Diffusers `IPAdapterFullImageProjection` */
function fullImageProjection(weights: WeightSource): IPImageProjection {
  const dim = dimOf(weights, "proj.0.weight", 0);
  const out = dimOf(weights, "proj.3.weight", 0);
  return {
    takes: "hidden_states",
    dim,
    out,
    emit: (g, embeds) => {
      const names = ["image_proj.proj.0", "image_proj.proj.2"] as const;
      return layerNorm(g, geluFeedForward(g, embeds, names, { inner: dim, out }), "image_proj.proj.3");
    },
  };
}

/** Some tokens from a face recogniser's embedding. @see Diffusers `IPAdapterFaceIDImageProjection` */
function faceIDImageProjection(weights: WeightSource): IPImageProjection {
  const out = dimOf(weights, "norm.weight", 0);
  const inner = dimOf(weights, "proj.0.weight", 0);
  const count = Math.floor(dimOf(weights, "proj.2.weight", 0) / out);
  return {
    takes: "face",
    dim: dimOf(weights, "proj.0.weight", 1),
    out,
    emit: (g, embeds) => {
      const { batch } = embeds;
      const names = ["image_proj.proj.0", "image_proj.proj.2"] as const;
      const { value } = geluFeedForward(g, embeds, names, { inner, out: count * out });
      const tokens = { batch, length: count, channels: out, value: g.reshape(value, [batch * count, out]) };
      return layerNorm(g, tokens, "image_proj.norm");
    },
  };
}

/**
 * Learned queries that attend to the vision model's tokens, in four layers.
 *
 * @see Diffusers `IPAdapterPlusImageProjection`
 */
function plusImageProjection(weights: WeightSource): IPImageProjection {
  const dim = dimOf(weights, "proj_in.weight", 1);
  const out = dimOf(weights, "proj_out.weight", 0);
  const [, queries = 0, hidden = 0] = weights.shape("image_proj.latents") ?? [];
  const toQ = ["layers.0.0.to_q.weight", "layers.0.attn.to_q.weight"].map((name) => dimOf(weights, name, 0));
  const heads = Math.max(1, Math.floor(Math.max(...toQ) / resamplerHeadDim));
  return {
    takes: "hidden_states",
    dim,
    out,
    emit: (g, embeds) => {
      const { batch } = embeds;
      const learned = g.weight("image_proj.latents", [1, queries, hidden]);
      const dims = [batch, queries, hidden];
      const repeated = batch === 1 ? learned : g.op("Expand", [learned, g.integers(dims)], dims);
      let latents: Tokens = {
        batch,
        length: queries,
        channels: hidden,
        value: g.reshape(repeated, [batch * queries, hidden]),
      };
      const x = tokensLinear(g, embeds, "image_proj.proj_in", hidden);
      for (let i = 0; i < 4; i++) latents = resamplerBlock(g, x, latents, `image_proj.layers.${i}`, heads);
      return layerNorm(g, tokensLinear(g, latents, "image_proj.proj_out", out), "image_proj.norm_out");
    },
  };
}

const resamplerHeadDim = 64;

/** @see Diffusers `IPAdapterPlusImageProjectionBlock` */
function resamplerBlock(g: GraphBuilder, x: Tokens, latents: Tokens, name: string, heads: number): Tokens {
  // The original names, or those that Diffusers gives them.
  const named = (original: string, converted: string): string =>
    g.has(`${name}.${converted}.weight`) ? `${name}.${converted}` : `${name}.${original}`;
  const normedX = layerNorm(g, x, named("0.norm1", "ln0"));
  const normed = layerNorm(g, latents, named("0.norm2", "ln1"));
  const context = concatTokens(g, normedX, normed);

  const inner = heads * resamplerHeadDim;
  const bare = { bias: false };
  const query = tokensLinear(g, normed, named("0.to_q", "attn.to_q"), inner, bare);
  const [key, value] = g.has(`${name}.attn.to_k.weight`)
    ? [
        tokensLinear(g, context, `${name}.attn.to_k`, inner, bare),
        tokensLinear(g, context, `${name}.attn.to_v`, inner, bare),
      ]
    : keyAndValue(g, context, named("0.to_kv", "attn.to_kv"), inner);
  const mixed = scaledDotProductAttention(g, query, key, value, { heads });
  const out = named("0.to_out", "attn.to_out");
  const hidden = add(g, tokensLinear(g, mixed, out, latents.channels, bare), latents);

  const normedHidden = layerNorm(g, hidden, named("1.0", "ff.0"));
  const layers = [named("1.1", "ff.1.net.0.proj"), named("1.3", "ff.1.net.2")] as const;
  const size = { inner: 4 * hidden.channels, out: hidden.channels, bias: false };
  return add(g, geluFeedForward(g, normedHidden, layers, size), hidden);
}

/** Keys and values, which the file holds as one matrix. */
function keyAndValue(g: GraphBuilder, x: Tokens, name: string, inner: number): [Tokens, Tokens] {
  const both = linear(g, x.value, name, 2 * inner, { bias: false });
  const rows = both.dims[0]!;
  const dims = [
    [rows, inner],
    [rows, inner],
  ];
  const [key, value] = g.ops("Split", [both], dims, { axis: 1, num_outputs: 2 }) as [Value, Value];
  return [
    { ...x, channels: inner, value: key },
    { ...x, channels: inner, value },
  ];
}
