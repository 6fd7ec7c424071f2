import { checkOptions, configDefaults, type RandnTensorOptions, type Tensor, ValueError } from "@diffusers-web/core";
import { checkLength, checkValue } from "../config_checks.ts";
import type { GraphBuilder } from "../graph/builder.ts";
import { checkActivation } from "../layers/activations.ts";
import { conv2d } from "../layers/conv.ts";
import { type FeatureMap, mapInput, mapOutput } from "../layers/layout.ts";
import { groupNorm } from "../layers/norm.ts";
import type { ResnetOptions } from "../layers/resnet.ts";
import { ModelMixin } from "../modeling_utils.ts";
import { blockNamed, checkBlocks, decoderBlocks, encoderBlocks } from "../unets/blocks/index.ts";
import { unetMidBlock2D } from "../unets/blocks/unet_mid_block_2d.ts";
import { checkSample } from "../unets/inputs.ts";
import { DiagonalGaussianDistribution } from "./vae.ts";

/** The config of an {@link AutoencoderKL}: the arguments of Diffusers' `__init__`, under their names. */
export interface AutoencoderKLConfig {
  in_channels: number;
  out_channels: number;
  /** DownEncoderBlock2D or AttnDownEncoderBlock2D each. */
  down_block_types: readonly string[];
  /** UpDecoderBlock2D or AttnUpDecoderBlock2D each. */
  up_block_types: readonly string[];
  block_out_channels: readonly number[];
  layers_per_block: number;
  /** silu, swish, mish, gelu or relu. */
  act_fn: string;
  latent_channels: number;
  norm_num_groups: number;
  /** Height and width of the pictures the model was trained on. */
  sample_size: number | readonly number[];
  /** What pipelines multiply latents with. */
  scaling_factor: number;
  /** What some pipelines subtract from latents before. */
  shift_factor: number | null;
  latents_mean: readonly number[] | null;
  latents_std: readonly number[] | null;
  /** Whether the model runs in float32 on a float16 device, where it would overflow. */
  force_upcast: boolean;
  use_quant_conv: boolean;
  use_post_quant_conv: boolean;
  mid_block_add_attention: boolean;
}

/** What {@link AutoencoderKL.encode} gives. */
export interface AutoencoderKLOutput {
  readonly latent_dist: DiagonalGaussianDistribution;
}

/** What {@link AutoencoderKL.decode} gives. */
export interface DecoderOutput {
  /** Pictures `[batch, out_channels, height, width]` in -1..1 */
  readonly sample: Tensor;
}

/** Options of {@link AutoencoderKL.forward}. */
export interface AutoencoderKLOptions {
  /** Whether to decode a random value of the distribution in place of its mode. Default false. */
  readonly sample_posterior?: boolean | undefined;
  /** Where its noise comes from. */
  readonly generator?: RandnTensorOptions["generator"];
}

export interface AutoencoderKL {
  /** {@link AutoencoderKL.forward} */
  (sample: Tensor, options?: AutoencoderKLOptions): Promise<DecoderOutput>;
}

const name = "AutoencoderKL";

/**
 * Maps pictures to the latents that a diffusion model works on, and back.
 *
 * @see Diffusers `AutoencoderKL`
 */
export class AutoencoderKL extends ModelMixin<AutoencoderKLConfig> {
  static override readonly name: string = "AutoencoderKL";
  static override readonly config_defaults: AutoencoderKLConfig = configDefaults<AutoencoderKLConfig>({
    in_channels: 3,
    out_channels: 3,
    down_block_types: ["DownEncoderBlock2D"],
    up_block_types: ["UpDecoderBlock2D"],
    block_out_channels: [64],
    layers_per_block: 1,
    act_fn: "silu",
    latent_channels: 4,
    norm_num_groups: 32,
    sample_size: 32,
    scaling_factor: 0.18215,
    shift_factor: null,
    latents_mean: null,
    latents_std: null,
    force_upcast: true,
    use_quant_conv: true,
    use_post_quant_conv: true,
    mid_block_add_attention: true,
  });

  /** @throws UnsupportedModelError for a config field whose value is not built, naming it. */
  constructor(config: Partial<AutoencoderKLConfig> = {}) {
    super(config);
    checkConfig(this.config);
  }

  /**
   * @param x pictures `[batch, in_channels, height, width]` in -1..1
   * @throws ValueError for another number of channels, or pictures too small to be halved as often as the model does.
   */
  async encode(x: Tensor): Promise<AutoencoderKLOutput> {
    checkSample(x, this.config.in_channels, name, "x");
    this.checkSize(x);
    const session = await this.session("encode", x.dims, (g) => this.buildEncoder(g, x.dims));
    const { moments } = await session.run({ x });
    return { latent_dist: new DiagonalGaussianDistribution(moments!) };
  }

