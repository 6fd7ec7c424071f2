import { checkOptions, configDefaults, type DataType, Tensor, ValueError } from "@diffusers-web/core";
import { checkValue } from "../config_checks.ts";
import type { GraphBuilder } from "../graph/builder.ts";
import { conv2d } from "../layers/conv.ts";
import { mapInput, mapOutput } from "../layers/layout.ts";
import { checkSample } from "../unets/inputs.ts";
import { checkCounts, checkHalf, checkLeast, checkSampleSize } from "./autoencoder_checks.ts";
import { AutoencoderMixin } from "./autoencoder_mixin.ts";
import { decoder } from "./decoder.ts";
import { encoder } from "./encoder.ts";
import { VectorQuantizer } from "./vector_quantizer.ts";

/** The config of a {@link VQModel}: the arguments of Diffusers' `__init__`, under their names. */
export interface VQModelConfig {
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
  sample_size: number | readonly number[];
  /** How many vectors the codebook has. */
  num_vq_embeddings: number;
  norm_num_groups: number;
  /** The size of its vectors. null: `latent_channels`. */
  vq_embed_dim: number | null;
  /** What pipelines multiply latents with. */
  scaling_factor: number;
  /** group, or spatial (MoVQ): the decoder's normalisations look at the quantised latents. */
  norm_type: string;
  mid_block_add_attention: boolean;
  /** Whether {@link VQModel.decode} with `force_not_quantize` takes codes. */
  lookup_from_codebook: boolean;
  /** Whether pipelines run the model in float32. */
  force_upcast: boolean;
}

/** What {@link VQModel.encode} gives. */
export interface VQEncoderOutput {
  /** `[batch, vq_embed_dim, height', width']`, not quantised */
  readonly latents: Tensor;
}

/** What {@link VQModel.decode} gives. */
export interface VQDecoderOutput {
  /** Pictures `[batch, out_channels, height, width]` in -1..1 */
  readonly sample: Tensor;
  /** How far the latents were from the codebook, `[]`; zeros `[batch]` when they were not quantised. */
  readonly commit_loss: Tensor;
}

/** Options of {@link VQModel.decode}. */
export interface VQDecodeOptions {
  /** Whether latents are decoded as they are, or (with `lookup_from_codebook`) are codes. Default false. */
  readonly force_not_quantize?: boolean | undefined;
  /** For codes: `[batch, height, width, vq_embed_dim]`. */
  readonly shape?: readonly number[] | undefined;
}

export interface VQModel {
  /** {@link VQModel.forward} */
  (sample: Tensor): Promise<VQDecoderOutput>;
}

const name = "VQModel";

/**
 * Maps pictures to latents, and back from those that a codebook has.
 *
 * @see Diffusers `VQModel`
 */
export class VQModel extends AutoencoderMixin<VQModelConfig> {
  static override readonly name: string = "VQModel";
  static override readonly config_defaults: VQModelConfig = configDefaults<VQModelConfig>({
    in_channels: 3,
    out_channels: 3,
    down_block_types: ["DownEncoderBlock2D"],
    up_block_types: ["UpDecoderBlock2D"],
    block_out_channels: [64],
    layers_per_block: 1,
    act_fn: "silu",
    latent_channels: 3,
    sample_size: 32,
    num_vq_embeddings: 256,
    norm_num_groups: 32,
    vq_embed_dim: null,
    scaling_factor: 0.18215,
    norm_type: "group",
    mid_block_add_attention: true,
    lookup_from_codebook: false,
    force_upcast: false,
  });

  // The codebook is used in TypeScript; building the decoder reads it.
  private quantizer: VectorQuantizer = new VectorQuantizer(new Float32Array(0), 0, 1);

  /**
   * @throws UnsupportedModelError for a config field whose value is not built, and ValueError for one that is wrong,
   * naming it.
   */
  constructor(config: Partial<VQModelConfig> = {}) {
    super(config);
    checkConfig(this.config);
  }

  /**
   * @param x pictures `[batch, in_channels, height, width]` in -1..1
   * @throws ValueError for another number of channels, or pictures too small to be halved as often as the model does.
   */
  async encode(x: Tensor): Promise<VQEncoderOutput> {
    checkSample(x, this.config.in_channels, name, "x");
    checkLeast(name, x, this.config.block_out_channels);
    const session = await this.session("encode", x.dims, (g) => this.buildEncoder(g, x.dims));
    return { latents: (await session.run({ x }))["latents"]! };
  }

