import { type ConfigDict, configDefaults, UnsupportedModelError, ValueError } from "@diffusers-web/core";
import { checkLength, checkValue, perBlock } from "../config_checks.ts";
import { checkActivation } from "../layers/activations.ts";
import { blockName, checkBlocks } from "../unets/blocks/index.ts";
import { type UNet2DConditionModelConfig, unet2DConditionDefaults } from "../unets/unet_2d_condition_config.ts";

/** The config of a {@link ControlNetModel}: the arguments of Diffusers' `__init__`, under their names. */
export interface ControlNetModelConfig {
  in_channels: number;
  /** Channels of the picture that conditions. */
  conditioning_channels: number;
  /** Whether the timestep's cosines stand before its sines. */
  flip_sin_to_cos: boolean;
  freq_shift: number;
  /** DownBlock2D, CrossAttnDownBlock2D, AttnDownBlock2D, ResnetDownsampleBlock2D or SimpleCrossAttnDownBlock2D each. */
  down_block_types: readonly string[];
  /** UNetMidBlock2DCrossAttn or UNetMidBlock2D (one residual block). */
  mid_block_type: string;
  /** Whether transformers look at the text in both attentions; one value or one per block. */
  only_cross_attention: boolean | readonly boolean[];
  block_out_channels: readonly number[];
  layers_per_block: number;
  /** 0 pads the right and the bottom only. */
  downsample_padding: number;
  mid_block_scale_factor: number;
  /** silu, swish, mish, gelu or relu. */
  act_fn: string;
  norm_num_groups: number;
  norm_eps: number;
  /** Channels of the text's tokens; null is for a model that does not read it. */
  cross_attention_dim: number | null;
  /** Transformer blocks per transformer; one value, one per block, or lists of one per layer. */
  transformer_layers_per_block: number | readonly (number | readonly number[])[];
  /** The width of a projection of the text that Diffusers makes and never uses: the text is `cross_attention_dim` wide. */
  encoder_hid_dim: number | null;
  /** null, text_proj or text_image_proj; not used either. */
  encoder_hid_dim_type: string | null;
  /** The size of a head of AttnDownBlock2D and SimpleCrossAttnDownBlock2D; one value or one per block, null for one head. */
  attention_head_dim: number | readonly (number | null)[];
  /** The number of the transformers' heads; null or 0: what `attention_head_dim` says (a misnomer that checkpoints keep). */
  num_attention_heads: number | readonly number[] | null;
  /** How the transformers' projections were saved; both are read. */
  use_linear_projection: boolean;
  /** null, timestep, identity or projection; Diffusers makes nothing of simple_projection. */
  class_embed_type: string | null;
  /** null, text or text_time (Stable Diffusion XL); Diffusers makes nothing of text_image. */
  addition_embed_type: string | null;
  addition_time_embed_dim: number | null;
  num_class_embeds: number | null;
  /** Whether attention is computed in float32 on a float16 device. */
  upcast_attention: boolean;
  /** default or scale_shift. */
  resnet_time_scale_shift: string;
  projection_class_embeddings_input_dim: number | null;
  /** rgb, or bgr for a model that wants the channels of the picture in reverse. */
  controlnet_conditioning_channel_order: string;
  /** Channels of the picture's embedding, level by level: each but the last halves the size. */
  conditioning_embedding_out_channels: readonly number[];
  /** Whether each residual is the mean over its pixels. */
  global_pool_conditions: boolean;
  addition_embed_type_num_heads: number;
}

