import { checkOptions, configDefaults, type DataType, float, Tensor, ValueError } from "@diffusers-web/core";
import { checkLength, checkValue } from "../config_checks.ts";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import { checkActivation } from "../layers/activations.ts";
import { conv2d } from "../layers/conv.ts";
import { gaussianFourier, timestepEmbedding, timestepSinusoid } from "../layers/embeddings.ts";
import { affine, type FeatureMap, mapInput, mapOutput } from "../layers/layout.ts";
import { groupNorm } from "../layers/norm.ts";
import type { ResnetOptions } from "../layers/resnet.ts";
import { ModelMixin } from "../modeling_utils.ts";
import { blockNamed, checkBlocks, downBlocks, midBlocks, upBlocks } from "./blocks/index.ts";
import type { BlockOptions } from "./blocks/types.ts";
import { checkSample, type Dims, dimsOf, perItem, type Timestep, tableRows } from "./inputs.ts";

/** The config of a {@link UNet2DModel}: the arguments of Diffusers' `__init__`, under their names. */
export interface UNet2DModelConfig {
  /** Height and width of the pictures the model was trained on; pipelines' default. */
  sample_size: number | readonly number[] | null;
  in_channels: number;
  out_channels: number;
  /** Whether samples are mapped from 0..1 to -1..1 first. */
  center_input_sample: boolean;
  /** positional, fourier (the output is divided by the timestep then) or learned. */
  time_embedding_type: string;
  time_embedding_dim: number | null;
  freq_shift: number;
  flip_sin_to_cos: boolean;
  /** DownBlock2D, AttnDownBlock2D or ResnetDownsampleBlock2D each. */
  down_block_types: readonly string[];
  /** UNetMidBlock2D, or null for none. */
  mid_block_type: string | null;
  /** UpBlock2D, AttnUpBlock2D or ResnetUpsampleBlock2D each. */
  up_block_types: readonly string[];
  block_out_channels: readonly number[];
  layers_per_block: number;
  mid_block_scale_factor: number;
  /** 0 pads the right and the bottom only. */
  downsample_padding: number;
  /** How blocks with self-attention halve: conv or resnet. */
  downsample_type: string;
  /** How blocks with self-attention double: conv or resnet. */
  upsample_type: string;
  /** Training only. */
  dropout: number;
  /** silu, swish, mish, gelu or relu. */
  act_fn: string;
  /** The size of a head; null: one head. */
  attention_head_dim: number | null;
  norm_num_groups: number;
  attn_norm_num_groups: number | null;
  norm_eps: number;
  /** default or scale_shift. */
  resnet_time_scale_shift: string;
  add_attention: boolean;
  /** null, timestep or identity. */
  class_embed_type: string | null;
  num_class_embeds: number | null;
  num_train_timesteps: number | null;
}

/** What a {@link UNet2DModel} may be told besides sample and timestep. */
export interface UNet2DOptions {
  /** What `class_embed_type` wants: class numbers or timesteps `[batch]`, or embeddings `[batch, dim]`. */
  readonly class_labels?: Tensor<DataType> | undefined;
}

/** What a {@link UNet2DModel} gives. */
export interface UNet2DOutput {
  /** `[batch, out_channels, height, width]` */
  readonly sample: Tensor;
}

export interface UNet2DModel {
  /** {@link UNet2DModel.forward} */
  (sample: Tensor, timestep: Timestep, options?: UNet2DOptions): Promise<UNet2DOutput>;
}

/**
 * Predicts the noise in a picture, given a timestep: the denoiser of DDPM.
 *
 * @see Diffusers `UNet2DModel`
 */
export class UNet2DModel extends ModelMixin<UNet2DModelConfig> {
  static override readonly name: string = "UNet2DModel";
  static override readonly config_defaults: UNet2DModelConfig = configDefaults<UNet2DModelConfig>({
    sample_size: null,
    in_channels: 3,
    out_channels: 3,
    center_input_sample: false,
    time_embedding_type: "positional",
    time_embedding_dim: null,
    freq_shift: 0,
    flip_sin_to_cos: true,
    down_block_types: ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    mid_block_type: "UNetMidBlock2D",
    up_block_types: ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    block_out_channels: [224, 448, 672, 896],
    layers_per_block: 2,
    mid_block_scale_factor: 1,
    downsample_padding: 1,
    downsample_type: "conv",
    upsample_type: "conv",
    dropout: float(0),
    act_fn: "silu",
    attention_head_dim: 8,
    norm_num_groups: 32,
    attn_norm_num_groups: null,
    norm_eps: 1e-5,
    resnet_time_scale_shift: "default",
    add_attention: true,
    class_embed_type: null,
    num_class_embeds: null,
    num_train_timesteps: null,
  });

