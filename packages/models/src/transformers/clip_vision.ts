import { type ConfigDict, configDefaults, float, Tensor, ValueError } from "@diffusers-web/core";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import { conv2d } from "../layers/conv.ts";
import { type FeatureMap, type Tokens, toTokens } from "../layers/layout.ts";
import { layerNorm } from "../layers/norm.ts";
import { checkCLIPEncoder, checkWhole, prepareCLIPConfig } from "./clip_config.ts";
import { type CLIPEncoderConfig, clipEncoder } from "./clip_layers.ts";

/** The config of CLIP's image encoder: the fields of transformers' `CLIPVisionConfig` that say what it computes. */
export interface CLIPVisionConfig extends CLIPEncoderConfig {
  /** The width of `image_embeds`. */
  projection_dim: number;
  num_channels: number;
  /** Height and width of the pictures. */
  image_size: number;
  /** Height and width of a patch, which is a token. */
  patch_size: number;
  /** Training only, as are the initializer's fields. */
  attention_dropout: number;
  initializer_range: number;
  initializer_factor: number;
}

/** What a field is where a config.json says nothing. */
export const clipVisionDefaults: CLIPVisionConfig = configDefaults<CLIPVisionConfig>({
  hidden_size: 768,
  intermediate_size: 3072,
  projection_dim: 512,
  num_hidden_layers: 12,
  num_attention_heads: 12,
  num_channels: 3,
  image_size: 224,
  patch_size: 32,
  hidden_act: "quick_gelu",
  layer_norm_eps: 1e-5,
  attention_dropout: float(0),
  initializer_range: 0.02,
  initializer_factor: float(1),
});

/** What a file of a whole CLIP, or of an older release, has besides the image encoder. */
export const clipVisionStrangers: readonly RegExp[] = [
  /\.position_ids$/,
  /^text_model\./,
  /^text_projection\./,
  /^logit_scale$/,
];

/**
 * The image encoder's part of a config.json: of its own, or of a whole CLIP's.
 *
 * @throws UnsupportedModelError for another kind of model, and for quantized weights.
 */
export function prepareCLIPVisionConfig(config: ConfigDict, className: string): ConfigDict {
  const fields = Object.keys(clipVisionDefaults);
  return prepareCLIPConfig(config, { className, key: "vision_config", modelType: "clip_vision_model", fields });
}

/**
 * Checks an image encoder's config.
 *
 * @throws UnsupportedModelError for what is not built, ValueError for what transformers refuses as well.
 */
export function checkCLIPVisionConfig(className: string, config: CLIPVisionConfig): void {
  checkCLIPEncoder(className, config);
  checkWhole(className, config, ["num_channels", "image_size", "patch_size", "projection_dim"]);
  const { image_size, patch_size } = config;
  if (image_size >= patch_size) return;
  throw new ValueError(
    `${className} has an \`image_size\` of ${image_size}, which is less than its \`patch_size\` of ${patch_size}.`,
    { className, field: "image_size", found: String(image_size), expected: `${patch_size} or more` },
  );
}

/** What {@link clipVisionTransformer} emits. */
export interface CLIPVisionStates {
  /** The class token after `post_layernorm`: `[batch, hidden_size]`. */
  readonly pooled: Value;
  /** The last layer's output, not normalised: the class token, then the patches row by row. */
  readonly last_hidden_state: Tokens;
  /** What enters the first layer, then the output of each layer. */
  readonly hidden_states: readonly Tokens[];
}

/**
 * CLIP's image encoder, below a name.
 *
 * @param prefix what stands before `embeddings.`, with its dot: "", `vision_model.`, `vision_model.vision_model.`
 * @param pixels `num_channels` channels, normalised as the model's preprocessor_config.json says
 * @param positions `[patches + 1, hidden_size]`, for pictures of another size than the config's: see {@link resizePositions}
 * @see transformers `CLIPVisionModel`
 */
