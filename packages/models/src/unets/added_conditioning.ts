import { checkOptions, type DataType, Tensor, ValueError } from "@diffusers-web/core";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import {
  hintBlock,
  imageTimeEmbedding,
  textImageTimeEmbedding,
  textTimeEmbedding,
} from "../layers/condition_embeddings.ts";
import { timestepEmbedding, timestepSinusoid } from "../layers/embeddings.ts";
import { type FeatureMap, mapInput, type Tokens } from "../layers/layout.ts";
import { type Dims, itemRows } from "./inputs.ts";
import type { UNet2DConditionModelConfig } from "./unet_2d_condition_config.ts";

/** What a model takes in `added_cond_kwargs`, after its `addition_embed_type` and `encoder_hid_dim_type`. */
export interface AddedConditions {
  /** The pooled text, `[batch, dim]`: for `addition_embed_type` "text_time" and "text_image". */
  readonly text_embeds?: Tensor | undefined;
  /** Original size, crop and target size, `[batch, 6]`: for `addition_embed_type` "text_time" (Stable Diffusion XL). */
  readonly time_ids?: Tensor<DataType> | undefined;
  /**
   * An image's embedding, `[batch, dim]`: for `addition_embed_type` "text_image", "image" and "image_hint", and for
   * `encoder_hid_dim_type` "text_image_proj" and "image_proj" (Kandinsky). With IP-Adapters: a list with a tensor for each
   * of them, `[batch, images, dim]`, or `[batch, images, length, dim]` for IP-Adapter Plus and Full.
   */
  readonly image_embeds?: Tensor | readonly Tensor[] | undefined;
  /** A picture of 8 times the sample's size, `[batch, 3, 8 * height, 8 * width]`: for `addition_embed_type` "image_hint". */
  readonly hint?: Tensor | undefined;
}

const names = ["text_embeds", "time_ids", "image_embeds", "hint"] as const;
type Name = (typeof names)[number];

/** The fields of a config that say what is added. */
export type AddedConditionsConfig = Pick<
  UNet2DConditionModelConfig,
  | "addition_embed_type"
  | "addition_embed_type_num_heads"
  | "addition_time_embed_dim"
  | "projection_class_embeddings_input_dim"
  | "cross_attention_dim"
  | "encoder_hid_dim"
  | "encoder_hid_dim_type"
  | "flip_sin_to_cos"
  | "freq_shift"
>;

/** The graph's inputs that more than one part of it reads. */
export interface SharedInputs {
  /** The text as it was given. */
  readonly text?: Tokens | undefined;
  /** `image_embeds`. */
  readonly image?: Value | undefined;
}

/** The image's embedding, as an input of the graph. */
export function imageInput(g: GraphBuilder, dims: Dims): Value | undefined {
  return dims["image_embeds"] && g.input("image_embeds", dims["image_embeds"]);
}

/**
 * What `addition_embed_type` adds to a time embedding, and what `added_cond_kwargs` has for the text.
 *
 * @see Diffusers `UNet2DConditionModel.get_aug_embed`
 */
export class AddedConditioning {
  constructor(
    private readonly config: Readonly<AddedConditionsConfig>,
    private readonly className: string,
  ) {}

  /** The graph's inputs for one call, by name. */
  feeds(added: AddedConditions | undefined, batch: number): Record<string, Tensor> {
    if (added !== undefined && added !== null) checkOptions(`${this.className}: added_cond_kwargs`, added, names);
    const feeds: Record<string, Tensor> = {};
    const type = this.config.addition_embed_type;
    if (type === "text_time") feeds["add_embeds"] = this.textTimeFeed(added, batch);
    if (type === "text_image") {
      feeds["text_embeds"] = this.rows(this.needed(added, "text_embeds"), batch, this.textDim, "text_embeds");
    }
    const dim = this.imageDim;
    if (dim !== undefined) {
      feeds["image_embeds"] = this.rows(this.needed(added, "image_embeds"), batch, dim, "image_embeds");
    }
    if (type === "image_hint") feeds["hint"] = this.hintFeed(this.needed(added, "hint") as Tensor, batch);
    return feeds;
  }

  /** The dims of these inputs, for one sample of the given size. */
  inputDims(height: number, width: number): Record<string, readonly number[]> {
    const dims: Record<string, readonly number[]> = {};
    const { addition_embed_type: type, projection_class_embeddings_input_dim } = this.config;
    if (type === "text_time") dims["add_embeds"] = [1, projection_class_embeddings_input_dim!];
    if (type === "text_image") dims["text_embeds"] = [1, this.textDim];
    if (this.imageDim !== undefined) dims["image_embeds"] = [1, this.imageDim];
    if (type === "image_hint") dims["hint"] = [1, 3, 8 * height, 8 * width];
    return dims;
  }

