import { UNet2DModel } from "@diffusers-web/models";
import { type CaseRunner, runner } from "./types.ts";

export const unet2D: CaseRunner = runner(
  ["unet_2d", "unet_2d_random"],
  UNet2DModel,
  ["sample_size", "dropout"],
  async (model, { sample, timestep, ...rest }) => ({ sample: (await model(sample!, timestep!, rest)).sample }),
);
