import { type ConfigDict, configDefaults, float, UnsupportedModelError, ValueError } from "@diffusers-web/core";
import { checkActivation } from "../layers/activations.ts";
import { type BitConfig, bitChannels, otherBackbone, readBitConfig } from "./bit_config.ts";

/** The config of a {@link DPTForDepthEstimation}: transformers' `DPTConfig`. */
export interface DPTConfig {
  hidden_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  intermediate_size: number;
  /** Of the encoder's layers, and of the readout's projections. */
  hidden_act: string;
  /** Training only, as are the other dropouts and the initializer's range. */
  hidden_dropout_prob: number | null;
  attention_probs_dropout_prob: number | null;
  initializer_range: number;
  layer_norm_eps: number;
  /** What the position embeddings were made for: one number, or [height, width]. */
  image_size: number | readonly number[];
  patch_size: number | readonly number[];
  num_channels: number;
  /** Whether patches are the pixels of a convolutional backbone's feature map. */
  is_hybrid: boolean;
  qkv_bias: boolean | null;
  /** The layers whose outputs become feature maps; of a hybrid the first two are the backbone's, whatever they say. */
  backbone_out_indices: readonly number[];
  /** What becomes of the class token: "ignore", "add" or "project". */
  readout_type: string;
  /** How much larger than a patch's pixel each feature map is. */
  reassemble_factors: readonly number[];
  neck_hidden_sizes: readonly number[];
  fusion_hidden_size: number;
  /** Which of the fused maps the head takes. */
  head_in_index: number;
  use_batch_norm_in_fusion_residual: boolean | null;
  /** Default: whether there is no batch norm. */
  use_bias_in_fusion_residual: boolean | null;
  add_projection: boolean;
  /** Of the segmentation model only, as are the next three. */
  use_auxiliary_head: boolean | null;
  auxiliary_loss_weight: number;
  semantic_loss_ignore_index: number;
  semantic_classifier_dropout: number;
  /** Of a hybrid: [1, channels, height, width] of the backbone's last feature map; only the channels count. */
  backbone_featmap_shape: readonly number[] | null;
  /** Of a hybrid: the feature maps that come from the backbone, 0 and 1. */
  neck_ignore_stages: readonly number[];
  /** Of a hybrid: BiT's config. */
  backbone_config: ConfigDict | null;
  /** Of a model with a pooler only, as is the next. */
  pooler_output_size: number | null;
  pooler_act: string;
}

export const dptDefaults: Readonly<DPTConfig> = configDefaults<DPTConfig>({
  hidden_size: 768,
  num_hidden_layers: 12,
  num_attention_heads: 12,
  intermediate_size: 3072,
  hidden_act: "gelu",
  hidden_dropout_prob: float(0),
  attention_probs_dropout_prob: float(0),
  initializer_range: 0.02,
  layer_norm_eps: 1e-12,
  image_size: 384,
  patch_size: 16,
  num_channels: 3,
  is_hybrid: false,
  qkv_bias: true,
  backbone_out_indices: [2, 5, 8, 11],
  readout_type: "project",
  reassemble_factors: [4, 2, 1, 0.5],
  neck_hidden_sizes: [96, 192, 384, 768],
  fusion_hidden_size: 256,
  head_in_index: -1,
  use_batch_norm_in_fusion_residual: false,
  use_bias_in_fusion_residual: null,
  add_projection: false,
  use_auxiliary_head: true,
  auxiliary_loss_weight: 0.4,
  semantic_loss_ignore_index: 255,
  semantic_classifier_dropout: 0.1,
  backbone_featmap_shape: [1, 1024, 24, 24],
  neck_ignore_stages: [0, 1],
  backbone_config: null,
  pooler_output_size: null,
  pooler_act: "tanh",
});

const className = "DPTForDepthEstimation";

/** What follows from a config. */
export interface DPTLayout {
  /** Of a hybrid. */
  readonly backbone: BitConfig | undefined;
  readonly imageSize: readonly [number, number];
  readonly patchSize: number;
  /** The side of the square of patches that the position embeddings are for. */
  readonly side: number;
  /** The encoder's layers whose outputs are used, from 0, in order. */
  readonly layers: readonly number[];
  /** Which of the fused maps the head takes, from 0. */
  readonly fused: number;
}

