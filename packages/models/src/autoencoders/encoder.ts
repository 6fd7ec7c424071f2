import type { GraphBuilder } from "../graph/builder.ts";
import { conv2d } from "../layers/conv.ts";
import type { FeatureMap } from "../layers/layout.ts";
import { groupNorm } from "../layers/norm.ts";
import type { ResnetOptions } from "../layers/resnet.ts";
import { blockNamed, encoderBlocks } from "../unets/blocks/index.ts";
import { unetMidBlock2D } from "../unets/blocks/unet_mid_block_2d.ts";

/** Options of {@link encoder}: the arguments of Diffusers' `Encoder`. */
export interface EncoderOptions {
  readonly out_channels: number;
  readonly down_block_types: readonly string[];
  readonly block_out_channels: readonly number[];
  readonly layers_per_block: number;
  readonly norm_num_groups: number;
  readonly act_fn: string;
  /** Whether there are twice as many output channels: a mean and a variance for each. */
  readonly double_z: boolean;
  /** Default true. */
  readonly mid_block_add_attention?: boolean;
}

/** From a picture to a latent representation. @see Diffusers `Encoder` */
export function encoder(g: GraphBuilder, sample: FeatureMap, name: string, options: EncoderOptions): FeatureMap {
  const { block_out_channels: channels, norm_num_groups: groups } = options;
  const resnet: ResnetOptions = { groups, eps: 1e-6, act: options.act_fn, timeScaleShift: "default" };
  const last = channels.length - 1;

  let x = conv2d(g, sample, `${name}.conv_in`, channels[0]!);

  // down
  options.down_block_types.forEach((type, i) => {
    const block = { layers: options.layers_per_block, out: channels[i]!, resnet, resample: i < last };
    x = blockNamed(encoderBlocks, type)!(g, x, `${name}.down_blocks.${i}`, block);
  });

  // middle
  x = unetMidBlock2D(g, x, `${name}.mid_block`, {
    layers: 1,
    out: x.channels,
    temb: null,
    resnet,
    attentionHeadDim: null,
    attentionGroups: groups,
    addAttention: options.mid_block_add_attention ?? true,
  });

  // post-process: the activation is SiLU, whatever `act_fn` is
  x = groupNorm(g, x, `${name}.conv_norm_out`, { groups, eps: 1e-6, activation: "silu" });
  return conv2d(g, x, `${name}.conv_out`, options.double_z ? 2 * options.out_channels : options.out_channels);
}
