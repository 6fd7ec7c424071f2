import { checkOptions, configDefaults, type RandnTensorOptions, type Tensor, ValueError } from "@diffusers-web/core";
import type { GraphBuilder } from "../graph/builder.ts";
import { conv2d } from "../layers/conv.ts";
import { mapInput, mapOutput } from "../layers/layout.ts";
import { checkSample, type Dims, dimsOf } from "../unets/inputs.ts";
import { checkCounts, checkHalf, checkLeast } from "./autoencoder_checks.ts";
import type { AutoencoderKLOutput, DecoderOutput } from "./autoencoder_kl.ts";
import { AutoencoderMixin } from "./autoencoder_mixin.ts";
import { encoder } from "./encoder.ts";
import { maskConditionDecoder, maskConditionEncoder } from "./mask_condition_decoder.ts";
import { DiagonalGaussianDistribution } from "./vae.ts";

/** The config of an {@link AsymmetricAutoencoderKL}: the arguments of Diffusers' `__init__`, under their names. */
export interface AsymmetricAutoencoderKLConfig {
  in_channels: number;
  out_channels: number;
  /** DownEncoderBlock2D or AttnDownEncoderBlock2D each. */
  down_block_types: readonly string[];
  down_block_out_channels: readonly number[];
  layers_per_down_block: number;
  /** UpDecoderBlock2D or AttnUpDecoderBlock2D each. */
  up_block_types: readonly string[];
  up_block_out_channels: readonly number[];
  layers_per_up_block: number;
  /** silu, swish, mish, gelu or relu. */
  act_fn: string;
  latent_channels: number;
  norm_num_groups: number;
  /** Height and width of the pictures the model was trained on. */
  sample_size: number;
  /** What pipelines multiply latents with. */
  scaling_factor: number;
  /** `up_block_out_channels`, under the name that pipelines look for; not to be set. */
  block_out_channels: readonly number[];
  /** false: not to be set. */
  force_upcast: boolean;
}

/** What {@link AsymmetricAutoencoderKL.decode} may be told besides latents: a picture to keep to, and where. */
export interface MaskedDecodeOptions {
  /** Not used, as in Diffusers: decoders that draw noise take it. */
  readonly generator?: RandnTensorOptions["generator"];
  /** `[batch, out_channels, height, width]` in -1..1, of the size that comes out; or one for the whole batch. */
  readonly image?: Tensor | null | undefined;
  /** `[batch, 1, height, width]`: 1 where the picture is filled in, 0 where it stays; or one for the whole batch. */
  readonly mask?: Tensor | null | undefined;
}

/** Options of {@link AsymmetricAutoencoderKL.forward}. */
export interface AsymmetricAutoencoderKLOptions {
  /** Where the picture is filled in; without one, all of it is decoded. */
  readonly mask?: Tensor | null | undefined;
  /** Whether to decode a random value of the distribution in place of its mode. Default false. */
  readonly sample_posterior?: boolean | undefined;
  /** Where its noise comes from. */
  readonly generator?: RandnTensorOptions["generator"];
}

export interface AsymmetricAutoencoderKL {
  /** {@link AsymmetricAutoencoderKL.forward} */
  (sample: Tensor, options?: AsymmetricAutoencoderKLOptions): Promise<DecoderOutput>;
}

/** What a config file gives. */
type Given = Omit<AsymmetricAutoencoderKLConfig, "block_out_channels" | "force_upcast">;

const name = "AsymmetricAutoencoderKL";

/**
 * An autoencoder for inpainting, whose larger decoder is shown the picture around the mask.
 *
 * @see Diffusers `AsymmetricAutoencoderKL`; Zhu et al., https://arxiv.org/abs/2306.04632
 */
export class AsymmetricAutoencoderKL extends AutoencoderMixin<AsymmetricAutoencoderKLConfig> {
  static override readonly name: string = "AsymmetricAutoencoderKL";
  static override readonly config_defaults: Given = configDefaults<Given>({
    in_channels: 3,
    out_channels: 3,
    down_block_types: ["DownEncoderBlock2D"],
    down_block_out_channels: [64],
    layers_per_down_block: 1,
    up_block_types: ["UpDecoderBlock2D"],
    up_block_out_channels: [64],
    layers_per_up_block: 1,
    act_fn: "silu",
    latent_channels: 4,
    norm_num_groups: 32,
    sample_size: 32,
    scaling_factor: 0.18215,
  });
  /** What Diffusers adds to the config, and so to its file. */
  static override readonly compatible_fields: readonly string[] = ["block_out_channels", "force_upcast"];

  /**
   * @throws UnsupportedModelError for a config field whose value is not built, and ValueError for one that is wrong,
   * naming it.
   */
  constructor(config: Partial<AsymmetricAutoencoderKLConfig> = {}) {
    super(config);
    checkConfig(this.config);
    this.register_to_config({ block_out_channels: [...this.config.up_block_out_channels], force_upcast: false });
  }

  /**
   * @param x pictures `[batch, in_channels, height, width]` in -1..1
   * @throws ValueError for another number of channels, or pictures too small to be halved as often as the model does.
   */
  async encode(x: Tensor): Promise<AutoencoderKLOutput> {
    checkSample(x, this.config.in_channels, name, "x");
    checkLeast(name, x, this.config.down_block_out_channels);
    const session = await this.session("encode", x.dims, (g) => this.buildEncoder(g, x.dims));
    const { moments } = await session.run({ x });
    return { latent_dist: new DiagonalGaussianDistribution(moments!) };
  }

