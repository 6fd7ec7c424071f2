import { ValueError } from "@diffusers-web/core";
import { type AttentionSlice, type GraphBuilder, microsoft, type Value } from "../graph/builder.ts";
import { add, divide, type FeatureMap, fromTokens, type Tokens, toTokens } from "./layout.ts";
import { tokensLinear } from "./linear.ts";
import { groupNorm } from "./norm.ts";
import { spatialNorm } from "./spatial_norm.ts";

/** Options of scaled dot-product attention. */
export interface AttentionOptions {
  readonly heads: number;
  /** Added to the scores: `[batch or 1, 1, query length or 1, key length]`. */
  readonly mask?: Value | undefined;
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
  const { heads } = options;
  const type = options.upcast ? "float32" : g.target.dtype;
  const [query, key, value] = [q, k, v].map((x) => {
    const sequence = g.reshape(x.value, [x.batch, x.length, x.channels]);
    return g.cast(sequence, type);
  }) as [Value, Value, Value];
  const mask = options.mask === undefined ? null : g.cast(options.mask, type);
  const slice = headsPerSlice(g.attentionSlice, heads);
  const result = g.target.fused.attention
    ? fusedAttention(g, query, key, value, mask, heads, slice)
    : plainAttention(g, query, key, value, mask, heads, slice);
  return { ...q, value: g.reshape(g.cast(result, g.target.dtype), [q.batch * q.length, q.channels]) };
}

/** How many heads of one batch item are computed at a time; null: all heads of the whole batch. */
export function headsPerSlice(slice: AttentionSlice | null, heads: number): number | null {
  if (slice === null) return null;
  if (slice === "max") return 1;
  return slice === "auto" ? Math.max(1, Math.floor(heads / 2)) : Math.min(slice, heads);
}

/** Scores of this many elements are sliced where one kernel computes it all: below, its own blocks are small enough. */
const largeScores = 2 ** 23;

/** With the engine's kernel, which may keep all scores of a call. */
function fusedAttention(
  g: GraphBuilder,
  query: Value,
  key: Value,
  value: Value,
  mask: Value | null,
  heads: number,
  slice: number | null,
): Value {
  const [batch, length] = query.dims as [number, number];
  const keys = key.dims[1]!;
  // The kernel takes a bias for each query.
  const bias = mask === null || mask.dims[2] === length ? mask : expand(g, mask, [mask.dims[0]!, 1, length, keys]);
  const kernel = (q: Value, k: Value, v: Value, b: Value | null, num_heads: number): Value =>
    g.op("MultiHeadAttention", [q, k, v, null, null, b], q.dims, { num_heads }, microsoft);
  if (slice === null || batch * heads * length * keys < largeScores) return kernel(query, key, value, bias, heads);

  const size = query.dims[2]! / heads;
  const items = indices(batch).map((item) => {
    const parts = slices(heads, slice).map(([begin, end]) => {
      const [q, k, v] = [query, key, value].map((x) =>
        sliceOf(g, sliceOf(g, x, 0, item, item + 1), 2, begin * size, end * size),
      ) as [Value, Value, Value];
      return kernel(q, k, v, itemOf(g, bias, item), end - begin);
    });
    return concat(g, parts, 2);
  });
  return concat(g, items, 0);
}

/** From ONNX's own operators. */
function plainAttention(
  g: GraphBuilder,
  query: Value,
  key: Value,
  value: Value,
  mask: Value | null,
  heads: number,
  slice: number | null,
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
  const operands = [scaled, split(key, [0, 2, 3, 1]), split(value, [0, 2, 1, 3])] as const;
  const mix = ([q, k, v]: readonly [Value, Value, Value], bias: Value | null): Value => {
    const scoreDims = [...q.dims.slice(0, 3), keys];
    let scores = g.op("MatMul", [q, k], scoreDims);
    if (bias !== null) scores = g.op("Add", [scores, bias], scoreDims);
    const weights = g.op("Softmax", [scores], scoreDims, { axis: -1 });
    return g.op("MatMul", [weights, v], q.dims);
  };
  const mixed =
    slice === null
      ? mix(operands, mask)
      : concat(
          g,
          indices(batch).map((item) => {
            const parts = slices(heads, slice).map(([begin, end]) => {
              const part = operands.map((x) => sliceOf(g, sliceOf(g, x, 0, item, item + 1), 1, begin, end));
              return mix(part as [Value, Value, Value], itemOf(g, mask, item));
            });
            return concat(g, parts, 1);
          }),
          0,
        );
  const merged = g.op("Transpose", [mixed], [batch, length, heads, size], { perm: [0, 2, 1, 3] });
  return g.reshape(merged, query.dims);
}

