import { checkOptions, type DataType, Tensor, ValueError } from "@diffusers-web/core";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import { conv2d } from "../layers/conv.ts";
import { gaussianFourier, timestepEmbedding, timestepSinusoid } from "../layers/embeddings.ts";
import { affine, type FeatureMap, mapInput, mapOutput } from "../layers/layout.ts";
import { defaultGroups, groupNorm } from "../layers/norm.ts";
import type { ResnetOptions } from "../layers/resnet.ts";
import { ModelMixin } from "../modeling_utils.ts";
import { blockNamed, downBlocks, midBlocks, skipDownBlocks, skipUpBlocks, upBlocks } from "./blocks/index.ts";
import { addPicture } from "./blocks/skip_resnet.ts";
import type { BlockOptions, DownBlockOptions, UpBlockOptions } from "./blocks/types.ts";
import { checkSample, type Dims, dimsOf, itemRows, perItem, type Timestep, tableRows } from "./inputs.ts";
import { checkUNet2DConfig, type UNet2DModelConfig, unet2DDefaults } from "./unet_2d_config.ts";

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
  static override readonly config_defaults: UNet2DModelConfig = unet2DDefaults;

  // Small tensors of the checkpoint that are used in TypeScript; `build` reads them.
  private timeWeight: Float32Array = new Float32Array(0);
  private classTable: Float32Array = new Float32Array(0);

  /** @throws UnsupportedModelError for a config field whose value is not built, naming it. */
  constructor(config: Partial<UNet2DModelConfig> = {}) {
    super(config);
    checkUNet2DConfig(this.config);
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
    // K-blocks mirror the edge at the lowest level, which takes two pixels.
    const size = 2 ** down_block_types.length;
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
    let picture = sample;
    sample = conv2d(g, sample, "conv_in", channels[0]!);

    const resnet = (level: number): ResnetOptions => ({
      groups: config.norm_num_groups ?? defaultGroups(channels[level]!),
      eps: config.norm_eps,
      act: config.act_fn,
      timeScaleShift: config.resnet_time_scale_shift as ResnetOptions["timeScaleShift"],
    });
    const shared = (level: number, layers: number): BlockOptions => ({
      layers,
      out: channels[level]!,
      temb,
      resnet: resnet(level),
      attentionHeadDim: config.attention_head_dim,
    });

    // 3. down
    const kept: FeatureMap[] = [sample];
    blocks.forEach((type, i) => {
      const options: DownBlockOptions = {
        ...shared(i, config.layers_per_block),
        addDownsample: i < last,
        downsamplePadding: config.downsample_padding,
        downsampleType: (config.downsample_type ?? "conv") as "conv" | "resnet",
      };
      const name = `down_blocks.${i}`;
      const skipBlock = blockNamed(skipDownBlocks, type);
      const result =
        skipBlock === undefined
          ? { skip: picture, ...blockNamed(downBlocks, type)!(g, sample, name, options) }
          : skipBlock(g, sample, picture, name, options);
      sample = result.hidden;
      picture = result.skip;
      kept.push(...result.kept);
    });

    // 4. mid
    if (config.mid_block_type !== null) {
      const { groups } = resnet(last);
      const isShift = config.resnet_time_scale_shift === "default";
      sample = midBlocks[config.mid_block_type]!(g, sample, "mid_block", {
        ...shared(last, 1),
        resnet: { ...resnet(last), outputScaleFactor: config.mid_block_scale_factor },
        attentionGroups: config.attn_norm_num_groups ?? (isShift ? groups : null),
        addAttention: config.add_attention,
      });
    }

    // 5. up
    let drawn: FeatureMap | null = null;
    config.up_block_types.forEach((type, i) => {
      const level = last - i;
      const options: UpBlockOptions = {
        ...shared(level, config.layers_per_block + 1),
        addUpsample: i < last,
        next: channels[Math.max(level - 1, 0)]!,
        upsampleType: (config.upsample_type ?? "conv") as "conv" | "resnet",
      };
      const name = `up_blocks.${i}`;
      const skipBlock = blockNamed(skipUpBlocks, type);
      if (skipBlock === undefined) {
        sample = blockNamed(upBlocks, type)!(g, sample, kept, name, options);
      } else {
        const result = skipBlock(g, sample, kept, drawn, name, options);
        sample = result.hidden;
        drawn = result.skip;
      }
    });

    // 6. post-process
    sample = groupNorm(g, sample, "conv_norm_out", { ...resnet(0), activation: "silu" });
    sample = conv2d(g, sample, "conv_out", config.out_channels);
    if (drawn !== null) sample = addPicture(g, drawn, sample);
    mapOutput(g, "out_sample", sample);
  }

  /** The time embedding, and the class's: `[batch, dim]`. */
  private timeEmbedding(g: GraphBuilder, dims: Dims): Value {
    const config = this.config;
    const dim = this.embeddingDim;
    const [channels] = config.block_out_channels as [number];
    if (config.time_embedding_type === "fourier") {
      this.timeWeight = g.read("time_proj.weight", [channels]);
      // The first releases saved the same numbers once more.
      if (g.has("time_proj.W")) g.read("time_proj.W", [channels]);
    }
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
    return itemRows(labels, batch, dim, "class_labels", "UNet2DModel");
  }
}
