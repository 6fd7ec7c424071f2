import { UnsupportedModelError } from "@diffusers-web/core";
import { attnDownBlock2D } from "./attn_down_block_2d.ts";
import { attnDownEncoderBlock2D } from "./attn_down_encoder_block_2d.ts";
import { attnSkipDownBlock2D } from "./attn_skip_down_block_2d.ts";
import { attnSkipUpBlock2D } from "./attn_skip_up_block_2d.ts";
import { attnUpBlock2D } from "./attn_up_block_2d.ts";
import { attnUpDecoderBlock2D } from "./attn_up_decoder_block_2d.ts";
import { crossAttnDownBlock2D } from "./cross_attn_down_block_2d.ts";
import { crossAttnUpBlock2D } from "./cross_attn_up_block_2d.ts";
import { downBlock2D } from "./down_block_2d.ts";
import { downEncoderBlock2D } from "./down_encoder_block_2d.ts";
import { kCrossAttnDownBlock2D } from "./k_cross_attn_down_block_2d.ts";
import { kCrossAttnUpBlock2D } from "./k_cross_attn_up_block_2d.ts";
import { kDownBlock2D } from "./k_down_block_2d.ts";
import { kUpBlock2D } from "./k_up_block_2d.ts";
import { resnetDownsampleBlock2D } from "./resnet_downsample_block_2d.ts";
import { resnetUpsampleBlock2D } from "./resnet_upsample_block_2d.ts";
import { simpleCrossAttnDownBlock2D } from "./simple_cross_attn_down_block_2d.ts";
import { simpleCrossAttnUpBlock2D } from "./simple_cross_attn_up_block_2d.ts";
import { skipDownBlock2D } from "./skip_down_block_2d.ts";
import { skipUpBlock2D } from "./skip_up_block_2d.ts";
import type { DownBlock, EncoderBlock, MidBlock, SkipDownBlock, SkipUpBlock, UpBlock } from "./types.ts";
import { unetMidBlock2D } from "./unet_mid_block_2d.ts";
import { unetMidBlock2DCrossAttn } from "./unet_mid_block_2d_cross_attn.ts";
import { unetMidBlock2DSimpleCrossAttn } from "./unet_mid_block_2d_simple_cross_attn.ts";
import { upBlock2D } from "./up_block_2d.ts";
import { upDecoderBlock2D } from "./up_decoder_block_2d.ts";

/** Blocks on the way down, by their name in a config. */
export const downBlocks: Readonly<Record<string, DownBlock>> = {
  DownBlock2D: downBlock2D,
  AttnDownBlock2D: attnDownBlock2D,
  CrossAttnDownBlock2D: crossAttnDownBlock2D,
  ResnetDownsampleBlock2D: resnetDownsampleBlock2D,
  SimpleCrossAttnDownBlock2D: simpleCrossAttnDownBlock2D,
  KDownBlock2D: kDownBlock2D,
  KCrossAttnDownBlock2D: kCrossAttnDownBlock2D,
};

/** Blocks on the way up. */
export const upBlocks: Readonly<Record<string, UpBlock>> = {
  UpBlock2D: upBlock2D,
  AttnUpBlock2D: attnUpBlock2D,
  CrossAttnUpBlock2D: crossAttnUpBlock2D,
  ResnetUpsampleBlock2D: resnetUpsampleBlock2D,
  SimpleCrossAttnUpBlock2D: simpleCrossAttnUpBlock2D,
  KUpBlock2D: kUpBlock2D,
  KCrossAttnUpBlock2D: kCrossAttnUpBlock2D,
};

/** Blocks on the way down that take in the picture. */
export const skipDownBlocks: Readonly<Record<string, SkipDownBlock>> = {
  SkipDownBlock2D: skipDownBlock2D,
  AttnSkipDownBlock2D: attnSkipDownBlock2D,
};

/** Blocks on the way up that draw a part of it. */
export const skipUpBlocks: Readonly<Record<string, SkipUpBlock>> = {
  SkipUpBlock2D: skipUpBlock2D,
  AttnSkipUpBlock2D: attnSkipUpBlock2D,
};

/** Blocks in the middle. */
export const midBlocks: Readonly<Record<string, MidBlock>> = {
  UNetMidBlock2D: unetMidBlock2D,
  UNetMidBlock2DCrossAttn: unetMidBlock2DCrossAttn,
  UNetMidBlock2DSimpleCrossAttn: unetMidBlock2DSimpleCrossAttn,
};

/** Blocks of an autoencoder's encoder. */
export const encoderBlocks: Readonly<Record<string, EncoderBlock>> = {
  DownEncoderBlock2D: downEncoderBlock2D,
  AttnDownEncoderBlock2D: attnDownEncoderBlock2D,
};

/** Blocks of an autoencoder's decoder. */
export const decoderBlocks: Readonly<Record<string, EncoderBlock>> = {
  UpDecoderBlock2D: upDecoderBlock2D,
  AttnUpDecoderBlock2D: attnUpDecoderBlock2D,
};

/** A block by its name in a config: the first releases wrote some with the prefix `UNetRes`. */
export function blockNamed<T>(blocks: Readonly<Record<string, T>>, name: string): T | undefined {
  return Object.hasOwn(blocks, blockName(name)) ? blocks[blockName(name)] : undefined;
}

/** The present name of a block. */
export function blockName(name: string): string {
  return name.startsWith("UNetRes") ? name.slice("UNetRes".length) : name;
}

/**
 * Checks a config's list of blocks.
 *
 * @throws UnsupportedModelError naming the class and the field, for a block that is not built (or not for this class).
 */
export function checkBlocks(
  names: readonly string[],
  known: readonly string[],
  className: string,
  field: string,
): void {
  for (const name of names) {
    if (known.includes(blockName(name))) continue;
    throw new UnsupportedModelError(
      `${className} has "${name}" in \`${field}\`, which is not built. Known blocks: ${known.join(", ")}.`,
      { className, field, found: name, expected: known.join(", ") },
    );
  }
}
