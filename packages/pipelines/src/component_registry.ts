import { type LoadOptions, type Source, type SourceLike, subSource } from "@diffusers-web/core";
import {
  AutoencoderKL,
  CLIPTextModel,
  type DeviceRequest,
  type DtypeRequest,
  onnxModels,
  type PreparedModel,
  UNet2DConditionModel,
  UNet2DModel,
} from "@diffusers-web/models";

/** The static side of what a pipeline's folder is loaded with. */
export interface ComponentClass {
  readonly name: string;
  from_pretrained(
    source: SourceLike,
    options?: LoadOptions & { device?: DeviceRequest | undefined; dtype?: DtypeRequest | undefined },
  ): Promise<unknown>;
  /** Of a model: see `ModelMixin.prepare`. */
  prepare?(
    source: SourceLike,
    options?: LoadOptions & { device?: DeviceRequest | undefined; dtype?: DtypeRequest | undefined },
  ): Promise<PreparedModel<unknown>>;
  /** Of a model: what its weight files are called, without ending. */
  readonly weights_name?: string;
}

/** A class that a model_index.json may name. */
export interface ComponentEntry {
  /** The Python library that it comes from, the first half of the entry in model_index.json. */
  readonly library: "diffusers" | "transformers" | typeof OPTIMUM;
  /** Whether it has weights, and runs on a device. */
  readonly is_model: boolean;
  /** Files of which a folder of this class has at least one, the one read first in front. */
  readonly files: readonly string[];
  /** What is read of the files there are, besides weights. Default: `files`. */
  reads?(has: (name: string) => boolean): readonly string[];
  /** Where its files are, for a class that need not look for them. */
  place?(root: Source, key: string): Source;
  /** The class of its ONNX exports. */
  readonly exported_as?: string;
  load(): Promise<ComponentClass>;
}

/** The library that the classes of ONNX exports come from, as Optimum writes it. */
export const OPTIMUM = "optimum.onnxruntime.modeling_diffusion";

function diffusersModel(model: ComponentClass): ComponentEntry {
  return {
    library: "diffusers",
    is_model: true,
    files: ["config.json"],
    load: async () => model,
  };
}

function clipTokenizer(): ComponentEntry {
  return {
    library: "transformers",
    is_model: false,
    files: ["tokenizer_config.json", "tokenizer.json", "vocab.json"],
    reads: (has) => [
      ...["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"],
      ...(has("tokenizer.json") ? ["tokenizer.json"] : ["vocab.json", "merges.txt"]),
    ],
    load: async () => (await import("./tokenization_clip.ts")).CLIPTokenizer,
  };
}

/** @param folders in the root, for a model that is in several; else it is in the one of the component's name */
function onnxModel(name: keyof typeof onnxModels, folders?: readonly string[]): ComponentEntry {
  const names = ["model.onnx", "config.json", "model.onnx_data", "model.onnx.data", "weights.pb"];
  const files = folders?.flatMap((folder) => names.map((file) => `${folder}/${file}`)) ?? names;
  return {
    library: OPTIMUM,
    is_model: true,
    files,
    place: (root, key) => (folders === undefined ? subSource(root, key) : root),
    load: onnxModels[name],
  };
}

/** The models and tokenizers there are. Schedulers are in `schedulerRegistry` of @diffusers-web/core. */
export const componentRegistry: Readonly<Record<string, ComponentEntry>> = {
  AutoencoderKL: { ...diffusersModel(AutoencoderKL), exported_as: "ORTVae" },
  CLIPTextModel: { ...diffusersModel(CLIPTextModel), library: "transformers", exported_as: "ORTTextEncoder" },
  CLIPTokenizer: clipTokenizer(),
  CLIPTokenizerFast: clipTokenizer(),
  ORTTextEncoder: onnxModel("ORTTextEncoder"),
  ORTUnet: onnxModel("ORTUnet"),
  ORTVae: onnxModel("ORTVae", ["vae_decoder", "vae_encoder"]),
  UNet2DConditionModel: { ...diffusersModel(UNet2DConditionModel), exported_as: "ORTUnet" },
  UNet2DModel: diffusersModel(UNet2DModel),
};