function indices(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

/** From and to where each slice of `count` goes. */
function slices(count: number, size: number): [number, number][] {
  return indices(Math.ceil(count / size)).map((i) => [i * size, Math.min(count, (i + 1) * size)]);
}

/** A batch item's part of a mask, which may hold for all items. */
function itemOf(g: GraphBuilder, mask: Value | null, item: number): Value | null {
  return mask === null || mask.dims[0] === 1 ? mask : sliceOf(g, mask, 0, item, item + 1);
}

function sliceOf(g: GraphBuilder, x: Value, axis: number, begin: number, end: number): Value {
  if (begin === 0 && end === x.dims[axis]) return x;
  const dims = x.dims.map((dim, i) => (i === axis ? end - begin : dim));
  return g.op("Slice", [x, g.integers([begin]), g.integers([end]), g.integers([axis])], dims);
}

function concat(g: GraphBuilder, parts: readonly Value[], axis: number): Value {
  const [first] = parts as [Value];
  if (parts.length === 1) return first;
  const total = parts.reduce((sum, part) => sum + part.dims[axis]!, 0);
  const dims = first.dims.map((dim, i) => (i === axis ? total : dim));
  return g.op("Concat", parts, dims, { axis });
}

function expand(g: GraphBuilder, x: Value, dims: readonly number[]): Value {
  return g.op("Expand", [x, g.integers(dims)], dims);
}

/** @throws ValueError unless the mask has as many entries as there are keys. */
export function checkMask(mask: Value | undefined, keys: Tokens, field: string, name: string): void {
  const length = mask?.dims.at(-1);
  if (length === undefined || length === keys.length) return;
  throw new ValueError(
    `\`${field}\` has ${length} tokens, but ${name} attends to ${keys.length}: ` +
      "it has to be [batch, tokens] with as many tokens as every attention that it masks.",
    { field, found: `${length} tokens`, expected: `${keys.length} tokens` },
  );
}

/** Options of {@link attention}. */
export interface AttentionLayerOptions {
  readonly heads: number;
  readonly headDim: number;
  /** Where keys and values come from. Default: the tokens themselves. */
  readonly context?: Tokens;
  /** Whether the projections to query, key and value have a bias. Default false. */
  readonly bias?: boolean;
  /** Whether the projection out has one. Default true. */
  readonly outBias?: boolean;
  /** As in {@link AttentionOptions}. */
  readonly mask?: Value | undefined;
  readonly upcast?: boolean;
  /** What else the queries attend to: its result is added before the projection out. */
  readonly added?: ((query: Tokens) => Tokens | undefined) | undefined;
}

/**
 * Attention with its projections.
 *
 * @see Diffusers `Attention` with `AttnProcessor2_0`
 */
export function attention(g: GraphBuilder, x: Tokens, name: string, options: AttentionLayerOptions): Tokens {
  const { heads, headDim, bias = false, outBias = true, mask, upcast = false } = options;
  const inner = heads * headDim;
  if (options.context === undefined) g.selfAttentions.push(name);
  // Where a token sees itself only, it gets its own value: it needs neither query nor key.
  const count = g.perturbed?.names.includes(name) ? g.perturbed.from : x.batch;
  const seeing = items(g, x, 0, count);
  const query = tokensLinear(g, seeing, `${name}.to_q`, inner, { bias });
  const key = tokensLinear(g, options.context ?? seeing, `${name}.to_k`, inner, { bias });
  const value = tokensLinear(g, options.context ?? x, `${name}.to_v`, inner, { bias });
  let mixed = scaledDotProductAttention(g, query, key, items(g, value, 0, count), { heads, mask, upcast });
  if (count < x.batch) mixed = joined(g, mixed, items(g, value, count, x.batch));
  const added = options.added?.(query);
  if (added !== undefined) mixed = add(g, mixed, added);
  return tokensLinear(g, mixed, `${name}.to_out.0`, x.channels, { bias: outBias });
}

/** Some items of a batch. */
function items(g: GraphBuilder, x: Tokens, begin: number, end: number): Tokens {
  const batch = end - begin;
  return batch === x.batch ? x : { ...x, batch, value: sliceOf(g, x.value, 0, begin * x.length, end * x.length) };
}

/** The items of two batches. */
function joined(g: GraphBuilder, a: Tokens, b: Tokens): Tokens {
  return { ...a, batch: a.batch + b.batch, value: concat(g, [a.value, b.value], 0) };
}

/** Options of {@link attentionBlock2D}. */
export interface AttentionBlockOptions {
  /** The size of a head; as many heads as fit into the channels. */
  readonly headDim: number;
  /** null: no normalisation before. */
  readonly groups: number | null;
  /** The quantised latents, where the normalisation is a {@link spatialNorm} of them. */
  readonly spatial?: FeatureMap | undefined;
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
  { headDim, groups, eps, spatial, outputScaleFactor = 1 }: AttentionBlockOptions,
): FeatureMap {
  let normed = x;
  if (spatial !== undefined) normed = spatialNorm(g, x, spatial, `${name}.spatial_norm`);
  else if (groups !== null) normed = groupNorm(g, x, `${name}.group_norm`, { groups, eps });
  const heads = Math.floor(x.channels / headDim);
  const mixed = attention(g, toTokens(g, normed), name, { heads, headDim, bias: true });
  return divide(g, add(g, fromTokens(g, mixed, x.height, x.width), x), outputScaleFactor);
}
