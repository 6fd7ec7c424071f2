import { configDefaults, float, UnsupportedModelError, ValueError } from "@diffusers-web/core";
import { checkLength, checkValue } from "../config_checks.ts";
import { checkActivation } from "../layers/activations.ts";
import { checkBlockNeeds, isSkip } from "./block_checks.ts";
import { blockName, checkBlocks } from "./blocks/index.ts";

/** The config of a UNet2DModel: the arguments of Diffusers' `__init__`, under their names. */
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
  /**
   * DownBlock2D, AttnDownBlock2D, ResnetDownsampleBlock2D, SkipDownBlock2D, AttnSkipDownBlock2D, KDownBlock2D or
   * KCrossAttnDownBlock2D (whose pixels look at themselves here) each.
   */
  down_block_types: readonly string[];
  /** UNetMidBlock2D, or null for none. */
  mid_block_type: string | null;
  /** UpBlock2D, AttnUpBlock2D, ResnetUpsampleBlock2D, SkipUpBlock2D, AttnSkipUpBlock2D, KUpBlock2D or KCrossAttnUpBlock2D each. */
  up_block_types: readonly string[];
  block_out_channels: readonly number[];
  layers_per_block: number;
  mid_block_scale_factor: number;
  /** 0 pads the right and the bottom only. */
  downsample_padding: number;
  /** How AttnDownBlock2D halves: conv (null too) or resnet. */
  downsample_type: string | null;
  /** How AttnUpBlock2D doubles: conv (null too) or resnet. */
  upsample_type: string | null;
  /** Training only. */
  dropout: number;
  /** silu, swish, mish, gelu or relu. */
  act_fn: string;
  /** The size of a head; null: one head. */
  attention_head_dim: number | null;
  /** null: only with skip blocks and K-blocks, which have groups of their own. */
  norm_num_groups: number | null;
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

