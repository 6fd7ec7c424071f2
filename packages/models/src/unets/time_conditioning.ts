import { type DataType, Tensor, ValueError } from "@diffusers-web/core";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import { activation } from "../layers/activations.ts";
import { gaussianFourier, timestepEmbedding, timestepSinusoid } from "../layers/embeddings.ts";
import type { FeatureMap } from "../layers/layout.ts";
import { linear } from "../layers/linear.ts";
import { AddedConditioning, type AddedConditions, type SharedInputs } from "./added_conditioning.ts";
import { type Dims, itemRows, perItem, type Timestep, tableRows } from "./inputs.ts";
import type { UNet2DConditionModelConfig } from "./unet_2d_condition_config.ts";

/** What the time embedding of a UNet2DConditionModel is made of. */
export interface TimeConditions {
  readonly timestep: Timestep;
  readonly class_labels?: Tensor<DataType> | undefined;
  readonly timestep_cond?: Tensor | undefined;
  readonly added_cond_kwargs?: AddedConditions | undefined;
}

/**
 * The time embedding of a UNet2DConditionModel, and all that its config adds to it: sinusoids and table rows are computed
 * in TypeScript and fed, the layers over them are in the graph.
 */
export class TimeConditioning {
  // Small tensors of the checkpoint that are used in TypeScript; `embed` reads them.
  private fourierWeight: Float32Array = new Float32Array(0);
  private classTable: Float32Array = new Float32Array(0);
  private readonly added: AddedConditioning;

  /**
   * @param className for errors
   * @param classAct the activation inside `class_embed_type: "timestep"`: a ControlNetModel's is always SiLU
   */
  constructor(
    private readonly config: Readonly<UNet2DConditionModelConfig>,
    private readonly className: string = "UNet2DConditionModel",
    private readonly classAct: string = config.act_fn,
  ) {
    this.added = new AddedConditioning(config, className);
  }

  /** The graph's inputs for one call, by name. */
  feeds(conditions: TimeConditions, batch: number): Record<string, Tensor> {
    const { timestep, class_labels, timestep_cond, added_cond_kwargs } = conditions;
    const feeds: Record<string, Tensor> = {
      time_proj: this.timeProjection(timestep, perItem(timestep, batch, "timestep")),
    };
    const labels = this.classFeed(class_labels ?? undefined, batch);
    if (labels !== undefined) feeds["class_labels"] = labels;
    // Python's None is a null here.
    if (timestep_cond !== undefined && timestep_cond !== null)
      feeds["timestep_cond"] = this.guidanceFeed(timestep_cond, batch);
    return { ...feeds, ...this.added.feeds(added_cond_kwargs, batch) };
  }

  /** The dims of all inputs that there may be, for one sample of the given size. */
  inputDims(height = 1, width = 1): Record<string, readonly number[]> {
    const { time_cond_proj_dim } = this.config;
    const dims: Record<string, readonly number[]> = { time_proj: [1, this.projectionDim] };
    const classes = this.classFeedDim;
    if (classes !== undefined) dims["class_labels"] = [1, classes];
    if (time_cond_proj_dim !== null) dims["timestep_cond"] = [1, time_cond_proj_dim];
    return { ...dims, ...this.added.inputDims(height, width) };
  }

  /**
   * Emits the time embedding `[batch, dim]` from the inputs that `dims` has.
   *
   * @param shared the text and the image, for an `addition_embed_type` that reads them
   */
  embed(g: GraphBuilder, dims: Dims, shared: SharedInputs = {}): Value {
    const config = this.config;
    const dim = this.embeddingDim;
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
    const added = this.added.embed(g, dims, shared, dim);
    if (added !== undefined) emb = g.op("Add", [emb, added], emb.dims);
    return config.time_embedding_act_fn === null ? emb : activation(g, emb, config.time_embedding_act_fn);
  }

  /** Emits what `addition_embed_type: "image_hint"` lays beside the sample; undefined for other types. */
  hint(g: GraphBuilder, dims: Dims, sample: FeatureMap): FeatureMap | undefined {
    return this.added.hint(g, dims, sample);
  }

