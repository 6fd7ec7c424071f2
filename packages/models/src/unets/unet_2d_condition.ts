import { checkOptions, type DataType, type Tensor, ValueError } from "@diffusers-web/core";
import { perBlock } from "../config_checks.ts";
import type { GraphBuilder } from "../graph/builder.ts";
import { conv2d } from "../layers/conv.ts";
import { add, affine, mapInput, mapOutput, tokensInput } from "../layers/layout.ts";
import { tokensLinear } from "../layers/linear.ts";
import { groupNorm } from "../layers/norm.ts";
import { ModelMixin } from "../modeling_utils.ts";
import { blockNamed, upBlocks } from "./blocks/index.ts";
import { blockOptions, conditionDown, conditionMid, resnetOptions } from "./condition_path.ts";
import { checkSample, type Dims, dimsOf, type Timestep } from "./inputs.ts";
import { type AdditionalResiduals, checkResiduals, residualFeeds, residualInputs } from "./residuals.ts";
import { type AddedConditions, TimeConditioning } from "./time_conditioning.ts";
import {
  checkUNet2DConditionConfig,
  type UNet2DConditionModelConfig,
  unet2DConditionDefaults,
} from "./unet_2d_condition_config.ts";

/** What a {@link UNet2DConditionModel} may be told besides sample, timestep and text. */
export interface UNet2DConditionOptions extends AdditionalResiduals {
  /** What `class_embed_type` wants: class numbers or timesteps `[batch]`, or embeddings `[batch, dim]`. */
  readonly class_labels?: Tensor<DataType> | undefined;
  /** The guidance embedding of latent consistency models, `[batch, time_cond_proj_dim]`. */
  readonly timestep_cond?: Tensor | undefined;
  /** For `addition_embed_type: "text_time"`. */
  readonly added_cond_kwargs?: AddedConditions | undefined;
}

const optionNames = [
  "class_labels",
  "timestep_cond",
  "added_cond_kwargs",
  "down_block_additional_residuals",
  "mid_block_additional_residual",
  "down_intrablock_additional_residuals",
] as const;

/** What a {@link UNet2DConditionModel} gives. */
export interface UNet2DConditionOutput {
  /** `[batch, out_channels, height, width]` */
  readonly sample: Tensor;
}

export interface UNet2DConditionModel {
  /** {@link UNet2DConditionModel.forward} */
  (
    sample: Tensor,
    timestep: Timestep,
    encoder_hidden_states: Tensor,
    options?: UNet2DConditionOptions,
  ): Promise<UNet2DConditionOutput>;
}

/**
 * Predicts the noise in latents, given a timestep and a text: the denoiser of Stable Diffusion.
 *
 * @see Diffusers `UNet2DConditionModel`
 */
export class UNet2DConditionModel extends ModelMixin<UNet2DConditionModelConfig> {
  static override readonly name: string = "UNet2DConditionModel";
  static override readonly config_defaults: UNet2DConditionModelConfig = unet2DConditionDefaults;

  private readonly time: TimeConditioning;

  /** @throws UnsupportedModelError for a config field whose value is not built, naming it. */
  constructor(config: Partial<UNet2DConditionModelConfig> = {}) {
    super(config);
    checkUNet2DConditionConfig(this.config);
    this.time = new TimeConditioning(this.config);
  }

  /**
   * @param sample noisy latents `[batch, in_channels, height, width]`
   * @param timestep one for the batch, or `[batch]`
   * @param encoder_hidden_states the text `[batch, length, cross_attention_dim]`
   * @throws ValueError for tensors that do not fit the config or each other.
   */
  override async forward(
    sample: Tensor,
    timestep: Timestep,
    encoder_hidden_states: Tensor,
    options: UNet2DConditionOptions = {},
  ): Promise<UNet2DConditionOutput> {
    checkOptions("UNet2DConditionModel", options, optionNames);
    checkSample(sample, this.config.in_channels, "UNet2DConditionModel");
    const batch = sample.dims[0]!;
    this.checkText(encoder_hidden_states, batch);
    const feeds = {
      sample,
      encoder_hidden_states,
      ...this.time.feeds({ timestep, ...options }, batch),
      ...residualFeeds(options),
    };
    const dims = dimsOf(feeds);
    const session = await this.session("forward", dims, (g) => this.build(g, dims));
    const outputs = await session.run(feeds);
    return { sample: outputs["out_sample"]! };
  }

