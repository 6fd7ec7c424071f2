import { ValueError } from "@diffusers-web/core";
import { perBlock } from "../config_checks.ts";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import { add, type FeatureMap, type Tokens } from "../layers/layout.ts";
import { defaultGroups } from "../layers/norm.ts";
import type { ResnetOptions } from "../layers/resnet.ts";
import type { AttentionConditions } from "../layers/transformer_2d.ts";
import { blockName, blockNamed, downBlocks, midBlocks } from "./blocks/index.ts";
import type { BlockOptions } from "./blocks/types.ts";
import { checkResiduals, isSameSize } from "./residuals.ts";
import type { UNet2DConditionModelConfig } from "./unet_2d_condition_config.ts";

/** What the config of a model says of its blocks: of a UNet2DConditionModel, and of a ControlNetModel, which is half of one. */
export type ConditionBlocksConfig = Pick<
  UNet2DConditionModelConfig,
  | "down_block_types"
  | "mid_block_type"
  | "block_out_channels"
  | "layers_per_block"
  | "downsample_padding"
  | "mid_block_scale_factor"
  | "act_fn"
  | "norm_num_groups"
  | "norm_eps"
  | "attention_head_dim"
  | "num_attention_heads"
  | "only_cross_attention"
  | "transformer_layers_per_block"
  | "upcast_attention"
  | "resnet_time_scale_shift"
  | "resnet_skip_time_act"
  | "resnet_out_scale_factor"
> &
  Partial<Pick<UNet2DConditionModelConfig, "cross_attention_norm" | "mid_block_only_cross_attention">>;

/** What all blocks of one model look at. */
export interface Conditions {
  /** The time embedding `[batch, dim]`. */
  readonly temb: Value;
  /** The text; null where there is none: attentions then look at the pixels. */
  readonly context: Tokens | null;
  /** What attentions are told besides. */
  readonly attention?: AttentionConditions | undefined;
}

const adapterField = "down_intrablock_additional_residuals";

/** What residual blocks have in common in a config's model. */
export function resnetOptions(config: ConditionBlocksConfig): ResnetOptions {
  return {
    groups: config.norm_num_groups!,
    eps: config.norm_eps,
    act: config.act_fn,
    timeScaleShift: config.resnet_time_scale_shift as ResnetOptions["timeScaleShift"],
  };
}

/**
 * The options of the blocks at one level.
 *
 * @param count how many residual blocks
 * @param transformer transformer blocks per transformer, one for all or one for each
 */
export function blockOptions(
  config: ConditionBlocksConfig,
  { temb, context, attention }: Conditions,
  level: number,
  count: number,
  transformer: number | readonly number[],
): BlockOptions {
  const blocks = config.down_block_types;
  const headDim = perBlock(config.attention_head_dim, blocks)[level]!;
  return {
    layers: count,
    out: config.block_out_channels[level]!,
    temb,
    resnet: resnetOptions(config),
    attentionHeadDim: headDim,
    transformer: {
      // Null in a UNet2DConditionModel, where `attention_head_dim` is the number of heads.
      heads: perBlock(config.num_attention_heads ?? headDim, blocks)[level]!,
      context: context ?? undefined,
      layers: typeof transformer === "number" ? new Array<number>(count).fill(transformer) : transformer,
      onlyCrossAttention: perBlock(config.only_cross_attention, blocks)[level]!,
      upcastAttention: config.upcast_attention,
      conditions: attention,
      crossAttentionNorm: (config.cross_attention_norm ?? null) as "layer_norm" | "group_norm" | null,
    },
    resampling: { outputScaleFactor: config.resnet_out_scale_factor, skipTimeAct: config.resnet_skip_time_act },
  };
}

/**
 * The way down.
 *
 * @param adapters T2I-Adapter's features, taken from the front
 * @returns the last block's output, and what is kept for the way up, first to last
 */
export function conditionDown(
  g: GraphBuilder,
  x: FeatureMap,
  config: ConditionBlocksConfig,
  conditions: Conditions,
  adapters: FeatureMap[] = [],
): { hidden: FeatureMap; kept: FeatureMap[] } {
  const blocks = config.down_block_types;
  const layers = perBlock(config.layers_per_block, blocks);
  const transformers = perBlock<number | readonly number[]>(config.transformer_layers_per_block, blocks);
  let hidden = x;
  const kept: FeatureMap[] = [x];
  blocks.forEach((type, i) => {
    const isCrossAttention = blockName(type) === "CrossAttnDownBlock2D";
    if (/^(Simple|K)CrossAttn/.test(blockName(type)) && adapters.length > 0) {
      throw new ValueError(
        `\`down_intrablock_additional_residuals\` do not go with "${type}" in \`down_block_types\`.`,
        {
          field: "down_intrablock_additional_residuals",
          found: `a residual for ${type}`,
          expected: "CrossAttnDownBlock2D or a block without cross-attention",
        },
      );
    }
    const adapter = adapters.shift();
    if (adapter !== undefined && isCrossAttention) {
      checkResiduals([adapter], [{ ...hidden, channels: config.block_out_channels[i]! }], adapterField);
    }
    const result = blockNamed(downBlocks, type)!(g, hidden, `down_blocks.${i}`, {
      ...blockOptions(config, conditions, i, layers[i]!, transformers[i]!),
      addDownsample: i < blocks.length - 1,
      downsamplePadding: config.downsample_padding,
      downsampleType: "conv",
      additionalResidual: isCrossAttention ? adapter : undefined,
    });
    hidden = result.hidden;
    if (!isCrossAttention && adapter !== undefined) {
      checkResiduals([adapter], [hidden], adapterField);
      const sum = add(g, hidden, adapter);
      // Diffusers adds in place, so that what was kept last changes too, where it is the output.
      if (result.kept.at(-1) === hidden) result.kept[result.kept.length - 1] = sum;
      hidden = sum;
    }
    kept.push(...result.kept);
  });
  return { hidden, kept };
}

/** The block in the middle. @param adapters what {@link conditionDown} left of T2I-Adapter's features; one is taken if it fits */
export function conditionMid(
  g: GraphBuilder,
  x: FeatureMap,
  config: ConditionBlocksConfig,
  conditions: Conditions,
  adapters: FeatureMap[] = [],
): FeatureMap {
  const type = config.mid_block_type;
  if (type === null) return x;
  const last = config.down_block_types.length - 1;
  const transformer = perBlock<number | readonly number[]>(
    config.transformer_layers_per_block,
    config.down_block_types,
  ).at(-1)!;
  const options = blockOptions(config, conditions, last, type === "UNetMidBlock2D" ? 0 : 1, transformer);
  const { only_cross_attention } = config;
  const isOnly = typeof only_cross_attention === "boolean" && only_cross_attention;
  const hidden = midBlocks[type]!(g, x, "mid_block", {
    ...options,
    transformer: { ...options.transformer!, onlyCrossAttention: config.mid_block_only_cross_attention ?? isOnly },
    resnet: {
      ...options.resnet,
      groups: config.norm_num_groups ?? defaultGroups(x.channels),
      outputScaleFactor: config.mid_block_scale_factor,
    },
    attentionGroups: null,
    addAttention: false,
  });
  const [adapter] = adapters;
  if (adapter === undefined || !isSameSize(adapter, hidden)) return hidden;
  adapters.shift();
  return add(g, hidden, adapter);
}
