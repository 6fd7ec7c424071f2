import { Generator, type Tensor } from "@diffusers-web/core";
import { AsymmetricAutoencoderKL } from "@diffusers-web/models";
import { type CaseRunner, runner } from "./types.ts";

export const asymmetricAutoencoderKL: CaseRunner = runner(
  "autoencoder_asym_kl",
  AsymmetricAutoencoderKL,
  ["sample_size", "scaling_factor"],
  async (model, { x, z, image, mask }): Promise<Record<string, Tensor>> => {
    const { latent_dist } = await model.encode(x!);
    const outputs = {
      mean: latent_dist.mean,
      drawn: latent_dist.sample(new Generator().manual_seed(7)),
      decoded: (await model.decode(z!, { image, mask })).sample,
    };
    if (x!.dims[1] !== model.config.out_channels) return outputs;
    return { ...outputs, forward: (await model(x!, { mask })).sample };
  },
);
