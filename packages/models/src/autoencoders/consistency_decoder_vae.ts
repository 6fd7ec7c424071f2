import {
  checkOptions,
  configDefaults,
  DDPMScheduler,
  type RandnTensorOptions,
  randn_tensor,
  Tensor,
  ValueError,
} from "@diffusers-web/core";
import { checkValue } from "../config_checks.ts";
import type { GraphBuilder } from "../graph/builder.ts";
import { conv2d } from "../layers/conv.ts";
import { mapInput, mapOutput } from "../layers/layout.ts";
import { checkSample } from "../unets/inputs.ts";
import type { UNet2DModelConfig } from "../unets/unet_2d_config.ts";
import { checkCounts, checkHalf, checkLeast, checkSampleSize } from "./autoencoder_checks.ts";
import type { AutoencoderKLOptions, AutoencoderKLOutput, DecoderOutput } from "./autoencoder_kl.ts";
import { AutoencoderMixin } from "./autoencoder_mixin.ts";
import { ConsistencyDecoderUNet } from "./consistency_decoder_unet.ts";
import { encoder } from "./encoder.ts";
import { runTiled, tileGrid } from "./tiling.ts";
import { DiagonalGaussianDistribution } from "./vae.ts";

/** The config of a {@link ConsistencyDecoderVAE}: the arguments of Diffusers' `__init__`, under their names. */
export interface ConsistencyDecoderVAEConfig {
  /** What latents are multiplied with. */
  scaling_factor: number;
  latent_channels: number;
  /** Height and width of the pictures the model was trained on. */
  sample_size: number | readonly number[];
  /** silu, swish, mish, gelu or relu. */
  encoder_act_fn: string;
  encoder_block_out_channels: readonly number[];
  /** Whether the encoder's last layer has twice as many channels as `encoder_out_channels`. */
  encoder_double_z: boolean;
  /** DownEncoderBlock2D or AttnDownEncoderBlock2D each. */
  encoder_down_block_types: readonly string[];
  encoder_in_channels: number;
  encoder_layers_per_block: number;
  encoder_norm_num_groups: number;
  encoder_out_channels: number;
  decoder_add_attention: boolean;
  decoder_block_out_channels: readonly number[];
  /** What a UNet2DModel has, as the rest of the decoder's fields. */
  decoder_down_block_types: readonly string[];
  decoder_downsample_padding: number;
  /** 7: a picture, and latents. */
  decoder_in_channels: number;
  decoder_layers_per_block: number;
  decoder_norm_eps: number;
  decoder_norm_num_groups: number;
  decoder_num_train_timesteps: number;
  /** Of which the first 3 are used. */
  decoder_out_channels: number;
  decoder_resnet_time_scale_shift: string;
  decoder_time_embedding_type: string;
  decoder_up_block_types: readonly string[];
  /** `encoder_block_out_channels`, under the name that pipelines look for; not to be set. */
  block_out_channels: readonly number[];
  /** false: not to be set. */
  force_upcast: boolean;
}

/** Options of {@link ConsistencyDecoderVAE.decode}. */
export interface ConsistencyDecodeOptions {
  /** Where the noise that pictures are made of comes from; a list has one for each batch item. Default: a random seed. */
  readonly generator?: RandnTensorOptions["generator"];
  /** 2, the only number there is. */
  readonly num_inference_steps?: number | undefined;
}

export interface ConsistencyDecoderVAE {
  /** {@link ConsistencyDecoderVAE.forward} */
  (sample: Tensor, options?: AutoencoderKLOptions): Promise<DecoderOutput>;
}

/** What a config file gives. */
type Given = Omit<ConsistencyDecoderVAEConfig, "block_out_channels" | "force_upcast">;

const name = "ConsistencyDecoderVAE";
// Of the latents of Stable Diffusion 1, which the decoder was trained on.
const means = new Tensor("float32", [0.38862467, 0.02253063, 0.07381133, -0.0171294], [1, 4, 1, 1]);
const stds = new Tensor("float32", [0.9654121, 1.0440036, 0.76147926, 0.77022034], [1, 4, 1, 1]);

/**
 * An autoencoder whose decoder draws: two steps of a consistency model, given the latents.
 *
 * @see Diffusers `ConsistencyDecoderVAE`, DALL-E 3's decoder
 */