  private classEmbedding(g: GraphBuilder, labels: Value, dim: number): Value {
    const { class_embed_type, num_class_embeds } = this.config;
    switch (class_embed_type) {
      case "timestep":
        return timestepEmbedding(g, labels, "class_embedding", dim, { act: this.classAct });
      case "projection":
        return timestepEmbedding(g, labels, "class_embedding", dim);
      case "simple_projection":
        return linear(g, labels, "class_embedding", dim);
      case "identity":
        return labels;
      default:
        this.classTable = g.read("class_embedding.weight", [num_class_embeds!, dim]);
        return labels;
    }
  }

  private get embeddingDim(): number {
    const { time_embedding_dim, block_out_channels, time_embedding_type } = this.config;
    // As in Diffusers, 0 means the default too.
    return time_embedding_dim || block_out_channels[0]! * (time_embedding_type === "fourier" ? 2 : 4);
  }

  private get projectionDim(): number {
    return this.config.time_embedding_type === "fourier" ? this.embeddingDim : this.config.block_out_channels[0]!;
  }

  private timeProjection(given: Timestep, timesteps: readonly number[]): Tensor {
    const { time_embedding_type, flip_sin_to_cos: flipSinToCos, freq_shift } = this.config;
    if (time_embedding_type === "fourier") {
      // A Python float is a float64 there, an integer is not.
      const isDouble = typeof given === "number" ? !Number.isInteger(given) : given.type === "float64";
      return gaussianFourier(timesteps, this.fourierWeight, { log: false, flipSinToCos, isDouble });
    }
    return timestepSinusoid(timesteps, this.projectionDim, flipSinToCos, freq_shift);
  }

  /** Columns of the graph's input for class labels; undefined in a model without classes. */
  private get classFeedDim(): number | undefined {
    const { class_embed_type, num_class_embeds, projection_class_embeddings_input_dim } = this.config;
    if (class_embed_type === "timestep") return this.projectionDim;
    if (class_embed_type === "identity") return this.embeddingDim;
    if (class_embed_type !== null) return projection_class_embeddings_input_dim!;
    return num_class_embeds === null ? undefined : this.embeddingDim;
  }

  private classFeed(labels: Tensor<DataType> | undefined, batch: number): Tensor | undefined {
    const { class_embed_type, num_class_embeds } = this.config;
    const dim = this.classFeedDim;
    if (dim === undefined) {
      if (labels === undefined) return undefined;
      throw new ValueError(`\`class_labels\` were given, but this ${this.className} has no class embeddings.`, {
        className: this.className,
        field: "class_labels",
        found: "a Tensor",
        expected: "undefined",
      });
    }
    if (!(labels instanceof Tensor)) {
      throw new ValueError(
        `\`class_labels\` should be provided, a Tensor: this ${this.className} has class embeddings, but they are ${labels}.`,
        { className: this.className, field: "class_labels", found: String(labels), expected: "a Tensor" },
      );
    }
    if (this.config.class_embeddings_concat && labels.dims[0] !== batch) {
      throw new ValueError(
        `\`class_labels\` has dims [${labels.dims}], but with \`class_embeddings_concat\` there has to be one for each of ` +
          `the ${batch} items.`,
        { className: this.className, field: "class_labels", found: `[${labels.dims}]`, expected: `${batch} rows` },
      );
    }
    if (class_embed_type === "timestep") return this.timeProjection(labels, perItem(labels, batch, "class_labels"));
    if (class_embed_type === null) {
      return tableRows(this.classTable, perItem(labels, batch, "class_labels"), num_class_embeds!, dim);
    }
    return itemRows(labels, batch, dim, "class_labels", this.className);
  }

  private guidanceFeed(condition: Tensor, batch: number): Tensor {
    const { time_cond_proj_dim } = this.config;
    if (time_cond_proj_dim === null) {
      throw new ValueError(`\`timestep_cond\` was given, but this ${this.className} has no \`time_cond_proj_dim\`.`, {
        className: this.className,
        field: "timestep_cond",
        found: "a Tensor",
        expected: "undefined",
      });
    }
    return itemRows(condition, batch, time_cond_proj_dim, "timestep_cond", this.className);
  }
}
