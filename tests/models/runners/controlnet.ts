import type { Tensor } from "@diffusers-web/core";
import { ControlNetModel, type ControlNetOptions, type ControlNetOutput } from "@diffusers-web/models";
import { type CaseRunner, runner } from "./types.ts";

/** A ControlNet's residuals by name. */
export function residuals({ down_block_res_samples, mid_block_res_sample }: ControlNetOutput): Record<string, Tensor> {
  const down = down_block_res_samples.map((tensor, i) => [`down_${i}`, tensor] as const);
  return { ...Object.fromEntries(down), mid: mid_block_res_sample };
}

export const controlNet: CaseRunner = runner(
  "controlnet",
  ControlNetModel,
  // The projection of the text is made and never used.
  ["use_linear_projection", "upcast_attention", "encoder_hid_dim", "encoder_hid_dim_type"],
  async (model, { sample, timestep, encoder_hidden_states, controlnet_cond, ...rest }) => {
    const options = rest as ControlNetOptions;
    return residuals(await model(sample!, timestep!, encoder_hidden_states!, controlnet_cond!, options));
  },
);
