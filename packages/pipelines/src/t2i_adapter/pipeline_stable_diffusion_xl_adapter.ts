import { checkOptions, type RawImage, randn_tensor, Tensor } from "@diffusers-web/core";
import { MultiAdapter, type SingleFileKind, type T2IAdapter } from "@diffusers-web/models";
import { nextTask } from "../calls.ts";
import { checkShare, checkTensor } from "../checks.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import { callParameters } from "../stable_diffusion/call_parameters.ts";
import { afterStep } from "../stable_diffusion/stable_diffusion_base.ts";
import {
  checkXLPromptInputs,
  type XLCallbackTensors,
  type XLPromptedOptions,
  xlCallbackTensors,
  xlPromptedOptionNames,
} from "../stable_diffusion_xl/call_options.ts";
import { isPartial, timestepsUntil } from "../stable_diffusion_xl/denoising_range.ts";
import { textTimeIds, timeIds } from "../stable_diffusion_xl/micro_conditioning.ts";
import { StableDiffusionXLBase, type StableDiffusionXLParts } from "../stable_diffusion_xl/stable_diffusion_xl_base.ts";
import { stepCallback } from "../step_callback.ts";
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import {
  type AdapterOptions,
  adapterFeatures,
  adapterOptionNames,
  checkAdapterOptions,
  readAdapterPictures,
} from "./adapter_images.ts";

/** What a {@link StableDiffusionXLAdapterPipeline} is built of. */
export interface StableDiffusionXLAdapterParts extends Omit<StableDiffusionXLParts, "add_watermarker"> {
  /** One, or several whose features are added up. */
  readonly adapter: T2IAdapter | MultiAdapter | readonly T2IAdapter[] | null;
}

/** What a {@link StableDiffusionXLAdapterPipeline} is called with. */
export interface StableDiffusionXLAdapterOptions
  extends XLPromptedOptions<StableDiffusionXLAdapterPipeline>,
    AdapterOptions {
  /** 0 to 1: the share of the steps, from the first on, in which the adapter acts. Default 1. */
  readonly adapter_conditioning_factor?: number;
}

const optionNames: readonly (keyof StableDiffusionXLAdapterOptions)[] = [
  ...xlPromptedOptionNames,
  ...adapterOptionNames,
  "adapter_conditioning_factor",
];

export interface StableDiffusionXLAdapterPipeline extends PromptPipelineCall<StableDiffusionXLAdapterOptions> {
  adapter: T2IAdapter | MultiAdapter;
}

/**
 * Text to image with Stable Diffusion XL, and a T2I-Adapter that makes the picture follow another one: a sketch, edges, depth, a
 * pose.
 *
 * @example
 * ```ts
 * const adapter = await T2IAdapter.from_pretrained("TencentARC/t2i-adapter-sketch-sdxl-1.0", { variant: "fp16" });
 * const pipeline = await StableDiffusionXLAdapterPipeline.from_pretrained("stabilityai/stable-diffusion-xl-base-1.0", {
 *   adapter,
 *   variant: "fp16",
 * });
 * const { images } = await pipeline("a robot, 4k photo", { image: "sketch.png", adapter_conditioning_scale: 0.9 });
 * ```
 * @see Diffusers `StableDiffusionXLAdapterPipeline`; Mou et al., https://arxiv.org/abs/2302.08453
 */
