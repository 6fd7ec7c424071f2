import { Generator, type Tensor } from "@diffusers-web/core";
import { AutoencoderKL, type AutoencoderKL as Model } from "@diffusers-web/models";
import { type CaseRunner, runner } from "./types.ts";

type TileFields = Pick<Model, "tile_sample_min_size" | "tile_latent_min_size" | "tile_overlap_factor">;

/** What the calls of the cases hold. */
interface Inputs {
  readonly x: Tensor;
  readonly z: Tensor;
  readonly slicing?: boolean;
  readonly tiling?: Partial<TileFields>;
}

export const autoencoderKL: CaseRunner = runner(
  "autoencoder_kl",
  AutoencoderKL,
  ["sample_size", "scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast"],
  async (model, inputs): Promise<Record<string, Tensor>> => {
    const { x, z, slicing, tiling } = inputs as unknown as Inputs;
    if (slicing) model.enable_slicing();
    if (tiling === undefined) {
      const { latent_dist } = await model.encode(x);
      return {
        mean: latent_dist.mean,
        drawn: latent_dist.sample(new Generator().manual_seed(7)),
        decoded: (await model.decode(z)).sample,
        forward: (await model(x)).sample,
      };
    }
    model.enable_tiling();
    Object.assign(model, tiling);
    return {
      mean: (await model.encode(x)).latent_dist.mean,
      decoded: (await model.decode(z)).sample,
      tiled: (await model.tiled_decode(z.slice(null, null, [0, 4], [0, 4]))).sample,
    };
  },
);
