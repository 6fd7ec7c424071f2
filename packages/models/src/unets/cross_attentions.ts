import { perBlock } from "../config_checks.ts";
import { blockName } from "./blocks/index.ts";
import type { UNet2DConditionModelConfig } from "./unet_2d_condition_config.ts";

/** The fields of a config that say where its transformers are. */
export type CrossAttentionConfig = Pick<
  UNet2DConditionModelConfig,
  | "attention_head_dim"
  | "block_out_channels"
  | "down_block_types"
  | "layers_per_block"
  | "mid_block_type"
  | "reverse_transformer_layers_per_block"
  | "transformer_layers_per_block"
  | "up_block_types"
>;

/** A transformer of a UNet: one follows each residual block of the blocks with cross-attention. */
export interface Transformer {
  /** For example `down_blocks.0.attentions.1`. */
  readonly name: string;
  /** How many transformer blocks it has. */
  readonly layers: number;
  readonly channels: number;
  readonly heads: number;
}

/** The transformers of a UNet, in the order of torch's modules: down, up, middle. */
export function transformersOf(config: Readonly<CrossAttentionConfig>): Transformer[] {
  const blocks = config.down_block_types;
  const last = blocks.length - 1;
  const counts = perBlock(config.layers_per_block, blocks);
  const heads = perBlock(config.attention_head_dim, blocks);
  const down = perBlock<number | readonly number[]>(config.transformer_layers_per_block, blocks);
  const up = config.reverse_transformer_layers_per_block ?? [...down].reverse();
  const found: Transformer[] = [];
  const put = (block: string, level: number, count: number, layers: number | readonly number[]): void => {
    for (let i = 0; i < count; i++) {
      found.push({
        name: `${block}.attentions.${i}`,
        layers: typeof layers === "number" ? layers : layers[i]!,
        channels: config.block_out_channels[level]!,
        heads: heads[level]!,
      });
    }
  };
  blocks.forEach((type, i) => {
    if (blockName(type) === "CrossAttnDownBlock2D") put(`down_blocks.${i}`, i, counts[i]!, down[i]!);
  });
  config.up_block_types.forEach((type, i) => {
    const level = last - i;
    if (blockName(type) === "CrossAttnUpBlock2D") put(`up_blocks.${i}`, level, counts[level]! + 1, up[i]!);
  });
  if (config.mid_block_type === "UNetMidBlock2DCrossAttn") put("mid_block", last, 1, down[last]!);
  return found;
}

/** How many heads each attention has, of all blocks with one. */
export function attentionHeads(config: Readonly<CrossAttentionConfig>): number[] {
  const blocks = config.down_block_types;
  const sizes = perBlock(config.attention_head_dim, blocks);
  // Elsewhere `attention_head_dim` is the size of a head.
  const others = (types: readonly string[], level: (i: number) => number): number[] =>
    types.flatMap((type, i) => {
      if (!/Attn/.test(type) || /^CrossAttn/.test(blockName(type))) return [];
      const channels = config.block_out_channels[level(i)]!;
      return [Math.floor(channels / (sizes[i] ?? channels))];
    });
  const last = blocks.length - 1;
  const isSimple = config.mid_block_type === "UNetMidBlock2DSimpleCrossAttn";
  return [
    ...transformersOf(config).map(({ heads }) => heads),
    ...others(blocks, (i) => i),
    ...others(config.up_block_types, (i) => last - i),
    ...(isSimple ? [Math.floor(config.block_out_channels[last]! / sizes[last]!)] : []),
  ];
}