export const controlNetDefaults: ControlNetModelConfig = configDefaults<ControlNetModelConfig>({
  in_channels: 4,
  conditioning_channels: 3,
  flip_sin_to_cos: true,
  freq_shift: 0,
  down_block_types: ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
  mid_block_type: "UNetMidBlock2DCrossAttn",
  only_cross_attention: false,
  block_out_channels: [320, 640, 1280, 1280],
  layers_per_block: 2,
  downsample_padding: 1,
  mid_block_scale_factor: 1,
  act_fn: "silu",
  norm_num_groups: 32,
  norm_eps: 1e-5,
  cross_attention_dim: 1280,
  transformer_layers_per_block: 1,
  encoder_hid_dim: null,
  encoder_hid_dim_type: null,
  attention_head_dim: 8,
  num_attention_heads: null,
  use_linear_projection: false,
  class_embed_type: null,
  addition_embed_type: null,
  addition_time_embed_dim: null,
  num_class_embeds: null,
  upcast_attention: false,
  resnet_time_scale_shift: "default",
  projection_class_embeddings_input_dim: null,
  controlnet_conditioning_channel_order: "rgb",
  conditioning_embedding_out_channels: [16, 32, 96, 256],
  global_pool_conditions: false,
  addition_embed_type_num_heads: 64,
});

type Config = Readonly<ControlNetModelConfig>;

const name = "ControlNetModel";
const downBlockNames = [
  "DownBlock2D",
  "CrossAttnDownBlock2D",
  "AttnDownBlock2D",
  "ResnetDownsampleBlock2D",
  "SimpleCrossAttnDownBlock2D",
];

/**
 * The config in the terms of a UNet2DConditionModel, whose way down and time embedding a ControlNet has: Diffusers'
 * defaults stand for the fields that a ControlNet lacks.
 */
export function asUNetConfig(config: Config): UNet2DConditionModelConfig {
  const { down_block_types: blocks, block_out_channels, class_embed_type, addition_embed_type } = config;
  // As in Diffusers, 0 heads mean the default too.
  const heads = config.num_attention_heads || config.attention_head_dim;
  const headDims = perBlock<number | null>(config.attention_head_dim, blocks);
  const hasNoClasses = class_embed_type === "simple_projection";
  return {
    ...unet2DConditionDefaults,
    ...config,
    up_block_types: [],
    attention_head_dim: headDims.map((dim, i) => dim ?? block_out_channels[i]!),
    num_attention_heads: heads as number | readonly number[],
    // Null is for models that read no text.
    cross_attention_dim: config.cross_attention_dim!,
    // What Diffusers makes and does not use.
    encoder_hid_dim: null,
    encoder_hid_dim_type: null,
    class_embed_type: hasNoClasses ? null : class_embed_type,
    num_class_embeds: hasNoClasses ? null : config.num_class_embeds,
    addition_embed_type: addition_embed_type === "text_image" ? null : addition_embed_type,
  };
}

/** Channels of the residuals, in order: of what conv_in gives, then of all layers and halvings of each block. */
export function residualChannels({ block_out_channels, layers_per_block }: Config): readonly number[] {
  const last = block_out_channels.length - 1;
  return [
    block_out_channels[0]!,
    ...block_out_channels.flatMap((channels, i) =>
      new Array<number>(layers_per_block + Number(i < last)).fill(channels),
    ),
  ];
}

/**
 * Refuses a config of another class that conditions a denoiser: its weights would not fit, or lack what the class is for.
 *
 * @throws UnsupportedModelError naming that class.
 */
export function refuseOtherControlNets(config: ConfigDict): void {
  const written = config["_class_name"];
  const isOther = typeof written === "string" && /control/i.test(written) && !/^(Flax)?ControlNetModel$/.test(written);
  const unionField = ["num_control_type", "num_trans_channel"].find((field) => field in config);
  if (!isOther && unionField === undefined) return;
  const found = isOther ? written : "ControlNetUnionModel";
  const because = isOther ? `\`_class_name\` is "${written}"` : `it has \`${unionField}\`, a ControlNetUnionModel's`;
  throw new UnsupportedModelError(
    `This config is not a ControlNetModel's: ${because}, which is not built. Use a repository with a ControlNetModel.`,
    { className: found, field: isOther ? "_class_name" : unionField!, found, expected: name },
  );
}

/**
 * Checks a config before anything is built from it.
 *
 * @throws UnsupportedModelError naming the field whose value is not built.
 * @throws ValueError for a config that Diffusers refuses as well.
 */
