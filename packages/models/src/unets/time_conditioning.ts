import { type DataType, Tensor, ValueError } from "@diffusers-web/core";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import { activation } from "../layers/activations.ts";
import { gaussianFourier, timestepEmbedding, timestepSinusoid } from "../layers/embeddings.ts";
import { linear } from "../layers/linear.ts";
import { type Dims, perItem, type Timestep, tableRows } from "./inputs.ts";
import type { UNet2DConditionModelConfig } from "./unet_2d_condition_config.ts";

/** What `addition_embed_type: "text_time"` adds to the time embedding. */
export interface AddedConditions {
  /** The pooled text, `[batch, dim]`. */
  readonly text_embeds: Tensor;
  /** Original size, crop and target size, `[batch, 6]`. */
  readonly time_ids: Tensor<DataType>;
}

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

  constructor(private readonly config: Readonly<UNet2DConditionModelConfig>) {}

  /** The graph's inputs for one call, by name. */
  feeds(conditions: TimeConditions, batch: number): Record<string, Tensor> {
    const feeds: Record<string, Tensor> = {
      time_proj: this.timeProjection(perItem(conditions.timestep, batch, "timestep")),
    };
    const labels = this.classFeed(conditions.class_labels, batch);
    if (labels !== undefined) feeds["class_labels"] = labels;
    if (conditions.timestep_cond !== undefined) feeds["timestep_cond"] = this.guidanceFeed(conditions.timestep_cond);
    const added = this.addedFeed(conditions.added_cond_kwargs, batch);
    if (added !== undefined) feeds["add_embeds"] = added;
    return feeds;
  }

  /** The dims of all inputs that there may be, for a batch of one. */
  inputDims(): Record<string, readonly number[]> {
    const { time_cond_proj_dim, addition_embed_type, projection_class_embeddings_input_dim } = this.config;
    const dims: Record<string, readonly number[]> = { time_proj: [1, this.projectionDim] };
    const classes = this.classFeedDim;
    if (classes !== undefined) dims["class_labels"] = [1, classes];
    if (time_cond_proj_dim !== null) dims["timestep_cond"] = [1, time_cond_proj_dim];
    if (addition_embed_type !== null) dims["add_embeds"] = [1, projection_class_embeddings_input_dim!];
    return dims;
  }

  /** Emits the time embedding `[batch, dim]` from the inputs that `dims` has. */
  embed(g: GraphBuilder, dims: Dims): Value {
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
    if (dims["add_embeds"] !== undefined) {
      const added = timestepEmbedding(g, g.input("add_embeds", dims["add_embeds"]), "add_embedding", dim);
      emb = g.op("Add", [emb, added], emb.dims);
    }
    return config.time_embedding_act_fn === null ? emb : activation(g, emb, config.time_embedding_act_fn);
  }

  private classEmbedding(g: GraphBuilder, labels: Value, dim: number): Value {
    const { class_embed_type, num_class_embeds, act_fn } = this.config;
    switch (class_embed_type) {
      case "timestep":
        return timestepEmbedding(g, labels, "class_embedding", dim, { act: act_fn });
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

  private timeProjection(timesteps: readonly number[]): Tensor {
    const { time_embedding_type, flip_sin_to_cos: flipSinToCos, freq_shift } = this.config;
    if (time_embedding_type === "fourier") {
      return gaussianFourier(timesteps, this.fourierWeight, { log: false, flipSinToCos });
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
    if (dim === undefined) return undefined;
    if (labels === undefined) {
      throw new ValueError("`class_labels` should be provided: this UNet2DConditionModel has class embeddings.", {
        field: "class_labels",
        found: "undefined",
        expected: "a Tensor",
      });
    }
    if (class_embed_type === "timestep") return this.timeProjection(perItem(labels, batch, "class_labels"));
    if (class_embed_type === null) {
      return tableRows(this.classTable, perItem(labels, batch, "class_labels"), num_class_embeds!, dim);
    }
    return checkDims(labels.to("float32"), [batch, dim], "class_labels");
  }

  private guidanceFeed(condition: Tensor): Tensor {
    const { time_cond_proj_dim } = this.config;
    if (time_cond_proj_dim === null) {
      throw new ValueError("`timestep_cond` was given, but this UNet2DConditionModel has no `time_cond_proj_dim`.", {
        field: "timestep_cond",
        found: "a Tensor",
        expected: "undefined",
      });
    }
    return checkDims(condition, [condition.dims[0] ?? 0, time_cond_proj_dim], "timestep_cond");
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
    const { text_embeds, time_ids } = added!;
    const ids = Array.from(time_ids.to("float32").data);
    const times = timestepSinusoid(ids, addition_time_embed_dim!, flip_sin_to_cos, freq_shift);
    const columns = Tensor.cat([text_embeds, times.reshape(batch, -1)], 1);
    return checkDims(columns, [batch, this.config.projection_class_embeddings_input_dim!], "added_cond_kwargs");
  }
}

function checkDims(tensor: Tensor, dims: readonly number[], name: string): Tensor {
  if (String(tensor.dims) === String(dims)) return tensor;
  throw new ValueError(`\`${name}\` has dims [${tensor.dims}], but [${dims}] is expected.`, {
    field: name,
    found: `[${tensor.dims}]`,
    expected: `[${dims}]`,
  });
}
