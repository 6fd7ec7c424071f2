import { ValueError } from "@diffusers-web/core";
import type { UNet2DModel } from "@diffusers-web/models";

/** The dims of the noise that an unconditional model begins with. @throws ValueError when its config gives no size. */
export function sampleShape(unet: UNet2DModel, batch_size: number): number[] {
  const { in_channels, sample_size } = unet.config;
  const size = typeof sample_size === "number" ? [sample_size, sample_size] : sample_size;
  if (size != null && size.length === 2) return [batch_size, in_channels, ...size];
  throw new ValueError("The UNet's config has no sample_size, which says how large the pictures are.", {
    file: "config.json",
    field: "sample_size",
    found: JSON.stringify(sample_size),
    expected: "a number, or [height, width]",
  });
}