  /**
   * @param z latents `[batch, latent_channels, height, width]`, not scaled
   * @param options a picture to keep to outside of a mask; as in Diffusers, one of the two alone is not used
   * @throws ValueError for tensors that do not fit the config or each other.
   */
  async decode(z: Tensor, options: MaskedDecodeOptions = {}): Promise<DecoderOutput> {
    checkOptions(`${name}.decode`, options, ["generator", "image", "mask"]);
    checkSample(z, this.config.latent_channels, name, "z");
    const { image, mask } = options;
    if ((image == null) !== (mask == null)) {
      console.warn(
        `${name}.decode: \`${image == null ? "mask" : "image"}\` alone is not used (as in Diffusers). Pass both.`,
      );
    }
    const feeds = image == null || mask == null ? { z } : { z, ...this.condition(z, image, mask) };
    const dims = dimsOf(feeds);
    const session = await this.session("decode", dims, (g) => this.buildDecoder(g, dims));
    const { sample } = await session.run(feeds);
    return { sample: sample! };
  }

  /** Encodes and decodes. @param sample pictures `[batch, in_channels, height, width]` in -1..1 */
  override async forward(sample: Tensor, options: AsymmetricAutoencoderKLOptions = {}): Promise<DecoderOutput> {
    checkOptions(name, options, ["mask", "sample_posterior", "generator"]);
    const { latent_dist } = await this.encode(sample);
    const z = options.sample_posterior ? latent_dist.sample(options.generator) : latent_dist.mode();
    return this.decode(z, options.mask == null ? {} : { image: sample, mask: options.mask });
  }

  protected override check(build: (emit: (g: GraphBuilder) => void) => void): void {
    const { in_channels, out_channels, latent_channels, down_block_out_channels, up_block_out_channels } = this.config;
    const size = 2 ** (down_block_out_channels.length - 1);
    build((g) => this.buildEncoder(g, [1, in_channels, size, size]));
    build((g) => this.buildDecoder(g, { z: [1, latent_channels, 1, 1] }));
    // By itself: with some channels the decoder cannot be conditioned, but decodes.
    build((g) => {
      const image = mapInput(g, "image", [1, out_channels, 8, 8]);
      const features = maskConditionEncoder(g, image, "decoder.condition_encoder", up_block_out_channels);
      mapOutput(g, "feature", features.at(-1)!);
    });
  }

  private buildEncoder(g: GraphBuilder, dims: readonly number[]): void {
    const { config } = this;
    const moments = encoder(g, mapInput(g, "x", dims), "encoder", {
      ...config,
      out_channels: config.latent_channels,
      block_out_channels: config.down_block_out_channels,
      layers_per_block: config.layers_per_down_block,
      double_z: true,
    });
    mapOutput(g, "moments", conv2d(g, moments, "quant_conv", moments.channels, { kernel: 1 }));
  }

  private buildDecoder(g: GraphBuilder, dims: Dims): void {
    const { config } = this;
    const z = conv2d(g, mapInput(g, "z", dims["z"]!), "post_quant_conv", config.latent_channels, { kernel: 1 });
    const condition =
      dims["image"] === undefined
        ? undefined
        : { image: mapInput(g, "image", dims["image"]), mask: mapInput(g, "mask", dims["mask"]!) };
    const options = {
      ...config,
      block_out_channels: config.up_block_out_channels,
      layers_per_block: config.layers_per_up_block,
    };
    mapOutput(g, "sample", maskConditionDecoder(g, z, "decoder", options, condition));
  }

  /** @throws ValueError unless picture and mask have the size that comes out, and batches that fit. */
  private condition(z: Tensor, image: Tensor, mask: Tensor): { image: Tensor; mask: Tensor } {
    const { out_channels, up_block_types } = this.config;
    const [batch, , height, width] = z.dims as [number, number, number, number];
    const size = [height, width].map((length) => length * 2 ** (up_block_types.length - 1));
    for (const [field, tensor, channels] of [
      ["image", image, out_channels],
      ["mask", mask, 1],
    ] as const) {
      const fits = [batch, 1].some((count) => String(tensor.dims) === String([count, channels, ...size]));
      // One item of each for a batch: Diffusers then finds no features of the batch's shape.
      if (fits && (tensor.dims[0] === batch || field === "image" || image.dims[0] === batch)) continue;
      const expected = `[${[batch, channels, ...size]}]`;
      throw new ValueError(
        `${name}.decode takes a \`${field}\` of dims ${expected} with latents [${z.dims}], but got [${tensor.dims}].`,
        { className: name, field, found: `[${tensor.dims}]`, expected },
      );
    }
    return { image, mask };
  }
}

function checkConfig(config: Readonly<AsymmetricAutoencoderKLConfig>): void {
  const shared = { act: "act_fn", groups: "norm_num_groups" };
  for (const [half, way] of [
    ["encoder", "down"],
    ["decoder", "up"],
  ] as const) {
    checkHalf(name, config, half, {
      ...shared,
      blocks: `${way}_block_types`,
      channels: `${way}_block_out_channels`,
      layers: `layers_per_${way}_block`,
    });
  }
  checkCounts(name, config, ["in_channels", "out_channels", "latent_channels"]);
}
