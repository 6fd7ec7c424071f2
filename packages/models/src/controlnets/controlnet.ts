import { type ConfigDict, checkOptions, type DataType, Tensor, ValueError } from "@diffusers-web/core";
import type { AttentionSlice, GraphBuilder, Value } from "../graph/builder.ts";
import { conv2d } from "../layers/conv.ts";
import { add, channelAxis, type FeatureMap, mapInput, mapOutput, spatialMean } from "../layers/layout.ts";
import { ModelMixin } from "../modeling_utils.ts";
import type { AddedConditions } from "../unets/added_conditioning.ts";
import { maskFeeds } from "../unets/attention_conditions.ts";
import { conditionDown, conditionMid } from "../unets/condition_path.ts";
import { checkFloats, checkSample, type Dims, dimsOf, type Timestep } from "../unets/inputs.ts";
import { TextConditioning } from "../unets/text_conditioning.ts";
import { TimeConditioning } from "../unets/time_conditioning.ts";
import type { UNet2DConditionModelConfig } from "../unets/unet_2d_condition_config.ts";
import { checkAttentionSlice } from "../unets/unet_options.ts";
import { checkCondition, conditioningEmbedding } from "./conditioning_embedding.ts";
import {
  asUNetConfig,
  type ControlNetModelConfig,
  checkControlNetConfig,
  controlNetDefaults,
  refuseOtherControlNets,
  residualChannels,
} from "./controlnet_config.ts";

/** What a {@link ControlNetModel} may be told besides sample, timestep, text and picture. */
export interface ControlNetOptions {
  /** What the residuals are multiplied with. Default 1. */
  readonly conditioning_scale?: number | undefined;
  /** What `class_embed_type` wants: class numbers or timesteps `[batch]`, or embeddings `[batch, dim]`. */
  readonly class_labels?: Tensor<DataType> | undefined;
  /** Refused, as no ControlNet has a layer for it; here since the UNet takes it. */
  readonly timestep_cond?: Tensor | undefined;
  /**
   * Which pixels self-attention sees: 1 for those it does, 0 for those it does not, `[batch, tokens]`. As in Diffusers it
   * holds for every self-attention of transformers, so that they all need as many tokens.
   */
  readonly attention_mask?: Tensor<DataType> | undefined;
  /** For `addition_embed_type: "text_time"`. */
  readonly added_cond_kwargs?: AddedConditions | undefined;
  /** Whether the residuals are weighted from 0.1 (the first) to 1 (the middle), for pictures without a prompt. Default false. */
  readonly guess_mode?: boolean | undefined;
}

/** The names of {@link ControlNetOptions}. */
export const controlNetOptionNames: readonly (keyof ControlNetOptions)[] = [
  "conditioning_scale",
  "class_labels",
  "timestep_cond",
  "attention_mask",
  "added_cond_kwargs",
  "guess_mode",
];

/** What a {@link ControlNetModel} gives: a UNet's `down_block_additional_residuals` and `mid_block_additional_residual`. */
export interface ControlNetOutput {
  /** One for each feature map that the UNet keeps on its way down; `[batch, channels, 1, 1]` with `global_pool_conditions`. */
  readonly down_block_res_samples: readonly Tensor[];
  readonly mid_block_res_sample: Tensor;
}

export interface ControlNetModel {
  /** {@link ControlNetModel.forward} */
  (
    sample: Tensor,
    timestep: Timestep,
    encoder_hidden_states: Tensor | null,
    controlnet_cond: Tensor,
    options?: ControlNetOptions,
  ): Promise<ControlNetOutput>;
}

const name = "ControlNetModel";

/**
 * Says what a UNet2DConditionModel is to add to its feature maps, so that the picture follows another one: edges, a depth
 * map, a pose.
 *
 * @see Diffusers `ControlNetModel`
 */
export class ControlNetModel extends ModelMixin<ControlNetModelConfig> {
  static override readonly name: string = "ControlNetModel";
  static override readonly config_defaults: ControlNetModelConfig = controlNetDefaults;

  private readonly unetConfig: UNet2DConditionModelConfig;
  private readonly time: TimeConditioning;
  private readonly text: TextConditioning;
  private attentionSlice: AttentionSlice | null = null;