  // Small tensors of the checkpoint that are used in TypeScript; `build` reads them.
  private timeWeight: Float32Array = new Float32Array(0);
  private classTable: Float32Array = new Float32Array(0);

  /** @throws UnsupportedModelError for a config field whose value is not built, naming it. */
  constructor(config: Partial<UNet2DModelConfig> = {}) {
    super(config);
    checkConfig(this.config);
  }

  /**
   * @param sample `[batch, in_channels, height, width]`
   * @param timestep one for the batch, or `[batch]`; a number's fraction is dropped, as in Diffusers
   * @throws ValueError for tensors that do not fit the config or each other.
   */
  override async forward(sample: Tensor, timestep: Timestep, options: UNet2DOptions = {}): Promise<UNet2DOutput> {
    checkOptions("UNet2DModel", options, ["class_labels"]);
    checkSample(sample, this.config.in_channels, "UNet2DModel");
    const batch = sample.dims[0]!;
    const whole = typeof timestep === "number" ? Math.trunc(timestep) : timestep;
    const timesteps = perItem(whole, batch, "timestep");
    const labels = this.classFeed(options.class_labels, batch);
    const feeds = {
      sample,
      time_proj: this.timeProjection(timesteps),
      ...(labels === undefined ? {} : { class_labels: labels }),
    };
    const dims = dimsOf(feeds);
    const session = await this.session("forward", dims, (g) => this.build(g, dims));
    const { out_sample: output } = await session.run(feeds);
    if (this.config.time_embedding_type !== "fourier") return { sample: output! };
    const divisor = new Tensor("float32", timesteps, [batch, 1, 1, 1]);
    return { sample: output!.div(divisor) };
  }

  protected override check(build: (emit: (g: GraphBuilder) => void) => void): void {
    const { in_channels, down_block_types } = this.config;
    const size = 2 ** (down_block_types.length - 1);
    const dims: Record<string, readonly number[]> = {
      sample: [1, in_channels, size, size],
      time_proj: [1, this.projectionDim],
    };
    if (this.classFeedDim !== undefined) dims["class_labels"] = [1, this.classFeedDim];
    build((g) => this.build(g, dims));
  }

  /** Emits the graph for inputs of the given dims. */
  private build(g: GraphBuilder, dims: Dims): void {
    const config = this.config;
    const blocks = config.down_block_types;
    const channels = config.block_out_channels;
    const last = blocks.length - 1;

    // 0. center input if necessary
    let sample = mapInput(g, "sample", dims["sample"]!);
    if (config.center_input_sample) sample = affine(g, sample, 2, -1);

    // 1. time
    const temb = this.timeEmbedding(g, dims);

    // 2. pre-process
    sample = conv2d(g, sample, "conv_in", channels[0]!);

    const resnet: ResnetOptions = {
      groups: config.norm_num_groups,
      eps: config.norm_eps,
      act: config.act_fn,
      timeScaleShift: config.resnet_time_scale_shift as ResnetOptions["timeScaleShift"],
    };
    const shared = (level: number, layers: number): BlockOptions => ({
      layers,
      out: channels[level]!,
      temb,
      resnet,
      attentionHeadDim: config.attention_head_dim,
    });

    // 3. down
    const kept: FeatureMap[] = [sample];
    blocks.forEach((type, i) => {
      const result = blockNamed(downBlocks, type)!(g, sample, `down_blocks.${i}`, {
        ...shared(i, config.layers_per_block),
        addDownsample: i < last,
        downsamplePadding: config.downsample_padding,
        downsampleType: config.downsample_type as "conv" | "resnet",
      });
      sample = result.hidden;
      kept.push(...result.kept);
    });

    // 4. mid
    if (config.mid_block_type !== null) {
      const isShift = config.resnet_time_scale_shift === "default";
      sample = midBlocks[config.mid_block_type]!(g, sample, "mid_block", {
        ...shared(last, 1),
        resnet: { ...resnet, outputScaleFactor: config.mid_block_scale_factor },
        attentionGroups: config.attn_norm_num_groups ?? (isShift ? config.norm_num_groups : null),
        addAttention: config.add_attention,
      });
    }

    // 5. up
    config.up_block_types.forEach((type, i) => {
      sample = blockNamed(upBlocks, type)!(g, sample, kept, `up_blocks.${i}`, {
        ...shared(last - i, config.layers_per_block + 1),
        addUpsample: i < last,
        upsampleType: config.upsample_type as "conv" | "resnet",
      });
    });

    // 6. post-process
    sample = groupNorm(g, sample, "conv_norm_out", { ...resnet, activation: "silu" });
    mapOutput(g, "out_sample", conv2d(g, sample, "conv_out", config.out_channels));
  }

