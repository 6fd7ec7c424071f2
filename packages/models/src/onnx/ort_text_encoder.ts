import {
  type ConfigDict,
  checkOptions,
  type DataType,
  Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/core";
import type { CLIPTextConfig } from "../transformers/clip_text.ts";
import { CLIPTextModel, type CLIPTextModelOutput, type CLIPTextOptions } from "../transformers/modeling_clip_text.ts";
import type { OnnxFile } from "./onnx_file.ts";
import { OnnxModel } from "./onnx_model.ts";
import type { OnnxParts } from "./onnx_parts.ts";
import { outputSize, weightDims } from "./shapes.ts";

export interface ORTTextEncoder {
  /** {@link ORTTextEncoder.forward} */
  (input_ids: Tensor<"int64">, options?: CLIPTextOptions): Promise<CLIPTextModelOutput>;
}

/**
 * The ONNX export of CLIP's text encoder, with the face of a CLIPTextModel.
 *
 * @see Optimum `ORTTextEncoder`
 */
export class ORTTextEncoder extends OnnxModel<CLIPTextConfig> {
  static override readonly name: string = "ORTTextEncoder";
  static override readonly compatible_fields: readonly string[] = CLIPTextModel.compatible_fields;
  static override readonly config_defaults: CLIPTextConfig = CLIPTextModel.config_defaults;
  static override readonly parts: OnnxParts = {
    text_encoder: {
      file: "model.onnx",
      inputs: ["input_ids", "attention_mask"],
      required: ["input_ids"],
      outputs: ["last_hidden_state"],
    },
  };

  static override prepare_config(config: ConfigDict): ConfigDict {
    return CLIPTextModel.prepare_config(config);
  }

  /** What the graph does not tell is that of Stable Diffusion 1's text encoder. */
  static override derive_config({ text_encoder: file }: Readonly<Record<string, OnnxFile>>): ConfigDict {
    const words = weightDims(file!, "token_embedding.weight");
    const positions = weightDims(file!, "position_embedding.weight");
    return {
      vocab_size: words?.[0] ?? 49408,
      max_position_embeddings: positions?.[0] ?? 77,
      hidden_size: outputSize(file!, "last_hidden_state", 2) ?? words?.[1] ?? 768,
      intermediate_size: weightDims(file!, "layers.0.mlp.fc1.bias")?.[0] ?? 3072,
      num_attention_heads: 12,
    };
  }

  /**
   * @param input_ids `[batch, length]`, each from 0 to below `vocab_size`
   * @throws ValueError for an id or a length that the model does not know.
   * @throws UnsupportedModelError when hidden states are asked for and the export has none.
   */
  override async forward(input_ids: Tensor<"int64">, options: CLIPTextOptions = {}): Promise<CLIPTextModelOutput> {
    checkOptions(ORTTextEncoder.name, options, ["attention_mask", "output_hidden_states"]);
    this.checkIds(input_ids);
    const { inputs, outputs } = this.part("text_encoder")!;
    const names = outputs.map(({ name }) => name);
    const states = names
      .filter((name) => /^hidden_states\.\d+$/.test(name))
      .sort((a, b) => Number(a.split(".")[1]) - Number(b.split(".")[1]));
    if (options.output_hidden_states === true && states.length === 0) throw this.noLayers("its hidden states");
    const takesMask = inputs.some(({ name }) => name === "attention_mask");
    const attention_mask =
      options.attention_mask ?? (takesMask ? (Tensor.ones(input_ids.dims) as Tensor<DataType>) : undefined);
    const wanted = [
      "last_hidden_state",
      ...names.filter((name) => name === "pooler_output"),
      ...(options.output_hidden_states === false ? [] : states),
    ];
    const results = await this.runPart("text_encoder", { input_ids, attention_mask }, wanted);
    return {
      last_hidden_state: results["last_hidden_state"]!,
      hidden_states: states.filter((name) => name in results).map((name) => results[name]!),
      // Exports for SDXL have `text_embeds` in its place.
      pooler_output: results["pooler_output"] as Tensor,
    };
  }

  /** @throws UnsupportedModelError always: the export holds the last norm, but cannot run it alone. */
  async final_layer_norm(_hidden_states: Tensor): Promise<Tensor> {
    throw this.noLayers("the norm after its last layer");
  }

  private noLayers(what: string): UnsupportedModelError {
    const file = this.part("text_encoder")!.path;
    return new UnsupportedModelError(
      `${file} is an ONNX export, which does not give ${what}: leave out \`clip_skip\`, or use the original checkpoint.`,
      { file, className: ORTTextEncoder.name, field: "clip_skip", found: "an ONNX export", expected: "no clip_skip" },
    );
  }

  private checkIds(ids: Tensor<"int64">): void {
    const { vocab_size, max_position_embeddings: longest } = this.config;
    const fail = (message: string, found: string, expected: string): never => {
      throw new ValueError(`${ORTTextEncoder.name}: ${message}.`, {
        className: ORTTextEncoder.name,
        field: "input_ids",
        found,
        expected,
      });
    };
    if (ids.dims.length !== 2 || ids.dims[1]! > longest) {
      fail(`\`input_ids\` has dims [${ids.dims}]`, `[${ids.dims}]`, `[batch, up to ${longest}]`);
    }
    const stranger = ids.data.find((id) => id < 0n || id >= BigInt(vocab_size));
    if (stranger !== undefined) fail(`the model has no token ${stranger}`, `${stranger}`, `below ${vocab_size}`);
  }
}
