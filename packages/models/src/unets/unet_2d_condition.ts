import { checkOptions, type DataType, type Tensor, ValueError } from "@diffusers-web/core";
import { perBlock } from "../config_checks.ts";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import { activation } from "../layers/activations.ts";
import { conv2d } from "../layers/conv.ts";
import { gaussianFourier, timestepEmbedding, timestepSinusoid } from "../layers/embeddings.ts";
import { add, affine, type FeatureMap, mapInput, mapOutput, type Tokens, tokensInput } from "../layers/layout.ts";
import { linear, tokensLinear } from "../layers/linear.ts";
import { groupNorm } from "../layers/norm.ts";
import type { ResnetOptions } from "../layers/resnet.ts";
import { ModelMixin } from "../modeling_utils.ts";
import { blockNamed, downBlocks, midBlocks, upBlocks } from "./blocks/index.ts";
import type { BlockOptions } from "./blocks/types.ts";
import { perItem, type Timestep } from "./timesteps.ts";
import {
  checkUNet2DConditionConfig,
  type UNet2DConditionModelConfig,
  unet2DConditionDefaults,
} from "./unet_2d_condition_config.ts";

/** What a {@link UNet2DConditionModel} may be told besides sample, timestep and text. */
export interface UNet2DConditionOptions {
  /** What `class_embed_type` wants: class numbers or timesteps `[batch]`, or embeddings `[batch, dim]`. */
  readonly class_labels?: Tensor<DataType> | undefined;
  /** The guidance embedding of latent consistency models, `[batch, time_cond_proj_dim]`. */
  readonly timestep_cond?: Tensor | undefined;
  /** For `addition_embed_type: "text_time"`. */
  readonly added_cond_kwargs?: AddedConditions | undefined;
  /** ControlNet's residuals: one for each feature map that is kept on the way down. */
  readonly down_block_additional_residuals?: readonly Tensor[] | undefined;
  /** ControlNet's residual of the block in the middle. */
  readonly mid_block_additional_residual?: Tensor | undefined;
  /** T2I-Adapter's residuals: one for each block on the way down, and possibly one for the middle. */
  readonly down_intrablock_additional_residuals?: readonly Tensor[] | undefined;
}

/** What `addition_embed_type: "text_time"` adds to the time embedding. */
export interface AddedConditions {
  /** The pooled text, `[batch, dim]`. */
  readonly text_embeds: Tensor;
  /** Original size, crop and target size, `[batch, 6]`. */
  readonly time_ids: Tensor<DataType>;
}

/** What a {@link UNet2DConditionModel} gives. */
export interface UNet2DConditionOutput {
  /** `[batch, out_channels, height, width]` */
  readonly sample: Tensor;
}

type Dims = Readonly<Record<string, readonly number[]>>;

export interface UNet2DConditionModel {
  (
    sample: Tensor,
    timestep: Timestep,
    encoder_hidden_states: Tensor,
    options?: UNet2DConditionOptions,
  ): Promise<UNet2DConditionOutput>;
}

/**
 * Predicts the noise in latents, given a timestep and a text: the denoiser of Stable Diffusion.
 *
 * @see Diffusers `UNet2DConditionModel`
 */
export class UNet2DConditionModel extends ModelMixin<UNet2DConditionModelConfig> {
  static override readonly config_defaults: UNet2DConditionModelConfig = unet2DConditionDefaults;

  // Small tensors of the checkpoint that are used in TypeScript; `build` reads them.
  private fourierWeight: Float32Array = new Float32Array(0);
  private classTable: Float32Array = new Float32Array(0);

  /** @throws UnsupportedModelError for a config field whose value is not built, naming it. */
  constructor(config: Partial<UNet2DConditionModelConfig> = {}) {
    super(config);
    checkUNet2DConditionConfig(this.config);
  }