export class ConsistencyDecoderVAE extends AutoencoderMixin<ConsistencyDecoderVAEConfig> {
  static override readonly name: string = "ConsistencyDecoderVAE";
  static override readonly config_defaults: Given = configDefaults<Given>({
    scaling_factor: 0.18215,
    latent_channels: 4,
    sample_size: 32,
    encoder_act_fn: "silu",
    encoder_block_out_channels: [128, 256, 512, 512],
    encoder_double_z: true,
    encoder_down_block_types: new Array<string>(4).fill("DownEncoderBlock2D"),
    encoder_in_channels: 3,
    encoder_layers_per_block: 2,
    encoder_norm_num_groups: 32,
    encoder_out_channels: 4,
    decoder_add_attention: false,
    decoder_block_out_channels: [320, 640, 1024, 1024],
    decoder_down_block_types: new Array<string>(4).fill("ResnetDownsampleBlock2D"),
    decoder_downsample_padding: 1,
    decoder_in_channels: 7,
    decoder_layers_per_block: 3,
    decoder_norm_eps: 1e-5,
    decoder_norm_num_groups: 32,
    decoder_num_train_timesteps: 1024,
    decoder_out_channels: 6,
    decoder_resnet_time_scale_shift: "scale_shift",
    decoder_time_embedding_type: "learned",
    decoder_up_block_types: new Array<string>(4).fill("ResnetUpsampleBlock2D"),
  });
  /** What Diffusers adds to the config, and so to its file. */
  static override readonly compatible_fields: readonly string[] = ["block_out_channels", "force_upcast"];

  override use_tiling = false;
  override use_slicing = false;
  /** Height and width of a tile, in pixels; only encoding tiles. Default: `sample_size` of the config, of a pair the first. */
  tile_sample_min_size: number;
  /** Height and width of a tile's latents. */
  tile_latent_min_size: number;
  /** How much of a tile lies over the next one, as a fraction. Default 0.25. */
  tile_overlap_factor = 0.25;
  private readonly decoderUNet: ConsistencyDecoderUNet;

  /**
   * @throws UnsupportedModelError for a config field whose value is not built, and ValueError for one that is wrong,
   * naming it.
   */
  constructor(config: Partial<ConsistencyDecoderVAEConfig> = {}) {
    super(config);
    checkConfig(this.config);
    const { sample_size, encoder_block_out_channels } = this.config;
    this.decoderUNet = new ConsistencyDecoderUNet(name, unetConfig(this.config), (_, dims, build) =>
      this.session("decode", dims, build),
    );
    this.tile_sample_min_size = typeof sample_size === "number" ? sample_size : sample_size[0]!;
    this.tile_latent_min_size = Math.trunc(this.tile_sample_min_size / 2 ** (encoder_block_out_channels.length - 1));
    this.register_to_config({ block_out_channels: [...encoder_block_out_channels], force_upcast: false });
  }

  /**
   * @param x pictures `[batch, encoder_in_channels, height, width]` in -1..1
   * @throws ValueError for another number of channels, or pictures too small to be halved as often as the model does.
   */
  async encode(x: Tensor): Promise<AutoencoderKLOutput> {
    checkSample(x, this.config.encoder_in_channels, name, "x");
    const isLarge = Math.max(x.dims[2]!, x.dims[3]!) > this.tile_sample_min_size;
    if (this.use_tiling && isLarge) return this.tiled_encode(x);
    return { latent_dist: new DiagonalGaussianDistribution(await this.encodeWhole(x)) };
  }

  /**
   * Encodes pictures in overlapping tiles, blended together.
   *
   * @throws ValueError when the tiles' fields fit nothing, or a tile at the border is too small to be encoded.
   */
  async tiled_encode(x: Tensor): Promise<AutoencoderKLOutput> {
    checkSample(x, this.config.encoder_in_channels, name, "x");
    const grid = tileGrid(name, this, "sample");
    checkLeast(name, x, this.config.encoder_block_out_channels, grid);
    const moments = await runTiled(x, grid, (tile) => this.encodeWhole(tile));
    return { latent_dist: new DiagonalGaussianDistribution(moments) };
  }

  /**
   * Draws pictures of three channels from latents.
   *
   * @param latents `[batch, latent_channels, height, width]`, not scaled
   * @throws ValueError for another number of channels or of steps, or a size that does not survive the decoder.
   */
  async decode(latents: Tensor, options: ConsistencyDecodeOptions = {}): Promise<DecoderOutput> {
    checkOptions(`${name}.decode`, options, ["generator", "num_inference_steps"]);
    checkSample(latents, this.config.latent_channels, name, "z");
    const { generator, num_inference_steps = 2 } = options;
    if (num_inference_steps !== 2) {
      throw new ValueError(`${name} decodes in 2 steps, but \`num_inference_steps\` is ${num_inference_steps}.`, {
        className: name,
        field: "num_inference_steps",
        found: String(num_inference_steps),
        expected: "2",
      });
    }
    const { scaling_factor, encoder_block_out_channels } = this.config;
    const factor = 2 ** (encoder_block_out_channels.length - 1);
    const normal = latents.mul(scaling_factor).sub(means).div(stds);
    const z = normal.repeat_interleave(factor, 2).repeat_interleave(factor, 3);
    const [batch, , height, width] = z.dims as [number, number, number, number];

    const { alphas_cumprod } = new DDPMScheduler({ num_train_timesteps: 1024, beta_schedule: "squaredcos_cap_v2" });
    const [first, second] = [1008, 512] as const;
    const at = { [first]: coefficients(alphas_cumprod[first]!), [second]: coefficients(alphas_cumprod[second]!) };
    const noise = (): Tensor => randn_tensor([batch, 3, height, width], { generator });
    const predict = async (x: Tensor, t: typeof first | typeof second): Promise<Tensor> => {
      const { cIn, cOut, cSkip } = at[t]!;
      const output = await this.decoderUNet(Tensor.cat([x.mul(cIn), z], 1), t);
      return output.sample.slice(null, [0, 3]).mul(cOut).add(x.mul(cSkip));
    };
    const drawn = await predict(noise().mul(at[first]!.sigma), first);
    const { alpha, sigma } = at[second]!;
    const sample = await predict(drawn.mul(alpha).add(noise().mul(sigma)), second);
    return { sample };
  }

