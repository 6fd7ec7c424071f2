import type { GraphBuilder, Value } from "../../graph/builder.ts";
import type { FreeU } from "../../layers/freeu.ts";
import type { FeatureMap } from "../../layers/layout.ts";
import type { ResnetOptions } from "../../layers/resnet.ts";
import type { Transformer2DOptions } from "../../layers/transformer_2d.ts";
import type { Size } from "../../layers/upsampling.ts";

/** What every block of one model gets, and what its config says of this one. */
export interface BlockOptions {
  /** How many residual blocks. */
  readonly layers: number;
  /** Output channels. */
  readonly out: number;
  /** The time embedding `[batch, dim]`; null in an autoencoder. */
  readonly temb: Value | null;
  readonly resnet: ResnetOptions;
  /** Head size of the blocks with self-attention; null: one head. */
  readonly attentionHeadDim: number | null;
  /** For the blocks with cross-attention. */
  readonly transformer?: TransformerBlockOptions;
  /** For the blocks that resample in a residual block. */
  readonly resampling?: Pick<ResnetOptions, "outputScaleFactor" | "skipTimeAct">;
}

/** What a block's transformers are like. */
export interface TransformerBlockOptions
  extends Pick<Transformer2DOptions, "heads" | "context" | "upcastAttention" | "conditions"> {
  /** How many transformer blocks follow each residual block. */
  readonly layers: readonly number[];
  /** Whether both attentions look at the text; the block in the middle never does so in its first. */
  readonly onlyCrossAttention: boolean;
  /** How blocks with one attention over text and pixels normalise the text. */
  readonly crossAttentionNorm?: "layer_norm" | "group_norm" | null;
}

/** Options of a block on the way down. */
export interface DownBlockOptions extends BlockOptions {
  readonly addDownsample: boolean;
  readonly downsamplePadding: number;
  /** How blocks with self-attention resample. */
  readonly downsampleType: "conv" | "resnet";
  /** Added to the last layer's output, before the downsampling (T2I-Adapter); blocks with cross-attention only. */
  readonly additionalResidual?: FeatureMap | undefined;
}

/** Options of a block on the way up. */
export interface UpBlockOptions extends BlockOptions {
  readonly addUpsample: boolean;
  /** Output channels of the next block on the way up; of the last block, its own. */
  readonly next: number;
  readonly upsampleType: "conv" | "resnet";
  /** The size to reach; twice the input's when absent. */
  readonly upsampleSize?: Size | undefined;
  /** In the first two of the blocks that Diffusers applies FreeU in: UpBlock2D and CrossAttnUpBlock2D. */
  readonly freeU?: FreeU | undefined;
}

/** Options of the block in the middle. */
export interface MidBlockOptions extends BlockOptions {
  /** Groups of the attention's normalisation; null: none. */
  readonly attentionGroups: number | null;
  readonly addAttention: boolean;
}

/** A block on the way down: its output, and what it keeps for the way up. */
export type DownBlock = (
  g: GraphBuilder,
  x: FeatureMap,
  name: string,
  options: DownBlockOptions,
) => { hidden: FeatureMap; kept: FeatureMap[] };

/** A block on the way up: takes what was kept, last first, from `kept`. */
export type UpBlock = (
  g: GraphBuilder,
  x: FeatureMap,
  kept: FeatureMap[],
  name: string,
  options: UpBlockOptions,
) => FeatureMap;

/** A block on the way down that takes in the picture, and gives it in its own size. */
export type SkipDownBlock = (
  g: GraphBuilder,
  x: FeatureMap,
  skip: FeatureMap,
  name: string,
  options: DownBlockOptions,
) => { hidden: FeatureMap; kept: FeatureMap[]; skip: FeatureMap };

/** A block on the way up that draws a part of the picture: `skip` is what was drawn so far, null for nothing. */
export type SkipUpBlock = (
  g: GraphBuilder,
  x: FeatureMap,
  kept: FeatureMap[],
  skip: FeatureMap | null,
  name: string,
  options: UpBlockOptions,
) => { hidden: FeatureMap; skip: FeatureMap | null };

/** The block in the middle. */
export type MidBlock = (g: GraphBuilder, x: FeatureMap, name: string, options: MidBlockOptions) => FeatureMap;

/** Options of an autoencoder's block. */
export interface EncoderBlockOptions {
  /** How many residual blocks. */
  readonly layers: number;
  /** Output channels. */
  readonly out: number;
  readonly resnet: ResnetOptions;
  /** Whether the size is halved (encoder) or doubled (decoder) at the end. */
  readonly resample: boolean;
}

/** A block of an autoencoder's encoder or decoder. */
export type EncoderBlock = (g: GraphBuilder, x: FeatureMap, name: string, options: EncoderBlockOptions) => FeatureMap;
