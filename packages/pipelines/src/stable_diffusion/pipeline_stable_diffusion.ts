import { type RawImage, randn_tensor, Tensor } from "@diffusers-web/core";
import { nextTask } from "../calls.ts";
import { checkTensor } from "../checks.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import {
  type CallbackTensors,
  callbackTensors,
  checkDivisible,
  checkInputs,
  type StableDiffusionOptions,
} from "./call_options.ts";
import { callParameters } from "./call_parameters.ts";
import { afterStep, StableDiffusionBase } from "./stable_diffusion_base.ts";

export interface StableDiffusionPipeline extends PromptPipelineCall<StableDiffusionOptions> {}

/**
 * Text to image with Stable Diffusion 1.x and 2.x, and models of that layout.
 *
 * @example
 * ```ts
 * const pipeline = await StableDiffusionPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5");
 * const { images } = await pipeline("a photo of an astronaut riding a horse", { num_inference_steps: 25 });
 * ```
 * @see Diffusers `StableDiffusionPipeline`; Rombach et al., https://arxiv.org/abs/2112.10752
 */
export class StableDiffusionPipeline extends StableDiffusionBase {
  static override readonly name: string = "StableDiffusionPipeline";
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof CallbackTensors)[] = callbackTensors;

  protected override async run(
    options: StableDiffusionOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, latents: given, callback_on_step_end: callback, signal } = options;
    const { guidance_scale = 7.5, guidance_rescale = 0, eta = 0 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { unet, scheduler } = this;
    this.checkRunParts(options.output_type ?? "image");

    // 0. and 1. default size, and what is wrong with the call
    const [height, width] = this.sizeOf(options, checkDivisible);
    checkInputs(options, height, width, unet.config.cross_attention_dim as number);
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 2. call parameters
    const { batch, generator } = callParameters(options);

    // 3. the text, and what IP-Adapters see
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    let { prompt_embeds } = encoded;
    let negative_prompt_embeds = encoded.negative_prompt_embeds ?? undefined;
    if (do_classifier_free_guidance) prompt_embeds = Tensor.cat([negative_prompt_embeds!, prompt_embeds]);
    const added_cond_kwargs = await this.imageConditions(options, batch);
    await nextTask(signal);

    // 4. timesteps
    const { timesteps, num_inference_steps } = retrieve_timesteps(
      scheduler,
      options.num_inference_steps ?? 50,
      options,
    );
    this._num_timesteps = timesteps.length;

    // 5. latents
    const channels = unet.config.in_channels;
    const shape = [
      batch,
      channels,
      Math.floor(height / this.vae_scale_factor),
      Math.floor(width / this.vae_scale_factor),
    ];
    if (given != null) checkTensor("latents", given, [batch, channels, null, null]);
    let latents = (given ?? randn_tensor(shape, { generator })).mul(scheduler.init_noise_sigma);

    // 6. what this scheduler's step takes, and the guidance as an input
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });
    const timestep_cond = this.timestepCond(batch);

    // 7. denoising loop
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const noise_pred = await this.predictNoise(latents, t, prompt_embeds, {
        ...{ timestep_cond, added_cond_kwargs, guidance_rescale },
      });

      // x_t -> x_t-1
      latents = scheduler.step(noise_pred, t, latents, extra_step_kwargs).prev_sample;

      if (callback != null) {
        const tensors = { latents, prompt_embeds, negative_prompt_embeds };
        ({ latents, prompt_embeds, negative_prompt_embeds } = await afterStep(
          (shown) => callback(this, i, t, shown as CallbackTensors),
          callback_on_step_end_tensor_inputs,
          tensors,
        ));
      }
      await nextTask(signal);
    }
    return this.finish(latents, num_inference_steps, { ...options, generator, described: {}, isSeeded: given == null });
  }
}
