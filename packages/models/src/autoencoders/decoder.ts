import type { GraphBuilder } from "../graph/builder.ts";
import { conv2d } from "../layers/conv.ts";
import type { FeatureMap } from "../layers/layout.ts";
import { groupNorm } from "../layers/norm.ts";
import type { ResnetOptions } from "../layers/resnet.ts";
import { spatialNorm } from "../layers/spatial_norm.ts";
import { blockNamed, decoderBlocks } from "../unets/blocks/index.ts";
import { unetMidBlock2D } from "../unets/blocks/unet_mid_block_2d.ts";

/** Options of {@link decoder}: the arguments of Diffusers' `Decoder`. */
export interface DecoderOptions {
  readonly out_channels: number;
  readonly up_block_types: readonly string[];
  readonly block_out_channels: readonly number[];
  readonly layers_per_block: number;
  readonly norm_num_groups: number;
  readonly act_fn: string;
  /** Default true. */
  readonly mid_block_add_attention?: boolean;
  /** The quantised latents, where the normalisations look at them (`norm_type: "spatial"`). */
  readonly spatial?: FeatureMap | undefined;
  /** What is done before each block on the way up, and after the last of them. */
  readonly condition?: (x: FeatureMap) => FeatureMap;
}

/** From a latent representation to a picture. @see Diffusers `Decoder` */
export function decoder(g: GraphBuilder, sample: FeatureMap, name: string, options: DecoderOptions): FeatureMap {
  const { norm_num_groups: groups, spatial, condition = (x) => x } = options;
  const channels = [...options.block_out_channels].reverse();
  const resnet: ResnetOptions = {
    ...{ groups, eps: 1e-6, act: options.act_fn, timeScaleShift: "default" },
    ...(spatial === undefined ? {} : { spatial }),
  };
  const last = channels.length - 1;

  let x = conv2d(g, sample, `${name}.conv_in`, channels[0]!);

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

  // up
  options.up_block_types.forEach((type, i) => {
    const block = { layers: options.layers_per_block + 1, out: channels[i]!, resnet, resample: i < last };
    x = blockNamed(decoderBlocks, type)!(g, condition(x), `${name}.up_blocks.${i}`, block);
  });

  x = condition(x);

  // post-process: the activation is SiLU, whatever `act_fn` is
  x =
    spatial === undefined
      ? groupNorm(g, x, `${name}.conv_norm_out`, { groups, eps: 1e-6, activation: "silu" })
      : spatialNorm(g, x, spatial, `${name}.conv_norm_out`, "silu");
  return conv2d(g, x, `${name}.conv_out`, options.out_channels);
}
