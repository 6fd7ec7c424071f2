import { UNet2DConditionModel, type UNet2DConditionOptions } from "@diffusers-web/models";
import { type CaseRunner, runner } from "./types.ts";
import { setUp, type UNetSetup } from "./unet_attention_setup.ts";

export const unet2DCondition: CaseRunner = runner(
  [
    "unet_2d_condition",
    "unet_2d_condition_blocks",
    "unet_2d_condition_checkpoints",
    "unet_2d_condition_embeddings",
    "unet_2d_condition_random",
    "unet_attention",
    "unet_pag",
  ],
  UNet2DConditionModel,
  [
    "sample_size",
    "dropout",
    "use_linear_projection",
    "upcast_attention",
    "num_attention_heads",
    "dual_cross_attention",
  ],
  async (model, { sample, timestep, encoder_hidden_states, setup, ...rest }) => {
    if (setup !== undefined) setUp(model, setup as UNetSetup);
    const output = await model(sample!, timestep!, encoder_hidden_states!, rest as UNet2DConditionOptions);
    return { sample: output.sample };
  },
);
