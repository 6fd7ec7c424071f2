import { type ConfigDict, UnsupportedModelError, ValueError } from "@diffusers-web/core";
import { checkActivation } from "../layers/activations.ts";
import type { CLIPEncoderConfig } from "./clip_layers.ts";

/** One of CLIP's two encoders, in a config. */
export interface CLIPPart {
  /** The class that reads the config. */
  readonly className: string;
  /** Where a config of both encoders has this one's. */
  readonly key: "text_config" | "vision_config";
  /** What `model_type` says in a config of this encoder alone. */
  readonly modelType: string;
  /** The fields that the class knows. */
  readonly fields: readonly string[];
}

/**
 * What concerns one encoder in a config.json, without what transformers writes into every config.
 *
 * @throws UnsupportedModelError for another kind of model, quantized weights, and attention that is not CLIP's.
 * @see transformers `PreTrainedConfig.from_pretrained`
 */
export function prepareCLIPConfig(config: ConfigDict, { className, key, modelType, fields }: CLIPPart): ConfigDict {
  const unsupported = (field: string, value: unknown, expected: string, why: string): never => {
    const found = JSON.stringify(value) ?? String(value);
    throw new UnsupportedModelError(`${className} has \`${field}\`: ${found} in its config.json: ${why}`, {
      className,
      field,
      found,
      expected,
    });
  };
  const type = config["model_type"];
  const known = ["clip", modelType];
  if (type !== undefined && !known.includes(type as string)) {
    unsupported("model_type", type, known.join(" or "), `this is another kind of model, and it is not built.`);
  }
  const nested = config[key];
  const isNested = typeof nested === "object" && nested !== null && !Array.isArray(nested);
  const part = isNested ? (nested as ConfigDict) : config;
  const quantization = config["quantization_config"] ?? part["quantization_config"];
  if (quantization !== undefined && quantization !== null) {
    const why = "quantized weights are not read. Use a checkpoint in float32, float16 or bfloat16.";
    unsupported("quantization_config", quantization, "no quantization_config", why);
  }
  if (![undefined, null, true].includes(part["is_causal"] as boolean) && key === "text_config") {
    unsupported("is_causal", part["is_causal"], "true", "a text encoder whose tokens look ahead is not built.");
  }
  return Object.fromEntries(Object.entries(part).filter(([name]) => fields.includes(name)));
}

/** @throws ValueError naming the class and the field, unless each of the fields is a whole number of `least` or more. */
export function checkWhole(className: string, config: object, fields: readonly string[], least = 1): void {
  for (const field of fields) {
    const value = (config as Record<string, unknown>)[field];
    if (Number.isInteger(value) && (value as number) >= least) continue;
    const found = JSON.stringify(value) ?? String(value);
    const expected = `a whole number from ${least} on`;
    throw new ValueError(`${className} has \`${field}\`: ${found} in its config, but ${expected} is expected.`, {
      className,
      field,
      found,
      expected,
    });
  }
}

/**
 * Checks the fields that both encoders have.
 *
 * @throws UnsupportedModelError for an activation that is not built, ValueError for what transformers refuses as well.
 */
export function checkCLIPEncoder(className: string, config: CLIPEncoderConfig): void {
  const { hidden_act, hidden_size, num_attention_heads: heads, layer_norm_eps: eps } = config;
  checkWhole(className, config, ["hidden_size", "intermediate_size", "num_attention_heads"]);
  checkWhole(className, config, ["num_hidden_layers"], 0);
  checkActivation(hidden_act, className, "hidden_act", "transformers");
  if (typeof eps !== "number" || !(eps >= 0)) {
    const found = JSON.stringify(eps) ?? String(eps);
    throw new ValueError(`${className} has \`layer_norm_eps\`: ${found} in its config, but a number is expected.`, {
      className,
      field: "layer_norm_eps",
      found,
      expected: "a number, 0 or more",
    });
  }
  if (hidden_size % heads === 0) return;
  throw new ValueError(
    `${className} has a \`hidden_size\` of ${hidden_size}, which is not a multiple of its ${heads} heads.`,
    { className, field: "hidden_size", found: String(hidden_size), expected: `n * ${heads}` },
  );
}
