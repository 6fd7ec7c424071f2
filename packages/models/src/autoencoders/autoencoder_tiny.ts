import { checkOptions, configDefaults, float, Tensor, ValueError } from "@diffusers-web/core";
import { checkValue } from "../config_checks.ts";
import type { GraphBuilder } from "../graph/builder.ts";
import { checkActivation } from "../layers/activations.ts";
import { mapInput, mapOutput } from "../layers/layout.ts";
import { checkSample } from "../unets/inputs.ts";
import { checkCounts } from "./autoencoder_checks.ts";
import type { DecodeOptions, DecoderOutput } from "./autoencoder_kl.ts";
import { AutoencoderMixin } from "./autoencoder_mixin.ts";
import { decoderTiny, encoderTiny } from "./coders_tiny.ts";
import { runTilesMasked } from "./tiling_masked.ts";

/** The config of an {@link AutoencoderTiny}: the arguments of Diffusers' `__init__`, under their names. */
export interface AutoencoderTinyConfig {
  in_channels: number;
  out_channels: number;
  /** One for each stage; all the same, since no layer changes them. */
  encoder_block_out_channels: readonly number[];
  decoder_block_out_channels: readonly number[];
  /** silu, swish, mish, gelu or relu. */
  act_fn: string;
  /** nearest */
  upsample_fn: string;
  latent_channels: number;
  upsampling_scaling_factor: number;
  /** Blocks per stage; each stage but the first halves the size. */
  num_encoder_blocks: readonly number[];
  /** Blocks per stage; each stage but the last enlarges. */
  num_decoder_blocks: readonly number[];
  /** Latents lie within plus and minus this, for {@link AutoencoderTiny.scale_latents}. */
  latent_magnitude: number;
  latent_shift: number;
  /** Always false, as in Diffusers: what is given is not heeded. */
  force_upcast: boolean;
  /** What pipelines multiply latents with. */
  scaling_factor: number;
  /** What some pipelines subtract from latents before. */
  shift_factor: number;
  /** Always `decoder_block_out_channels`: pipelines count its entries. */
  block_out_channels: readonly number[];
}

/** What {@link AutoencoderTiny.encode} gives. */
export interface AutoencoderTinyOutput {
  /** `[batch, latent_channels, height / 8, width / 8]` with the usual four stages */
  readonly latents: Tensor;
}

export interface AutoencoderTiny {
  /** {@link AutoencoderTiny.forward} */
  (sample: Tensor): Promise<DecoderOutput>;
}

const name = "AutoencoderTiny";

/**
 * A small autoencoder that stands in for another one, for previews and for small machines.
 *
 * @see Diffusers `AutoencoderTiny`, TAESD
 */
export class AutoencoderTiny extends AutoencoderMixin<AutoencoderTinyConfig> {
  static override readonly name: string = "AutoencoderTiny";
  static override readonly config_defaults: AutoencoderTinyConfig = configDefaults<AutoencoderTinyConfig>({
    in_channels: 3,
    out_channels: 3,
    encoder_block_out_channels: [64, 64, 64, 64],
    decoder_block_out_channels: [64, 64, 64, 64],
    act_fn: "relu",
    upsample_fn: "nearest",
    latent_channels: 4,
    upsampling_scaling_factor: 2,
    num_encoder_blocks: [1, 3, 3, 3],
    num_decoder_blocks: [3, 3, 3, 1],
    latent_magnitude: 3,
    latent_shift: 0.5,
    force_upcast: false,
    scaling_factor: float(1),
    shift_factor: float(0),
    block_out_channels: [64, 64, 64, 64],
  });

  override use_tiling = false;
  override use_slicing = false;
  /** How much smaller latents are than pictures, for tiling: two to the power of `out_channels`, as in Diffusers. */
  spatial_scale_factor: number;
  /** Height and width of a tile, in pixels. */
  tile_sample_min_size = 512;
  /** Height and width of a tile's latents. */
  tile_latent_min_size: number;
  /** How much of a tile lies over the next one, as a fraction. Default 0.125. */
  tile_overlap_factor = 0.125;

  /**
   * @throws UnsupportedModelError for a config field whose value is not built, and ValueError for one that is wrong,
   * naming it.
   */
  constructor(config: Partial<AutoencoderTinyConfig> = {}) {
    super(config);
    checkConfig(this.config);
    this.register_to_config({
      block_out_channels: [...this.config.decoder_block_out_channels],
      force_upcast: false,
    });
    this.spatial_scale_factor = 2 ** this.config.out_channels;
    this.tile_latent_min_size = Math.floor(this.tile_sample_min_size / this.spatial_scale_factor);
  }

  /** Latents mapped to 0..1. @param x latents of any dims */
  scale_latents(x: Tensor): Tensor {
    const { latent_magnitude, latent_shift } = this.config;
    return x
      .div(2 * latent_magnitude)
      .add(latent_shift)
      .clamp(0, 1);
  }

