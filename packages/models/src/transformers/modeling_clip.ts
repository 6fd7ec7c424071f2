import {
  type ConfigDict,
  checkOptions,
  configDefaults,
  type DataType,
  float,
  Tensor,
  ValueError,
} from "@diffusers-web/core";
import { checkValue } from "../config_checks.ts";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import { activation, checkActivation } from "../layers/activations.ts";
import { scaledDotProductAttention } from "../layers/attention.ts";
import { add, type Tokens } from "../layers/layout.ts";
import { tokensLinear } from "../layers/linear.ts";
import { layerNorm } from "../layers/norm.ts";
import { ModelMixin } from "../modeling_utils.ts";

/** The config of a {@link CLIPTextModel}: the fields of transformers' `CLIPTextConfig` that say what it computes. */
export interface CLIPTextConfig {
  vocab_size: number;
  hidden_size: number;
  intermediate_size: number;
  projection_dim: number | null;
  num_hidden_layers: number;
  num_attention_heads: number;
  /** The longest sequence. */
  max_position_embeddings: number;
  /** E.g. quick_gelu (Stable Diffusion 1.x) or gelu (2.x). */
  hidden_act: string;
  layer_norm_eps: number;
  /** Training only, as are the initializer's fields. */
  attention_dropout: number;
  initializer_range: number;
  initializer_factor: number;
  pad_token_id: number | null;
  bos_token_id: number | null;
  /** Where the pooled output is taken: the first of these; 2 (an old mistake that many files keep): the largest id. */
  eos_token_id: number | null;
}

/** Options of {@link CLIPTextModel.forward}. */
export interface CLIPTextOptions {
  /** 1 for tokens to look at, 0 for padding, `[batch, length]`. Default: all of them. */
  readonly attention_mask?: Tensor<DataType> | undefined;
  /** Whether `hidden_states` is wanted. Default true. */
  readonly output_hidden_states?: boolean | undefined;
}

/** What a {@link CLIPTextModel} gives. */
export interface CLIPTextModelOutput {
  /** After the last layer and the final normalisation, `[batch, length, hidden_size]`. */
  readonly last_hidden_state: Tensor;
  /** The embeddings, then the output of each layer, none of them normalised: `num_hidden_layers + 1` tensors. */
  readonly hidden_states: readonly Tensor[];
  /** `last_hidden_state` at the end-of-text token, `[batch, hidden_size]`. */
  readonly pooler_output: Tensor;
}

export interface CLIPTextModel {
  /** {@link CLIPTextModel.forward} */
  (input_ids: Tensor<"int64">, options?: CLIPTextOptions): Promise<CLIPTextModelOutput>;
}

const name = "CLIPTextModel";

/**
 * CLIP's text encoder.
 *
 * @see transformers `CLIPTextModel`
 */