  /**
   * @param z latents `[batch, latent_channels, height, width]`, not scaled
   * @throws ValueError for another number of channels.
   */
  async decode(z: Tensor): Promise<DecoderOutput> {
    checkSample(z, this.config.latent_channels, name, "z");
    const session = await this.session("decode", z.dims, (g) => this.buildDecoder(g, z.dims));
    const { sample } = await session.run({ z });
    return { sample: sample! };
  }

  /** Encodes and decodes. @param sample pictures `[batch, in_channels, height, width]` in -1..1 */
  override async forward(sample: Tensor, options: AutoencoderKLOptions = {}): Promise<DecoderOutput> {
    checkOptions(name, options, ["sample_posterior", "generator"]);
    const { latent_dist } = await this.encode(sample);
    return this.decode(options.sample_posterior ? latent_dist.sample(options.generator) : latent_dist.mode());
  }

  protected override check(build: (emit: (g: GraphBuilder) => void) => void): void {
    const { in_channels, latent_channels, block_out_channels } = this.config;
    const size = 2 ** (block_out_channels.length - 1);
    build((g) => this.buildEncoder(g, [1, in_channels, size, size]));
    build((g) => this.buildDecoder(g, [1, latent_channels, 1, 1]));
  }

  private buildEncoder(g: GraphBuilder, dims: readonly number[]): void {
    const { block_out_channels: channels, latent_channels, use_quant_conv, layers_per_block: layers } = this.config;
    const last = channels.length - 1;
    if (this.config.force_upcast) g.upcast();
    let x = conv2d(g, mapInput(g, "x", dims), "encoder.conv_in", channels[0]!);
    this.config.down_block_types.forEach((type, i) => {
      const options = { layers, out: channels[i]!, resnet: this.resnet, resample: i < last };
      x = blockNamed(encoderBlocks, type)!(g, x, `encoder.down_blocks.${i}`, options);
    });
    x = this.midBlock(g, x, "encoder.mid_block");
    x = groupNorm(g, x, "encoder.conv_norm_out", { ...this.resnet, activation: "silu" });
    x = conv2d(g, x, "encoder.conv_out", 2 * latent_channels);
    if (use_quant_conv) x = conv2d(g, x, "quant_conv", 2 * latent_channels, { kernel: 1 });
    mapOutput(g, "moments", x);
  }

  private buildDecoder(g: GraphBuilder, dims: readonly number[]): void {
    const { block_out_channels, latent_channels, out_channels, use_post_quant_conv, layers_per_block } = this.config;
    const channels = [...block_out_channels].reverse();
    const last = channels.length - 1;
    if (this.config.force_upcast) g.upcast();
    let z = mapInput(g, "z", dims);
    if (use_post_quant_conv) z = conv2d(g, z, "post_quant_conv", latent_channels, { kernel: 1 });
    let x = conv2d(g, z, "decoder.conv_in", channels[0]!);
    x = this.midBlock(g, x, "decoder.mid_block");
    this.config.up_block_types.forEach((type, i) => {
      const options = { layers: layers_per_block + 1, out: channels[i]!, resnet: this.resnet, resample: i < last };
      x = blockNamed(decoderBlocks, type)!(g, x, `decoder.up_blocks.${i}`, options);
    });
    x = groupNorm(g, x, "decoder.conv_norm_out", { ...this.resnet, activation: "silu" });
    mapOutput(g, "sample", conv2d(g, x, "decoder.conv_out", out_channels));
  }

  private midBlock(g: GraphBuilder, x: FeatureMap, blockName: string): FeatureMap {
    return unetMidBlock2D(g, x, blockName, {
      layers: 1,
      out: x.channels,
      temb: null,
      resnet: this.resnet,
      attentionHeadDim: null,
      attentionGroups: this.config.norm_num_groups,
      addAttention: this.config.mid_block_add_attention,
    });
  }

  private get resnet(): ResnetOptions {
    return { groups: this.config.norm_num_groups, eps: 1e-6, act: this.config.act_fn, timeScaleShift: "default" };
  }

  private checkSize(x: Tensor): void {
    const least = 2 ** (this.config.block_out_channels.length - 1);
    if (x.dims[2]! >= least && x.dims[3]! >= least) return;
    throw new ValueError(`${name} encodes pictures of at least ${least}x${least}, but got [${x.dims}].`, {
      className: name,
      field: "x",
      found: `[${x.dims}]`,
      expected: `height and width of at least ${least}`,
    });
  }
}

function checkConfig(config: Readonly<AutoencoderKLConfig>): void {
  checkBlocks(config.down_block_types, Object.keys(encoderBlocks), name, "down_block_types");
  checkBlocks(config.up_block_types, Object.keys(decoderBlocks), name, "up_block_types");
  checkLength(name, "up_block_types", config.up_block_types, config.down_block_types);
  checkLength(name, "block_out_channels", config.block_out_channels, config.down_block_types);
  checkActivation(config.act_fn, name, "act_fn");
  if (config.norm_num_groups === null) checkValue(name, "norm_num_groups", null, ["a number"]);
}
