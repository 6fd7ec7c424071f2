import { type ConfigDict, configDefaults, type DataType, float, Tensor, ValueError } from "@diffusers-web/core";
import { checkValue } from "../config_checks.ts";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import type { Tokens } from "../layers/layout.ts";
import { layerNorm } from "../layers/norm.ts";
import { checkCLIPEncoder, checkWhole, prepareCLIPConfig } from "./clip_config.ts";
import { type CLIPEncoderConfig, clipEncoder } from "./clip_layers.ts";
import type { TokenEmbeddings } from "./token_embeddings.ts";

/** The config of CLIP's text encoder: the fields of transformers' `CLIPTextConfig` that say what it computes. */
export interface CLIPTextConfig extends CLIPEncoderConfig {
  vocab_size: number;
  /** The width of `text_embeds`. */
  projection_dim: number | null;
  /** The longest sequence. */
  max_position_embeddings: number;
  /** Training only, as are the initializer's fields. */
  attention_dropout: number;
  initializer_range: number;
  initializer_factor: number;
  pad_token_id: number | null;
  bos_token_id: number | null;
  /** Where the pooled output is taken: the first of these; 2 (an old mistake that many files keep): the largest id. */
  eos_token_id: number | null;
}

/** What a field is where a config.json says nothing. */
export const clipTextDefaults: CLIPTextConfig = configDefaults<CLIPTextConfig>({
  vocab_size: 49408,
  hidden_size: 512,
  intermediate_size: 2048,
  projection_dim: 512,
  num_hidden_layers: 12,
  num_attention_heads: 8,
  max_position_embeddings: 77,
  hidden_act: "quick_gelu",
  layer_norm_eps: 1e-5,
  attention_dropout: float(0),
  initializer_range: 0.02,
  initializer_factor: float(1),
  pad_token_id: 1,
  bos_token_id: 49406,
  eos_token_id: 49407,
});

/** Fields that pipelines read. */
export const clipTextPipelineFields: readonly string[] = ["use_attention_mask"];

/** What a file of a whole CLIP, or of an older release, has besides the text encoder. */
export const clipTextStrangers: readonly RegExp[] = [
  /\.position_ids$/,
  /^vision_model\./,
  /^visual_projection\./,
  /^logit_scale$/,
];

/**
 * The text encoder's part of a config.json: of its own, or of a whole CLIP's.
 *
 * @throws UnsupportedModelError for another kind of model, and for quantized weights.
 */
export function prepareCLIPTextConfig(config: ConfigDict, className: string): ConfigDict {
  const fields = [...Object.keys(clipTextDefaults), ...clipTextPipelineFields];
  return prepareCLIPConfig(config, { className, key: "text_config", modelType: "clip_text_model", fields });
}

/**
 * Checks a text encoder's config.
 *
 * @throws UnsupportedModelError for what is not built, ValueError for what transformers refuses as well.
 */
export function checkCLIPTextConfig(className: string, config: CLIPTextConfig): void {
  checkCLIPEncoder(className, config);
  checkWhole(className, config, ["vocab_size", "max_position_embeddings"]);
  const { eos_token_id } = config;
  if (!Number.isInteger(eos_token_id)) checkValue(className, "eos_token_id", eos_token_id, ["a whole number"]);
}

/** All that a text encoder's graph depends on. */
export interface CLIPTextKey {
  readonly batch: number;
  readonly length: number;
  readonly wantsLayers: boolean;
  /** Whether there is padding that nothing looks at. */
  readonly isMasked: boolean;
  /** Whether some tokens look at nothing. */
  readonly hasBlindRows: boolean;
  /** The dims of `position_ids`, where they are given. */
  readonly positions: readonly number[] | null;
  /** Rows of the table of embeddings in the file. */
  readonly rows: number;
  /** Whether further tokens have vectors that are fed. */
  readonly hasLearned: boolean;
}

/** What {@link clipTextTransformer} emits. */
export interface CLIPTextStates {
  /** The last layer's output after `final_layer_norm`. */
  readonly last_hidden_state: Tokens;
  /** Its rows at the end of each text: `[batch, hidden_size]`. */
  readonly pooled: Value;
  /** The embeddings, then the output of each layer. */
  readonly hidden_states: readonly Tokens[];
}