  /**
   * @param h latents `[batch, vq_embed_dim, height, width]`, not scaled; or codes
   * @throws ValueError for another number of channels, or codes that there are no entries for.
   */
  async decode(h: Tensor<DataType>, options: VQDecodeOptions = {}): Promise<VQDecoderOutput> {
    checkOptions(`${name}.decode`, options, ["force_not_quantize", "shape"]);
    const { quant, commit_loss } = this.quantized(h, options);
    const session = await this.session("decode", quant.dims, (g) => this.buildDecoder(g, quant.dims));
    return { sample: (await session.run({ quant }))["sample"]!, commit_loss };
  }

  /** Encodes, quantises and decodes. @param sample pictures `[batch, in_channels, height, width]` in -1..1 */
  override async forward(sample: Tensor): Promise<VQDecoderOutput> {
    return this.decode((await this.encode(sample)).latents);
  }

  private quantized(
    h: Tensor<DataType>,
    { force_not_quantize = false, shape }: VQDecodeOptions,
  ): { readonly quant: Tensor; readonly commit_loss: Tensor } {
    if (force_not_quantize && this.config.lookup_from_codebook) {
      if (shape === undefined) {
        throw new ValueError(`${name} decodes codes only when it is told their \`shape\`.`, {
          className: name,
          field: "shape",
          found: "undefined",
          expected: `[batch, height, width, ${this.embedDim}]`,
        });
      }
      return { quant: this.quantizer.lookUp(h, shape), commit_loss: Tensor.zeros([h.dims[0] ?? 1]) };
    }
    const latents = h.to("float32");
    checkSample(latents, this.embedDim, name, "h");
    if (force_not_quantize) return { quant: latents, commit_loss: Tensor.zeros([latents.dims[0]!]) };
    return this.quantizer.quantize(latents);
  }

  protected override check(build: (emit: (g: GraphBuilder) => void) => void): void {
    const { in_channels, block_out_channels } = this.config;
    const size = 2 ** (block_out_channels.length - 1);
    build((g) => this.buildEncoder(g, [1, in_channels, size, size]));
    build((g) => this.buildDecoder(g, [1, this.embedDim, 1, 1]));
  }

  private buildEncoder(g: GraphBuilder, dims: readonly number[]): void {
    const options = { ...this.config, out_channels: this.config.latent_channels, double_z: false };
    const x = encoder(g, mapInput(g, "x", dims), "encoder", options);
    mapOutput(g, "latents", conv2d(g, x, "quant_conv", this.embedDim, { kernel: 1 }));
  }

  private buildDecoder(g: GraphBuilder, dims: readonly number[]): void {
    const { num_vq_embeddings: count, latent_channels, norm_type } = this.config;
    const entries = g.read("quantize.embedding.weight", [count, this.embedDim]);
    this.quantizer = new VectorQuantizer(entries, count, this.embedDim);
    const quant = mapInput(g, "quant", dims);
    const x = conv2d(g, quant, "post_quant_conv", latent_channels, { kernel: 1 });
    const spatial = norm_type === "spatial" ? { spatial: quant } : {};
    mapOutput(g, "sample", decoder(g, x, "decoder", { ...this.config, ...spatial }));
  }

  private get embedDim(): number {
    return this.config.vq_embed_dim ?? this.config.latent_channels;
  }
}

function checkConfig(config: Readonly<VQModelConfig>): void {
  const shared = {
    channels: "block_out_channels",
    layers: "layers_per_block",
    act: "act_fn",
    groups: "norm_num_groups",
  };
  checkHalf(name, config, "encoder", { ...shared, blocks: "down_block_types" });
  checkHalf(name, config, "decoder", { ...shared, blocks: "up_block_types" });
  checkCounts(name, config, ["in_channels", "out_channels", "latent_channels", "num_vq_embeddings"]);
  checkSampleSize(name, config.sample_size);
  checkValue(name, "norm_type", config.norm_type, ["group", "spatial"]);
  const { norm_type, vq_embed_dim, latent_channels, block_out_channels } = config;
  if (norm_type !== "spatial") return;
  if (vq_embed_dim !== null && vq_embed_dim !== latent_channels) {
    throw new ValueError(
      `${name} with \`norm_type\` "spatial" needs a \`vq_embed_dim\` of null or ${latent_channels}, as its latents have.`,
      { className: name, field: "vq_embed_dim", found: String(vq_embed_dim), expected: String(latent_channels) },
    );
  }
  const odd = block_out_channels.find((count) => count % 32 !== 0);
  if (odd === undefined) return;
  throw new ValueError(
    `${name} with \`norm_type\` "spatial" has 32 groups, which ${odd} of \`block_out_channels\` does not divide into.`,
    {
      className: name,
      field: "block_out_channels",
      found: String(odd),
      expected: "multiples of 32",
    },
  );
}
