import { checkOptions, type RawImage, randn_tensor, Tensor } from "@diffusers-web/core";
import type { SingleFileKind } from "@diffusers-web/models";
import { nextTask } from "../calls.ts";
import { checkTensor } from "../checks.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import { callParameters } from "../stable_diffusion/call_parameters.ts";
import { afterStep } from "../stable_diffusion/stable_diffusion_base.ts";
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import {
  checkXLPromptInputs,
  type XLCallbackTensors,
  type XLPromptedOptions,
  xlCallbackTensors,
  xlPromptedOptionNames,
} from "./call_options.ts";
import { timestepsUntil } from "./denoising_range.ts";
import { textTimeIds, timeIds } from "./micro_conditioning.ts";
import { StableDiffusionXLBase } from "./stable_diffusion_xl_base.ts";

/** What a {@link StableDiffusionXLPipeline} is called with. */
export interface StableDiffusionXLOptions extends XLPromptedOptions<StableDiffusionXLPipeline> {
  /** A multiple of 8. Default: what the model was trained at. */
  readonly height?: number | null;
  /** A multiple of 8. Default: what the model was trained at. */
  readonly width?: number | null;
  /** The noise to begin with, `[batch, channels, height / 8, width / 8]`. */
  readonly latents?: Tensor | null;
}

const optionNames: readonly (keyof StableDiffusionXLOptions)[] = [
  ...xlPromptedOptionNames,
  "height",
  "width",
  "latents",
];

export interface StableDiffusionXLPipeline extends PromptPipelineCall<StableDiffusionXLOptions> {}

/**
 * Text to image with Stable Diffusion XL, and what was distilled from it (Turbo, Lightning, Hyper, LCM).
 *
 * @example
 * ```ts
 * const pipeline = await StableDiffusionXLPipeline.from_pretrained("stabilityai/stable-diffusion-xl-base-1.0", {
 *   variant: "fp16",
 * });
 * const { images } = await pipeline("a photo of an astronaut riding a horse on mars", { num_inference_steps: 25 });
 * ```
 * @see Diffusers `StableDiffusionXLPipeline`; Podell et al., https://arxiv.org/abs/2307.01952
 */
export class StableDiffusionXLPipeline extends StableDiffusionXLBase {
  static override readonly name: string = "StableDiffusionXLPipeline";
  static override readonly single_file_kinds: readonly SingleFileKind[] = ["xl_base"];
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof XLCallbackTensors)[] = xlCallbackTensors;

  protected override async run(
    options: StableDiffusionXLOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, latents: given, callback_on_step_end: callback, signal } = options;
    const { guidance_scale = 5, guidance_rescale = 0, eta = 0 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { unet, scheduler } = this;
    this.checkRunParts(options.output_type ?? "image");

    // 0. and 1. default size, and what is wrong with the call
    checkOptions("StableDiffusionXLPipeline", options, optionNames);
    const [height, width] = this.sizeOf(options);
    checkXLPromptInputs("StableDiffusionXLPipeline", options, unet.config.cross_attention_dim as number);
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
    if (given != null) checkTensor("latents", given, [batch, channels, null, null]);
    const noise = given ?? randn_tensor([batch, channels, ...size], { generator });
    let latents = noise.mul(scheduler.init_noise_sigma);

    // 6. what this scheduler's step takes
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });

    // 7. what is added to the time embedding. In a batch the rows alternate, with and without the text, as in Diffusers
    let rows = [time_ids];
    if (do_classifier_free_guidance) {
      prompt_embeds = Tensor.cat([encoded.negative_prompt_embeds!, prompt_embeds]);
      add_text_embeds = Tensor.cat([encoded.negative_pooled_prompt_embeds!, add_text_embeds]);
      rows = [negative_time_ids, time_ids];
    }
    let add_time_ids = timeIds(new Array(batch).fill(rows).flat());

    // 8. where the run ends, and the guidance as an input
    const timesteps = timestepsUntil(scheduler, all, options.denoising_end);
    const timestep_cond = this.timestepCond(batch);
    this._num_timesteps = timesteps.length;
    scheduler.set_begin_index?.(0);

    // 9. denoising loop
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const added_cond_kwargs = { text_embeds: add_text_embeds, time_ids: add_time_ids, ...image_conditions };
      const conditions = { timestep_cond, added_cond_kwargs, guidance_rescale };
      const noise_pred = await this.predictNoise(latents, t, prompt_embeds, conditions);

      // x_t -> x_t-1
      latents = scheduler.step(noise_pred, t, latents, extra_step_kwargs).prev_sample;

      if (callback != null) {
        const tensors = { latents, prompt_embeds, add_text_embeds, add_time_ids };
        ({ latents, prompt_embeds, add_text_embeds, add_time_ids } = await afterStep(
          (shown) => callback(this, i, t, shown),
          callback_on_step_end_tensor_inputs,
          tensors,
        ));
      }
      await nextTask(signal);
    }
    return this.finish(latents, num_inference_steps, { ...options, generator, described: {}, isSeeded: given == null });
  }
}
