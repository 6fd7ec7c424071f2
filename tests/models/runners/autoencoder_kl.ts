import { Generator } from "@diffusers-web/core";
import { AutoencoderKL } from "@diffusers-web/models";
import { type CaseRunner, runner } from "./types.ts";

export const autoencoderKL: CaseRunner = runner(
  "autoencoder_kl",
  AutoencoderKL,
  ["sample_size", "scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast"],
  async (model, inputs) => {
    const { latent_dist } = await model.encode(inputs["x"]!);
    return {
      mean: latent_dist.mean,
      std: latent_dist.std,
      drawn: latent_dist.sample(new Generator().manual_seed(7)),
      decoded: (await model.decode(inputs["z"]!)).sample,
      forward: (await model(inputs["x"]!)).sample,
    };
  },
);