  /** Encodes and decodes. @param sample pictures `[batch, encoder_in_channels, height, width]` in -1..1 */
  override async forward(sample: Tensor, options: AutoencoderKLOptions = {}): Promise<DecoderOutput> {
    checkOptions(name, options, ["sample_posterior", "generator"]);
    const { generator } = options;
    const { latent_dist } = await this.encode(sample);
    return this.decode(options.sample_posterior ? latent_dist.sample(generator) : latent_dist.mode(), { generator });
  }

  protected override check(build: (emit: (g: GraphBuilder) => void) => void): void {
    const { encoder_in_channels, encoder_block_out_channels } = this.config;
    const size = 2 ** (encoder_block_out_channels.length - 1);
    build((g) => this.buildEncoder(g, [1, encoder_in_channels, size, size]));
    this.decoderUNet.checkWithin(build);
  }

  private encodeWhole(pictures: Tensor): Promise<Tensor> {
    checkLeast(name, pictures, this.config.encoder_block_out_channels);
    return this.sliced(pictures, async (x) => {
      const session = await this.session("encode", x.dims, (g) => this.buildEncoder(g, x.dims));
      return (await session.run({ x }))["moments"]!;
    });
  }

  private buildEncoder(g: GraphBuilder, dims: readonly number[]): void {
    const { config } = this;
    const moments = encoder(g, mapInput(g, "x", dims), "encoder", {
      out_channels: config.encoder_out_channels,
      down_block_types: config.encoder_down_block_types,
      block_out_channels: config.encoder_block_out_channels,
      layers_per_block: config.encoder_layers_per_block,
      norm_num_groups: config.encoder_norm_num_groups,
      act_fn: config.encoder_act_fn,
      double_z: config.encoder_double_z,
    });
    mapOutput(g, "moments", conv2d(g, moments, "quant_conv", 2 * config.latent_channels, { kernel: 1 }));
  }
}

/** What a step at a timestep multiplies with. @see Diffusers `ConsistencyDecoderScheduler` */
function coefficients(alphaProd: number): {
  alpha: number;
  sigma: number;
  cIn: number;
  cOut: number;
  cSkip: number;
} {
  const noiseLevel = Math.sqrt(1 / alphaProd - 1);
  const sigmaData = 0.5;
  const total = noiseLevel ** 2 + sigmaData ** 2;
  return {
    alpha: Math.sqrt(alphaProd),
    sigma: Math.sqrt(1 - alphaProd),
    cIn: Math.sqrt(1 / alphaProd) / Math.sqrt(total),
    cOut: (noiseLevel * sigmaData) / Math.sqrt(total),
    cSkip: (Math.sqrt(1 / alphaProd) * sigmaData ** 2) / total,
  };
}

/** The fields of the decoder; what it is not told is a UNet2DModel's default. */
function unetConfig(config: Readonly<ConsistencyDecoderVAEConfig>): Partial<UNet2DModelConfig> {
  return {
    add_attention: config.decoder_add_attention,
    block_out_channels: config.decoder_block_out_channels,
    down_block_types: config.decoder_down_block_types,
    downsample_padding: config.decoder_downsample_padding,
    in_channels: config.decoder_in_channels,
    layers_per_block: config.decoder_layers_per_block,
    norm_eps: config.decoder_norm_eps,
    norm_num_groups: config.decoder_norm_num_groups,
    num_train_timesteps: config.decoder_num_train_timesteps,
    out_channels: config.decoder_out_channels,
    resnet_time_scale_shift: config.decoder_resnet_time_scale_shift,
    time_embedding_type: config.decoder_time_embedding_type,
    up_block_types: config.decoder_up_block_types,
  };
}

function checkConfig(config: Readonly<ConsistencyDecoderVAEConfig>): void {
  checkHalf(name, config, "encoder", {
    blocks: "encoder_down_block_types",
    channels: "encoder_block_out_channels",
    layers: "encoder_layers_per_block",
    act: "encoder_act_fn",
    groups: "encoder_norm_num_groups",
  });
  checkCounts(name, config, ["encoder_in_channels", "encoder_out_channels", "decoder_out_channels"]);
  checkSampleSize(name, config.sample_size);
  // The means of the latents are there for four channels, and pictures have three.
  checkValue(name, "latent_channels", config.latent_channels, [4]);
  checkValue(name, "decoder_in_channels", config.decoder_in_channels, [7]);
}
