import { Generator, type Tensor } from "@diffusers-web/core";
import { ConsistencyDecoderVAE } from "@diffusers-web/models";
import { type CaseRunner, runner } from "./types.ts";

/** What the calls of the cases hold. */
interface Inputs {
  readonly x: Tensor;
  readonly z: Tensor;
  readonly slicing?: boolean;
  readonly tiling?: { readonly tile_overlap_factor?: number };
}

export const consistencyDecoderVAE: CaseRunner = runner(
  "consistency_decoder_vae",
  ConsistencyDecoderVAE,
  // Of these, two have one value only.
  ["sample_size", "decoder_num_train_timesteps", "latent_channels", "decoder_in_channels"],
  async (model, inputs): Promise<Record<string, Tensor>> => {
    const { x, z, slicing, tiling } = inputs as unknown as Inputs;
    if (slicing) model.enable_slicing();
    if (tiling !== undefined) {
      model.enable_tiling();
      Object.assign(model, tiling);
    }
    const seeded = (seed: number): Generator => new Generator().manual_seed(seed);
    const outputs = {
      mean: (await model.encode(x)).latent_dist.mean,
      decoded: (await model.decode(z, { generator: seeded(3) })).sample,
    };
    if (tiling !== undefined) return outputs;
    return { ...outputs, forward: (await model(x, { sample_posterior: true, generator: seeded(7) })).sample };
  },
);
