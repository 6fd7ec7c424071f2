import { Tensor, ValueError } from "@diffusers-web/core";
import type { Autoencoder } from "@diffusers-web/models";
import type { VaeImageProcessor } from "../image_processor.ts";
import { repeatToBatch } from "./image_latents.ts";

/** The part of a pipeline that prepares a picture to edit. */
export interface EditingParts {
  readonly vae: Autoencoder;
  readonly image_processor: VaeImageProcessor;
  readonly do_classifier_free_guidance: boolean;
}

/**
 * The latents of the pictures to edit, which stand beside those that are denoised: the middle of the distribution that the
 * autoencoder gives, as it gives it, not scaled.
 *
 * @param image pictures `[pictures, channels, height, width]` in -1..1, as many as divide the batch; or latents
 * @returns with guidance `[3 * batch, channels, rows, columns]`: the latents twice, then zeros for no picture
 * @see Diffusers `StableDiffusionInstructPix2PixPipeline.prepare_image_latents`
 */
export async function prepare_image_latents(
  { vae, image_processor, do_classifier_free_guidance }: EditingParts,
  image: Tensor,
  batch: number,
): Promise<Tensor> {
  let image_latents = image;
  if (image.dims[1] !== image_processor.config.vae_latent_channels) {
    const encoded = await vae.encode(image);
    image_latents = "latents" in encoded ? encoded.latents : encoded.latent_dist.mode();
  }
  image_latents = repeatToBatch(image_latents, batch);
  if (!do_classifier_free_guidance) return image_latents;
  return Tensor.cat([image_latents, image_latents, Tensor.zeros(image_latents.dims)]);
}

/** @throws ValueError unless the UNet takes latents and, beside them, those of a picture. */
export function checkEditingChannels(className: string, in_channels: number, latentChannels: number): void {
  if (in_channels === 2 * latentChannels) return;
  throw new ValueError(
    `The UNet takes ${in_channels} channels, but to edit pictures it must take ${2 * latentChannels}: latents, and those of ` +
      "the picture. Use a checkpoint that was trained for it.",
    {
      className,
      field: "in_channels",
      found: String(in_channels),
      expected: `${latentChannels} + ${latentChannels}`,
    },
  );
}
