import { UnsupportedModelError, ValueError } from "@diffusers-web/core";
import { checkLength, checkValue, perBlock } from "../config_checks.ts";
import { blockName } from "./blocks/index.ts";
import { textReaders } from "./text_conditioning.ts";
import type { UNet2DConditionModelConfig } from "./unet_2d_condition_config.ts";

type Config = Readonly<UNet2DConditionModelConfig>;
type Field = keyof UNet2DConditionModelConfig;

const name = "UNet2DConditionModel";

function wrong(field: Field, found: unknown, expected: string): ValueError {
  const text = typeof found === "string" ? found : JSON.stringify(found);
  return new ValueError(`${name} has \`${field}\`: ${text} in its config, but ${expected} is expected.`, {
    className: name,
    field,
    found: text,
    expected,
  });
}

const isCount = (value: unknown, least: number): boolean => Number.isInteger(value) && (value as number) >= least;
const isStrings = (value: unknown): boolean => Array.isArray(value) && value.every((item) => typeof item === "string");

/** Fields that hold a number of something, and the least there may be. */
const counts: readonly (readonly [Field, number])[] = [
  ["in_channels", 1],
  ["out_channels", 1],
  ["conv_in_kernel", 1],
  ["conv_out_kernel", 1],
  ["downsample_padding", 0],
  ["addition_embed_type_num_heads", 1],
];

/** The same, where null is a value too. */
const optionalCounts: readonly (readonly [Field, number])[] = [
  ["norm_num_groups", 1],
  ["encoder_hid_dim", 1],
  ["addition_time_embed_dim", 1],
  ["num_class_embeds", 0],
  ["time_embedding_dim", 0],
  ["time_cond_proj_dim", 1],
  ["projection_class_embeddings_input_dim", 1],
];

/**
 * Checks that the fields hold what they are for.
 *
 * @throws ValueError naming the field.
 */
export function checkTypes(config: Config): void {
  for (const field of ["down_block_types", "up_block_types"] as const) {
    if (!isStrings(config[field])) throw wrong(field, config[field], "a list of names");
  }
  if (config.down_block_types.length === 0) throw wrong("down_block_types", [], "at least one name");
  const channels: unknown = config.block_out_channels;
  if (!(Array.isArray(channels) && channels.every((value) => isCount(value, 1)))) {
    throw wrong("block_out_channels", channels, "a list of positive integers");
  }
  for (const [field, least] of counts) {
    if (!isCount(config[field], least)) throw wrong(field, config[field], `an integer of at least ${least}`);
  }
  for (const [field, least] of optionalCounts) {
    const value = config[field];
    if (value !== null && !isCount(value, least)) throw wrong(field, value, `an integer of at least ${least}, or null`);
  }
  for (const field of ["freq_shift", "norm_eps", "mid_block_scale_factor", "resnet_out_scale_factor"] as const) {
    if (!Number.isFinite(config[field])) throw wrong(field, config[field], "a number");
  }
  for (const field of ["mid_block_scale_factor", "resnet_out_scale_factor"] as const) {
    if (config[field] === 0) throw wrong(field, 0, "a number to divide by");
  }
}

/**
 * Checks the fields that hold one value or one per block.
 *
 * @throws ValueError for another number of entries than there are blocks, and for entries that blocks cannot be built of.
 */
export function checkLists(config: Config): void {
  const blocks = config.down_block_types;
  const fields = [
    "up_block_types",
    "block_out_channels",
    "only_cross_attention",
    "attention_head_dim",
    "cross_attention_dim",
    "layers_per_block",
  ] as const;
  for (const field of fields) {
    const value: unknown = config[field];
    if (Array.isArray(value)) checkLength(name, field, value, blocks);
    else if (value === null) checkValue(name, field, null, ["a number"]);
  }
  for (const layers of perBlock<unknown>(config.layers_per_block, blocks)) {
    if (!isCount(layers, 0)) throw wrong("layers_per_block", config.layers_per_block, "integers of at least 0");
  }
  for (const only of perBlock<unknown>(config.only_cross_attention, blocks)) {
    if (typeof only !== "boolean") throw wrong("only_cross_attention", config.only_cross_attention, "true or false");
  }
  checkGroups(config);
  checkHeads(config);
  checkTransformerLayers(config);
}