type Fail = (field: keyof DPTConfig, found: unknown, expected: string) => never;

const fail: Fail = (field, value, expected) => {
  const found = JSON.stringify(value);
  throw new ValueError(`${className} has \`${field}\`: ${found} in its config, but ${expected} is expected.`, {
    className,
    field,
    found,
    expected,
  });
};

/**
 * What transformers' own reader leaves to the class: the names of earlier releases.
 *
 * @throws UnsupportedModelError for a backbone that is only named (timm's, or another repository's).
 */
export function prepareDptConfig(config: ConfigDict): ConfigDict {
  const { backbone, backbone_config } = config;
  if ((backbone ?? null) !== null && (backbone_config ?? null) === null) {
    throw new UnsupportedModelError(
      `${className} has a \`backbone\` by name, ${JSON.stringify(backbone)}, which is not built. Use a checkpoint whose ` +
        "config has its own encoder (Intel/dpt-large) or a BiT backbone_config (Intel/dpt-hybrid-midas).",
      { className, field: "backbone", found: JSON.stringify(backbone), expected: "no backbone" },
    );
  }
  return Object.fromEntries(Object.entries(config).filter(([key]) => Object.hasOwn(dptDefaults, key)));
}

/**
 * Checks a config, and works out what the graph needs of it.
 *
 * @throws UnsupportedModelError for what is not built, ValueError for what transformers refuses, too: each names the field.
 */
export function readDptConfig(config: Readonly<DPTConfig>): DPTLayout {
  // First: with another backbone, the fields of the encoder are null.
  const type = config.backbone_config?.["model_type"];
  if (!config.is_hybrid && config.backbone_config !== null) throw otherBackbone(className, type ?? "undefined");
  checkNumbers(config);
  const { hidden_size, num_attention_heads, hidden_act, readout_type, is_hybrid, patch_size, image_size } = config;
  if (hidden_size % num_attention_heads !== 0) {
    fail("hidden_size", hidden_size, `a multiple of the ${num_attention_heads} heads`);
  }
  checkActivation(hidden_act, className, "hidden_act", "transformers");
  if (!["ignore", "add", "project"].includes(readout_type)) {
    fail("readout_type", readout_type, "ignore, add or project");
  }
  if (is_hybrid && readout_type !== "project") fail("readout_type", readout_type, "project, for a hybrid");

  const [patchHeight, patchWidth] = pair("patch_size", patch_size);
  // A picture's size is divided by it; of a hybrid, by the first of two.
  if (!is_hybrid && Array.isArray(patch_size)) fail("patch_size", patch_size, "one number");
  const imageSize = pair("image_size", image_size);
  const patches = Math.floor(imageSize[0] / patchHeight) * Math.floor(imageSize[1] / patchWidth);
  const side = Math.sqrt(patches);
  if (patches === 0 || !Number.isInteger(side)) {
    fail("image_size", image_size, `a size with a square number of patches of ${patch_size} (it has ${patches})`);
  }

  return {
    backbone: is_hybrid ? readBackbone(config) : undefined,
    imageSize,
    patchSize: patchHeight,
    side,
    // Of a hybrid, the backbone gives the first two.
    layers: readLayers(config, is_hybrid ? 2 : 0),
    fused: readHead(config),
  };
}

function checkNumbers(config: Readonly<DPTConfig>): void {
  const counts = [
    ...(["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"] as const),
    ...(["num_channels", "fusion_hidden_size"] as const),
  ];
  for (const field of counts) if (!isCount(config[field])) fail(field, config[field], "a whole number of at least 1");
  const { layer_norm_eps, is_hybrid, fusion_hidden_size, add_projection } = config;
  if (typeof layer_norm_eps !== "number") fail("layer_norm_eps", layer_norm_eps, "a number");
  if (typeof is_hybrid !== "boolean") fail("is_hybrid", is_hybrid, "true or false");
  if (fusion_hidden_size < 2) fail("fusion_hidden_size", fusion_hidden_size, "at least 2");
  // The projection's own size is fixed in transformers.
  if (add_projection && fusion_hidden_size !== 256) {
    fail("fusion_hidden_size", fusion_hidden_size, "256, which `add_projection` needs,");
  }
}