  /** @throws UnsupportedModelError for a config field whose value is not built, naming it. */
  constructor(config: Partial<ControlNetModelConfig> = {}) {
    super(config);
    const { encoder_hid_dim, encoder_hid_dim_type } = this.config;
    if (encoder_hid_dim !== null && encoder_hid_dim_type === null) {
      this.register_to_config({ encoder_hid_dim_type: "text_proj" });
    }
    checkControlNetConfig(this.config);
    this.unetConfig = asUNetConfig(this.config);
    this.time = new TimeConditioning(this.unetConfig, name, "silu");
    this.text = new TextConditioning(this.headsConfig, name);
  }

  /** @throws UnsupportedModelError for the config of another class, such as a ControlNetUnionModel, naming it. */
  static override prepare_config(config: ConfigDict): ConfigDict {
    refuseOtherControlNets(config);
    return config;
  }

  /**
   * @param sample noisy latents `[batch, in_channels, height, width]`
   * @param timestep one for the batch, or `[batch]`
   * @param encoder_hidden_states the text `[batch, length, cross_attention_dim]`; null for a model that does not read it
   * @param controlnet_cond pictures in 0..1, `[batch or 1, conditioning_channels, 8 * height, 8 * width]` (twice the size for
   * each entry of `conditioning_embedding_out_channels` but the last)
   * @throws ValueError for tensors that do not fit the config or each other.
   */
  override async forward(
    sample: Tensor,
    timestep: Timestep,
    encoder_hidden_states: Tensor | null,
    controlnet_cond: Tensor,
    options: ControlNetOptions = {},
  ): Promise<ControlNetOutput> {
    const { in_channels, conditioning_channels, conditioning_embedding_out_channels } = this.config;
    checkOptions(name, options, controlNetOptionNames);
    checkSample(sample, in_channels, name);
    const batch = sample.dims[0]!;
    checkFloats(controlnet_cond, "controlnet_cond", name);
    const levels = conditioning_embedding_out_channels.length;
    checkCondition(controlnet_cond.dims, conditioning_channels, levels, sample.dims, name);
    const feeds = {
      sample,
      controlnet_cond,
      conditioning_scale: scaleFeed(options.conditioning_scale ?? 1),
      ...this.text.feeds(encoder_hidden_states, batch),
      ...maskFeeds({ attention_mask: options.attention_mask }, batch, name),
      ...this.time.feeds({ timestep, ...options }, batch),
    };
    const dims = dimsOf(feeds);
    const { guess_mode = false } = options;
    if (typeof guess_mode !== "boolean") throw wrongOption("guess_mode", guess_mode, "true or false");
    // As in Diffusers, pooled residuals all have the one scale.
    const isGuess = guess_mode && !this.config.global_pool_conditions;
    const shape = { dims, isGuess, attentionSlice: this.attentionSlice };
    const session = await this.session("forward", shape, (g) => {
      g.attentionSlice = shape.attentionSlice;
      this.build(g, dims, isGuess);
    });
    const outputs = await session.run(feeds);
    return {
      down_block_res_samples: residualChannels(this.config).map((_, i) => outputs[`down_block_res_sample_${i}`]!),
      mid_block_res_sample: outputs["mid_block_res_sample"]!,
    };
  }

  /**
   * Computes attention in steps, each of some heads of one picture: less memory, the same output. The engine's fused
   * attention is divided only where its scores would be large.
   *
   * @param slice_size "auto": half of the heads at a time; "max": one at a time; or how many; null: all at once again
   * @throws ValueError for a number above the heads of one of the attentions.
   * @see Diffusers `ControlNetModel.set_attention_slice`
   */
  set_attention_slice(slice_size: AttentionSlice | null = "auto"): void {
    this.attentionSlice = checkAttentionSlice(slice_size, this.headsConfig, name);
  }

  /** As a UNet2DConditionModel's config has the number of heads. */
  private get headsConfig(): UNet2DConditionModelConfig {
    return { ...this.unetConfig, attention_head_dim: this.unetConfig.num_attention_heads! };
  }

