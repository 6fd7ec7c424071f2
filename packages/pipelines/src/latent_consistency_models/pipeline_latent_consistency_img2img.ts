import { checkOptions, type RawImage, randn_tensor, type Tensor } from "@diffusers-web/core";
import { nextTask } from "../calls.ts";
import { checkTensor } from "../checks.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import { callParameters } from "../stable_diffusion/call_parameters.ts";
import {
  addNoise,
  checkRepeatable,
  checkStrength,
  type ImageInput,
  initLatents,
  readImage,
} from "../stable_diffusion/image_latents.ts";
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

/** What a {@link LatentConsistencyModelImg2ImgPipeline} is called with. */
export interface LatentConsistencyModelImg2ImgOptions
  extends LCMPromptedOptions<LatentConsistencyModelImg2ImgPipeline> {
  /**
   * The picture to start from, or one for each picture of the batch; fewer are repeated. Brought to a multiple of 8 in size, a
   * list to the size of its first. A tensor is `[batch, 3, height, width]` in 0..1; one of 4 channels is taken for latents,
   * scaled as the UNet knows them.
   */
  readonly image?: ImageInput | null;
  /**
   * How much of the picture is made anew, 0 to 1: the share of the model's own schedule that the steps are chosen of, not of the
   * number of steps. Default 0.8.
   */
  readonly strength?: number;
  /** Noisy latents to begin with, `[batch, channels, height, width]`, in place of those of `image`, which is not used then. */
  readonly latents?: Tensor | null;
}

const optionNames: readonly string[] = [...lcmPromptedOptionNames, "image", "strength", "latents"];

export interface LatentConsistencyModelImg2ImgPipeline
  extends PromptPipelineCall<LatentConsistencyModelImg2ImgOptions> {}

/**
 * Picture to picture in a few steps, guided by text, with a latent consistency model.
 *
 * @example
 * ```ts
 * const pipeline = await AutoPipelineForImage2Image.from_pretrained("SimianLuo/LCM_Dreamshaper_v7");
 * const { images } = await pipeline("High altitude snowy mountains", {
 *   image: await RawImage.read("snowy_mountains.png"),
 *   num_inference_steps: 4,
 *   guidance_scale: 8,
 * });
 * ```
 * @see Diffusers `LatentConsistencyModelImg2ImgPipeline`
 */
export class LatentConsistencyModelImg2ImgPipeline extends StableDiffusionBase {
  static override readonly name: string = "LatentConsistencyModelImg2ImgPipeline";
  static override readonly model_cpu_offload_seq: string = "text_encoder->unet->vae";
  static override readonly outdated_fields: readonly OutdatedField[] = [];
  static override readonly keeps_safety_requirement: boolean = false;
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof LCMCallbackTensors)[] = lcmCallbackTensors;

  /** Never: the UNet does not run a second time without the text. */
  override get do_classifier_free_guidance(): boolean {
    return false;
  }

  protected override async run(
    options: LatentConsistencyModelImg2ImgOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, strength = 0.8, latents: given, callback_on_step_end: callback, signal } = options;
    const { original_inference_steps, guidance_scale = 8.5 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { unet, scheduler } = this;
    this.checkRunParts(options.output_type ?? "image");

    // 1. what is wrong with the call
    checkOptions(LatentConsistencyModelImg2ImgPipeline.name, options, optionNames);
    checkStrength(strength);
    checkLCMInputs(LatentConsistencyModelImg2ImgPipeline.name, options, this);
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 2. call parameters
    const { batch, generator } = callParameters(options);
    if (given != null) checkTensor("latents", given, [batch, unet.config.in_channels, null, null]);
    const image = await readImage(this.image_processor, this.vae, options.image);
    if (given == null) {
      checkRepeatable("image", image, batch);
      if (image.dims[1] !== this.image_processor.config.vae_latent_channels) this.checkParts(["vae"]);
    }

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
      { original_inference_steps: original_inference_steps ?? undefined, strength },
    );
    this._num_timesteps = timesteps.length;

    // 5. latents: those of the picture, with noise
    let latents = given ?? undefined;
    if (latents === undefined) {
      const init_latents = await initLatents(this, image, batch, generator);
      const noise = randn_tensor(init_latents.dims, { generator });
      latents = addNoise(scheduler, init_latents, noise, timesteps[0]!);
    }
    await nextTask(signal);

    // 6. the guidance as an input (the paper's is smaller by 1), and what this scheduler's step takes
    let w_embedding = this.timestepCond(batch)!;
    const extra_step_kwargs = stepOptions(scheduler, { generator });

    // 7. multistep sampling
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
      described: { "Denoising strength": strength },
      isSeeded: given == null,
    });
  }
}