  /**
   * @param sample noisy latents `[batch, in_channels, height, width]`
   * @param timestep one for the batch, or `[batch]`
   * @param encoder_hidden_states the text `[batch, length, cross_attention_dim]`
   * @throws ValueError for tensors that do not fit the config or each other.
   */
  override async forward(
    sample: Tensor,
    timestep: Timestep,
    encoder_hidden_states: Tensor,
    options: UNet2DConditionOptions = {},
  ): Promise<UNet2DConditionOutput> {
    checkOptions("UNet2DConditionModel", options, [
      "class_labels",
      "timestep_cond",
      "added_cond_kwargs",
      "down_block_additional_residuals",
      "mid_block_additional_residual",
      "down_intrablock_additional_residuals",
    ]);
    this.checkInputs(sample, encoder_hidden_states, options);
    const batch = sample.dims[0]!;
    const feeds: Record<string, Tensor> = {
      sample,
      time_proj: this.timeProjection(perItem(timestep, batch, "timestep")),
      encoder_hidden_states,
    };
    const labels = this.classFeed(options.class_labels, batch);
    if (labels !== undefined) feeds["class_labels"] = labels;
    if (options.timestep_cond !== undefined) feeds["timestep_cond"] = options.timestep_cond;
    const added = this.addedFeed(options.added_cond_kwargs, batch);
    if (added !== undefined) feeds["add_embeds"] = added;
    Object.assign(feeds, residualFeeds(options));

    const dims = Object.fromEntries(Object.entries(feeds).map(([name, tensor]) => [name, tensor.dims]));
    const session = await this.session("forward", dims, (g) => this.build(g, dims));
    const outputs = await session.run(feeds);
    return { sample: outputs["out_sample"]! };
  }

  protected override check(build: (emit: (g: GraphBuilder) => void) => void): void {
    const config = this.config;
    const [size] = [2 ** (config.block_out_channels.length - 1)];
    const textDim = config.encoder_hid_dim ?? perBlock(config.cross_attention_dim, config.down_block_types)[0]!;
    const dims: Record<string, readonly number[]> = {
      sample: [1, config.in_channels, size, size],
      time_proj: [1, this.timeProjectionDim],
      encoder_hidden_states: [1, 1, textDim],
    };
    const labelDim = this.classFeedDim;
    if (labelDim !== undefined) dims["class_labels"] = [1, labelDim];
    if (config.time_cond_proj_dim !== null) dims["timestep_cond"] = [1, config.time_cond_proj_dim];
    if (config.addition_embed_type !== null) {
      dims["add_embeds"] = [1, config.projection_class_embeddings_input_dim!];
    }
    build((g) => this.build(g, dims));
  }

