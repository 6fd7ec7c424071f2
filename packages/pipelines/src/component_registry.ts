import type { LoadOptions, SourceLike } from "@diffusers-web/core";
import {
  AutoencoderKL,
  CLIPTextModel,
  type DeviceRequest,
  type DtypeRequest,
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
}

/** A class that a model_index.json may name. */
export interface ComponentEntry {
  /** The Python library that it comes from, the first half of the entry in model_index.json. */
  readonly library: "diffusers" | "transformers";
  /** Whether it has weights, and runs on a device. */
  readonly is_model: boolean;
  /** Files of which a folder of this class has at least one, the one read first in front. */
  readonly files: readonly string[];
  load(): Promise<ComponentClass>;
}

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
    load: async () => (await import("./tokenization_clip.ts")).CLIPTokenizer,
  };
}

/** The models and tokenizers there are. Schedulers are in `schedulerRegistry` of @diffusers-web/core. */
export const componentRegistry: Readonly<Record<string, ComponentEntry>> = {
  AutoencoderKL: diffusersModel(AutoencoderKL),
  CLIPTextModel: { ...diffusersModel(CLIPTextModel), library: "transformers" },
  CLIPTokenizer: clipTokenizer(),
  CLIPTokenizerFast: clipTokenizer(),
  UNet2DConditionModel: diffusersModel(UNet2DConditionModel),
  UNet2DModel: diffusersModel(UNet2DModel),
};