  protected override check(build: (emit: (g: GraphBuilder) => void) => void): void {
    const { in_channels, down_block_types } = this.config;
    const size = 2 ** (down_block_types.length - 1);
    const dims = {
      sample: [1, in_channels, size, size],
      encoder_hidden_states: [1, 1, this.textDim],
      ...this.time.inputDims(),
    };
    build((g) => this.build(g, dims));
  }

  /** Emits the graph for inputs of the given dims. */
  private build(g: GraphBuilder, dims: Dims): void {
    const config = this.config;
    const blocks = config.down_block_types;
    const last = blocks.length - 1;

    // 0. center input if necessary
    let sample = mapInput(g, "sample", dims["sample"]!);
    if (config.center_input_sample) sample = affine(g, sample, 2, -1);

    // 1. time
    const temb = this.time.embed(g, dims);
    let context = tokensInput(g, "encoder_hidden_states", dims["encoder_hidden_states"]!);
    if (config.encoder_hid_dim !== null) context = tokensLinear(g, context, "encoder_hid_proj", this.crossAttentionDim);

    // 2. pre-process
    sample = conv2d(g, sample, "conv_in", config.block_out_channels[0]!, { kernel: config.conv_in_kernel });

    // 3. down
    const conditions = { temb, context };
    const adapters = residualInputs(g, "intrablock", dims);
    const down = conditionDown(g, sample, config, conditions, adapters);
    const { kept } = down;
    const controls = residualInputs(g, "down", dims);
    if (controls.length > 0) checkResiduals(controls, kept, "down_block_additional_residuals");
    controls.forEach((residual, i) => {
      kept[i] = add(g, kept[i]!, residual);
    });

    // 4. mid
    sample = conditionMid(g, down.hidden, config, conditions, adapters);
    for (const residual of residualInputs(g, "mid", dims)) {
      checkResiduals([residual], [sample], "mid_block_additional_residual");
      sample = add(g, sample, residual);
    }

    // 5. up
    const layers = perBlock(config.layers_per_block, blocks);
    const heads = perBlock(config.attention_head_dim, blocks);
    const transformers = perBlock<number | readonly number[]>(config.transformer_layers_per_block, blocks);
    const upTransformers = config.reverse_transformer_layers_per_block ?? [...transformers].reverse();
    config.up_block_types.forEach((type, i) => {
      const level = last - i;
      const count = layers[level]! + 1;
      sample = blockNamed(upBlocks, type)!(g, sample, kept, `up_blocks.${i}`, {
        ...blockOptions(config, conditions, level, count, upTransformers[i]!),
        // The one list that Diffusers does not reverse on the way up.
        attentionHeadDim: heads[i]!,
        addUpsample: i < last,
        upsampleType: "conv",
        upsampleSize: kept[kept.length - count - 1],
      });
    });

    // 6. post-process
    sample = groupNorm(g, sample, "conv_norm_out", { ...resnetOptions(config), activation: config.act_fn });
    sample = conv2d(g, sample, "conv_out", config.out_channels, { kernel: config.conv_out_kernel });
    mapOutput(g, "out_sample", sample);
  }

  private get crossAttentionDim(): number {
    return perBlock(this.config.cross_attention_dim, this.config.down_block_types)[0]!;
  }

  private get textDim(): number {
    return this.config.encoder_hid_dim ?? this.crossAttentionDim;
  }

  private checkText(text: Tensor, batch: number): void {
    if (text.dims.length === 3 && text.dims[0] === batch && text.dims[2] === this.textDim && text.size > 0) return;
    const expected = `[${batch}, length, ${this.textDim}]`;
    throw new ValueError(
      `UNet2DConditionModel takes \`encoder_hidden_states\` of dims ${expected}, but got [${text.dims}].`,
      {
        className: "UNet2DConditionModel",
        field: "encoder_hidden_states",
        found: `[${text.dims}]`,
        expected,
      },
    );
  }
}
