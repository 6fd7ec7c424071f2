import { UNet2DConditionModel, type UNet2DConditionOptions } from "@diffusers-web/models";
import { type CaseRunner, runner } from "./types.ts";

export const unet2DCondition: CaseRunner = runner(
  "unet_2d_condition",
  UNet2DConditionModel,
  ["sample_size", "dropout", "use_linear_projection", "upcast_attention", "num_attention_heads"],
  async (model, { sample, timestep, encoder_hidden_states, ...rest }) => {
    const output = await model(sample!, timestep!, encoder_hidden_states!, rest as UNet2DConditionOptions);
    return { sample: output.sample };
  },
);
