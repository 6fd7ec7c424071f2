import { checkOptions, configDefaults, type RandnTensorOptions, type Tensor } from "@diffusers-web/core";
import { checkLength } from "../config_checks.ts";
import type { GraphBuilder } from "../graph/builder.ts";
import { conv2d } from "../layers/conv.ts";
import { mapInput, mapOutput } from "../layers/layout.ts";
import { checkSample } from "../unets/inputs.ts";
import { checkCounts, checkHalf, checkLeast, checkSampleSize } from "./autoencoder_checks.ts";
import { AutoencoderMixin } from "./autoencoder_mixin.ts";
import { decoder } from "./decoder.ts";
import { encoder } from "./encoder.ts";
import { runTiled, tileGrid } from "./tiling.ts";
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

/** Options of {@link AutoencoderKL.decode}. */
export interface DecodeOptions {
  /** Not used, as in Diffusers: decoders that draw noise take it. */
  readonly generator?: RandnTensorOptions["generator"];
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
export class AutoencoderKL extends AutoencoderMixin<AutoencoderKLConfig> {
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

  override use_tiling = false;
  override use_slicing = false;
  /** Height and width of a tile, in pixels. Default: `sample_size` of the config, of a pair the first. */
  tile_sample_min_size: number;
  /** Height and width of a tile's latents. */
  tile_latent_min_size: number;
  /** How much of a tile lies over the next one, as a fraction. Default 0.25. */
  tile_overlap_factor = 0.25;

  /**
   * @throws UnsupportedModelError for a config field whose value is not built, and ValueError for one that is wrong,
   * naming it.
   */
  constructor(config: Partial<AutoencoderKLConfig> = {}) {
    super(config);
    checkConfig(this.config);
    const { sample_size, block_out_channels } = this.config;
    this.tile_sample_min_size = typeof sample_size === "number" ? sample_size : sample_size[0]!;
    this.tile_latent_min_size = Math.trunc(this.tile_sample_min_size / 2 ** (block_out_channels.length - 1));
  }

  /**
   * @param x pictures `[batch, in_channels, height, width]` in -1..1
   * @throws ValueError for another number of channels, or pictures too small to be halved as often as the model does.
   */
  async encode(x: Tensor): Promise<AutoencoderKLOutput> {
    checkSample(x, this.config.in_channels, name, "x");
    const isLarge = Math.max(x.dims[2]!, x.dims[3]!) > this.tile_sample_min_size;
    if (this.use_tiling && isLarge) return this.tiled_encode(x);
    return { latent_dist: new DiagonalGaussianDistribution(await this.encodeWhole(x)) };
  }

  /**
   * @param z latents `[batch, latent_channels, height, width]`, not scaled
   * @throws ValueError for another number of channels.
   */
  async decode(z: Tensor, options: DecodeOptions = {}): Promise<DecoderOutput> {
    checkOptions(`${name}.decode`, options, ["generator"]);
    checkSample(z, this.config.latent_channels, name, "z");
    const isLarge = Math.max(z.dims[2]!, z.dims[3]!) > this.tile_latent_min_size;
    if (this.use_tiling && isLarge) return this.tiled_decode(z);
    return { sample: await this.decodeWhole(z) };
  }

  /**
   * Encodes pictures in overlapping tiles, blended together: what {@link AutoencoderKL.encode} does with large ones after
   * `enable_tiling()`.
   *
   * @throws ValueError when the tiles' fields fit nothing, or a tile at the border is too small to be encoded.
   */
  async tiled_encode(x: Tensor): Promise<AutoencoderKLOutput> {
    checkSample(x, this.config.in_channels, name, "x");
    const grid = tileGrid(name, this, "sample");
    checkLeast(name, x, this.config.block_out_channels, grid);
    const moments = await runTiled(x, grid, (tile) => this.encodeWhole(tile));
    return { latent_dist: new DiagonalGaussianDistribution(moments) };
  }

  /**
   * Decodes latents in overlapping tiles, blended together: what {@link AutoencoderKL.decode} does with large ones after
   * `enable_tiling()`.
   *
   * @throws ValueError when the tiles' fields fit nothing.
   */
  async tiled_decode(z: Tensor): Promise<DecoderOutput> {
    checkSample(z, this.config.latent_channels, name, "z");
    const grid = tileGrid(name, this, "latent");
    return { sample: await runTiled(z, grid, (tile) => this.decodeWhole(tile)) };
  }

  /** Encodes and decodes. @param sample pictures `[batch, in_channels, height, width]` in -1..1 */
  override async forward(sample: Tensor, options: AutoencoderKLOptions = {}): Promise<DecoderOutput> {
    checkOptions(name, options, ["sample_posterior", "generator"]);
    const { latent_dist } = await this.encode(sample);
    return this.decode(options.sample_posterior ? latent_dist.sample(options.generator) : latent_dist.mode());
  }

  private encodeWhole(pictures: Tensor): Promise<Tensor> {
    checkLeast(name, pictures, this.config.block_out_channels);
    return this.sliced(pictures, async (x) => {
      const session = await this.session("encode", x.dims, (g) => this.buildEncoder(g, x.dims));
      return (await session.run({ x }))["moments"]!;
    });
  }

  private decodeWhole(latents: Tensor): Promise<Tensor> {
    return this.sliced(latents, async (z) => {
      const session = await this.session("decode", z.dims, (g) => this.buildDecoder(g, z.dims));
      return (await session.run({ z }))["sample"]!;
    });
  }

  protected override check(build: (emit: (g: GraphBuilder) => void) => void): void {
    const { in_channels, latent_channels, block_out_channels } = this.config;
    const size = 2 ** (block_out_channels.length - 1);
    build((g) => this.buildEncoder(g, [1, in_channels, size, size]));
    build((g) => this.buildDecoder(g, [1, latent_channels, 1, 1]));
  }

  private buildEncoder(g: GraphBuilder, dims: readonly number[]): void {
    const { latent_channels, force_upcast, use_quant_conv } = this.config;
    if (force_upcast) g.upcast();
    const options = { ...this.config, out_channels: latent_channels, double_z: true };
    let moments = encoder(g, mapInput(g, "x", dims), "encoder", options);
    if (use_quant_conv) moments = conv2d(g, moments, "quant_conv", 2 * latent_channels, { kernel: 1 });
    mapOutput(g, "moments", moments);
  }

  private buildDecoder(g: GraphBuilder, dims: readonly number[]): void {
    const { latent_channels, force_upcast, use_post_quant_conv } = this.config;
    if (force_upcast) g.upcast();
    let z = mapInput(g, "z", dims);
    if (use_post_quant_conv) z = conv2d(g, z, "post_quant_conv", latent_channels, { kernel: 1 });
    mapOutput(g, "sample", decoder(g, z, "decoder", this.config));
  }
}

function checkConfig(config: Readonly<AutoencoderKLConfig>): void {
  const shared = {
    channels: "block_out_channels",
    layers: "layers_per_block",
    act: "act_fn",
    groups: "norm_num_groups",
  };
  if (Array.isArray(config.up_block_types) && Array.isArray(config.down_block_types)) {
    checkLength(name, "up_block_types", config.up_block_types, config.down_block_types);
  }
  checkHalf(name, config, "encoder", { ...shared, blocks: "down_block_types" });
  checkHalf(name, config, "decoder", { ...shared, blocks: "up_block_types" });
  checkCounts(name, config, ["in_channels", "out_channels", "latent_channels"]);
  checkSampleSize(name, config.sample_size);
}