/** Which layers feed the neck: as many as it has stages. */
function readLayers(config: Readonly<DPTConfig>, fromBackbone: 0 | 2): readonly number[] {
  const { backbone_out_indices, neck_hidden_sizes, reassemble_factors, num_hidden_layers } = config;
  if (!Array.isArray(neck_hidden_sizes) || neck_hidden_sizes.length === 0 || !neck_hidden_sizes.every(isCount)) {
    fail("neck_hidden_sizes", neck_hidden_sizes, "a list of whole numbers");
  }
  const stages = neck_hidden_sizes.length;
  if (!Array.isArray(backbone_out_indices)) fail("backbone_out_indices", backbone_out_indices, "a list of layers");
  // Those that are no layers are passed over, as transformers does.
  const named = new Set<number>(backbone_out_indices.slice(fromBackbone));
  const layers = Array.from({ length: num_hidden_layers }, (_, i) => i).filter((i) => named.has(i));
  if (layers.length + fromBackbone !== stages) {
    const own = fromBackbone === 0 ? "" : " after the first two";
    fail(
      "backbone_out_indices",
      backbone_out_indices,
      `${stages - fromBackbone} of the ${num_hidden_layers} layers${own}, for ${stages} \`neck_hidden_sizes\`,`,
    );
  }
  const factors = Array.isArray(reassemble_factors) ? reassemble_factors : [];
  const used = factors.slice(fromBackbone, stages);
  const isFine = (factor: unknown): boolean =>
    typeof factor === "number" && factor > 0 && (factor < 1 || Number.isSafeInteger(factor));
  if (factors.length < stages || !used.every(isFine)) {
    fail("reassemble_factors", reassemble_factors, `${stages} factors, each a whole number or between 0 and 1,`);
  }
  return layers;
}

function readHead({ head_in_index: index, neck_hidden_sizes: sizes }: Readonly<DPTConfig>): number {
  const fused = index < 0 ? index + sizes.length : index;
  if (!Number.isInteger(fused) || fused < 0 || fused >= sizes.length) {
    fail("head_in_index", index, `one of the ${sizes.length} fused maps`);
  }
  return fused;
}

function readBackbone(config: Readonly<DPTConfig>): BitConfig {
  const { neck_hidden_sizes, neck_ignore_stages, backbone_featmap_shape, num_channels } = config;
  const backbone = readBitConfig(className, config.backbone_config);
  const channels = backbone.outputs.map((stage) => bitChannels(backbone)[stage]!) as [number, number, number];
  if (backbone.num_channels !== num_channels) {
    fail("num_channels", num_channels, `the ${backbone.num_channels} of its backbone_config`);
  }
  const shape: unknown = backbone_featmap_shape;
  if (!Array.isArray(shape) || shape[1] !== channels[2]) {
    fail("backbone_featmap_shape", shape, `[1, ${channels[2]}, ...], the backbone's last feature map`);
  }
  if (neck_hidden_sizes.slice(0, 2).some((size, i) => size !== channels[i])) {
    fail("neck_hidden_sizes", neck_hidden_sizes, `[${channels[0]}, ${channels[1]}, ...], the backbone's first maps`);
  }
  const ignored = Array.isArray(neck_ignore_stages) ? neck_ignore_stages : [];
  const isRight = neck_hidden_sizes.every((_, i) => ignored.includes(i) === i < 2);
  if (!isRight) fail("neck_ignore_stages", neck_ignore_stages, "[0, 1], the backbone's maps");
  return backbone;
}

function pair(field: "image_size" | "patch_size", value: number | readonly number[]): readonly [number, number] {
  const [height, width] = Array.isArray(value) ? (value as readonly number[]) : [value, value];
  const isPair = !Array.isArray(value) || value.length === 2;
  if (!isPair || !isCount(height) || !isCount(width)) fail(field, value, "a whole number, or two");
  return [height as number, width as number];
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 1;
}
