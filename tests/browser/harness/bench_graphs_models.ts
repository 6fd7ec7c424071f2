import { Tensor } from "@diffusers-web/core";
import type { ModelMixin } from "@diffusers-web/models";

/*
 * Well-known checkpoints with few channels and all their blocks: as many nodes and dispatches as the whole model, in a
 * hundredth of the work.
 */

type Config = Record<string, unknown>;

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));

/** The lists of channels that a config may have. */
const channelLists = [
  ...["block_out_channels", "down_block_out_channels", "up_block_out_channels", "channels"],
  ...["encoder_block_out_channels", "decoder_block_out_channels"],
];

/** A config with its channels divided, down to 32 for the narrowest block. */
export function narrowed(className: string, config: Config): Config {
  const narrow: Config = { ...config };
  const lists = channelLists.filter((field) => Array.isArray(config[field]));
  const divisor = lists.flatMap((field) => config[field] as number[]).reduce(gcd, 0) / 32;
  for (const field of lists) narrow[field] = (config[field] as number[]).map((channels) => channels / divisor);
  if (lists.length > 0) {
    const blocks = narrow["block_out_channels"] as number[];
    if (className === "UNet2DModel" && config["attention_head_dim"] !== null) narrow["attention_head_dim"] = 8;
    // The number of heads; in K blocks their size.
    if (className === "UNet2DConditionModel" || className === "ControlNetModel") {
      const isK = (config["down_block_types"] as string[]).includes("KDownBlock2D");
      narrow["attention_head_dim"] = isK ? 8 : blocks.map((channels) => channels / 8);
      narrow["cross_attention_dim"] = 64;
    }
    if ("conditioning_embedding_out_channels" in config)
      narrow["conditioning_embedding_out_channels"] = [8, 16, 32, 32];
    if ("num_vq_embeddings" in config) narrow["num_vq_embeddings"] = 64;
    return narrow;
  }
  return transformer(config);
}

/** A transformer with heads of 8. */
function transformer(config: Config): Config {
  const narrow: Config = { ...config };
  for (const part of ["text_config", "vision_config"]) {
    if (typeof config[part] === "object" && config[part] !== null) narrow[part] = transformer(config[part] as Config);
  }
  if (typeof config["num_attention_heads"] !== "number") return narrow;
  // Pictures of six or eight patches a side.
  if (typeof config["image_size"] === "number" && typeof config["patch_size"] === "number") {
    const side = config["patch_size"] < 16 ? 8 : 6;
    narrow["image_size"] = side * config["patch_size"];
    if (config["is_hybrid"] === true) narrow["backbone_featmap_shape"] = [1, 1024, side, side];
  }
  narrow["hidden_size"] = config["num_attention_heads"] * 8;
  narrow["intermediate_size"] = config["num_attention_heads"] * 32;
  if ("vocab_size" in config) narrow["vocab_size"] = 100;
  if (typeof config["eos_token_id"] === "number" && config["eos_token_id"] > 2) narrow["eos_token_id"] = 99;
  return narrow;
}

/** Calls a model with zeros, as a pipeline would: two pictures' worth for a denoiser, one for the rest. */
export async function callModel(className: string, model: ModelMixin<object>, config: Config): Promise<void> {
  const call = calls[className];
  if (call === undefined) throw new Error(`There is no call for ${className}: add one to bench_graphs_models.ts.`);
  await call(model as never, config as never);
}

const zeros = (...dims: number[]): Tensor => Tensor.zeros(dims);
const size = 8;

type Denoiser = (...args: unknown[]) => Promise<unknown>;

function conditions(config: Config): object {
  const dim = config["projection_class_embeddings_input_dim"] as number;
  const times = config["addition_time_embed_dim"] as number;
  const count = Math.round(dim / times) === 10 ? 5 : 6;
  return {
    ...(config["addition_embed_type"] === "text_time"
      ? { added_cond_kwargs: { text_embeds: zeros(2, dim - count * times), time_ids: zeros(2, count) } }
      : {}),
    ...(config["num_class_embeds"] === null || config["num_class_embeds"] === undefined
      ? {}
      : { class_labels: Tensor.from([20, 20], "int64") }),
    ...(typeof config["time_cond_proj_dim"] === "number"
      ? { timestep_cond: zeros(2, config["time_cond_proj_dim"]) }
      : {}),
  };
}

/** By class: a call of the model, with its config. */
const calls: Readonly<Record<string, (model: never, config: Config) => Promise<unknown>>> = {
  UNet2DConditionModel: (model: Denoiser, config) =>
    model(zeros(2, config["in_channels"] as number, size, size), 1, zeros(2, 77, 64), conditions(config)),
  UNet2DModel: (model: Denoiser, config) => {
    const side = 2 ** (config["block_out_channels"] as number[]).length;
    return model(zeros(1, config["in_channels"] as number, side, side), 1);
  },
  ControlNetModel: (model: Denoiser, config) =>
    model(zeros(2, 4, size, size), 1, zeros(2, 77, 64), zeros(2, 3, 8 * size, 8 * size), conditions(config)),
  T2IAdapter: (model: Denoiser, config) => model(zeros(1, config["in_channels"] as number, 8 * size, 8 * size)),
  ...Object.fromEntries(
    ["AutoencoderKL", "AsymmetricAutoencoderKL", "AutoencoderTiny", "VQModel"].map((name) => [
      name,
      (model: Denoiser, config: Config) => model(zeros(1, config["in_channels"] as number, 8 * size, 8 * size)),
    ]),
  ),
  ...Object.fromEntries(
    ["CLIPTextModel", "CLIPTextModelWithProjection"].map((name) => [
      name,
      (model: Denoiser) => model(Tensor.zeros([2, 77], "int64"), { output_hidden_states: false }),
    ]),
  ),
  CLIPVisionModelWithProjection: (model: Denoiser, config) => {
    const side = config["image_size"] as number;
    return model(zeros(1, 3, side, side));
  },
  StableDiffusionSafetyChecker: (model: Denoiser, config) => {
    const side = (config["vision_config"] as { image_size: number }).image_size;
    return model(zeros(1, 3, side, side), zeros(1, 3, 8, 8));
  },
  DPTForDepthEstimation: (model: Denoiser, config) => {
    const side = config["image_size"] as number;
    return model(zeros(1, 3, side, side));
  },
};
