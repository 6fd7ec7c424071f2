import { checkOptions, type RawImage, randn_tensor, type Tensor } from "@diffusers-web/core";
import { nextTask } from "../calls.ts";
import { checkTensor } from "../checks.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import { checkDivisible } from "../stable_diffusion/call_options.ts";
import { callParameters } from "../stable_diffusion/call_parameters.ts";
import type { OutdatedField } from "../stable_diffusion/old_configs.ts";
import { afterStep, StableDiffusionBase } from "../stable_diffusion/stable_diffusion_base.ts";
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import {
  checkLCMInputs,
  type LCMCallbackTensors,
  type LCMPromptedOptions,
  lcmCallbackTensors,
  lcmPromptedOptionNames,
} from "./call_options.ts";

/** What a {@link LatentConsistencyModelPipeline} is called with. */
export interface LatentConsistencyModelOptions extends LCMPromptedOptions<LatentConsistencyModelPipeline> {
  /** A multiple of 8. Default: what the model was trained at. */
  readonly height?: number | null;
  /** A multiple of 8. Default: what the model was trained at. */
  readonly width?: number | null;
  /** The noise to begin with, `[batch, channels, height / 8, width / 8]`. */
  readonly latents?: Tensor | null;
}

const optionNames: readonly string[] = [...lcmPromptedOptionNames, "height", "width", "latents"];

export interface LatentConsistencyModelPipeline extends PromptPipelineCall<LatentConsistencyModelOptions> {}

/**
 * Text to image in a few steps, with a latent consistency model. There is no negative prompt: the guidance is an input of the
 * model, which learned it against the empty text.
 *
 * @example
 * ```ts
 * const pipeline = await LatentConsistencyModelPipeline.from_pretrained("SimianLuo/LCM_Dreamshaper_v7");
 * const { images } = await pipeline("a self-portrait, oil painting, beautiful cyborg with golden hair, 8k", {
 *   num_inference_steps: 4,
 *   guidance_scale: 8,
 * });
 * ```
 * @see Diffusers `LatentConsistencyModelPipeline`; Luo et al., https://arxiv.org/abs/2310.04378
 */
export class LatentConsistencyModelPipeline extends StableDiffusionBase {
  static override readonly name: string = "LatentConsistencyModelPipeline";
  static override readonly model_cpu_offload_seq: string = "text_encoder->unet->vae";
  static override readonly outdated_fields: readonly OutdatedField[] = [];
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof LCMCallbackTensors)[] = lcmCallbackTensors;

  /** Never: the UNet does not run a second time without the text. */
  override get do_classifier_free_guidance(): boolean {
    return false;
  }

  protected override async run(
    options: LatentConsistencyModelOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, latents: given, callback_on_step_end: callback, signal } = options;
    const { original_inference_steps, guidance_scale = 8.5 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { unet, scheduler } = this;
    this.checkRunParts(options.output_type ?? "image");

    // 0. and 1. default size, and what is wrong with the call
    checkOptions(LatentConsistencyModelPipeline.name, options, optionNames);
    const [rows, columns] = options.height && options.width ? [options.height, options.width] : this.defaultSize();
    const [height, width] = [options.height || rows, options.width || columns];
    checkDivisible("height", height);
    checkDivisible("width", width);
    checkLCMInputs(LatentConsistencyModelPipeline.name, options, this);
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 2. call parameters
    const { batch, generator } = callParameters(options);

    // 3. the text, and what IP-Adapters see
    let { prompt_embeds } = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    const added_cond_kwargs = await this.imageConditions(options, batch);
    const cross_attention_kwargs = options.cross_attention_kwargs ?? undefined;
    await nextTask(signal);

    // 4. timesteps
    const { timesteps, num_inference_steps } = retrieve_timesteps(
      scheduler,
      options.num_inference_steps ?? 4,
      options,
      { original_inference_steps: original_inference_steps ?? undefined },
    );
    this._num_timesteps = timesteps.length;

    // 5. latents
    const channels = unet.config.in_channels;
    const size = [Math.floor(height / this.vae_scale_factor), Math.floor(width / this.vae_scale_factor)];
    if (given != null) checkTensor("latents", given, [batch, channels, null, null]);
    const noise = given ?? randn_tensor([batch, channels, ...size], { generator });
    let latents = noise.mul(scheduler.init_noise_sigma);

    // 6. the guidance as an input: the paper's is smaller by 1
    let w_embedding = this.timestepCond(batch)!;

    // 7. what this scheduler's step takes
    const extra_step_kwargs = stepOptions(scheduler, { generator });

    // 8. multistep sampling
    let denoised = latents;
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      // model prediction (v-prediction, eps, x)
      const conditions = { timestep_cond: w_embedding, added_cond_kwargs, cross_attention_kwargs };
      const { sample: model_pred } = await unet(latents, t, prompt_embeds, conditions);

      // x_t -> x_t-1
      const stepped = scheduler.step(model_pred, t, latents, extra_step_kwargs);
      latents = stepped.prev_sample;
      denoised = stepped.denoised!;

      if (callback != null) {
        const tensors = { latents, denoised, prompt_embeds, w_embedding };
        ({ latents, denoised, prompt_embeds, w_embedding } = await afterStep(
          (shown) => callback(this, i, t, shown),
          callback_on_step_end_tensor_inputs,
          tensors,
        ));
      }
      await nextTask(signal);
    }
    return this.finish(denoised, num_inference_steps, {
      ...options,
      generator,
      described: {},
      isSeeded: given == null,
    });
  }
}