/**
 * CLIP's text encoder, below a name. The graph's inputs are what {@link clipTextFeeds} gives.
 *
 * @param prefix what stands before `embeddings.`, with its dot: "" or `text_model.`
 * @see transformers `CLIPTextModel`
 */
export function clipTextTransformer(
  g: GraphBuilder,
  prefix: string,
  config: CLIPTextConfig,
  key: CLIPTextKey,
): CLIPTextStates {
  const { hidden_size: size, layer_norm_eps } = config;
  const { batch, length } = key;
  const embedded = embeddings(g, `${prefix}embeddings`, config, key);
  const masks = {
    scores: key.isMasked ? g.input("mask", [batch, 1, length, length]) : causalMask(g, length),
    rows: key.hasBlindRows ? g.input("seeing", [batch * length, 1]) : undefined,
  };
  const hidden_states = clipEncoder(g, embedded, `${prefix}encoder`, config, masks);
  const last_hidden_state = layerNorm(g, hidden_states.at(-1)!, `${prefix}final_layer_norm`, layer_norm_eps);
  const ends = g.input("text_ends", [batch], "int64");
  const pooled = g.op("Gather", [last_hidden_state.value, ends], [batch, size], { axis: 0 });
  return { last_hidden_state, pooled, hidden_states };
}

/** @see transformers `CLIPTextEmbeddings` */
function embeddings(g: GraphBuilder, at: string, config: CLIPTextConfig, key: CLIPTextKey): Tokens {
  const { hidden_size: size, max_position_embeddings } = config;
  const { batch, length } = key;
  const table = g.weight(`${at}.token_embedding.weight`, [key.rows, size]);
  let words = g.op("Gather", [table, g.input("input_ids", [batch, length], "int64")], [batch, length, size]);
  if (key.hasLearned) {
    words = g.op("Mul", [words, g.input("known_tokens", [batch, length, 1])], words.dims);
    words = g.op("Add", [words, g.input("learned_embeddings", words.dims)], words.dims);
  }
  let positions = g.weight(`${at}.position_embedding.weight`, [max_position_embeddings, size]);
  if (key.positions !== null) {
    positions = g.op("Gather", [positions, g.input("position_ids", key.positions, "int64")], [...key.positions, size]);
  } else if (length < max_position_embeddings) {
    positions = g.op("Slice", [positions, g.integers([0]), g.integers([length]), g.integers([0])], [length, size]);
  }
  const sum = g.op("Add", [words, positions], [batch, length, size]);
  return { batch, length, channels: size, value: g.reshape(sum, [batch * length, size]) };
}

// Far below any score, yet within float16: its exponential is 0.
const masked = -10000;

/** A token looks at itself and what stands before it: `[1, 1, length, length]`. */
function causalMask(g: GraphBuilder, length: number): Value {
  const bias = Float32Array.from({ length: length * length }, (_, i) =>
    i % length <= Math.floor(i / length) ? 0 : masked,
  );
  return g.constant(bias, [1, 1, length, length]);
}

/** What a text encoder is called with, besides the choice of its outputs. */
export interface CLIPTextInputs {
  readonly input_ids: Tensor<"int64">;
  readonly attention_mask: Tensor<DataType> | undefined;
  readonly position_ids: Tensor<"int64"> | undefined;
  readonly embeddings: TokenEmbeddings;
}

/**
 * Checks what a text encoder is called with, and makes the inputs of its graph of it.
 *
 * @throws ValueError for a sequence that is longer than the model knows, or an id that it does not know.
 */
export function clipTextFeeds(
  className: string,
  config: CLIPTextConfig,
  { input_ids, attention_mask, position_ids, embeddings }: CLIPTextInputs,
): { feeds: Record<string, Tensor | Tensor<"int64">>; key: Omit<CLIPTextKey, "wantsLayers" | "rows"> } {
  checkIds(className, config, embeddings.length, input_ids);
  const [batch, length] = input_ids.dims as [number, number];
  const { hasLearned } = embeddings;
  const feeds: Record<string, Tensor | Tensor<"int64">> = {
    ...embeddings.feeds(input_ids, config.hidden_size),
    text_ends: new Tensor("int64", BigInt64Array.from(textEnds(input_ids, config.eos_token_id!), BigInt), [batch]),
  };
  if (position_ids !== undefined) {
    checkPositions(className, config, position_ids, batch, length);
    feeds["position_ids"] = position_ids;
  }
  let hasBlindRows = false;
  if (attention_mask !== undefined) {
    const { mask, seeing } = paddingMask(className, attention_mask, batch, length);
    feeds["mask"] = mask;
    hasBlindRows = seeing.data.includes(0);
    if (hasBlindRows) feeds["seeing"] = seeing;
  }
  const positions = position_ids?.dims ?? null;
  return { feeds, key: { batch, length, isMasked: attention_mask !== undefined, hasBlindRows, positions, hasLearned } };
}