  /** Emits what is added to the time embedding `[batch, dim]`; undefined when nothing is. */
  embed(g: GraphBuilder, dims: Dims, { text, image }: SharedInputs, dim: number): Value | undefined {
    const { addition_embed_type, addition_embed_type_num_heads } = this.config;
    switch (addition_embed_type) {
      case "text":
        return textTimeEmbedding(g, text!, "add_embedding", dim, addition_embed_type_num_heads);
      case "text_time":
        return timestepEmbedding(g, g.input("add_embeds", dims["add_embeds"]!), "add_embedding", dim);
      case "text_image": {
        const pooled = g.input("text_embeds", dims["text_embeds"]!);
        return textImageTimeEmbedding(g, pooled, image!, "add_embedding", dim);
      }
      case "image":
      case "image_hint":
        return imageTimeEmbedding(g, image!, "add_embedding", dim);
      default:
        return undefined;
    }
  }

  /** Emits the feature map that `image_hint` lays beside the sample. @throws ValueError for a hint of another size. */
  hint(g: GraphBuilder, dims: Dims, sample: FeatureMap): FeatureMap | undefined {
    if (dims["hint"] === undefined) return undefined;
    const hint = hintBlock(g, mapInput(g, "hint", dims["hint"]), "add_embedding");
    if (hint.height === sample.height && hint.width === sample.width) return hint;
    const expected = `[${sample.batch}, 3, ${8 * sample.height}, ${8 * sample.width}]`;
    throw this.error("hint", `[${dims["hint"]}]`, expected, "for this sample's size");
  }

  /** Channels of `image_embeds`; undefined where nothing reads it. */
  private get imageDim(): number | undefined {
    const { addition_embed_type: addition, encoder_hid_dim_type: text, encoder_hid_dim } = this.config;
    if (addition === "text_image" || text === "text_image_proj") return this.textDim;
    if (addition === "image" || addition === "image_hint" || text === "image_proj") return encoder_hid_dim!;
    return undefined;
  }

  /** `cross_attention_dim`, which has to be one number where this is asked. */
  private get textDim(): number {
    return this.config.cross_attention_dim as number;
  }

  private textTimeFeed(added: AddedConditions | undefined, batch: number): Tensor {
    const { addition_time_embed_dim, flip_sin_to_cos, freq_shift, projection_class_embeddings_input_dim } = this.config;
    const text = this.needed(added, "text_embeds");
    const ids = this.needed(added, "time_ids");
    const rows = text.dims[0] ?? 0;
    const times = timestepSinusoid(
      Array.from(ids.to("float32").data),
      addition_time_embed_dim!,
      flip_sin_to_cos,
      freq_shift,
    );
    if (text.dims.length !== 2 || text.size === 0 || times.size % rows !== 0) {
      throw this.error(
        "text_embeds and time_ids",
        `[${text.dims}] and [${ids.dims}]`,
        `[${batch}, dim] and [${batch}, 6]`,
      );
    }
    const columns = Tensor.cat([text.to("float32"), times.reshape(rows, -1)], 1);
    const width = projection_class_embeddings_input_dim!;
    const note = `text_embeds beside ${addition_time_embed_dim} columns for each of the time_ids`;
    return itemRows(columns, batch, width, "added_cond_kwargs", this.className, note);
  }

  private hintFeed(hint: Tensor, batch: number): Tensor {
    const [rows, channels] = hint.dims;
    if (hint.dims.length === 4 && rows === batch && channels === 3 && hint.size > 0) return hint.to("float32");
    throw this.error("hint", `[${hint.dims}]`, `[${batch}, 3, 8 * height, 8 * width]`);
  }

  private needed(added: AddedConditions | undefined, field: Name): Tensor<DataType> {
    const value: unknown = added?.[field];
    if (value instanceof Tensor) return value as Tensor<DataType>;
    const { addition_embed_type, encoder_hid_dim_type } = this.config;
    const because =
      field === "image_embeds" && !["text_image", "image", "image_hint"].includes(addition_embed_type ?? "")
        ? `\`encoder_hid_dim_type\` "${encoder_hid_dim_type}"`
        : `\`addition_embed_type\` "${addition_embed_type}"`;
    throw new ValueError(
      `This ${this.className} has ${because}: \`added_cond_kwargs\` needs \`${field}\`, a Tensor, but it is ${value}.`,
      { className: this.className, field: `added_cond_kwargs.${field}`, found: String(value), expected: "a Tensor" },
    );
  }

  private rows(tensor: Tensor<DataType>, batch: number, dim: number, field: Name): Tensor {
    // A sequence of one is the same numbers.
    const flat = tensor.dims.length === 3 && tensor.dims[1] === 1 ? tensor.reshape(tensor.dims[0]!, -1) : tensor;
    return itemRows(flat, batch, dim, `added_cond_kwargs.${field}`, this.className);
  }

  private error(field: string, found: string, expected: string, note = ""): ValueError {
    return new ValueError(
      `${this.className}: \`added_cond_kwargs\` has ${field} of dims ${found}, but ${expected} is expected ${note}`.trim() +
        ".",
      { className: this.className, field: `added_cond_kwargs.${field}`, found, expected },
    );
  }
}
