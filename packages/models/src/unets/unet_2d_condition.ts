import { checkOptions, type DataType, type Tensor, ValueError } from "@diffusers-web/core";
import { perBlock } from "../config_checks.ts";
import type { AttentionSlice, GraphBuilder } from "../graph/builder.ts";
import type { WeightSource } from "../graph/types.ts";
import { conv2d } from "../layers/conv.ts";
import type { IPAdapterInput } from "../layers/ip_image_projection.ts";
import { add, affine, concatChannels, mapInput, mapOutput } from "../layers/layout.ts";
import { groupNorm } from "../layers/norm.ts";
import { ModelMixin } from "../modeling_utils.ts";
import { type AddedConditions, imageInput } from "./added_conditioning.ts";
import { AttentionConditioning, type AttentionOptionsOfCall, attentionOptionNames } from "./attention_conditions.ts";
import { type BatchSlice, BatchSlices, checkBatchSlice } from "./batch_slices.ts";
import { blockNamed, upBlocks } from "./blocks/index.ts";
import { blockOptions, conditionDown, conditionMid, resnetOptions } from "./condition_path.ts";
import { checkSample, type Dims, dimsOf, type Timestep } from "./inputs.ts";
import type { IPScale, IPScaleConfig } from "./ip_adapter_scales.ts";
import { matchingLayers, type PerturbedAttention, perturbedLayers } from "./perturbed_attention.ts";
import { type AdditionalResiduals, checkNoneLeft, checkResiduals, residualFeeds, residualInputs } from "./residuals.ts";
import { TextConditioning } from "./text_conditioning.ts";
import { TimeConditioning } from "./time_conditioning.ts";
import {
  checkUNet2DConditionConfig,
  type UNet2DConditionModelConfig,
  unet2DConditionDefaults,
} from "./unet_2d_condition_config.ts";
import {
  type BuildOptions,
  checkAttentionSlice,
  checkFreeU,
  type FreeUFactors,
  freeUOf,
  plainBuild,
} from "./unet_options.ts";

/** What a {@link UNet2DConditionModel} may be told besides sample, timestep and text. */
export interface UNet2DConditionOptions extends AdditionalResiduals, AttentionOptionsOfCall {
  /** What `class_embed_type` wants: class numbers or timesteps `[batch]`, or embeddings `[batch, dim]`. */
  readonly class_labels?: Tensor<DataType> | undefined;
  /** The guidance embedding of latent consistency models, `[batch, time_cond_proj_dim]`. */
  readonly timestep_cond?: Tensor | undefined;
  /** What `addition_embed_type` and `encoder_hid_dim_type` want besides. */
  readonly added_cond_kwargs?: AddedConditions | undefined;
  /** For perturbed-attention guidance: which self-attentions see nothing in a part of the batch. */
  readonly perturbed_attention?: PerturbedAttention | undefined;
}