export class CLIPTextModel extends ModelMixin<CLIPTextConfig> {
  static override readonly name: string = "CLIPTextModel";
  static override readonly weights_name: string = "model";
  // Read by pipelines.
  static override readonly compatible_fields: readonly string[] = ["use_attention_mask"];
  static override readonly config_defaults: CLIPTextConfig = configDefaults<CLIPTextConfig>({
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

  // Used in TypeScript for `final_layer_norm`; `build` reads it.
  private finalNorm: { weight: Float32Array; bias: Float32Array } | undefined;

  /** @throws UnsupportedModelError for a config field whose value is not built, naming it. */
  constructor(config: Partial<CLIPTextConfig> = {}) {
    super(config);
    const { hidden_act, eos_token_id, hidden_size, num_attention_heads } = this.config;
    checkActivation(hidden_act, name, "hidden_act", "transformers");
    if (typeof eos_token_id !== "number") checkValue(name, "eos_token_id", eos_token_id, ["a number"]);
    if (hidden_size % num_attention_heads === 0) return;
    throw new ValueError(
      `${name} has a \`hidden_size\` of ${hidden_size}, which is not a multiple of its ${num_attention_heads} heads.`,
      { className: name, field: "hidden_size", found: String(hidden_size), expected: `n * ${num_attention_heads}` },
    );
  }

  /** The text part of a whole CLIP's config; without what transformers writes into every config. */
  static override prepare_config(config: ConfigDict): ConfigDict {
    const text = config["text_config"];
    const isWhole = config["model_type"] === "clip" && typeof text === "object" && text !== null;
    const source = isWhole ? (text as ConfigDict) : config;
    const known = [...Object.keys(CLIPTextModel.config_defaults), ...CLIPTextModel.compatible_fields];
    return Object.fromEntries(Object.entries(source).filter(([key]) => known.includes(key)));
  }

  /**
   * @param input_ids `[batch, length]`, each from 0 to below `vocab_size`
   * @throws ValueError for a sequence that is longer than the model knows, or an id that it does not know.
   */
  override async forward(input_ids: Tensor<"int64">, options: CLIPTextOptions = {}): Promise<CLIPTextModelOutput> {
    checkOptions(name, options, ["attention_mask", "output_hidden_states"]);
    this.checkIds(input_ids);
    const [batch, length] = input_ids.dims as [number, number];
    const wantsLayers = options.output_hidden_states ?? true;
    const feeds: Record<string, Tensor | Tensor<"int64">> = { input_ids };
    if (options.attention_mask !== undefined) feeds["mask"] = paddingMask(options.attention_mask, batch, length);

    const key = { batch, length, wantsLayers, mask: options.attention_mask !== undefined };
    const session = await this.session("forward", key, (g) => this.build(g, key));
    const outputs = await session.run(feeds);
    const last_hidden_state = outputs["last_hidden_state"]!;
    const layers = wantsLayers ? this.config.num_hidden_layers + 1 : 0;
    return {
      last_hidden_state,
      hidden_states: Array.from({ length: layers }, (_, i) => outputs[`hidden_states_${i}`]!),
      pooler_output: this.pool(last_hidden_state, input_ids),
    };
  }

  /**
   * The normalisation that follows the last layer, for another layer's output (`clip_skip`).
   *
   * @param hidden_states `[batch, length, hidden_size]`
   * @see transformers `CLIPTextModel.final_layer_norm`
   */
  async final_layer_norm(hidden_states: Tensor): Promise<Tensor> {
    const size = this.config.hidden_size;
    if (this.finalNorm === undefined || hidden_states.dims.at(-1) !== size) {
      throw new ValueError(
        `${name}.final_layer_norm takes [batch, length, ${size}], but got [${hidden_states.dims}].`,
        {
          className: name,
          field: "hidden_states",
          found: `[${hidden_states.dims}]`,
          expected: `[batch, length, ${size}]`,
        },
      );
    }
    const { weight, bias } = this.finalNorm;
    const data = new Float32Array(hidden_states.size);
    for (let begin = 0; begin < data.length; begin += size) {
      const row = hidden_states.data.subarray(begin, begin + size);
      const mean = row.reduce((sum, x) => sum + x, 0) / size;
      const variance = row.reduce((sum, x) => sum + (x - mean) ** 2, 0) / size;
      const scale = 1 / Math.sqrt(variance + this.config.layer_norm_eps);
      for (let i = 0; i < size; i++) data[begin + i] = (row[i]! - mean) * scale * weight[i]! + bias[i]!;
    }
    return new Tensor("float32", data, hidden_states.dims);
  }

  protected override check(build: (emit: (g: GraphBuilder) => void) => void): void {
    const length = this.config.max_position_embeddings;
    build((g) => this.build(g, { batch: 1, length, wantsLayers: true, mask: false }));
  }

  private build(g: GraphBuilder, key: { batch: number; length: number; wantsLayers: boolean; mask: boolean }): void {
    const { hidden_size: size, num_hidden_layers, layer_norm_eps } = this.config;
    const { batch, length } = key;
    // The first files of each kind have the tensors below `text_model`.
    const prefix = g.has("text_model.final_layer_norm.weight") ? "text_model." : "";
    const output = (outputName: string, { value }: Tokens): void =>
      g.output(outputName, g.reshape(value, [batch, length, size]));

    let hidden = this.embeddings(g, `${prefix}embeddings`, batch, length);
    const mask = key.mask ? g.input("mask", [batch, 1, length, length]) : causalMask(g, length);
    for (let i = 0; i < num_hidden_layers; i++) {
      if (key.wantsLayers) output(`hidden_states_${i}`, hidden);
      hidden = this.layer(g, hidden, `${prefix}encoder.layers.${i}`, mask);
    }
    if (key.wantsLayers) output(`hidden_states_${num_hidden_layers}`, hidden);
    output("last_hidden_state", layerNorm(g, hidden, `${prefix}final_layer_norm`, layer_norm_eps));
    this.finalNorm = {
      weight: g.read(`${prefix}final_layer_norm.weight`, [size]),
      bias: g.read(`${prefix}final_layer_norm.bias`, [size]),
    };
  }

  private embeddings(g: GraphBuilder, at: string, batch: number, length: number): Tokens {
    const { vocab_size, hidden_size: size, max_position_embeddings } = this.config;
    const table = g.weight(`${at}.token_embedding.weight`, [vocab_size, size]);
    const words = g.op("Gather", [table, g.input("input_ids", [batch, length], "int64")], [batch, length, size]);
    let positions = g.weight(`${at}.position_embedding.weight`, [max_position_embeddings, size]);
    if (length < max_position_embeddings) {
      positions = g.op("Slice", [positions, g.integers([0]), g.integers([length]), g.integers([0])], [length, size]);
    }
    const sum = g.op("Add", [words, positions], [batch, length, size]);
    return { batch, length, channels: size, value: g.reshape(sum, [batch * length, size]) };
  }

  /** @see transformers `CLIPEncoderLayer` */
  private layer(g: GraphBuilder, x: Tokens, at: string, mask: Value): Tokens {
    const {
      hidden_size: size,
      intermediate_size,
      num_attention_heads: heads,
      layer_norm_eps,
      hidden_act,
    } = this.config;
    const normed = layerNorm(g, x, `${at}.layer_norm1`, layer_norm_eps);
    const [q, k, v] = ["q", "k", "v"].map((which) =>
      tokensLinear(g, normed, `${at}.self_attn.${which}_proj`, size),
    ) as [Tokens, Tokens, Tokens];
    const mixed = scaledDotProductAttention(g, q, k, v, { heads, mask });
    const hidden = add(g, tokensLinear(g, mixed, `${at}.self_attn.out_proj`, size), x);

    const wide = tokensLinear(
      g,
      layerNorm(g, hidden, `${at}.layer_norm2`, layer_norm_eps),
      `${at}.mlp.fc1`,
      intermediate_size,
    );
    const active = { ...wide, value: activation(g, wide.value, hidden_act) };
    return add(g, tokensLinear(g, active, `${at}.mlp.fc2`, size), hidden);
  }

  /** Each sequence's state at its end-of-text token. */
  private pool(states: Tensor, ids: Tensor<"int64">): Tensor {
    const { hidden_size: size, eos_token_id } = this.config;
    const [batch, length] = ids.dims as [number, number];
    const data = new Float32Array(batch * size);
    for (let item = 0; item < batch; item++) {
      const row = Array.from(ids.data.subarray(item * length, (item + 1) * length), Number);
      // A sequence without the token gives its first state, as torch's argmax over zeros does.
      const at = eos_token_id === 2 ? row.indexOf(Math.max(...row)) : Math.max(0, row.indexOf(eos_token_id!));
      const begin = (item * length + at) * size;
      data.set(states.data.subarray(begin, begin + size), item * size);
    }
    return new Tensor("float32", data, [batch, size]);
  }

  private checkIds(ids: Tensor<"int64">): void {
    const { max_position_embeddings: longest, vocab_size } = this.config;
    const fail = (message: string, found: string, expected: string): never => {
      throw new ValueError(`${name}: ${message}`, { className: name, field: "input_ids", found, expected });
    };
    if (ids.type !== "int64" || ids.dims.length !== 2 || ids.size === 0) {
      fail(
        `\`input_ids\` must be an int64 Tensor [batch, length], but is ${ids.type} [${ids.dims}].`,
        `${ids.type} [${ids.dims}]`,
        "int64 [batch, length]",
      );
    }
    if (ids.dims[1]! > longest) {
      fail(
        `a sequence of ${ids.dims[1]} tokens is longer than the model's ${longest}.`,
        `${ids.dims[1]}`,
        `${longest}`,
      );
    }
    const stranger = ids.data.find((id) => id < 0n || id >= BigInt(vocab_size));
    if (stranger !== undefined) {
      fail(
        `the model has no token ${stranger}: its vocabulary has ${vocab_size}.`,
        `${stranger}`,
        `below ${vocab_size}`,
      );
    }
  }
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

/** The same without padding tokens: `[batch, 1, length, length]`. */
function paddingMask(mask: Tensor<DataType>, batch: number, length: number): Tensor {
  if (String(mask.dims) !== String([batch, length])) {
    throw new ValueError(
      `${name}: \`attention_mask\` has dims [${mask.dims}], but [${batch}, ${length}] is expected.`,
      {
        className: name,
        field: "attention_mask",
        found: `[${mask.dims}]`,
        expected: `[${batch}, ${length}]`,
      },
    );
  }
  const keep = mask.to("float32").data;
  const data = new Float32Array(batch * length * length);
  for (let i = 0; i < data.length; i++) {
    const key = i % length;
    const query = Math.floor(i / length) % length;
    const item = Math.floor(i / (length * length));
    data[i] = key <= query && keep[item * length + key] !== 0 ? 0 : masked;
  }
  return new Tensor("float32", data, [batch, 1, length, length]);
}
