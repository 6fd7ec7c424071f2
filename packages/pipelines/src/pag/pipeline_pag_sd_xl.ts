import { checkOptions, type RawImage, randn_tensor, Tensor } from "@diffusers-web/core";
import type { SingleFileKind } from "@diffusers-web/models";
import { nextTask } from "../calls.ts";
import { checkTensor } from "../checks.ts";
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
import { timestepsUntil } from "../stable_diffusion_xl/denoising_range.ts";
import { textTimeIds, timeIds } from "../stable_diffusion_xl/micro_conditioning.ts";
import { StableDiffusionXLBase, type StableDiffusionXLParts } from "../stable_diffusion_xl/stable_diffusion_xl_base.ts";
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import {
  appliedLayers,
  type PAGLayers,
  type PAGOptions,
  type PAGParts,
  PerturbedGuidance,
  pagOptionNames,
} from "./pag_utils.ts";

/** The tensors that a callback is shown, by name; what it returns replaces them. */
export type XLPAGCallbackTensors = XLCallbackTensors &
  Readonly<
    Partial<Record<"negative_prompt_embeds" | "negative_pooled_prompt_embeds" | "negative_add_time_ids", Tensor>>
  >;

const tensorNames: readonly (keyof XLPAGCallbackTensors)[] = [
  ...xlCallbackTensors,
  "negative_prompt_embeds",
  "negative_pooled_prompt_embeds",
  "negative_add_time_ids",
];

/** What a {@link StableDiffusionXLPAGPipeline} is called with. */
export interface StableDiffusionXLPAGOptions
  extends XLPromptedOptions<StableDiffusionXLPAGPipeline, XLPAGCallbackTensors>,
    PAGOptions {
  /** A multiple of 8. Default: what the model was trained at. */
  readonly height?: number | null;
  /** A multiple of 8. Default: what the model was trained at. */
  readonly width?: number | null;
  /** The noise to begin with, `[batch, channels, height / 8, width / 8]`. */
  readonly latents?: Tensor | null;
}

const optionNames: readonly (keyof StableDiffusionXLPAGOptions)[] = [
  ...xlPromptedOptionNames,
  ...pagOptionNames,
  "height",
  "width",
  "latents",
];

export interface StableDiffusionXLPAGPipeline extends PromptPipelineCall<StableDiffusionXLPAGOptions> {}

/**
 * Text to image with Stable Diffusion XL and perturbed-attention guidance: see {@link StableDiffusionPAGPipeline}.
 *
 * @example
 * ```ts
 * const pipeline = await AutoPipelineForText2Image.from_pretrained("stabilityai/stable-diffusion-xl-base-1.0", {
 *   enable_pag: true,
 *   variant: "fp16",
 * });
 * const { images } = await pipeline("an insect robot preparing a delicious meal", { pag_scale: 3, guidance_scale: 0 });
 * ```
 * @see Diffusers `StableDiffusionXLPAGPipeline`; Ahn et al., https://arxiv.org/abs/2403.17377
 */
export class StableDiffusionXLPAGPipeline extends StableDiffusionXLBase {
  static override readonly name: string = "StableDiffusionXLPAGPipeline";
  static override readonly init_options: readonly string[] = [
    ...StableDiffusionXLBase.init_options,
    "pag_applied_layers",
  ];
  static override readonly single_file_kinds: readonly SingleFileKind[] = ["xl_base"];
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof XLPAGCallbackTensors)[] = tensorNames;

  /** The self-attentions that are perturbed. */
  pag_applied_layers: readonly string[];

  constructor(parts: StableDiffusionXLParts & PAGParts) {
    super(parts);
    this.pag_applied_layers = appliedLayers(parts.pag_applied_layers ?? "mid");
  }

  /**
   * Sets which self-attentions are perturbed: see {@link PAGParts.pag_applied_layers}.
   *
   * @throws ValueError for what are no strings. Whether the UNet has such layers shows when the pipeline is called.
   */
  set_pag_applied_layers(pag_applied_layers: PAGLayers): void {
    this.pag_applied_layers = appliedLayers(pag_applied_layers);
  }

  protected override async run(
    options: StableDiffusionXLPAGOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, latents: given, callback_on_step_end: callback, signal } = options;
    const { guidance_scale = 5, guidance_rescale = 0, eta = 0 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { unet, scheduler } = this;
    this.checkRunParts(options.output_type ?? "image");

    // 0. and 1. default size, and what is wrong with the call
    checkOptions("StableDiffusionXLPAGPipeline", options, optionNames);
    const [height, width] = this.sizeOf(options);
    checkXLPromptInputs(
      "StableDiffusionXLPAGPipeline",
      options,
      unet.config.cross_attention_dim as number,
      tensorNames,
    );
    const [time_ids, negative_time_ids] = textTimeIds(this, options, height, width);
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;
    const guidance = new PerturbedGuidance(this, options);

    // 2. call parameters
    const { batch, generator } = callParameters(options);

    // 3. the text, and what IP-Adapters see
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    const { image_embeds } = await this.imageConditions(options, batch);
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
    if (given != null) checkTensor("latents", given, [batch, channels, null, null]);
    const noise = given ?? randn_tensor([batch, channels, ...size], { generator });
    // 6. what this scheduler's step takes
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });

    // 7. the conditions, for each part of the UNet's batch. Of the numbers, the rows of the parts alternate, as in Diffusers
    const negative_prompt_embeds = encoded.negative_prompt_embeds ?? undefined;
    const negative_pooled_prompt_embeds = encoded.negative_pooled_prompt_embeds ?? undefined;
    let tensors = {
      latents: noise.mul(scheduler.init_noise_sigma),
      prompt_embeds: Tensor.cat(guidance.parts(encoded.prompt_embeds, negative_prompt_embeds!)),
      add_text_embeds: Tensor.cat(guidance.parts(encoded.pooled_prompt_embeds, negative_pooled_prompt_embeds!)),
      add_time_ids: timeIds(new Array(batch).fill(guidance.parts(time_ids, negative_time_ids)).flat()),
      ...{ negative_prompt_embeds, negative_pooled_prompt_embeds },
      negative_add_time_ids: timeIds([negative_time_ids]),
    };
    const image_conditions = image_embeds && { image_embeds: image_embeds.map((one) => guidance.rearranged(one)) };

    // 8. where the run ends
    const timesteps = timestepsUntil(scheduler, all, options.denoising_end);
    this._num_timesteps = timesteps.length;

    // 9. the guidance as an input, and the denoising loop
    const timestep_cond = this.timestepCond(batch);
    for (const [i, t] of this.progress_bar(timesteps, tensors.latents)) {
      if (this.interrupt) break;
      const { latents, prompt_embeds, add_text_embeds, add_time_ids } = tensors;
      const added_cond_kwargs = { text_embeds: add_text_embeds, time_ids: add_time_ids, ...image_conditions };
      const conditions = { timestep_cond, added_cond_kwargs, guidance_rescale };
      const noise_pred = await guidance.predictNoise(latents, t, prompt_embeds, conditions);

      // x_t -> x_t-1
      tensors = { ...tensors, latents: scheduler.step(noise_pred, t, latents, extra_step_kwargs).prev_sample };

      if (callback != null) {
        tensors = await afterStep(
          (shown) => callback(this, i, t, shown as XLPAGCallbackTensors),
          callback_on_step_end_tensor_inputs,
          tensors,
        );
      }
      await nextTask(signal);
    }
    return this.finish(tensors.latents, num_inference_steps, {
      ...{ ...options, generator, isSeeded: given == null },
      described: guidance.described,
    });
  }
}
