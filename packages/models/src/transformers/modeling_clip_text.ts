import {
  type ConfigDict,
  checkOptions,
  type DataType,
  floatsOf,
  markFloats,
  Tensor,
  ValueError,
} from "@diffusers-web/core";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import { linear } from "../layers/linear.ts";
import { ModelMixin } from "../modeling_utils.ts";
import type { Weights } from "../weights.ts";
import { checkWhole } from "./clip_config.ts";
import { hiddenStates, statesOutput, tokensOutput } from "./clip_outputs.ts";
import {
  type CLIPTextConfig,
  type CLIPTextKey,
  checkCLIPTextConfig,
  clipTextDefaults,
  clipTextFeeds,
  clipTextPipelineFields,
  clipTextStrangers,
  clipTextTransformer,
  prepareCLIPTextConfig,
} from "./clip_text.ts";
import { TokenEmbeddings } from "./token_embeddings.ts";

/** Options of {@link CLIPTextModel.forward} and {@link CLIPTextModelWithProjection.forward}. */
export interface CLIPTextOptions {
  /** 1 for tokens to look at, 0 for padding, `[batch, length]`. Default: all of them. */
  readonly attention_mask?: Tensor<DataType> | undefined;
  /** The place of each token, `[batch, length]` or `[length]`. Default: one after the other. */
  readonly position_ids?: Tensor<"int64"> | undefined;
  /** Whether `hidden_states` is wanted. Default true. */
  readonly output_hidden_states?: boolean | undefined;
  /** A factor of the active LoRA adapters in this call, beside their own weights. Default 1. */
  readonly lora_scale?: number | undefined;
}

interface TextOutput {
  /** After the last layer and the final normalisation, `[batch, length, hidden_size]`. */
  readonly last_hidden_state: Tensor;
  /**
   * The embeddings, then the output of each layer, none of them normalised: `num_hidden_layers + 1` tensors, or none
   * without `output_hidden_states`.
   */
  readonly hidden_states: readonly Tensor[];
}

/** What a {@link CLIPTextModel} gives. */
export interface CLIPTextModelOutput extends TextOutput {
  /** `last_hidden_state` at the end-of-text token, `[batch, hidden_size]`. */
  readonly pooler_output: Tensor;
}

/** What a {@link CLIPTextModelWithProjection} gives. */
export interface CLIPTextModelWithProjectionOutput extends TextOutput {
  /** `last_hidden_state` at the end-of-text token, projected: `[batch, projection_dim]`. */
  readonly text_embeds: Tensor;
}

/** What both classes do: they differ in what they make of the pooled output. */
abstract class CLIPTextMixin extends ModelMixin<CLIPTextConfig> {
  static override readonly weights_name: string = "model";
  static override readonly compatible_fields: readonly string[] = clipTextPipelineFields;
  static override readonly keys_to_ignore: readonly RegExp[] = clipTextStrangers;
  static override readonly config_defaults: CLIPTextConfig = clipTextDefaults;

  /** What the tokens stand for, once there are others than in the file. */
  private embeddings: TokenEmbeddings | undefined;
  /** Rows of the table of embeddings in the file. */
  private readonly rows: number;
  // Used in TypeScript for `final_layer_norm`; `build` reads it.
  private finalNorm: { weight: Float32Array; bias: Float32Array } | undefined;

  /** @throws UnsupportedModelError or ValueError for a config that is not built or wrong, naming the field. */
  constructor(config: Partial<CLIPTextConfig> = {}) {
    super(config);
    checkCLIPTextConfig(this.constructor.name, this.config);
    this.rows = this.config.vocab_size;
  }

  /** Emits what the class makes of the pooled output, and makes it an output of the graph. */
  protected abstract head(g: GraphBuilder, pooled: Value): void;

  protected async encode(input_ids: Tensor<"int64">, options: CLIPTextOptions): Promise<Record<string, Tensor>> {
    const className = this.constructor.name;
    checkOptions(className, options, ["attention_mask", "position_ids", "output_hidden_states", "lora_scale"]);
    const { attention_mask, position_ids, output_hidden_states: wantsLayers = true, lora_scale } = options;
    const embeddings = this.token_embeddings;
    const inputs = { input_ids, attention_mask, position_ids, embeddings };
    const { feeds, key } = clipTextFeeds(className, this.config, inputs);
    const whole = { ...key, wantsLayers, rows: this.rows };
    const session = await this.session("forward", whole, (g) => this.build(g, whole), lora_scale);
    return session.run(feeds);
  }

  /**
   * What the tokens stand for. Another value counts from the next call on; the table in the file and on the device stays.
   *
   * @internal
   */
  get token_embeddings(): TokenEmbeddings {
    return this.embeddings ?? TokenEmbeddings.of(this.rows);
  }

  set token_embeddings(embeddings: TokenEmbeddings) {
    this.embeddings = embeddings;
    this.register_to_config({ vocab_size: embeddings.length });
  }

  protected override forSaving(config: ConfigDict, weights: Weights): { config: ConfigDict; weights: Weights } {
    const { embeddings } = this;
    if (embeddings === undefined) return { config, weights };
    const grown = (part: ConfigDict): ConfigDict =>
      markFloats({ ...part, vocab_size: embeddings.length }, floatsOf(part) ?? []);
    const { text_config } = config;
    const isNested = typeof text_config === "object" && text_config !== null && !Array.isArray(text_config);
    return {
      config: isNested
        ? markFloats({ ...config, text_config: grown(text_config as ConfigDict) }, floatsOf(config) ?? [])
        : grown(config),
      weights: weights.view((tensors) => {
        const name = [...tensors.keys()].find((one) =>
          /^(text_model\.)?embeddings\.token_embedding\.weight$/.test(one),
        )!;
        return new Map(tensors).set(name, embeddings.table(tensors.get(name)!, name));
      }),
    };
  }

