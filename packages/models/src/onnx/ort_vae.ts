import { type ConfigDict, checkOptions, ModelNotFoundError, Tensor } from "@diffusers-web/core";
import {
  AutoencoderKL,
  type AutoencoderKLConfig,
  type AutoencoderKLOptions,
  type AutoencoderKLOutput,
  type DecoderOutput,
} from "../autoencoders/autoencoder_kl.ts";
import { DiagonalGaussianDistribution } from "../autoencoders/vae.ts";
import { checkSample } from "../unets/inputs.ts";
import type { OnnxFile } from "./onnx_file.ts";
import { OnnxModel } from "./onnx_model.ts";
import type { OnnxParts } from "./onnx_parts.ts";
import { inputSize, weightDims } from "./shapes.ts";

export interface ORTVae {
  /** {@link ORTVae.forward} */
  (sample: Tensor, options?: AutoencoderKLOptions): Promise<DecoderOutput>;
}

/**
 * The ONNX export of an AutoencoderKL, with that class's face: a decoder, and an encoder where the export has one.
 *
 * @see Optimum `ORTVae`
 */
export class ORTVae extends OnnxModel<AutoencoderKLConfig> {
  static override readonly name: string = "ORTVae";
  static override readonly config_defaults: AutoencoderKLConfig = AutoencoderKL.config_defaults;
  /** In the repository's root: each half has a folder of its own. */
  static override readonly parts: OnnxParts = {
    decoder: {
      file: "vae_decoder/model.onnx",
      inputs: ["latent_sample"],
      required: ["latent_sample"],
      outputs: ["sample"],
    },
    encoder: {
      file: "vae_encoder/model.onnx",
      optional: true,
      inputs: ["sample"],
      required: ["sample"],
      outputs: ["latent_parameters", "latent_sample"],
    },
  };

  /** Without a config, what is not in the graph is Stable Diffusion 1's, as in Diffusers' pipeline for such exports. */
  static override derive_config({ decoder }: Readonly<Record<string, OnnxFile>>): ConfigDict {
    const channels: number[] = [];
    for (let level = 0; level < 16; level++) {
      const dims = weightDims(decoder!, `up_blocks.${level}.resnets.0.conv1.weight`);
      if (dims === undefined) break;
      channels.unshift(dims[0]!);
    }
    const found = channels.length > 0 ? channels : [128, 256, 512, 512];
    return {
      latent_channels:
        inputSize(decoder!, "latent_sample", 1) ?? weightDims(decoder!, "post_quant_conv.weight")?.[1] ?? 4,
      block_out_channels: found,
      down_block_types: found.map(() => "DownEncoderBlock2D"),
      up_block_types: found.map(() => "UpDecoderBlock2D"),
    };
  }

  /**
   * @param x pictures `[batch, in_channels, height, width]` in -1..1
   * @returns where the export itself draws a random value, a distribution of no width around it
   * @throws ModelNotFoundError when the export came without its encoder.
   */
  async encode(x: Tensor): Promise<AutoencoderKLOutput> {
    checkSample(x, this.config.in_channels, ORTVae.name, "x");
    const encoder = this.part("encoder");
    if (encoder === undefined) {
      const { file } = ORTVae.parts["encoder"]!;
      throw new ModelNotFoundError(`The export came without its ${file}, which encoding needs.`, {
        file,
        className: ORTVae.name,
        found: "no such file",
        expected: file,
      });
    }
    const name = ORTVae.parts["encoder"]!.outputs.find((one) => encoder.outputs.some((output) => output.name === one))!;
    const { [name]: output } = await this.runPart("encoder", { sample: x }, [name]);
    const parameters =
      name === "latent_parameters" ? output! : Tensor.cat([output!, Tensor.full(output!.dims, -30)], 1);
    return { latent_dist: new DiagonalGaussianDistribution(parameters) };
  }

  /** @param z latents `[batch, latent_channels, height, width]`, not scaled */
  async decode(z: Tensor): Promise<DecoderOutput> {
    checkSample(z, this.config.latent_channels, ORTVae.name, "z");
    const { sample } = await this.runPart("decoder", { latent_sample: z }, ["sample"]);
    return { sample: sample! };
  }

  /** Encodes and decodes. @param sample pictures `[batch, in_channels, height, width]` in -1..1 */
  override async forward(sample: Tensor, options: AutoencoderKLOptions = {}): Promise<DecoderOutput> {
    checkOptions(ORTVae.name, options, ["sample_posterior", "generator"]);
    const { latent_dist } = await this.encode(sample);
    return this.decode(options.sample_posterior ? latent_dist.sample(options.generator) : latent_dist.mode());
  }
}