export function checkControlNetConfig(config: Config): void {
  const blocks: unknown = config.down_block_types;
  if (!Array.isArray(blocks) || blocks.length === 0 || !blocks.every((type) => typeof type === "string")) {
    throw wrong("down_block_types", blocks, "a list of names");
  }
  checkBlocks(config.down_block_types, downBlockNames, name, "down_block_types");
  checkValue(name, "mid_block_type", config.mid_block_type, ["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"]);
  checkActivation(config.act_fn, name, "act_fn");
  checkValue(name, "resnet_time_scale_shift", config.resnet_time_scale_shift, ["default", "scale_shift"]);
  const classTypes = [null, "timestep", "identity", "projection", "simple_projection"];
  checkValue(name, "class_embed_type", config.class_embed_type, classTypes);
  checkValue(name, "encoder_hid_dim_type", config.encoder_hid_dim_type, [null, "text_proj", "text_image_proj"]);
  checkValue(name, "addition_embed_type", config.addition_embed_type, [null, "text", "text_image", "text_time"]);
  const orders = ["rgb", "bgr"];
  checkValue(name, "controlnet_conditioning_channel_order", config.controlnet_conditioning_channel_order, orders);
  checkNumbers(config);
  checkLists(config);
  checkDependencies(config);
}

function wrong(field: keyof ControlNetModelConfig, value: unknown, expected: string): ValueError {
  const found = JSON.stringify(value) ?? "undefined";
  return new ValueError(`${name} has \`${field}\`: ${found} in its config, but ${expected} is expected.`, {
    className: name,
    field,
    found,
    expected,
  });
}

const isCount = (value: unknown): boolean => Number.isInteger(value) && (value as number) > 0;

const isAtLeast0 = (value: unknown): boolean => Number.isInteger(value) && (value as number) >= 0;

function checkNumbers(config: Config): void {
  for (const field of ["in_channels", "conditioning_channels", "norm_num_groups"] as const) {
    if (!isCount(config[field])) throw wrong(field, config[field], "a whole number above 0");
  }
  for (const field of ["layers_per_block", "downsample_padding"] as const) {
    if (!isAtLeast0(config[field])) throw wrong(field, config[field], "a whole number");
  }
  for (const field of ["freq_shift", "norm_eps", "mid_block_scale_factor"] as const) {
    const isDivisor = field !== "mid_block_scale_factor" || config[field] !== 0;
    if (!Number.isFinite(config[field]) || !isDivisor)
      throw wrong(field, config[field], "a number (to divide by: not 0)");
  }
  for (const field of ["block_out_channels", "conditioning_embedding_out_channels"] as const) {
    const list: unknown = config[field];
    if (Array.isArray(list) && list.length > 0 && list.every(isCount)) continue;
    throw wrong(field, list, "a list of whole numbers above 0");
  }
  const { num_class_embeds: classes, norm_num_groups: groups, block_out_channels: channels } = config;
  if (classes !== null && !isCount(classes)) throw wrong("num_class_embeds", classes, "null or a whole number above 0");
  if (channels.some((count) => count % groups !== 0)) {
    throw wrong("norm_num_groups", groups, `a divisor of all \`block_out_channels\` (${channels})`);
  }
  if (config.layers_per_block === 0 && channels.some((count) => count !== channels[0])) {
    throw wrong("layers_per_block", 0, `a number above 0, since \`block_out_channels\` (${channels}) change`);
  }
}

function checkLists(config: Config): void {
  const blocks = config.down_block_types;
  const lists = ["block_out_channels", "only_cross_attention", "attention_head_dim", "num_attention_heads"] as const;
  for (const field of lists) {
    const value: unknown = config[field];
    if (Array.isArray(value)) checkLength(name, field, value, blocks);
  }
  for (const only of perBlock<unknown>(config.only_cross_attention, blocks)) {
    if (typeof only !== "boolean") throw wrong("only_cross_attention", config.only_cross_attention, "true or false");
  }
  checkHeads(config);
  checkTransformerLayers(config);
}