  /** Emits the graph for inputs of the given dims. */
  private build(g: GraphBuilder, dims: Dims): void {
    const config = this.config;
    const blocks = config.down_block_types;
    const channels = config.block_out_channels;
    const batch = dims["sample"]![0]!;

    // 0. center input if necessary
    let sample = mapInput(g, "sample", dims["sample"]!);
    if (config.center_input_sample) sample = affine(g, sample, 2, -1);

    // 1. time
    const temb = this.timeEmbedding(g, dims);
    let context: Tokens = tokensInput(g, "encoder_hidden_states", dims["encoder_hidden_states"]!);
    if (config.encoder_hid_dim !== null) {
      context = tokensLinear(g, context, "encoder_hid_proj", config.cross_attention_dim as number);
    }

    // 2. pre-process
    sample = conv2d(g, sample, "conv_in", channels[0]!, { kernel: config.conv_in_kernel });

    const resnet: ResnetOptions = {
      groups: config.norm_num_groups!,
      eps: config.norm_eps,
      act: config.act_fn,
      timeScaleShift: config.resnet_time_scale_shift as ResnetOptions["timeScaleShift"],
    };
    const layers = perBlock(config.layers_per_block, blocks);
    const heads = perBlock(config.attention_head_dim, blocks);
    const onlyCross = perBlock(config.only_cross_attention, blocks);
    const transformers = perBlock<number | readonly number[]>(config.transformer_layers_per_block, blocks);
    const upTransformers = config.reverse_transformer_layers_per_block ?? [...transformers].reverse();
    const shared = (i: number, transformer: number | readonly number[], count: number): BlockOptions => ({
      layers: count,
      out: channels[i]!,
      temb,
      resnet,
      heads: heads[i]!,
      attentionHeadDim: heads[i]!,
      context,
      transformerLayers: perBlock<number>(transformer, new Array<string>(count).fill("")),
      onlyCrossAttention: onlyCross[i]!,
      upcastAttention: config.upcast_attention,
      resnetOutScaleFactor: config.resnet_out_scale_factor,
      resnetSkipTimeAct: config.resnet_skip_time_act,
    });

    // 3. down
    const adapters = residualInputs(g, "intrablock", dims);
    const kept: FeatureMap[] = [sample];
    blocks.forEach((type, i) => {
      const hasCrossAttention = type.endsWith("CrossAttnDownBlock2D");
      const result = blockNamed(downBlocks, type)!(g, sample, `down_blocks.${i}`, {
        ...shared(i, transformers[i]!, layers[i]!),
        addDownsample: i < blocks.length - 1,
        downsamplePadding: config.downsample_padding,
        downsampleType: "conv",
        additionalResidual: hasCrossAttention ? adapters.shift() : undefined,
      });
      sample = result.hidden;
      if (!hasCrossAttention && adapters.length > 0) {
        sample = add(g, sample, adapters.shift()!);
        // Diffusers adds in place, so that what was kept last changes too.
        result.kept[result.kept.length - 1] = sample;
      }
      kept.push(...result.kept);
    });
    const controls = residualInputs(g, "down", dims);
    controls.forEach((residual, i) => {
      kept[i] = add(g, kept[i]!, residual);
    });

    // 4. mid
    const last = blocks.length - 1;
    if (config.mid_block_type !== null) {
      sample = midBlocks[config.mid_block_type]!(g, sample, "mid_block", {
        ...shared(last, transformers[last]!, config.mid_block_type === "UNetMidBlock2D" ? 0 : 1),
        resnet: { ...resnet, outputScaleFactor: config.mid_block_scale_factor },
        attentionGroups: null,
        addAttention: false,
      });
      const [adapter] = adapters;
      if (adapter !== undefined && sameSize(adapter, sample)) sample = add(g, sample, adapter);
    }
    for (const residual of residualInputs(g, "mid", dims)) sample = add(g, sample, residual);

    // 5. up
    config.up_block_types.forEach((type, i) => {
      const level = last - i;
      const count = layers[level]! + 1;
      const next = kept[kept.length - count - 1];
      sample = blockNamed(upBlocks, type)!(g, sample, kept, `up_blocks.${i}`, {
        ...shared(level, upTransformers[i]!, count),
        // The one list that Diffusers does not reverse on the way up.
        attentionHeadDim: heads[i]!,
        addUpsample: i < last,
        upsampleType: "conv",
        upsampleSize: next,
      });
    });

    // 6. post-process
    sample = groupNorm(g, sample, "conv_norm_out", { ...resnet, activation: config.act_fn });
    sample = conv2d(g, sample, "conv_out", config.out_channels, { kernel: config.conv_out_kernel });
    mapOutput(g, "out_sample", { ...sample, batch });
  }

  /** The time embedding with all that is added to it: `[batch, dim]`. */
  private timeEmbedding(g: GraphBuilder, dims: Dims): Value {
    const config = this.config;
    const dim = this.timeEmbeddingDim;
    if (config.time_embedding_type === "fourier") this.fourierWeight = g.read("time_proj.weight", [dim / 2]);
    const condition = dims["timestep_cond"] && { condition: g.input("timestep_cond", dims["timestep_cond"]) };
    let emb = timestepEmbedding(g, g.input("time_proj", dims["time_proj"]!), "time_embedding", dim, {
      act: config.act_fn,
      postAct: config.timestep_post_act,
      ...condition,
    });
    if (dims["class_labels"] !== undefined) {
      const labels = this.classEmbedding(g, g.input("class_labels", dims["class_labels"]), dim);
      emb = config.class_embeddings_concat
        ? g.op("Concat", [emb, labels], [emb.dims[0]!, 2 * dim], { axis: 1 })
        : g.op("Add", [emb, labels], emb.dims);
    }
    if (dims["add_embeds"] !== undefined) {
      const added = timestepEmbedding(g, g.input("add_embeds", dims["add_embeds"]), "add_embedding", dim);
      emb = g.op("Add", [emb, added], emb.dims);
    }
    return config.time_embedding_act_fn === null ? emb : activation(g, emb, config.time_embedding_act_fn);
  }