export function clipVisionTransformer(
  g: GraphBuilder,
  prefix: string,
  config: CLIPVisionConfig,
  pixels: FeatureMap,
  positions: Value = positionTable(g, prefix, config),
): CLIPVisionStates {
  const { hidden_size, layer_norm_eps: eps } = config;
  const embedded = embeddings(g, `${prefix}embeddings`, config, pixels, positions);
  // The name is misspelt in all checkpoints.
  const normed = layerNorm(g, embedded, `${prefix}pre_layrnorm`, eps);
  const hidden_states = clipEncoder(g, normed, `${prefix}encoder`, config);
  const last_hidden_state = hidden_states.at(-1)!;
  const { batch, length } = last_hidden_state;
  const firsts = g.integers(Array.from({ length: batch }, (_, i) => i * length));
  const value = g.op("Gather", [last_hidden_state.value, firsts], [batch, hidden_size], { axis: 0 });
  const classes: Tokens = { batch, length: 1, channels: hidden_size, value };
  return { pooled: layerNorm(g, classes, `${prefix}post_layernorm`, eps).value, last_hidden_state, hidden_states };
}

/** @see transformers `CLIPVisionEmbeddings` */
function embeddings(
  g: GraphBuilder,
  at: string,
  { hidden_size: size, patch_size }: CLIPVisionConfig,
  pixels: FeatureMap,
  positions: Value,
): Tokens {
  const options = { kernel: patch_size, stride: patch_size, padding: 0, bias: false };
  const patches = toTokens(g, conv2d(g, pixels, `${at}.patch_embedding`, size, options));
  const { batch } = patches;
  const length = patches.length + 1;
  const one = g.weight(`${at}.class_embedding`, [size], g.target.dtype, [1, 1, size]);
  const dims = [batch, 1, size];
  const classes = batch === 1 ? one : g.op("Expand", [one, g.integers(dims)], dims);
  const rows = g.reshape(patches.value, [batch, patches.length, size]);
  const tokens = g.op("Concat", [classes, rows], [batch, length, size], { axis: 1 });
  const sum = g.op("Add", [tokens, positions], [batch, length, size]);
  return { batch, length, channels: size, value: g.reshape(sum, [batch * length, size]) };
}

const tableName = (prefix: string): string => `${prefix}embeddings.position_embedding.weight`;

function tableDims({ image_size, patch_size, hidden_size }: CLIPVisionConfig): [number, number] {
  return [Math.floor(image_size / patch_size) ** 2 + 1, hidden_size];
}

function positionTable(g: GraphBuilder, prefix: string, config: CLIPVisionConfig): Value {
  return g.weight(tableName(prefix), tableDims(config));
}

/** The table of positions, for {@link resizePositions}. */
export function readPositions(g: GraphBuilder, prefix: string, config: CLIPVisionConfig): Tensor {
  const dims = tableDims(config);
  return new Tensor("float32", g.read(tableName(prefix), dims), dims);
}

/**
 * A table of positions for pictures of another size: the class token's as it is, those of the patches as a picture that is
 * resized with a bicubic filter.
 *
 * @param table `[side * side + 1, size]`
 * @returns `[rows * columns + 1, size]`
 * @see transformers `CLIPVisionEmbeddings.interpolate_pos_encoding`
 */
export function resizePositions(table: Tensor, rows: number, columns: number): Tensor {
  const [count, size] = table.dims as [number, number];
  const side = Math.sqrt(count - 1);
  const down = bicubicTaps(side, rows);
  const across = bicubicTaps(side, columns);
  const data = new Float32Array((rows * columns + 1) * size);
  data.set(table.data.subarray(0, size));
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const to = (1 + row * columns + column) * size;
      for (const [y, weightY] of down[row]!) {
        for (const [x, weightX] of across[column]!) {
          const from = (1 + y * side + x) * size;
          const weight = weightX * weightY;
          for (let i = 0; i < size; i++) data[to + i]! += weight * table.data[from + i]!;
        }
      }
    }
  }
  return new Tensor("float32", data, [rows * columns + 1, size]);
}

/**
 * For each place of the output: four places of the input, and what they count. Places beyond the edge are the edge.
 *
 * @see torch `interpolate(mode="bicubic", align_corners=False)`
 */
function bicubicTaps(length: number, resized: number): readonly (readonly [number, number])[][] {
  const a = -0.75;
  const near = (x: number): number => ((a + 2) * x - (a + 3)) * x * x + 1;
  const far = (x: number): number => ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  const scale = length / resized;
  return Array.from({ length: resized }, (_, i) => {
    const place = scale * (i + 0.5) - 0.5;
    const first = Math.floor(place);
    const t = place - first;
    const weights = [far(t + 1), near(t), near(1 - t), far(2 - t)];
    return weights.map((weight, k) => [Math.min(Math.max(first - 1 + k, 0), length - 1), weight] as const);
  });
}
