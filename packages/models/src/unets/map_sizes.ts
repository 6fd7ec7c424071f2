import { blockName } from "./blocks/index.ts";
import type { UNet2DConditionModelConfig } from "./unet_2d_condition_config.ts";

/**
 * The heights and widths of a UNet's feature maps, level by level, for a sample of the given size. The way up reaches the
 * same ones.
 */
export function mapSizes(
  config: Readonly<Pick<UNet2DConditionModelConfig, "conv_in_kernel" | "down_block_types" | "downsample_padding">>,
  height: number,
  width: number,
): [height: number, width: number][] {
  const { conv_in_kernel: kernel, down_block_types: blocks, downsample_padding: padding } = config;
  // A convolution with an even kernel takes one off.
  const first = (size: number): number => size + 2 * Math.floor((kernel - 1) / 2) - (kernel - 1);
  let size: [number, number] = [first(height), first(width)];
  return blocks.map((_, i) => {
    if (i > 0) {
      const isPooled = blockName(blocks[i - 1]!).startsWith("Resnet");
      const pads = padding === 0 ? 1 : 2 * padding;
      const next = (from: number): number => (isPooled ? Math.floor(from / 2) : Math.floor((from + pads - 3) / 2) + 1);
      size = [next(size[0]), next(size[1])];
    }
    return size;
  });
}