export class StableDiffusionXLAdapterPipeline extends StableDiffusionXLBase {
  static override readonly name: string = "StableDiffusionXLAdapterPipeline";
  static override readonly component_names: readonly string[] = [
    "vae",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "unet",
    "adapter",
    "scheduler",
    "feature_extractor",
    "image_encoder",
  ];
  static override readonly init_options: readonly string[] = ["force_zeros_for_empty_prompt"];
  static override readonly single_file_kinds: readonly SingleFileKind[] = ["xl_base"];
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof XLCallbackTensors)[] = xlCallbackTensors;

  constructor(parts: StableDiffusionXLAdapterParts) {
    super(parts);
    const { adapter } = parts;
    this.register_modules({ adapter: Array.isArray(adapter) ? new MultiAdapter(adapter) : (adapter as T2IAdapter) });
  }

  protected override async run(
    options: StableDiffusionXLAdapterOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, latents: given, callback_on_step_end, signal, num_images_per_prompt = 1 } = options;
    const { guidance_scale = 5, guidance_rescale = 0, eta = 0, denoising_end } = options;
    const { adapter_conditioning_scale: scale = 1, adapter_conditioning_factor = 1 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { unet, scheduler, adapter } = this;
    this.checkRunParts(options.output_type ?? "image");
    this.checkParts(["adapter"]);

    // 0. and 1. the pictures, which give the default size, and what is wrong with the call
    checkOptions("StableDiffusionXLAdapterPipeline", options, optionNames);
    checkXLPromptInputs("StableDiffusionXLAdapterPipeline", options, unet.config.cross_attention_dim as number);
    checkAdapterOptions(adapter, options);
    checkShare("adapter_conditioning_factor", adapter_conditioning_factor);
    const pictures = await readAdapterPictures(adapter, options);
    const { height, width } = pictures;
    const [time_ids, negative_time_ids] = textTimeIds(this, options, height, width);
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 2. call parameters
    const { batch, generator } = callParameters(options);

    // 3. the text, and what IP-Adapters see
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    let { prompt_embeds, pooled_prompt_embeds: add_text_embeds } = encoded;
    const image_conditions = await this.imageConditions(options, batch);
    await nextTask(signal);

    // 4. timesteps
    const { timesteps: all, num_inference_steps } = retrieve_timesteps(
      scheduler,
      options.num_inference_steps ?? 50,
      options,
    );

    // 5. latents
    const channels = unet.config.in_channels;
    const size = [Math.floor(height / this.vae_scale_factor), Math.floor(width / this.vae_scale_factor)];
    if (given != null) checkTensor("latents", given, [batch, channels, ...size]);
    const noise = given ?? randn_tensor([batch, channels, ...size], { generator });
    let latents = noise.mul(scheduler.init_noise_sigma);

    // 6. what this scheduler's step takes, and the guidance as an input
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });
    const timestep_cond = this.timestepCond(batch);

    // 7. the adapter's features, and what is added to the time embedding. In a batch the rows of that alternate, with and without
    // the text, as in Diffusers
    const features = await adapterFeatures(adapter, pictures, {
      ...{ scale, batch, num_images_per_prompt },
      guided: do_classifier_free_guidance,
      blocks: unet.config.down_block_types.length,
    });
    let rows = [time_ids];
    if (do_classifier_free_guidance) {
      prompt_embeds = Tensor.cat([encoded.negative_prompt_embeds!, prompt_embeds]);
      add_text_embeds = Tensor.cat([encoded.negative_pooled_prompt_embeds!, add_text_embeds]);
      rows = [negative_time_ids, time_ids];
    }
    let add_time_ids = timeIds(new Array(batch).fill(rows).flat());

    // 8. where the run ends, how far the adapter acts, and the denoising loop
    const timesteps = timestepsUntil(scheduler, all, denoising_end);
    this._num_timesteps = timesteps.length;
    const steps = isPartial(denoising_end) ? timesteps.length : num_inference_steps;
    const conditioned = Math.trunc(steps * adapter_conditioning_factor);
    // Without features the graph would be another one, and the UNet loaded anew: zeros do nothing as well.
    const nothing = features.map(({ dims }) => Tensor.zeros(dims));
    const warmup = Math.max(all.length - num_inference_steps * scheduler.order, 0);
    const calledBack = stepCallback(options, { timesteps: timesteps.length, warmup, order: scheduler.order });
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const noise_pred = await this.predictNoise(latents, t, prompt_embeds, {
        ...{ timestep_cond, guidance_rescale },
        added_cond_kwargs: { text_embeds: add_text_embeds, time_ids: add_time_ids, ...image_conditions },
        down_intrablock_additional_residuals: i < conditioned ? features : nothing,
      });

      // x_t -> x_t-1
      latents = scheduler.step(noise_pred, t, latents, extra_step_kwargs).prev_sample;

      await calledBack(i, t, latents);
      if (callback_on_step_end != null) {
        const tensors = { latents, prompt_embeds, add_text_embeds, add_time_ids };
        ({ latents, prompt_embeds, add_text_embeds, add_time_ids } = await afterStep(
          (shown) => callback_on_step_end(this, i, t, shown),
          callback_on_step_end_tensor_inputs,
          tensors,
        ));
      }
      await nextTask(signal);
    }
    return this.finish(latents, num_inference_steps, {
      ...{ ...options, generator, described: {}, isSeeded: given == null },
      // This pipeline of Diffusers leaves an autoencoder's `latents_mean` and `latents_std` out of account.
      uses_statistics: false,
    });
  }
}
