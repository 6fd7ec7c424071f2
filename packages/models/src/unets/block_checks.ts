import { ValueError } from "@diffusers-web/core";
import { checkValue, perBlock } from "../config_checks.ts";
import { blockName } from "./blocks/index.ts";

/** What the config of a UNet says of its blocks. */
export interface BlocksConfig {
  readonly down_block_types: readonly string[];
  readonly mid_block_type: string | null;
  readonly up_block_types: readonly string[];
  readonly block_out_channels: readonly number[];
  readonly layers_per_block: number | readonly number[];
  readonly norm_num_groups: number | null;
  readonly resnet_time_scale_shift: string;
}

/** K-blocks and skip blocks make their groups of their channels. */
const makesGroups = (type: string): boolean => isK(type) || isSkip(type);

/** Whether a block is one of k-diffusion's. */
const isK = (type: string): boolean => blockName(type).startsWith("K");

/** Whether a block takes in the picture, or draws a part of it (score-sde). */
export function isSkip(type: string): boolean {
  return /^(Attn)?Skip/.test(blockName(type));
}

/**
 * Checks what blocks need of each other and of the config.
 *
 * @param temb channels of the time embedding
 * @throws UnsupportedModelError for `norm_num_groups` null or a `resnet_time_scale_shift` with blocks that cannot have it.
 * @throws ValueError for channels that the blocks cannot have, and for blocks that need more than is kept on the way down.
 */
export function checkBlockNeeds(className: string, config: BlocksConfig, temb: number): void {
  const { down_block_types, mid_block_type, up_block_types, norm_num_groups, resnet_time_scale_shift } = config;
  const types = [...down_block_types, ...up_block_types];
  if (norm_num_groups === null && !types.every(makesGroups)) {
    checkValue(className, "norm_num_groups", null, ["a number"]);
  }
  // K-blocks do not read the field.
  if (mid_block_type !== null || !types.every(isK)) {
    checkValue(className, "resnet_time_scale_shift", resnet_time_scale_shift, ["default", "scale_shift"]);
  }
  checkChannels(className, config);
  checkKept(className, config, temb);
}

function checkChannels(className: string, config: BlocksConfig): void {
  const check = (field: "down_block_types" | "up_block_types", type: string, channels: number): void => {
    const groups = isK(type) ? Math.floor(channels / 32) : blockName(type).startsWith("AttnSkip") ? 32 : 1;
    if (groups > 0 && channels % groups === 0) return;
    throw new ValueError(
      `${className} has "${type}" in \`${field}\` with ${channels} channels in \`block_out_channels\`, which do not ` +
        `divide into its ${isK(type) ? "groups of 32 channels" : "32 groups"}.`,
      { className, field: "block_out_channels", found: String(channels), expected: "a multiple of 32" },
    );
  };
  const channels = config.block_out_channels;
  for (const [i, type] of config.down_block_types.entries()) check("down_block_types", type, channels[i]!);
  for (const [i, type] of config.up_block_types.entries()) check("up_block_types", type, channels.at(-1 - i)!);
}

/** Follows the channels down and up: K-blocks keep less than others, take less, and cannot take any number of channels. */
function checkKept(className: string, config: BlocksConfig, temb: number): void {
  const { down_block_types, up_block_types, block_out_channels: channels, layers_per_block } = config;
  const layers = perBlock(layers_per_block, down_block_types);
  const last = down_block_types.length - 1;
  const kept = [channels[0]!];
  for (const [i, type] of down_block_types.entries()) {
    const isLast = i === last;
    // The last block with attention of the K-blocks keeps nothing.
    const out = isLast && blockName(type) === "KCrossAttnDownBlock2D" ? 0 : channels[i]!;
    const count = layers[i]! + (isLast || isK(type) ? 0 : 1);
    kept.push(...new Array<number>(count).fill(out));
  }
  let hidden = channels[last]!;
  for (const [i, type] of up_block_types.entries()) {
    const level = last - i;
    const out = channels[level]!;
    const next = channels[Math.max(level - 1, 0)]!;
    const wanted = layers[level]! + (isK(type) ? 0 : 1);
    const refuse = (found: string, expected: string): ValueError =>
      new ValueError(
        `${className}: "${type}" in \`up_block_types[${i}]\` takes ${expected}, but \`down_block_types\` leave it ${found}. ` +
          "K-blocks go with K-blocks, in the reverse order.",
        { className, field: "up_block_types", found, expected },
      );
    const share = kept.splice(Math.max(kept.length - wanted, 0));
    if (!isK(type)) {
      if (share.length < wanted || share.includes(0)) {
        throw refuse(`${share.filter((one) => one > 0).length} feature maps`, `${wanted} feature maps`);
      }
      const before = channels[Math.min(level + 1, last)]!;
      if (hidden !== before) throw refuse(`${hidden} channels`, `${before} channels`);
      hidden = out;
      continue;
    }
    if (share.length === 0) throw refuse("no feature map", "one feature map for each layer");
    const isFirst = blockName(type) === "KCrossAttnUpBlock2D" && next === out && temb === out;
    const input = isFirst ? out : 2 * out;
    if (hidden + share.at(-1)! !== input) throw refuse(`${hidden + share.at(-1)!} channels`, `${input} channels`);
    hidden = next;
  }
}

/** The fields that say what SimpleCrossAttn blocks do with the text. */
export interface TextNormConfig extends Pick<BlocksConfig, "down_block_types" | "mid_block_type" | "up_block_types"> {
  readonly block_out_channels: readonly number[];
  readonly cross_attention_dim: number | readonly number[];
  readonly cross_attention_norm: string | null;
}

/**
 * Checks how SimpleCrossAttn blocks normalise the text.
 *
 * @throws UnsupportedModelError for another `cross_attention_norm` than null, layer_norm and group_norm.
 * @throws ValueError for a text that cannot be normalised so.
 */
export function checkTextNorm(className: string, config: TextNormConfig): void {
  const { down_block_types: down, mid_block_type: mid, up_block_types: up, cross_attention_norm: norm } = config;
  checkValue(className, "cross_attention_norm", norm, [null, "layer_norm", "group_norm"]);
  if (norm === null) return;
  const isSimple = (type: string | null): boolean => /^(UNetMidBlock2D)?SimpleCrossAttn/.test(blockName(type ?? ""));
  const last = down.length - 1;
  const levels = [
    ...down.map((type, i) => [type, i] as const),
    [mid, last] as const,
    ...up.map((type, i) => [type, last - i] as const),
  ].filter(([type]) => isSimple(type));
  for (const [type, level] of levels) {
    const dim = perBlock(config.cross_attention_dim, down)[level]!;
    const channels = config.block_out_channels[level]!;
    if (norm === "layer_norm" ? dim === channels : dim % 32 === 0) continue;
    const expected = norm === "layer_norm" ? `the ${channels} channels of ${type}` : "a multiple of 32";
    throw new ValueError(
      `${className} has \`cross_attention_dim\` ${dim}, but \`cross_attention_norm\` "${norm}" needs ${expected}.`,
      { className, field: "cross_attention_dim", found: String(dim), expected },
    );
  }
}