const optionNames = [
  "class_labels",
  "timestep_cond",
  "added_cond_kwargs",
  "down_block_additional_residuals",
  "mid_block_additional_residual",
  "down_intrablock_additional_residuals",
  "perturbed_attention",
  ...attentionOptionNames,
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
    encoder_hidden_states: Tensor | null,
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
  private readonly text: TextConditioning;
  private readonly attention: AttentionConditioning;
  private freeu: FreeUFactors | null = null;
  private attentionSlice: AttentionSlice | null = null;
  private slices: BatchSlices = new BatchSlices(null);
  private selfAttentions: readonly string[] = [];

  /** @throws UnsupportedModelError for a config field whose value is not built, naming it. */
  constructor(config: Partial<UNet2DConditionModelConfig> = {}) {
    super(config);
    checkUNet2DConditionConfig(this.config);
    const { encoder_hid_dim, encoder_hid_dim_type } = this.config;
    // As in Diffusers, which writes it into the config too.
    if (encoder_hid_dim !== null && encoder_hid_dim_type === null) {
      this.register_to_config({ encoder_hid_dim_type: "text_proj" });
    }
    this.time = new TimeConditioning(this.config, "UNet2DConditionModel");
    this.text = new TextConditioning(this.config, "UNet2DConditionModel");
    this.attention = new AttentionConditioning(this.config);
  }

  /**
   * @param sample noisy latents `[batch, in_channels, height, width]`
   * @param timestep one for the batch, or `[batch]`
   * @param encoder_hidden_states the text `[batch, length, cross_attention_dim]` (`encoder_hid_dim` where there is one); null
   * for a model that does not read it
   * @throws ValueError for tensors that do not fit the config or each other.
   */
  override async forward(
    sample: Tensor,
    timestep: Timestep,
    encoder_hidden_states: Tensor | null,
    options: UNet2DConditionOptions = {},
  ): Promise<UNet2DConditionOutput> {
    checkOptions("UNet2DConditionModel", options, optionNames);
    checkSample(sample, this.sampleChannels, "UNet2DConditionModel");
    const batch = sample.dims[0]!;
    const perturbed = perturbedLayers(options, batch, this.selfAttentions);
    const feeds = {
      sample,
      ...this.text.feeds(encoder_hidden_states, batch),
      ...this.time.feeds({ timestep, ...options }, batch),
      ...this.attention.feeds(options, options.added_cond_kwargs?.image_embeds, sample),
      ...residualFeeds(options),
    };
    const run = async (part: Readonly<Record<string, Tensor>>): Promise<Tensor> => {
      const dims = dimsOf(part);
      const { freeu, attentionSlice } = this;
      const shape = { dims, freeu, attentionSlice, perturbed, adapters: this.attention.adapters.version };
      const build = (g: GraphBuilder): void => this.build(g, dims, { freeu, attentionSlice, perturbed });
      const session = await this.session("forward", shape, build, options.cross_attention_kwargs?.scale ?? 1);
      return (await session.run(part))["out_sample"]!;
    };
    // Perturbed attention tells the items of a batch apart by their place in it.
    if (perturbed !== null) return { sample: await run(feeds) };
    return { sample: await this.slices.run(feeds, batch, run) };
  }

  /**
   * Computes the items of a batch in parts: less memory, the same output.
   *
   * @param slice_size at most so many at a time; "auto": all at once, and fewer from when the device fails at it; null: all at once
   * @throws ValueError for another value.
   */
  set_batch_slice(slice_size: BatchSlice = "auto"): void {
    this.slices = new BatchSlices(checkBatchSlice(slice_size, "UNet2DConditionModel"));
  }

  /**
   * Strengthens the backbone and weakens the low frequencies of what is kept on the way down, in the first two blocks on the
   * way up: better pictures of the same model.
   *
   * @param s1 factor of the low frequencies in the first block
   * @param s2 the same in the second block
   * @param b1 factor of the backbone's features in the first block
   * @param b2 the same in the second block
   * @throws ValueError for what is no number.
   * @see Diffusers `UNet2DConditionModel.enable_freeu`
   */
  enable_freeu(s1: number, s2: number, b1: number, b2: number): void {
    this.freeu = checkFreeU({ s1, s2, b1, b2 });
  }

  /** @see Diffusers `UNet2DConditionModel.disable_freeu` */
  disable_freeu(): void {
    this.freeu = null;
  }

  /**
   * Computes attention in steps, each of some heads of one picture: less memory, the same output. The engine's fused
   * attention is divided only where its scores would be large.
   *
   * @param slice_size "auto": half of the heads at a time; "max": one at a time; or how many; null: all at once again
   * @throws ValueError for a number above the heads of one of the attentions.
   * @see Diffusers `UNet2DConditionModel.set_attention_slice`
   */
  set_attention_slice(slice_size: AttentionSlice | null = "auto"): void {
    this.attentionSlice = checkAttentionSlice(slice_size, this.config);
  }

  /**
   * The names of the self-attentions, of a model that is loaded.
   *
   * @param patterns only those that one of these tells, as in `perturbed_attention`. Default: all
   * @throws ValueError for a pattern that matches none.
   */
  self_attentions(patterns?: readonly string[]): readonly string[] {
    return patterns === undefined ? this.selfAttentions : matchingLayers(patterns, this.selfAttentions);
  }

  /**
   * Gives the model IP-Adapters, so that it sees the pictures of `added_cond_kwargs.image_embeds`, and takes away those it
   * had. All scales are 1 then.
   *
   * @param adapters the weights of each, under the names of an adapter's file: `image_proj.*` and `ip_adapter.1.to_k_ip.weight`
   * and so on. The model owns them: it closes those that it has no longer, and all of them when it is disposed. An empty list
   * takes all away.
   * @throws UnsupportedModelError for a UNet whose attention takes no adapter, for an IP-Adapter FaceID Plus, and for one with
   * a LoRA in its file.
   * @throws WeightsMismatchError for weights that are not this UNet's.
   * @see Diffusers `UNet2DConditionLoadersMixin._load_ip_adapter_weights`
   */
  set_ip_adapters(adapters: readonly WeightSource[]): void {
    const dropped = this.attention.adapters.set(adapters);
    if (dropped.length === 0) return;
    // A run that is under way may still read them.
    void this.exclusive(async () => {
      for (const weights of dropped) weights.close?.();
    });
  }

  /**
   * Whether {@link UNet2DConditionModel.set_ip_adapters} takes these adapters. Nothing changes.
   *
   * @throws as it does
   */
  check_ip_adapters(adapters: readonly WeightSource[]): void {
    this.attention.adapters.check(adapters);
  }

  /** Frees the IP-Adapters' files as well. */
  override async dispose(): Promise<void> {
    await super.dispose();
    for (const weights of this.attention.adapters.set([])) weights.close?.();
  }

  /** How many IP-Adapters the model has. */
  get num_ip_adapters(): number {
    return this.attention.adapters.count;
  }

  /** What each of its IP-Adapters takes of a picture. */
  get ip_adapter_inputs(): readonly IPAdapterInput[] {
    return this.attention.adapters.inputs;
  }

  /**
   * Sets how much the pictures count. It is an input of the graph: nothing is built anew.
   *
   * @param scale a number, or scales of parts such as `{ up: { block_0: [0, 1, 0] } }` (what is not named gets 0), or a list
   * with one of these for each adapter; there, a list of numbers has a scale for each masked picture
   * @throws ValueError for another number of scales than adapters, and for a part that the UNet does not have.
   * @see Diffusers `IPAdapterMixin.set_ip_adapter_scale`
   */
  set_ip_adapter_scale(scale: number | IPScaleConfig | readonly (IPScale | IPScaleConfig)[]): void {
    this.attention.adapters.setScale(scale);
  }

  protected override check(build: (emit: (g: GraphBuilder) => void) => void): void {
    // K-blocks mirror the edge at the lowest level, which takes two pixels.
    const least = 2 ** this.config.down_block_types.length;
    const emit = (size: number): void => {
      const dims = {
        sample: [1, this.sampleChannels, size, size],
        ...this.text.inputDims(),
        ...this.time.inputDims(size, size),
        ...this.attention.inputDims(),
      };
      build((g) => {
        this.build(g, dims);
        this.selfAttentions = g.selfAttentions;
      });
    };
    // An even kernel and a wide padding lead back to few sizes only: the smallest of them is looked for.
    let first: unknown;
    for (let size = least; size < 3 * least; size++) {
      try {
        emit(size);
        return;
      } catch (error) {
        if (!(error instanceof ValueError && error.details.field === "sample")) throw error;
        first ??= error;
      }
    }
    throw first;
  }

  /** Emits the graph for inputs of the given dims. */
  private build(g: GraphBuilder, dims: Dims, { freeu, attentionSlice, perturbed }: BuildOptions = plainBuild): void {
    g.attentionSlice = attentionSlice;
    g.perturbed = perturbed;
    const config = this.config;
    const blocks = config.down_block_types;
    const last = blocks.length - 1;

    // 0. center input if necessary
    let sample = mapInput(g, "sample", dims["sample"]!);
    if (config.center_input_sample) sample = affine(g, sample, 2, -1);

    // 1. time
    const shared = { text: this.text.input(g, dims), image: imageInput(g, dims) };
    const temb = this.time.embed(g, dims, shared);
    const context = this.text.context(g, shared);

    // 2. pre-process
    const hint = this.time.hint(g, dims, sample);
    if (hint !== undefined) sample = concatChannels(g, sample, hint);
    sample = conv2d(g, sample, "conv_in", config.block_out_channels[0]!, { kernel: config.conv_in_kernel });

    // 3. down
    const conditions = { temb, context, attention: this.attention.emit(g, dims) };
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
    checkNoneLeft(adapters);
    for (const residual of residualInputs(g, "mid", dims)) {
      checkResiduals([residual], [sample], "mid_block_additional_residual");
      sample = add(g, sample, residual);
    }

    // 5. up
    const layers = perBlock(config.layers_per_block, blocks);
    const heads = perBlock(config.attention_head_dim, blocks);
    const transformers = perBlock<number | readonly number[]>(config.transformer_layers_per_block, blocks);
    const upTransformers = config.reverse_transformer_layers_per_block ?? [...transformers].reverse();
    // Diffusers passes the sizes to reach only when doubling does not lead back to the sample's.
    const isOdd = [dims["sample"]![2]!, dims["sample"]![3]!].some((size) => size % 2 ** last !== 0);
    config.up_block_types.forEach((type, i) => {
      const level = last - i;
      const count = layers[level]! + 1;
      sample = blockNamed(upBlocks, type)!(g, sample, kept, `up_blocks.${i}`, {
        ...blockOptions(config, conditions, level, count, upTransformers[i]!),
        // The one list that Diffusers does not reverse on the way up.
        attentionHeadDim: heads[i]!,
        addUpsample: i < last,
        next: config.block_out_channels[Math.max(level - 1, 0)]!,
        upsampleType: "conv",
        upsampleSize: isOdd ? kept[kept.length - count - 1] : undefined,
        freeU: freeUOf(freeu, i),
      });
    });

    // 6. post-process
    if (config.norm_num_groups !== null) {
      sample = groupNorm(g, sample, "conv_norm_out", { ...resnetOptions(config), activation: config.act_fn });
    }
    sample = conv2d(g, sample, "conv_out", config.out_channels, { kernel: config.conv_out_kernel });
    mapOutput(g, "out_sample", sample);
  }

  /** Channels of `sample`: a hint's four are laid beside them. */
  private get sampleChannels(): number {
    const { in_channels, addition_embed_type } = this.config;
    return addition_embed_type === "image_hint" ? in_channels - 4 : in_channels;
  }
}