  /**
   * The normalisation that follows the last layer, for another layer's output (`clip_skip`).
   *
   * @param hidden_states `[batch, length, hidden_size]`
   * @throws ValueError for states of another width.
   * @see transformers `CLIPTextModel.final_layer_norm`
   */
  async final_layer_norm(hidden_states: Tensor): Promise<Tensor> {
    const size = this.config.hidden_size;
    if (this.finalNorm === undefined || hidden_states.dims.at(-1) !== size) {
      const className = this.constructor.name;
      throw new ValueError(
        `${className}.final_layer_norm takes [batch, length, ${size}], but got [${hidden_states.dims}].`,
        {
          className,
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
    const key = { batch: 1, length, isMasked: false, hasBlindRows: false, positions: null, hasLearned: false };
    build((g) => this.build(g, { ...key, wantsLayers: true, rows: this.rows }));
  }

  private build(g: GraphBuilder, key: CLIPTextKey): void {
    // The first files of each kind have the tensors below `text_model`, as a whole CLIP's do.
    const prefix = g.has("text_model.final_layer_norm.weight") ? "text_model." : "";
    const states = clipTextTransformer(g, prefix, this.config, key);
    if (key.wantsLayers) statesOutput(g, states.hidden_states);
    tokensOutput(g, "last_hidden_state", states.last_hidden_state);
    this.head(g, states.pooled);
    const { hidden_size } = this.config;
    this.finalNorm = {
      weight: g.read(`${prefix}final_layer_norm.weight`, [hidden_size]),
      bias: g.read(`${prefix}final_layer_norm.bias`, [hidden_size]),
    };
  }
}

export interface CLIPTextModel {
  /** {@link CLIPTextModel.forward} */
  (input_ids: Tensor<"int64">, options?: CLIPTextOptions): Promise<CLIPTextModelOutput>;
}

/**
 * CLIP's text encoder.
 *
 * Reads files of the text encoder alone, and of a whole CLIP.
 *
 * @see transformers `CLIPTextModel`
 */
export class CLIPTextModel extends CLIPTextMixin {
  static override readonly name: string = "CLIPTextModel";
  static override readonly keys_to_ignore: readonly RegExp[] = [...clipTextStrangers, /^text_projection\./];

  /** The text encoder's part of a whole CLIP's config; without what transformers writes into every config. */
  static override prepare_config(config: ConfigDict): ConfigDict {
    return prepareCLIPTextConfig(config, "CLIPTextModel");
  }

  /**
   * @param input_ids `[batch, length]`, each from 0 to below `vocab_size`
   * @throws ValueError for a sequence that is longer than the model knows, or an id that it does not know.
   */
  override async forward(input_ids: Tensor<"int64">, options: CLIPTextOptions = {}): Promise<CLIPTextModelOutput> {
    const outputs = await this.encode(input_ids, options);
    return {
      last_hidden_state: outputs["last_hidden_state"]!,
      hidden_states: hiddenStates(outputs),
      pooler_output: outputs["pooler_output"]!,
    };
  }

  protected override head(g: GraphBuilder, pooled: Value): void {
    g.output("pooler_output", pooled);
  }
}

export interface CLIPTextModelWithProjection {
  /** {@link CLIPTextModelWithProjection.forward} */
  (input_ids: Tensor<"int64">, options?: CLIPTextOptions): Promise<CLIPTextModelWithProjectionOutput>;
}

/**
 * CLIP's text encoder, and the projection to where texts and pictures can be compared: SDXL's second text encoder.
 *
 * Reads files of the text encoder alone, and of a whole CLIP.
 *
 * @see transformers `CLIPTextModelWithProjection`
 */
export class CLIPTextModelWithProjection extends CLIPTextMixin {
  static override readonly name: string = "CLIPTextModelWithProjection";

  /** @throws UnsupportedModelError or ValueError for a config that is not built or wrong, naming the field. */
  constructor(config: Partial<CLIPTextConfig> = {}) {
    super(config);
    checkWhole(this.constructor.name, this.config, ["projection_dim"]);
  }

  /** The text encoder's part of a whole CLIP's config; without what transformers writes into every config. */
  static override prepare_config(config: ConfigDict): ConfigDict {
    return prepareCLIPTextConfig(config, "CLIPTextModelWithProjection");
  }

  /**
   * @param input_ids `[batch, length]`, each from 0 to below `vocab_size`
   * @throws ValueError for a sequence that is longer than the model knows, or an id that it does not know.
   */
  override async forward(
    input_ids: Tensor<"int64">,
    options: CLIPTextOptions = {},
  ): Promise<CLIPTextModelWithProjectionOutput> {
    const outputs = await this.encode(input_ids, options);
    return {
      text_embeds: outputs["text_embeds"]!,
      last_hidden_state: outputs["last_hidden_state"]!,
      hidden_states: hiddenStates(outputs),
    };
  }

  protected override head(g: GraphBuilder, pooled: Value): void {
    g.output("text_embeds", linear(g, pooled, "text_projection", this.config.projection_dim!, { bias: false }));
  }
}
