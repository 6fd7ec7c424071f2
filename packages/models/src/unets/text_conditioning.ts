import { type Tensor, ValueError } from "@diffusers-web/core";
import { perBlock } from "../config_checks.ts";
import type { GraphBuilder } from "../graph/builder.ts";
import { imageProjection, textImageProjection } from "../layers/condition_embeddings.ts";
import { type Tokens, tokensInput } from "../layers/layout.ts";
import { tokensLinear } from "../layers/linear.ts";
import type { SharedInputs } from "./added_conditioning.ts";
import { blockName } from "./blocks/index.ts";
import { checkText, type Dims } from "./inputs.ts";
import type { UNet2DConditionModelConfig } from "./unet_2d_condition_config.ts";

/** The fields of a config that say what the blocks look at. */
export type TextConfig = Pick<
  UNet2DConditionModelConfig,
  | "addition_embed_type"
  | "attention_head_dim"
  | "block_out_channels"
  | "cross_attention_dim"
  | "down_block_types"
  | "encoder_hid_dim"
  | "encoder_hid_dim_type"
  | "mid_block_type"
  | "up_block_types"
>;

/** A block that looks at the text. */
export interface TextReader {
  /** Its place in the config. */
  readonly block: string;
  /** Channels of its pixels. */
  readonly channels: number;
  /** Whether it is a SimpleCrossAttn block. */
  readonly isSimple: boolean;
  /** Channels of the text that it wants. */
  readonly dim: number | null;
  /** Channels of the pixels that may stand for the text; undefined for a block that needs one. */
  readonly ownDim: number | undefined;
}

/** The blocks of a config that look at the text. */
export function textReaders(config: Readonly<TextConfig>): TextReader[] {
  const { down_block_types: down, mid_block_type: mid, up_block_types: up } = config;
  const dims = perBlock<number | null>(config.cross_attention_dim, down);
  const heads = perBlock<number | null>(config.attention_head_dim, down);
  const last = down.length - 1;
  const reader = (type: string, block: string, level: number, next: number = level): TextReader[] => {
    const name = blockName(type);
    if (!name.includes("CrossAttn")) return [];
    const count = heads[level];
    const hasTransformers = /^(CrossAttn|UNetMidBlock2DCrossAttn)/.test(name) && typeof count === "number";
    const channels = config.block_out_channels[level]!;
    // A K-block on the way up ends with the channels of the next.
    const isOne = config.block_out_channels[next] === channels;
    const isOther = !/^(CrossAttn|UNetMidBlock2DCrossAttn)/.test(name);
    const own = isOther && isOne ? channels : undefined;
    const ownDim = hasTransformers ? count * Math.floor(channels / count) : own;
    return [{ block, channels, isSimple: name.includes("SimpleCrossAttn"), dim: dims[level]!, ownDim }];
  };
  return [
    ...down.flatMap((type, i) => reader(type, `down_block_types[${i}]`, i)),
    ...(mid === null ? [] : reader(mid, "mid_block_type", last)),
    ...up.flatMap((type, i) => {
      const next = blockName(type).startsWith("K") ? Math.max(last - i - 1, 0) : last - i;
      return reader(type, `up_block_types[${i}]`, last - i, next);
    }),
  ];
}

/**
 * What the blocks of a UNet2DConditionModel look at: the text, or what `encoder_hid_dim_type` makes of it.
 *
 * @see Diffusers `UNet2DConditionModel.process_encoder_hidden_states`
 */
export class TextConditioning {
  private readonly readers: readonly TextReader[];
  /** Whether the text has to be given; it may be, for a model whose attentions can look at the pixels in its place. */
  private readonly isNeeded: boolean;
  /** Whether a text that is given is read. */
  private readonly isRead: boolean;

  constructor(
    private readonly config: Readonly<TextConfig>,
    private readonly className: string,
  ) {
    const { addition_embed_type, encoder_hid_dim, encoder_hid_dim_type } = config;
    this.readers = textReaders(config);
    const isPooled = addition_embed_type === "text";
    const isReplaced = encoder_hid_dim_type === "image_proj";
    const isProjected = encoder_hid_dim !== null && !isReplaced;
    const canStandIn = this.readers.every(({ dim, ownDim }) => dim === ownDim);
    const dims = new Set(this.readers.map(({ dim }) => dim));
    this.isNeeded = isPooled || isProjected || !(isReplaced || canStandIn);
    this.isRead = this.isNeeded || (!isReplaced && dims.size === 1);
  }

  /**
   * The graph's inputs for one call, by name.
   *
   * @throws ValueError for a text of other dims, none where one is needed, and one where each block wants other channels.
   */
  feeds(text: Tensor | null | undefined, batch: number): Record<string, Tensor> {
    const isGiven = text !== null && text !== undefined;
    const expected = `a Tensor [${batch}, length, ${this.dim}]`;
    if (!isGiven && this.isNeeded) throw this.error(text, expected);
    if (!isGiven) return {};
    if (this.isRead) checkText(text, batch, this.dim, this.className);
    else if (this.readers.length > 0 && this.config.encoder_hid_dim_type === null) {
      throw this.error(`[${text.dims}]`, "null: its blocks want texts of different `cross_attention_dim`");
    }
    return this.isRead ? { encoder_hidden_states: text } : {};
  }

  /** The dims of these inputs, for a batch of one. */
  inputDims(): Record<string, readonly number[]> {
    return this.isRead ? { encoder_hidden_states: [1, 1, this.dim] } : {};
  }

  /** The text as it is given, as an input of the graph. */
  input(g: GraphBuilder, dims: Dims): Tokens | undefined {
    const given = dims["encoder_hidden_states"];
    return given && tokensInput(g, "encoder_hidden_states", given);
  }

  /** Emits what the blocks look at; null where there is no text. */
  context(g: GraphBuilder, { text, image }: SharedInputs): Tokens | null {
    const { encoder_hid_dim, encoder_hid_dim_type, cross_attention_dim } = this.config;
    const dim = cross_attention_dim as number;
    if (encoder_hid_dim_type === "text_image_proj")
      return textImageProjection(g, text!, image!, "encoder_hid_proj", dim);
    if (encoder_hid_dim_type === "image_proj") return imageProjection(g, image!, "encoder_hid_proj", dim);
    if (encoder_hid_dim !== null) return tokensLinear(g, text!, "encoder_hid_proj", dim);
    return text ?? null;
  }

  /** Channels of `encoder_hidden_states`. */
  private get dim(): number {
    const { encoder_hid_dim, cross_attention_dim } = this.config;
    return encoder_hid_dim ?? this.readers[0]?.dim ?? (cross_attention_dim as number);
  }

  private error(found: unknown, expected: string): ValueError {
    return new ValueError(`${this.className} has \`encoder_hidden_states\`: ${found}, but expects ${expected}.`, {
      className: this.className,
      field: "encoder_hidden_states",
      found: String(found),
      expected,
    });
  }
}
