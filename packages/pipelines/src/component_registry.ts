import { type LoadOptions, type Source, type SourceLike, subSource } from "@diffusers-web/core";
import { type DeviceRequest, type DtypeRequest, lazyModels, type PreparedModel } from "@diffusers-web/models";

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
  /** The Python library (or the pipeline's module) that it comes from, the first half of the entry in model_index.json. */
  readonly library: "diffusers" | "transformers" | "stable_diffusion" | typeof OPTIMUM;
  /** Whether it has weights, and runs on a device. */
  readonly is_model: boolean;
  /** Files of which a folder of this class has at least one, the one read first in front. */
  readonly files: readonly string[];
  /** What is read of the files there are, besides weights. Default: `files`. */
  reads?(has: (name: string) => boolean): readonly string[];
  /** Whether it is several models: in folders beside each other, with `_1`, `_2`... after the first one's name. */
  readonly is_several?: boolean;
  /** Where its files are, for a class that need not look for them. */
  place?(root: Source, key: string): Source;
  /** The class of its ONNX exports. */
  readonly exported_as?: string;
  load(): Promise<ComponentClass>;
}

/** The library that the classes of ONNX exports come from, as Optimum writes it. */
export const OPTIMUM = "optimum.onnxruntime.modeling_diffusion";

function model(name: keyof typeof lazyModels, library: ComponentEntry["library"] = "diffusers"): ComponentEntry {
  return { library, is_model: true, files: ["config.json"], load: lazyModels[name] };
}

function models(name: keyof typeof lazyModels): ComponentEntry {
  return { ...model(name), is_several: true, place: subSource };
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

/** Its config may be within that of a processor for several things. */
function imageProcessor(load: ComponentEntry["load"]): ComponentEntry {
  return {
    library: "transformers",
    is_model: false,
    files: ["preprocessor_config.json", "processor_config.json"],
    load,
  };
}

/** @param folders in the root, for a model that is in several; else it is in the one of the component's name */
function onnxModel(name: "ORTTextEncoder" | "ORTUnet" | "ORTVae", folders?: readonly string[]): ComponentEntry {
  const names = ["model.onnx", "config.json", "model.onnx_data", "model.onnx.data", "weights.pb"];
  const files = folders?.flatMap((folder) => names.map((file) => `${folder}/${file}`)) ?? names;
  return {
    library: OPTIMUM,
    is_model: true,
    files,
    place: (root, key) => (folders === undefined ? subSource(root, key) : root),
    load: lazyModels[name],
  };
}

/** The models and tokenizers there are. Schedulers are in `schedulerRegistry` of @diffusers-web/core. */
export const componentRegistry: Readonly<Record<string, ComponentEntry>> = {
  AsymmetricAutoencoderKL: model("AsymmetricAutoencoderKL"),
  AutoencoderKL: { ...model("AutoencoderKL"), exported_as: "ORTVae" },
  AutoencoderTiny: model("AutoencoderTiny"),
  CLIPFeatureExtractor: imageProcessor(async () => (await import("./image_processing_clip.ts")).CLIPFeatureExtractor),
  CLIPImageProcessor: imageProcessor(async () => (await import("./image_processing_clip.ts")).CLIPImageProcessor),
  // Releases before transformers 5 have two classes, of which this is the one without Pillow.
  CLIPImageProcessorFast: imageProcessor(async () => (await import("./image_processing_clip.ts")).CLIPImageProcessor),
  CLIPImageProcessorPil: imageProcessor(async () => (await import("./image_processing_clip.ts")).CLIPImageProcessorPil),
  CLIPTextModel: { ...model("CLIPTextModel", "transformers"), exported_as: "ORTTextEncoder" },
  CLIPTextModelWithProjection: model("CLIPTextModelWithProjection", "transformers"),
  CLIPTokenizer: clipTokenizer(),
  CLIPTokenizerFast: clipTokenizer(),
  CLIPVisionModel: model("CLIPVisionModel", "transformers"),
  CLIPVisionModelWithProjection: model("CLIPVisionModelWithProjection", "transformers"),
  ConsistencyDecoderVAE: model("ConsistencyDecoderVAE"),
  ControlNetModel: model("ControlNetModel"),
  DPTFeatureExtractor: imageProcessor(async () => (await import("./image_processing_dpt.ts")).DPTFeatureExtractor),
  DPTForDepthEstimation: model("DPTForDepthEstimation", "transformers"),
  DPTImageProcessor: imageProcessor(async () => (await import("./image_processing_dpt.ts")).DPTImageProcessor),
  DPTImageProcessorFast: imageProcessor(async () => (await import("./image_processing_dpt.ts")).DPTImageProcessor),
  DPTImageProcessorPil: imageProcessor(async () => (await import("./image_processing_dpt.ts")).DPTImageProcessorPil),
  MultiAdapter: models("MultiAdapter"),
  MultiControlNetModel: models("MultiControlNetModel"),
  ORTTextEncoder: onnxModel("ORTTextEncoder"),
  ORTUnet: onnxModel("ORTUnet"),
  ORTVae: onnxModel("ORTVae", ["vae_decoder", "vae_encoder"]),
  StableDiffusionSafetyChecker: model("StableDiffusionSafetyChecker", "stable_diffusion"),
  T2IAdapter: model("T2IAdapter"),
  UNet2DConditionModel: { ...model("UNet2DConditionModel"), exported_as: "ORTUnet" },
  UNet2DModel: model("UNet2DModel"),
  VQModel: model("VQModel"),
};