/** K-blocks have groups of their own. */
function checkGroups(config: Config): void {
  const { block_out_channels: channels, norm_num_groups: groups, mid_block_type: mid } = config;
  if (groups === null) return;
  const last = channels.length - 1;
  channels.forEach((count, level) => {
    const types = [config.down_block_types[level]!, config.up_block_types[last - level]!];
    const isNormed = level === 0 || (level === last && mid !== null) || !types.every((type) => type.startsWith("K"));
    if (isNormed && count % groups !== 0) {
      throw wrong("norm_num_groups", groups, `a divisor of the ${count} in \`block_out_channels\``);
    }
  });
}

/** What blocks make of `attention_head_dim`: null is a head of all channels, but no number of heads. */
function checkHeads(config: Config): void {
  const { down_block_types: down, mid_block_type: mid, up_block_types: up, block_out_channels: channels } = config;
  const heads = perBlock<number | null>(config.attention_head_dim, down);
  const last = down.length - 1;
  const check = (type: string, given: number | null | undefined, out: number): void => {
    const isNumber = /^(CrossAttn|UNetMidBlock2DCrossAttn)/.test(blockName(type));
    const isSize = !isNumber && type.includes("Attn");
    if (!isNumber && !isSize) return;
    if (isSize && given === null && type !== mid) return;
    if (isCount(given, 1) && given! <= out) return;
    throw wrong(
      "attention_head_dim",
      config.attention_head_dim,
      `${isNumber ? "a number of heads" : "the size of a head"} from 1 to the ${out} channels of ${type}`,
    );
  };
  down.forEach((type, i) => {
    check(type, heads[i], channels[i]!);
  });
  if (mid !== null) check(mid, heads[last], channels[last]!);
  up.forEach((type, i) => {
    const isNumber = blockName(type).startsWith("CrossAttn");
    // Sizes of heads are the one list that Diffusers does not reverse on the way up.
    check(type, heads[isNumber ? last - i : i], channels[last - i]!);
  });
}

function checkTransformerLayers(config: Config): void {
  const { down_block_types: down, mid_block_type: mid, up_block_types: up } = config;
  const given: unknown = config.transformer_layers_per_block;
  const reverse: unknown = config.reverse_transformer_layers_per_block;
  const last = down.length - 1;
  // Diffusers takes more entries than there are blocks: the middle and the way up count from the end.
  const isList = (list: unknown): list is readonly unknown[] => Array.isArray(list) && list.length >= down.length;
  if (!(isList(given) || isCount(given, 0))) {
    throw wrong("transformer_layers_per_block", given, `an integer, or a list of at least ${down.length}`);
  }
  if (Array.isArray(given) && given.some(Array.isArray) && reverse === null) {
    throw new ValueError(
      `${name} needs \`reverse_transformer_layers_per_block\` when \`transformer_layers_per_block\` holds lists.`,
      { className: name, field: "reverse_transformer_layers_per_block", found: "null", expected: "lists" },
    );
  }
  if (reverse !== null && !isList(reverse)) {
    throw wrong("reverse_transformer_layers_per_block", reverse, `null, or a list of at least ${down.length}`);
  }

  const layers = perBlock(config.layers_per_block, down);
  const check = (field: Field, type: string, entry: unknown, count: number): void => {
    if (!/^(CrossAttn|UNetMidBlock2DCrossAttn)/.test(blockName(type))) return;
    const isLong =
      Array.isArray(entry) && entry.length >= count && entry.slice(0, count).every((one) => isCount(one, 0));
    if (isLong || isCount(entry, 0)) return;
    throw wrong(field, config[field], `an integer or a list of ${count} integers for ${type}`);
  };
  const downward = isList(given) ? given : down.map(() => given);
  down.forEach((type, i) => {
    check("transformer_layers_per_block", type, downward[i], layers[i]!);
  });
  if (mid !== null) check("transformer_layers_per_block", mid, downward.at(-1), 1);
  const upward = isList(reverse) ? reverse : [...downward].reverse();
  const field = isList(reverse) ? "reverse_transformer_layers_per_block" : "transformer_layers_per_block";
  up.forEach((type, i) => {
    check(field, type, upward[i], layers[last - i]! + 1);
  });
}

/**
 * Checks fields that depend on each other.
 *
 * @throws ValueError naming the field that is missing or does not go with another.
 * @throws UnsupportedModelError for a block in the middle without text.
 */
