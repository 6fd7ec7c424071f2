import type { AsymmetricAutoencoderKL } from "./autoencoder_asym_kl.ts";
import type { AutoencoderKL } from "./autoencoder_kl.ts";
import type { AutoencoderTiny } from "./autoencoder_tiny.ts";
import type { ConsistencyDecoderVAE } from "./consistency_decoder_vae.ts";

/** What decodes the latents of a Stable Diffusion pipeline: its `vae`. */
export type Autoencoder = AutoencoderKL | AsymmetricAutoencoderKL | AutoencoderTiny | ConsistencyDecoderVAE;