/** Blocks with transformers take the number of heads, others with attention the size of one. */
function checkHeads(config: Config): void {
  const { down_block_types: blocks, block_out_channels, attention_head_dim, num_attention_heads } = config;
  const field = num_attention_heads ? "num_attention_heads" : "attention_head_dim";
  if (attention_head_dim === null) throw wrong("attention_head_dim", null, "a number, or a list");
  const heads = perBlock<number | null>(config[field]!, blocks);
  const sizes = perBlock<number | null>(attention_head_dim, blocks);
  const isUpTo = (value: number | null, most: number): boolean => isCount(value) && value! <= most;
  [...blocks, config.mid_block_type].forEach((type, at) => {
    const i = Math.min(at, blocks.length - 1);
    const out = block_out_channels[i]!;
    const block = blockName(type);
    if (/^(CrossAttn|UNetMidBlock2DCrossAttn)/.test(block)) {
      if (!isUpTo(heads[i]!, out)) throw wrong(field, config[field], `at most ${out} heads, the channels of ${type}`);
    } else if (block.includes("Attn")) {
      const size = sizes[i] ?? out;
      const isRight = isUpTo(size, out) && (block.startsWith("Attn") || out % size === 0);
      const expected = `${block.startsWith("Attn") ? "at most" : "a divisor of"} ${out}, the channels of ${type}`;
      if (!isRight) throw wrong("attention_head_dim", attention_head_dim, expected);
    }
  });
}

function checkTransformerLayers({
  down_block_types: blocks,
  layers_per_block,
  transformer_layers_per_block,
}: Config): void {
  const given: unknown = transformer_layers_per_block;
  // As in Diffusers, there may be more entries than blocks: the block in the middle has the last.
  const list: readonly unknown[] = Array.isArray(given) ? given : blocks.map(() => given);
  const isRight = (layers: unknown, count: number): boolean =>
    Array.isArray(layers) ? layers.length >= count && layers.every(isAtLeast0) : isAtLeast0(layers);
  const isCross = (type: string): boolean => blockName(type).startsWith("CrossAttn");
  const isWhole = list.length >= blocks.length && isRight(list.at(-1), 1);
  if (isWhole && blocks.every((type, i) => isRight(list[i], isCross(type) ? layers_per_block : 0))) return;
  const expected = `a whole number, or a list with one, or with ${layers_per_block} of them, for each block`;
  throw wrong("transformer_layers_per_block", given, expected);
}

/** Fields that others need. */
function checkDependencies(config: Config): void {
  const { encoder_hid_dim, encoder_hid_dim_type, class_embed_type, addition_embed_type, cross_attention_dim } = config;
  const needs = (field: keyof ControlNetModelConfig, because: keyof ControlNetModelConfig): void => {
    if (isCount(config[field])) return;
    throw wrong(field, config[field], `a number (\`${because}\` is "${config[because]}")`);
  };
  const readsText = [...config.down_block_types, config.mid_block_type].some((type) => type.includes("CrossAttn"));
  if ((readsText || addition_embed_type === "text") && !isCount(cross_attention_dim)) {
    throw wrong("cross_attention_dim", cross_attention_dim, "a whole number above 0");
  }
  if (encoder_hid_dim_type !== null) needs("encoder_hid_dim", "encoder_hid_dim_type");
  if (class_embed_type === "projection") needs("projection_class_embeddings_input_dim", "class_embed_type");
  if (addition_embed_type === "text_time") {
    needs("projection_class_embeddings_input_dim", "addition_embed_type");
    needs("addition_time_embed_dim", "addition_embed_type");
  }
  const heads = config.addition_embed_type_num_heads;
  if (addition_embed_type === "text" && !(isCount(heads) && cross_attention_dim! % heads === 0)) {
    throw wrong("addition_embed_type_num_heads", heads, `a divisor of \`cross_attention_dim\` ${cross_attention_dim}`);
  }
  // Diffusers makes the layer for texts of the one width, and gives it texts of the other.
  if (addition_embed_type === "text" && encoder_hid_dim !== null && encoder_hid_dim !== cross_attention_dim) {
    throw wrong(
      "encoder_hid_dim",
      encoder_hid_dim,
      `null or ${cross_attention_dim} (\`addition_embed_type\` is "text")`,
    );
  }
}
