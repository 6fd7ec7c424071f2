import { type ConfigDict, checkOptions, type DataType, Tensor, ValueError } from "@diffusers-web/core";
import { checkSample, perItem, type Timestep } from "../unets/inputs.ts";
import type { UNet2DConditionOptions, UNet2DConditionOutput } from "../unets/unet_2d_condition.ts";
import { type UNet2DConditionModelConfig, unet2DConditionDefaults } from "../unets/unet_2d_condition_config.ts";
import type { OnnxFile, OnnxValue } from "./onnx_file.ts";
import { OnnxModel } from "./onnx_model.ts";
import type { OnnxParts } from "./onnx_parts.ts";
import { inputSize, weightDims } from "./shapes.ts";

export interface ORTUnet {
  /** {@link ORTUnet.forward} */
  (
    sample: Tensor,
    timestep: Timestep,
    encoder_hidden_states: Tensor,
    options?: UNet2DConditionOptions,
  ): Promise<UNet2DConditionOutput>;
}

/**
 * The ONNX export of a UNet2DConditionModel, with that class's face.
 *
 * @see Optimum `ORTUnet`
 */
export class ORTUnet extends OnnxModel<UNet2DConditionModelConfig> {
  static override readonly name: string = "ORTUnet";
  static override readonly config_defaults: UNet2DConditionModelConfig = unet2DConditionDefaults;
  static override readonly parts: OnnxParts = {
    unet: {
      file: "model.onnx",
      inputs: [
        "sample",
        "timestep",
        "encoder_hidden_states",
        "timestep_cond",
        "text_embeds",
        "time_ids",
        "class_labels",
      ],
      required: ["sample", "timestep", "encoder_hidden_states"],
      outputs: ["out_sample"],
    },
  };

  private hasWarned = false;

  /** Without a config, what is not in the graph is Stable Diffusion 1's, as in Diffusers' pipeline for such exports. */
  static override derive_config({ unet }: Readonly<Record<string, OnnxFile>>): ConfigDict {
    const [rows, columns] = [inputSize(unet!, "sample", 2), inputSize(unet!, "sample", 3)];
    return {
      in_channels: inputSize(unet!, "sample", 1) ?? weightDims(unet!, "conv_in.weight")?.[1] ?? 4,
      out_channels: weightDims(unet!, "conv_out.weight")?.[0] ?? 4,
      cross_attention_dim: inputSize(unet!, "encoder_hidden_states", 2) ?? 768,
      time_cond_proj_dim: inputSize(unet!, "timestep_cond", 1) ?? null,
      sample_size: rows === undefined || columns === undefined ? 64 : rows === columns ? rows : [rows, columns],
    };
  }

  /**
   * @param sample noisy latents `[batch, in_channels, height, width]`
   * @param timestep one for the batch; `[batch]` where the export takes that
   * @param encoder_hidden_states the text `[batch, length, cross_attention_dim]`
   * @throws ValueError for tensors that do not fit the graph, and for options that it has no input for.
   */
  override async forward(
    sample: Tensor,
    timestep: Timestep,
    encoder_hidden_states: Tensor,
    options: UNet2DConditionOptions = {},
  ): Promise<UNet2DConditionOutput> {
    const { timestep_cond, class_labels, added_cond_kwargs, ...others } = options;
    const given = Object.fromEntries(Object.entries(others).filter(([, value]) => value !== undefined));
    checkOptions(`${ORTUnet.name} (an ONNX export)`, given, ["timestep_cond", "class_labels", "added_cond_kwargs"]);
    checkSample(sample, this.config.in_channels, ORTUnet.name);
    const { out_sample } = await this.runPart(
      "unet",
      {
        sample,
        timestep: this.timestep(timestep, sample.dims[0]!),
        encoder_hidden_states,
        timestep_cond,
        class_labels,
        text_embeds: added_cond_kwargs?.text_embeds,
        time_ids: added_cond_kwargs?.time_ids,
      },
      ["out_sample"],
    );
    return { sample: out_sample! };
  }

  /** A scalar or a list, as the graph has it. */
  private timestep(timestep: Timestep, batch: number): Tensor<DataType> {
    const { dims, type } = this.part("unet")!.inputs.find(({ name }) => name === "timestep") as OnnxValue;
    const values = perItem(timestep, batch, "timestep");
    const [first] = values as [number];
    if (type.startsWith("int") && !values.every(Number.isInteger)) this.warnOfFraction(first, type);
    const isOne = values.every((value) => value === first);
    if (dims?.length === 0) {
      if (isOne) return new Tensor("float32", [first], []);
      throw new ValueError(
        `${ORTUnet.name}: this export takes one timestep for the batch, but got ${values.join(", ")}.`,
        {
          className: ORTUnet.name,
          field: "timestep",
          found: values.join(", "),
          expected: "one number",
        },
      );
    }
    // Exports repeat a single one for the batch.
    const length = dims?.[0] ?? (isOne ? 1 : batch);
    return new Tensor("float32", isOne ? new Array<number>(length).fill(first) : values, [isOne ? length : batch]);
  }

  /** Python's cast cuts it off as well, and says nothing. */
  private warnOfFraction(timestep: number, type: string): void {
    if (this.hasWarned) return;
    this.hasWarned = true;
    console.warn(
      `This ONNX export takes timesteps as ${type}: the fraction of ${timestep} is cut off. ` +
        "Use a scheduler with whole timesteps for the original's pictures.",
    );
  }
}