  /** The reverse of {@link AutoencoderTiny.scale_latents}. */
  unscale_latents(x: Tensor): Tensor {
    const { latent_magnitude, latent_shift } = this.config;
    return x.sub(latent_shift).mul(2 * latent_magnitude);
  }

  /**
   * @param x pictures `[batch, in_channels, height, width]` in -1..1
   * @throws ValueError for another number of channels, or tiles that fit nothing.
   */
  async encode(x: Tensor): Promise<AutoencoderTinyOutput> {
    checkSample(x, this.config.in_channels, name, "x");
    const whole = async (sample: Tensor): Promise<Tensor> => {
      const session = await this.session("encode", sample.dims, (g) => this.buildEncoder(g, sample.dims));
      return (await session.run({ x: sample }))["latents"]!;
    };
    const factor = 1 / this.spatial_scale_factor;
    return { latents: await this.sliced(x, (one) => this.tiled(one, this.tile_sample_min_size, factor, whole)) };
  }

  /**
   * @param x latents `[batch, latent_channels, height, width]`, not scaled
   * @throws ValueError for another number of channels, or tiles that fit nothing.
   */
  async decode(x: Tensor, options: DecodeOptions = {}): Promise<DecoderOutput> {
    checkOptions(`${name}.decode`, options, ["generator"]);
    checkSample(x, this.config.latent_channels, name, "x");
    const whole = async (latents: Tensor): Promise<Tensor> => {
      const session = await this.session("decode", latents.dims, (g) => this.buildDecoder(g, latents.dims));
      return (await session.run({ x: latents }))["sample"]!;
    };
    const factor = this.spatial_scale_factor;
    return { sample: await this.sliced(x, (one) => this.tiled(one, this.tile_latent_min_size, factor, whole)) };
  }

  /**
   * Encodes and decodes, with latents rounded to bytes in between, as a picture file would hold them.
   *
   * @param sample pictures `[batch, in_channels, height, width]` in -1..1
   */
  override async forward(sample: Tensor): Promise<DecoderOutput> {
    const scaled = this.scale_latents((await this.encode(sample)).latents).mul(255);
    const bytes = new Tensor("float32", Float32Array.from(scaled.data, roundHalfToEven), scaled.dims);
    return this.decode(this.unscale_latents(bytes.div(255)));
  }

  private tiled(x: Tensor, size: number, scale: number, run: (x: Tensor) => Promise<Tensor>): Promise<Tensor> {
    return this.use_tiling ? runTilesMasked(name, x, { size, scale, overlap: this.tile_overlap_factor }, run) : run(x);
  }

  protected override check(build: (emit: (g: GraphBuilder) => void) => void): void {
    const { in_channels, latent_channels } = this.config;
    build((g) => this.buildEncoder(g, [1, in_channels, 1, 1]));
    build((g) => this.buildDecoder(g, [1, latent_channels, 1, 1]));
  }

  private buildEncoder(g: GraphBuilder, dims: readonly number[]): void {
    const { encoder_block_out_channels, num_encoder_blocks, latent_channels, act_fn } = this.config;
    const options = {
      block_out_channels: encoder_block_out_channels,
      num_blocks: num_encoder_blocks,
      out_channels: latent_channels,
      act_fn,
    };
    mapOutput(g, "latents", encoderTiny(g, mapInput(g, "x", dims), "encoder", options));
  }

  private buildDecoder(g: GraphBuilder, dims: readonly number[]): void {
    const { decoder_block_out_channels, num_decoder_blocks } = this.config;
    const options = {
      ...this.config,
      block_out_channels: decoder_block_out_channels,
      num_blocks: num_decoder_blocks,
    };
    mapOutput(g, "sample", decoderTiny(g, mapInput(g, "x", dims), "decoder", options));
  }
}

/** As torch rounds. */
function roundHalfToEven(x: number): number {
  const floor = Math.floor(x);
  const isHalf = x - floor === 0.5;
  return isHalf ? floor + (floor % 2) : Math.round(x);
}

function checkConfig(config: Readonly<AutoencoderTinyConfig>): void {
  checkActivation(config.act_fn, name, "act_fn");
  checkValue(name, "upsample_fn", config.upsample_fn, ["nearest"]);
  checkCounts(name, config, ["in_channels", "out_channels", "latent_channels", "upsampling_scaling_factor"]);
  for (const half of ["encoder", "decoder"] as const) {
    const field = `${half}_block_out_channels` as const;
    const channels = config[field];
    const blocks = config[`num_${half}_blocks`];
    if (channels.length !== blocks.length || blocks.length === 0) {
      const found = `${channels.length} and ${blocks.length} entries`;
      throw new ValueError(`${name} needs \`${field}\` as long as \`num_${half}_blocks\`, but they have ${found}.`, {
        className: name,
        field,
        found,
        expected: "an entry for each stage",
      });
    }
    if (channels.every((count) => count === channels[0])) continue;
    throw new ValueError(
      `${name} has no layer that changes the channels between stages: \`${field}\` has to hold one number over and over, ` +
        `but is [${channels}].`,
      { className: name, field, found: `[${channels}]`, expected: "the same number for each stage" },
    );
  }
}