  /** The time embedding, and the class's: `[batch, dim]`. */
  private timeEmbedding(g: GraphBuilder, dims: Dims): Value {
    const config = this.config;
    const dim = this.embeddingDim;
    const [channels] = config.block_out_channels as [number];
    if (config.time_embedding_type === "fourier") this.timeWeight = g.read("time_proj.weight", [channels]);
    if (config.time_embedding_type === "learned") {
      this.timeWeight = g.read("time_proj.weight", [config.num_train_timesteps!, channels]);
    }
    const emb = timestepEmbedding(g, g.input("time_proj", dims["time_proj"]!), "time_embedding", dim);
    if (dims["class_labels"] === undefined) return emb;
    let labels = g.input("class_labels", dims["class_labels"]);
    if (config.class_embed_type === "timestep") labels = timestepEmbedding(g, labels, "class_embedding", dim);
    if (config.class_embed_type === null) {
      this.classTable = g.read("class_embedding.weight", [config.num_class_embeds!, dim]);
    }
    return g.op("Add", [emb, labels], emb.dims);
  }

  private get embeddingDim(): number {
    // As in Diffusers, 0 means the default too.
    return this.config.time_embedding_dim || this.config.block_out_channels[0]! * 4;
  }

  private get projectionDim(): number {
    return this.config.block_out_channels[0]! * (this.config.time_embedding_type === "fourier" ? 2 : 1);
  }

  private timeProjection(timesteps: readonly number[]): Tensor {
    const { time_embedding_type, num_train_timesteps, flip_sin_to_cos, freq_shift } = this.config;
    if (time_embedding_type === "fourier") {
      return gaussianFourier(timesteps, this.timeWeight, { log: true, flipSinToCos: false });
    }
    if (time_embedding_type === "learned") {
      return tableRows(this.timeWeight, timesteps, num_train_timesteps!, this.projectionDim);
    }
    return timestepSinusoid(timesteps, this.projectionDim, flip_sin_to_cos, freq_shift);
  }

  private get classFeedDim(): number | undefined {
    const { class_embed_type, num_class_embeds } = this.config;
    if (class_embed_type === "timestep") return this.projectionDim;
    return class_embed_type === "identity" || num_class_embeds !== null ? this.embeddingDim : undefined;
  }

  private classFeed(labels: Tensor<DataType> | undefined, batch: number): Tensor | undefined {
    const { class_embed_type, num_class_embeds } = this.config;
    const dim = this.classFeedDim;
    if ((dim === undefined) !== (labels === undefined)) {
      const message =
        dim === undefined
          ? "class_embedding needs to be initialized in order to use class conditioning: this UNet2DModel has no classes"
          : "class_labels should be provided when doing class conditioning: this UNet2DModel has class embeddings";
      throw new ValueError(`${message}.`, {
        field: "class_labels",
        found: labels === undefined ? "undefined" : "a Tensor",
        expected: dim === undefined ? "undefined" : "a Tensor",
      });
    }
    if (labels === undefined || dim === undefined) return undefined;
    if (class_embed_type === "timestep") return this.timeProjection(perItem(labels, batch, "class_labels"));
    if (class_embed_type === null) {
      return tableRows(this.classTable, perItem(labels, batch, "class_labels"), num_class_embeds!, dim);
    }
    return labels.to("float32");
  }
}

const name = "UNet2DModel";

function checkConfig(config: Readonly<UNet2DModelConfig>): void {
  checkBlocks(
    config.down_block_types,
    ["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"],
    name,
    "down_block_types",
  );
  checkBlocks(config.up_block_types, ["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"], name, "up_block_types");
  checkLength(name, "up_block_types", config.up_block_types, config.down_block_types);
  checkLength(name, "block_out_channels", config.block_out_channels, config.down_block_types);
  checkValue(name, "mid_block_type", config.mid_block_type, ["UNetMidBlock2D", null]);
  checkActivation(config.act_fn, name, "act_fn");
  checkValue(name, "time_embedding_type", config.time_embedding_type, ["positional", "fourier", "learned"]);
  checkValue(name, "downsample_type", config.downsample_type, ["conv", "resnet"]);
  checkValue(name, "upsample_type", config.upsample_type, ["conv", "resnet"]);
  checkValue(name, "resnet_time_scale_shift", config.resnet_time_scale_shift, ["default", "scale_shift"]);
  checkValue(name, "class_embed_type", config.class_embed_type, [null, "timestep", "identity"]);
  // Blocks without normalisation groups are not built.
  if (config.norm_num_groups === null) checkValue(name, "norm_num_groups", null, ["a number"]);
  if (config.time_embedding_type === "learned" && config.num_train_timesteps === null) {
    throw new ValueError(`${name} needs \`num_train_timesteps\` when \`time_embedding_type\` is "learned".`, {
      className: name,
      field: "num_train_timesteps",
      found: "null",
      expected: "a number",
    });
  }
}