export const unet2DDefaults: UNet2DModelConfig = configDefaults<UNet2DModelConfig>({
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

const name = "UNet2DModel";

const downBlockNames = [
  ...["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"],
  ...["KDownBlock2D", "KCrossAttnDownBlock2D"],
];
const upBlockNames = [
  ...["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"],
  ...["KUpBlock2D", "KCrossAttnUpBlock2D"],
];

/**
 * Checks a config before anything is built from it.
 *
 * @throws UnsupportedModelError naming the field whose value is not built.
 * @throws ValueError for a config that Diffusers refuses as well.
 */
export function checkUNet2DConfig(config: Readonly<UNet2DModelConfig>): void {
  checkTypes(config);
  checkBlocks(config.down_block_types, downBlockNames, name, "down_block_types");
  checkBlocks(config.up_block_types, upBlockNames, name, "up_block_types");
  checkLength(name, "up_block_types", config.up_block_types, config.down_block_types);
  checkLength(name, "block_out_channels", config.block_out_channels, config.down_block_types);
  checkValue(name, "mid_block_type", config.mid_block_type, ["UNetMidBlock2D", null]);
  checkActivation(config.act_fn, name, "act_fn");
  checkValue(name, "time_embedding_type", config.time_embedding_type, ["positional", "fourier", "learned"]);
  checkResampling(config);
  checkBlockNeeds(name, config, config.time_embedding_dim || 4 * config.block_out_channels[0]!);
  checkHeads(config);
  checkSkips(config);
  checkValue(name, "class_embed_type", config.class_embed_type, [null, "timestep", "identity"]);
  if (config.time_embedding_type === "learned" && config.num_train_timesteps === null) {
    throw new ValueError(`${name} needs \`num_train_timesteps\` when \`time_embedding_type\` is "learned".`, {
      className: name,
      field: "num_train_timesteps",
      found: "null",
      expected: "a number",
    });
  }
}

/** Fields that hold a number of something, the least there may be, and whether they may be null. */
const counts: readonly (readonly [keyof UNet2DModelConfig, number, boolean])[] = [
  ["in_channels", 1, false],
  ["out_channels", 1, false],
  ["layers_per_block", 0, false],
  ["downsample_padding", 0, false],
  ["attention_head_dim", 1, true],
  ["norm_num_groups", 1, true],
  ["attn_norm_num_groups", 1, true],
  ["time_embedding_dim", 0, true],
  ["num_class_embeds", 1, true],
  ["num_train_timesteps", 1, true],
];

const isCount = (value: unknown, least: number): boolean => Number.isInteger(value) && (value as number) >= least;

function wrong(field: keyof UNet2DModelConfig, value: unknown, expected: string): ValueError {
  const found = JSON.stringify(value) ?? "nothing";
  return new ValueError(`${name} has \`${field}\`: ${found} in its config, but ${expected} is expected.`, {
    className: name,
    field,
    found,
    expected,
  });
}

/** Checks that the fields hold what they are for. */
function checkTypes(config: Readonly<UNet2DModelConfig>): void {
  for (const field of ["down_block_types", "up_block_types"] as const) {
    const list: unknown = config[field];
    if (Array.isArray(list) && list.length > 0 && list.every((item) => typeof item === "string")) continue;
    throw wrong(field, list, "a list of names");
  }
  const channels: unknown = config.block_out_channels;
  if (!(Array.isArray(channels) && channels.every((value) => isCount(value, 1)))) {
    throw wrong("block_out_channels", channels, "a list of positive integers");
  }
  for (const [field, least, isOptional] of counts) {
    const value = config[field];
    if (isCount(value, least) || (isOptional && value === null)) continue;
    throw wrong(field, value, `an integer of at least ${least}${isOptional ? ", or null" : ""}`);
  }
  for (const field of ["freq_shift", "norm_eps", "mid_block_scale_factor"] as const) {
    if (!Number.isFinite(config[field])) throw wrong(field, config[field], "a number");
  }
}

/** Only two blocks read these fields, and the last of each way does not resample. */
function checkResampling(config: Readonly<UNet2DModelConfig>): void {
  const reads = (types: readonly string[], block: string): boolean =>
    types.slice(0, -1).some((type) => blockName(type) === block);
  const known = ["conv", "resnet", null];
  if (reads(config.down_block_types, "AttnDownBlock2D")) {
    checkValue(name, "downsample_type", config.downsample_type, known);
  }
  if (reads(config.up_block_types, "AttnUpBlock2D")) checkValue(name, "upsample_type", config.upsample_type, known);
}

/** What blocks with attention make of their channels. */
function checkHeads({
  attention_head_dim,
  down_block_types,
  up_block_types,
  mid_block_type,
  add_attention,
  attn_norm_num_groups: groups,
  block_out_channels,
}: Readonly<UNet2DModelConfig>): void {
  const hasMid = mid_block_type !== null && add_attention;
  const lowest = block_out_channels.at(-1)!;
  if (hasMid && groups !== null && lowest % groups !== 0) {
    throw wrong("attn_norm_num_groups", groups, `a divisor of the ${lowest} channels in the middle`);
  }
  if (attention_head_dim === null) return;
  const attends = (type: string): boolean => /Attn/.test(type);
  const channels = [
    ...block_out_channels.filter((_, i) => attends(down_block_types[i]!)),
    ...[...block_out_channels].reverse().filter((_, i) => attends(up_block_types[i]!)),
    ...(hasMid ? [lowest] : []),
  ];
  const least = Math.min(...channels);
  if (attention_head_dim <= least) return;
  throw wrong("attention_head_dim", attention_head_dim, `at most the ${least} channels of a block with attention`);
}

/** Skip blocks take in a picture of three channels, and give one. */
function checkSkips({
  down_block_types,
  up_block_types,
  in_channels,
  out_channels,
}: Readonly<UNet2DModelConfig>): void {
  const check = (field: "in_channels" | "out_channels", types: readonly string[], channels: number): void => {
    if (channels === 3 || !types.slice(0, -1).some(isSkip)) return;
    throw new UnsupportedModelError(`${name} has \`${field}\` ${channels}, but its skip blocks are for 3.`, {
      className: name,
      field,
      found: String(channels),
      expected: "3",
    });
  };
  check("in_channels", down_block_types, in_channels);
  check("out_channels", up_block_types, out_channels);
}
