import { checkOptions, type Tensor } from "@diffusers-web/core";
import { MultiModel } from "../multi_model.ts";
import type { Timestep } from "../unets/inputs.ts";
import { ControlNetModel, type ControlNetOptions, type ControlNetOutput, controlNetOptionNames } from "./controlnet.ts";

/** What a {@link MultiControlNetModel} may be told besides sample, timestep, text and pictures. */
export interface MultiControlNetOptions extends Omit<ControlNetOptions, "conditioning_scale"> {
  /** What each net's residuals are multiplied with. Default: 1 each. */
  readonly conditioning_scale?: readonly number[] | undefined;
}

export interface MultiControlNetModel {
  /** {@link MultiControlNetModel.forward} */
  (
    sample: Tensor,
    timestep: Timestep,
    encoder_hidden_states: Tensor | null,
    controlnet_cond: readonly Tensor[],
    options?: MultiControlNetOptions,
  ): Promise<ControlNetOutput>;
}

const name = "MultiControlNetModel";

/**
 * Several ControlNets, whose residuals are summed.
 *
 * @see Diffusers `MultiControlNetModel`
 */
export class MultiControlNetModel extends MultiModel<ControlNetModel> {
  static override readonly name: string = "MultiControlNetModel";
  static readonly member_class: typeof ControlNetModel = ControlNetModel;

  get nets(): readonly ControlNetModel[] {
    return this.members;
  }

  /**
   * @param sample noisy latents `[batch, in_channels, height, width]`
   * @param timestep one for the batch, or `[batch]`
   * @param encoder_hidden_states the text `[batch, length, cross_attention_dim]`; null for nets that do not read it
   * @param controlnet_cond pictures for each net, see {@link ControlNetModel.forward}
   * @throws ValueError for another number of pictures or scales than of nets, or nets whose residuals differ in size.
   */
  override async forward(
    sample: Tensor,
    timestep: Timestep,
    encoder_hidden_states: Tensor | null,
    controlnet_cond: readonly Tensor[],
    options: MultiControlNetOptions = {},
  ): Promise<ControlNetOutput> {
    checkOptions(name, options, controlNetOptionNames);
    const { conditioning_scale = this.nets.map(() => 1), ...rest } = options;
    this.checkEach("controlnet_cond", controlnet_cond);
    this.checkEach("conditioning_scale", conditioning_scale);
    const residuals: (readonly Tensor[])[] = [];
    for (const [i, net] of this.nets.entries()) {
      const output = await net(sample, timestep, encoder_hidden_states, controlnet_cond[i]!, {
        ...rest,
        conditioning_scale: conditioning_scale[i],
      });
      residuals.push([...output.down_block_res_samples, output.mid_block_res_sample]);
    }
    const sums = this.sums(residuals, "residuals");
    return { down_block_res_samples: sums.slice(0, -1), mid_block_res_sample: sums.at(-1)! };
  }
}