  private classEmbedding(g: GraphBuilder, labels: Value, dim: number): Value {
    const config = this.config;
    switch (config.class_embed_type) {
      case "timestep":
        return timestepEmbedding(g, labels, "class_embedding", dim, { act: config.act_fn });
      case "projection":
        return timestepEmbedding(g, labels, "class_embedding", dim);
      case "simple_projection":
        return linear(g, labels, "class_embedding", dim);
      case "identity":
        return labels;
      default:
        // A table: its rows are looked up in TypeScript.
        this.classTable = g.read("class_embedding.weight", [config.num_class_embeds!, dim]);
        return labels;
    }
  }

  private get timeEmbeddingDim(): number {
    const { time_embedding_dim, block_out_channels, time_embedding_type } = this.config;
    return time_embedding_dim || block_out_channels[0]! * (time_embedding_type === "fourier" ? 2 : 4);
  }

  private get timeProjectionDim(): number {
    return this.config.time_embedding_type === "fourier" ? this.timeEmbeddingDim : this.config.block_out_channels[0]!;
  }

  /** Sines and cosines of timesteps, in float32. */
  private timeProjection(timesteps: readonly number[]): Tensor {
    const { time_embedding_type, flip_sin_to_cos: flipSinToCos, freq_shift } = this.config;
    if (time_embedding_type === "fourier") {
      return gaussianFourier(timesteps, this.fourierWeight, { log: false, flipSinToCos });
    }
    return timestepSinusoid(timesteps, this.timeProjectionDim, flipSinToCos, freq_shift);
  }

  /** Columns of the graph's input for class labels; undefined in a model without classes. */
  private get classFeedDim(): number | undefined {
    const { class_embed_type, num_class_embeds, projection_class_embeddings_input_dim } = this.config;
    if (class_embed_type === "timestep") return this.timeProjectionDim;
    if (class_embed_type === "identity") return this.timeEmbeddingDim;
    if (class_embed_type !== null) return projection_class_embeddings_input_dim!;
    return num_class_embeds === null ? undefined : this.timeEmbeddingDim;
  }

  private classFeed(labels: Tensor<DataType> | undefined, batch: number): Tensor | undefined {
    const dim = this.classFeedDim;
    if (dim === undefined) return undefined;
    if (labels === undefined) {
      throw new ValueError("`class_labels` should be provided: this UNet2DConditionModel has class embeddings.", {
        field: "class_labels",
        found: "undefined",
        expected: "a Tensor",
      });
    }
    const { class_embed_type } = this.config;
    if (class_embed_type === "timestep") return this.timeProjection(perItem(labels, batch, "class_labels"));
    if (class_embed_type === null) return lookUp(this.classTable, perItem(labels, batch, "class_labels"), dim);
    return labels.to("float32");
  }

  private addedFeed(added: AddedConditions | undefined, batch: number): Tensor | undefined {
    const { addition_embed_type, addition_time_embed_dim, flip_sin_to_cos, freq_shift } = this.config;
    if (addition_embed_type === null) return undefined;
    for (const field of ["text_embeds", "time_ids"] as const) {
      if (added?.[field] !== undefined) continue;
      throw new ValueError(
        `This UNet2DConditionModel has \`addition_embed_type\` "text_time": \`added_cond_kwargs\` needs \`${field}\`.`,
        { field: `added_cond_kwargs.${field}`, found: "undefined", expected: "a Tensor" },
      );
    }
    const ids = Array.from(added!.time_ids.to("float32").data);
    const times = timestepSinusoid(ids, addition_time_embed_dim!, flip_sin_to_cos, freq_shift);
    return concatColumns(added!.text_embeds, times.reshape(batch, -1));
  }
}