export function checkDependencies(config: Config): void {
  const needs = (field: Field, because: Field): void => {
    if (config[field] !== null) return;
    throw new ValueError(`${name} needs \`${field}\` when \`${because}\` is "${config[because]}".`, {
      className: name,
      field,
      found: "null",
      expected: "a number",
    });
  };
  const { class_embed_type, addition_embed_type: addition, encoder_hid_dim_type: projection } = config;
  if (projection !== null) needs("encoder_hid_dim", "encoder_hid_dim_type");
  if (class_embed_type === "projection" || class_embed_type === "simple_projection") {
    needs("projection_class_embeddings_input_dim", "class_embed_type");
  }
  if (addition === "text_time") {
    needs("projection_class_embeddings_input_dim", "addition_embed_type");
    needs("addition_time_embed_dim", "addition_embed_type");
  }
  if (addition === "image" || addition === "image_hint") needs("encoder_hid_dim", "addition_embed_type");
  if (addition === "image_hint" && config.in_channels < 5) {
    throw wrong("in_channels", config.in_channels, "more than the 4 that `addition_embed_type` image_hint brings");
  }
  if (config.time_embedding_type === "fourier" && (config.time_embedding_dim ?? 0) % 2 !== 0) {
    throw wrong("time_embedding_dim", config.time_embedding_dim, "an even number for `time_embedding_type` fourier");
  }
  if (config.class_embeddings_concat) {
    const hasClasses = class_embed_type !== null || config.num_class_embeds !== null;
    if (!hasClasses) throw wrong("class_embeddings_concat", true, "a class embedding beside it");
    if (addition !== null) throw wrong("class_embeddings_concat", true, "no `addition_embed_type` beside it");
  }
  checkCrossAttention(config);
}

function checkCrossAttention(config: Config): void {
  const { addition_embed_type: addition, encoder_hid_dim, encoder_hid_dim_type: projection } = config;
  const given: unknown = config.cross_attention_dim;
  const isOne = isCount(given, 1);
  for (const entry of perBlock<unknown>(config.cross_attention_dim, config.down_block_types)) {
    if (entry !== null && !isCount(entry, 1)) throw wrong("cross_attention_dim", given, "positive integers");
  }
  const readers = textReaders(config);
  const canStandIn = readers.every(({ dim, ownDim }) => dim === ownDim);
  for (const { block, dim } of readers) {
    if (dim === null && block === "mid_block_type") {
      throw new UnsupportedModelError(
        `${name} has \`cross_attention_dim\` null for \`mid_block_type\` "${config.mid_block_type}", which is not built.`,
        { className: name, field: "cross_attention_dim", found: "null", expected: "a number" },
      );
    }
    if (dim === null) throw wrong("cross_attention_dim", given, `a number for ${block}`);
    if (dim !== readers[0]!.dim && !canStandIn) {
      const expected = "one number for all blocks that look at the text, or for each the channels of its own";
      throw wrong("cross_attention_dim", given, expected);
    }
  }
  for (const { block, dim, channels, isSimple } of readers) {
    if (config.cross_attention_norm !== "layer_norm" || !isSimple || dim === channels) continue;
    const expected = `null or group_norm where the text's ${dim} channels are not the ${channels} of ${block}`;
    throw wrong("cross_attention_norm", "layer_norm", expected);
  }
  if (!isOne && (projection !== null || encoder_hid_dim !== null)) {
    throw wrong("cross_attention_dim", given, "one number beside `encoder_hid_dim`");
  }
  if (!isOne && (addition === "text_image" || addition === "text")) {
    throw wrong("cross_attention_dim", given, `one number beside \`addition_embed_type\` ${addition}`);
  }
  if (addition === "text") {
    const channels = encoder_hid_dim ?? (given as number);
    const heads = config.addition_embed_type_num_heads;
    if (channels % heads !== 0) throw wrong("addition_embed_type_num_heads", heads, `a divisor of ${channels}`);
  }
  const ofText = addition === "text_image" || projection === "text_image_proj";
  const ofImage = addition === "image" || addition === "image_hint" || projection === "image_proj";
  if (ofText && ofImage && given !== encoder_hid_dim) {
    const found = `${encoder_hid_dim} and ${given}`;
    throw wrong("encoder_hid_dim", found, "the `cross_attention_dim`, since both read the same image_embeds");
  }
}
