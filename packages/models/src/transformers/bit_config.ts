import { type ConfigDict, UnsupportedModelError, ValueError } from "@diffusers-web/core";
import { checkActivation } from "../layers/activations.ts";

/** The config of a BiT backbone, with what follows from it. */
export interface BitConfig {
  readonly num_channels: number;
  readonly embedding_size: number;
  readonly hidden_sizes: readonly number[];
  readonly depths: readonly number[];
  readonly layer_type: "preactivation" | "bottleneck";
  readonly hidden_act: string;
  readonly global_padding: "SAME" | null;
  readonly num_groups: number;
  readonly embedding_dynamic_padding: boolean;
  readonly output_stride: number;
  readonly width_factor: number;
  /** The stages whose feature maps are given: 0 is the stem. */
  readonly outputs: readonly number[];
}

const defaults = {
  num_channels: 3,
  embedding_size: 64,
  hidden_sizes: [256, 512, 1024, 2048],
  depths: [3, 4, 6, 3],
  layer_type: "preactivation",
  hidden_act: "relu",
  global_padding: null,
  num_groups: 32,
  embedding_dynamic_padding: false,
  output_stride: 32,
  width_factor: 1,
};

/** What transformers takes where a hybrid's config names no backbone. */
const hybridDefaults = {
  model_type: "bit",
  global_padding: "SAME",
  layer_type: "bottleneck",
  depths: [3, 4, 9],
  out_features: ["stage1", "stage2", "stage3"],
  embedding_dynamic_padding: true,
};

/**
 * Reads the `backbone_config` of a hybrid model.
 *
 * @param className of the model, for errors
 * @throws UnsupportedModelError for another backbone than BiT, and for what of BiT is not built.
 * @throws ValueError for a config that transformers refuses, too.
 * @see transformers `BitConfig`
 */
export function readBitConfig(className: string, given: unknown): BitConfig {
  const fail = (name: string, found: unknown, expected: string): never => {
    const field = `backbone_config.${name}`;
    throw new ValueError(`${className} has \`${field}\`: ${JSON.stringify(found)}, but ${expected} is expected.`, {
      className,
      field,
      found: JSON.stringify(found),
      expected,
    });
  };
  const dict = (given ?? hybridDefaults) as ConfigDict;
  const type = dict["model_type"] ?? "bit";
  if (type !== "bit") throw otherBackbone(className, type);
  const config = { ...defaults, ...dict };
  const { num_channels, embedding_size, hidden_sizes, depths, layer_type, hidden_act, global_padding } = config;

  const sizes = { num_channels, embedding_size, num_groups: config.num_groups, width_factor: config.width_factor };
  for (const [name, value] of Object.entries({ ...sizes, output_stride: config.output_stride })) {
    if (!isCount(value)) fail(name, value, "a whole number of at least 1");
  }
  for (const [name, list] of Object.entries({ hidden_sizes, depths })) {
    if (!Array.isArray(list) || !list.every(isCount)) fail(name, list, "a list of whole numbers");
  }
  if (!["preactivation", "bottleneck"].includes(layer_type))
    fail("layer_type", layer_type, "preactivation or bottleneck");
  checkActivation(hidden_act, className, "backbone_config.hidden_act", "transformers");
  const padding = typeof global_padding === "string" ? (global_padding as string).toUpperCase() : global_padding;
  if (![null, "SAME", "VALID"].includes(padding)) fail("global_padding", padding, "null, SAME or VALID");
  if (padding === "VALID") {
    // The 3x3 convolutions shrink what their shortcuts do not: transformers fails at the first residual sum.
    throw new UnsupportedModelError(
      `${className} has \`backbone_config.global_padding\`: "VALID", with which no feature map fits its residual ` +
        "connection, in Python as well. Known: null, SAME.",
      { className, field: "backbone_config.global_padding", found: "VALID", expected: "null, SAME" },
    );
  }

  const stages = ["stem", ...depths.map((_, i) => `stage${i + 1}`)];
  const outputs = readOutputs(dict, stages, fail);
  if (hidden_sizes.length < depths.length) fail("hidden_sizes", hidden_sizes, `${depths.length} sizes`);
  const bit: BitConfig = { ...(config as unknown as BitConfig), global_padding: padding as "SAME" | null, outputs };
  checkGroups(bit, fail);
  return bit;
}

/** The error for a `backbone_config` that is not BiT's. */
export function otherBackbone(className: string, type: unknown): UnsupportedModelError {
  const found = typeof type === "string" ? type : JSON.stringify(type);
  return new UnsupportedModelError(
    `${className} has a \`backbone_config\` of the type "${found}", which is not built. Known: none (the model's own ` +
      "encoder), and bit with `is_hybrid`. Use a checkpoint such as Intel/dpt-large or Intel/dpt-hybrid-midas.",
    { className, field: "backbone_config", found, expected: "null, or bit with is_hybrid" },
  );
}

/** The channels of a stage. @see transformers `make_div` */
export function makeDivisible(value: number): number {
  const near = Math.max(8, Math.floor(Math.trunc(value + 4) / 8) * 8);
  return near < 0.9 * value ? near + 8 : near;
}

/** The channels of the stem and of each stage. */
export function bitChannels(config: BitConfig): readonly number[] {
  const { embedding_size, hidden_sizes, depths, width_factor } = config;
  return [embedding_size, ...hidden_sizes.slice(0, depths.length).map((size) => makeDivisible(size * width_factor))];
}

type Fail = (name: string, found: unknown, expected: string) => never;

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 1;
}

/** @see transformers `BackboneConfigMixin.set_output_features_output_indices` */
function readOutputs(dict: ConfigDict, stages: readonly string[], fail: Fail): readonly number[] {
  const { out_features: names, out_indices: indices } = dict;
  const count = stages.length;
  const named = Array.isArray(names) ? names.map((name) => stages.indexOf(name as string)) : undefined;
  const numbered = Array.isArray(indices)
    ? (indices as number[]).map((index) => (index < 0 ? index + count : index))
    : undefined;
  const outputs = named ?? numbered ?? [count - 1];
  const [field, found] = named === undefined ? ["out_indices", indices ?? null] : ["out_features", names];
  const isOrdered = outputs.every((stage, i) => stage >= 0 && stage < count && (i === 0 || stage > outputs[i - 1]!));
  if (!isOrdered) fail(field, found, `some of ${stages.join(", ")}, in this order`);
  if (named !== undefined && numbered !== undefined && String(named) !== String(numbered)) {
    fail("out_indices", indices, `the numbers of ${(names as string[]).join(", ")}`);
  }
  if (outputs.length !== 3) fail(field, found, "three stages");
  return outputs;
}

/** Each normalisation's channels divide into the groups. */
function checkGroups(config: BitConfig, fail: Fail): void {
  const channels = bitChannels(config);
  const isPre = config.layer_type === "preactivation";
  const last = channels.at(-1)!;
  if (isPre && config.hidden_sizes.at(-1) !== last) {
    // Of the norm behind the last stage, which transformers computes although no feature map comes from it.
    fail("hidden_sizes", config.hidden_sizes, `a last size of ${last}, the last stage's channels,`);
  }
  const normed = [
    ...(isPre ? [] : [config.embedding_size]),
    ...channels.slice(1).flatMap((size) => [size, makeDivisible(size * 0.25)]),
    ...(isPre ? channels.slice(0, -1) : []),
  ];
  const odd = normed.find((size) => size % config.num_groups !== 0);
  if (odd !== undefined)
    fail("num_groups", config.num_groups, `a divisor of all numbers of channels, ${odd} among them`);
}
