import type { Tensor } from "@diffusers-web/core";
import { AutoencoderTiny } from "@diffusers-web/models";
import { type CaseRunner, runner } from "./types.ts";

export const autoencoderTiny: CaseRunner = {
  ...runner(
    "autoencoder_tiny",
    AutoencoderTiny,
    ["force_upcast", "scaling_factor", "shift_factor", "upsample_fn", "block_out_channels"],
    async (model, { x, z, slicing, tiling, skip_forward }) => {
      if (slicing !== undefined) model.enable_slicing();
      if (tiling !== undefined) {
        model.enable_tiling();
        Object.assign(model, tiling);
      }
      const outputs: Record<string, Tensor> = {
        latents: (await model.encode(x!)).latents,
        decoded: (await model.decode(z!)).sample,
      };
      if (skip_forward === undefined) outputs["forward"] = (await model(x!)).sample;
      return outputs;
    },
  ),
  // Latents are rounded to bytes.
  jumps: ["forward"],
};