/** Where each text ends, as a row of all texts' tokens. */
function textEnds(ids: Tensor<"int64">, eos: number): number[] {
  const [batch, length] = ids.dims as [number, number];
  return Array.from({ length: batch }, (_, item) => {
    const row = Array.from(ids.data.subarray(item * length, (item + 1) * length), Number);
    // A sequence without the token gives its first state, as torch's argmax over zeros does.
    return item * length + (eos === 2 ? row.indexOf(Math.max(...row)) : Math.max(0, row.indexOf(eos)));
  });
}

/**
 * The mask without padding tokens, `[batch, 1, length, length]`, and a 0 for each token that sees none, not even itself,
 * `[batch * length, 1]`: torch's attention gives 0 there, and a softmax would not.
 */
function paddingMask(
  className: string,
  mask: Tensor<DataType>,
  batch: number,
  length: number,
): { mask: Tensor; seeing: Tensor } {
  if (String(mask.dims) !== String([batch, length])) {
    throw new ValueError(
      `${className}: \`attention_mask\` has dims [${mask.dims}], but [${batch}, ${length}] is expected.`,
      {
        className,
        field: "attention_mask",
        found: `[${mask.dims}]`,
        expected: `[${batch}, ${length}]`,
      },
    );
  }
  const keep = mask.to("float32").data;
  const data = new Float32Array(batch * length * length).fill(masked);
  const seeing = new Float32Array(batch * length);
  for (let row = 0; row < batch * length; row++) {
    const begin = row - (row % length);
    for (let key = begin; key <= row; key++) {
      if (keep[key] === 0) continue;
      data[row * length + key - begin] = 0;
      seeing[row] = 1;
    }
  }
  return {
    mask: new Tensor("float32", data, [batch, 1, length, length]),
    seeing: new Tensor("float32", seeing, [batch * length, 1]),
  };
}

function checkIds(className: string, config: CLIPTextConfig, tokens: number, ids: Tensor<"int64">): void {
  const { max_position_embeddings: longest } = config;
  const fail = (message: string, found: string, expected: string): never => {
    throw new ValueError(`${className}: ${message}`, { className, field: "input_ids", found, expected });
  };
  if (ids.type !== "int64" || ids.dims.length !== 2 || ids.size === 0) {
    fail(
      `\`input_ids\` must be an int64 Tensor [batch, length], but is ${ids.type} [${ids.dims}].`,
      `${ids.type} [${ids.dims}]`,
      "int64 [batch, length]",
    );
  }
  if (ids.dims[1]! > longest) {
    fail(`a sequence of ${ids.dims[1]} tokens is longer than the model's ${longest}.`, `${ids.dims[1]}`, `${longest}`);
  }
  const stranger = ids.data.find((id) => id < 0n || id >= BigInt(tokens));
  if (stranger !== undefined) {
    fail(`the model has no token ${stranger}: its vocabulary has ${tokens}.`, `${stranger}`, `below ${tokens}`);
  }
}

function checkPositions(
  className: string,
  { max_position_embeddings: count }: CLIPTextConfig,
  ids: Tensor<"int64">,
  batch: number,
  length: number,
): void {
  const fits = [[length], [1, length], [batch, length]].some((dims) => String(dims) === String(ids.dims));
  const stranger = ids.type === "int64" ? ids.data.find((id) => id < 0n || id >= BigInt(count)) : undefined;
  if (ids.type === "int64" && fits && stranger === undefined) return;
  const found = stranger === undefined ? `${ids.type} [${ids.dims}]` : String(stranger);
  const expected = `int64 [${batch}, ${length}] of 0 to ${count - 1}`;
  throw new ValueError(`${className}: \`position_ids\` has ${found}, but ${expected} is expected.`, {
    className,
    field: "position_ids",
    found,
    expected,
  });
}