  protected override check(build: (emit: (g: GraphBuilder) => void) => void): void {
    const { config } = this;
    const size = 2 ** (config.down_block_types.length - 1);
    const pixels = size * 2 ** (config.conditioning_embedding_out_channels.length - 1);
    const dims = {
      sample: [1, config.in_channels, size, size],
      controlnet_cond: [1, config.conditioning_channels, pixels, pixels],
      conditioning_scale: [1],
      ...this.text.inputDims(),
      ...this.time.inputDims(),
    };
    build((g) => {
      this.build(g, dims, false);
      for (const weight of g.weights.names()) if (this.isIdle(weight)) g.used.add(weight);
    });
  }

  /** Whether a tensor is of a layer that Diffusers makes after the config, and never runs. */
  private isIdle(weight: string): boolean {
    const { encoder_hid_dim, addition_embed_type } = this.config;
    if (weight.startsWith("encoder_hid_proj.")) return encoder_hid_dim !== null;
    return weight.startsWith("add_embedding.") && addition_embed_type === "text_image";
  }

  /** Emits the graph for inputs of the given dims. */
  private build(g: GraphBuilder, dims: Dims, isGuess: boolean): void {
    const { config, unetConfig } = this;
    const channels = residualChannels(config);

    // 1. time
    const shared = { text: this.text.input(g, dims) };
    const temb = this.time.embed(g, dims, shared);
    const context = this.text.context(g, shared);

    // 2. pre-process
    let sample = conv2d(g, mapInput(g, "sample", dims["sample"]!), "conv_in", channels[0]!);
    const picture = ordered(g, mapInput(g, "controlnet_cond", dims["controlnet_cond"]!), config);
    const levels = config.conditioning_embedding_out_channels;
    sample = add(g, sample, conditioningEmbedding(g, picture, "controlnet_cond_embedding", levels, channels[0]!));

    // 3. down
    const mask = dims["attention_mask"] && g.input("attention_mask", dims["attention_mask"]);
    const conditions = { temb, context, attention: { mask } };
    const { hidden, kept } = conditionDown(g, sample, unetConfig, conditions);

    // 4. mid
    sample = conditionMid(g, hidden, unetConfig, conditions);

    // 5. ControlNet's blocks, 6. scaling
    const scale = g.input("conditioning_scale", dims["conditioning_scale"]!);
    const residual = (x: FeatureMap, block: string, i: number): FeatureMap => {
      const map = conv2d(g, x, block, x.channels, { kernel: 1 });
      const pooled = config.global_pool_conditions ? spatialMean(g, map) : map;
      return times(g, pooled, isGuess ? guessScale(g, scale, i, channels.length) : scale);
    };
    kept.forEach((x, i) => {
      mapOutput(g, `down_block_res_sample_${i}`, residual(x, `controlnet_down_blocks.${i}`, i));
    });
    mapOutput(g, "mid_block_res_sample", residual(sample, "controlnet_mid_block", channels.length));
  }
}

function scaleFeed(scale: number): Tensor {
  if (typeof scale !== "number" || Number.isNaN(scale)) throw wrongOption("conditioning_scale", scale, "a number");
  return Tensor.full([1], scale);
}

function wrongOption(field: keyof ControlNetOptions, value: unknown, expected: string): ValueError {
  const found = typeof value === "object" ? `an object` : String(value);
  return new ValueError(`${name} takes ${expected} as \`${field}\`, but got ${found}.`, {
    className: name,
    field,
    found,
    expected,
  });
}

/** The picture's channels in the order that the model wants. */
function ordered(g: GraphBuilder, picture: FeatureMap, config: ControlNetModelConfig): FeatureMap {
  if (config.controlnet_conditioning_channel_order === "rgb") return picture;
  const reversed = g.integers(Array.from({ length: picture.channels }, (_, i) => picture.channels - 1 - i));
  const value = g.op("Gather", [picture.value, reversed], picture.value.dims, { axis: channelAxis(g) });
  return { ...picture, value };
}

/** The scale of residual `i` in guess mode: from 0.1, for the first, to 1, in equal ratios. */
function guessScale(g: GraphBuilder, scale: Value, i: number, last: number): Value {
  return g.op("Mul", [scale, g.constant([10 ** (i / last - 1)], [1])], [1]);
}

function times(g: GraphBuilder, x: FeatureMap, factor: Value): FeatureMap {
  return { ...x, value: g.op("Mul", [x.value, factor], x.value.dims) };
}
