import { checkOptions, type RawImage, randn_tensor, Tensor } from "@diffusers-web/core";
import { nextTask } from "../calls.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import {
  type CallbackTensors,
  callbackTensors,
  checkPromptInputs,
  type PromptedOptions,
  promptedOptionNames,
} from "./call_options.ts";
import { callParameters } from "./call_parameters.ts";
import {
  addNoise,
  checkRepeatable,
  checkStepsLeft,
  checkStrength,
  get_timesteps,
  type ImageInput,
  initLatents,
  readImage,
} from "./image_latents.ts";
import { afterStep, StableDiffusionBase } from "./stable_diffusion_base.ts";

/** What a {@link StableDiffusionImg2ImgPipeline} is called with. */
export interface StableDiffusionImg2ImgOptions
  extends PromptedOptions<StableDiffusionImg2ImgPipeline, CallbackTensors> {
  /**
   * The picture to start from, or one for each picture of the batch; fewer are repeated. Brought to a multiple of 8 in size, a
   * list to the size of its first. A tensor is `[batch, 3, height, width]` in 0..1; one of 4 channels is taken for latents,
   * scaled as the UNet knows them.
   */
  readonly image?: ImageInput | null;
  /**
   * How much of the picture is made anew, 0 to 1: the share of `num_inference_steps` that is run. At 1 nearly nothing is left
   * of it. Default 0.8.
   */
  readonly strength?: number;
}

const optionNames: readonly (keyof StableDiffusionImg2ImgOptions)[] = [...promptedOptionNames, "image", "strength"];

export interface StableDiffusionImg2ImgPipeline extends PromptPipelineCall<StableDiffusionImg2ImgOptions> {}

/**
 * Picture to picture, guided by text, with Stable Diffusion 1.x and 2.x, and models of that layout.
 *
 * @example
 * ```ts
 * const pipeline = await StableDiffusionImg2ImgPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5");
 * const { images } = await pipeline("a fantasy landscape, trending on artstation", {
 *   image: await RawImage.read("sketch.png"),
 *   strength: 0.75,
 * });
 * ```
 * @see Diffusers `StableDiffusionImg2ImgPipeline`; Meng et al., https://arxiv.org/abs/2108.01073
 */
export class StableDiffusionImg2ImgPipeline extends StableDiffusionBase {
  static override readonly name: string = "StableDiffusionImg2ImgPipeline";
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof CallbackTensors)[] = callbackTensors;

  protected override async run(
    options: StableDiffusionImg2ImgOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, strength = 0.8, callback_on_step_end: callback, signal } = options;
    const { guidance_scale = 7.5, eta = 0 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { unet, scheduler } = this;
    this.checkRunParts(options.output_type ?? "image");

    // 1. what is wrong with the call
    checkOptions("StableDiffusionImg2ImgPipeline", options, optionNames);
    checkStrength(strength);
    checkPromptInputs(
      "StableDiffusionImg2ImgPipeline",
      options,
      unet.config.cross_attention_dim as number,
      callbackTensors,
    );
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 2. call parameters
    const { batch, generator } = callParameters(options);
    const image = await readImage(this.image_processor, this.vae, options.image);
    checkRepeatable("image", image, batch);
    if (image.dims[1] !== this.image_processor.config.vae_latent_channels) this.checkParts(["vae"]);

    // 3. the text, and what IP-Adapters see
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    let { prompt_embeds } = encoded;
    let negative_prompt_embeds = encoded.negative_prompt_embeds ?? undefined;
    if (do_classifier_free_guidance) prompt_embeds = Tensor.cat([negative_prompt_embeds!, prompt_embeds]);
    const added_cond_kwargs = await this.imageConditions(options, batch);
    await nextTask(signal);

    // 4. timesteps
    const whole = retrieve_timesteps(scheduler, options.num_inference_steps ?? 50, options);
    const { timesteps } = get_timesteps(scheduler, whole.timesteps, whole.num_inference_steps, strength);
    checkStepsLeft(timesteps, whole.num_inference_steps, strength);
    this._num_timesteps = timesteps.length;

    // 5. latents: those of the picture, with noise
    const init_latents = await initLatents(this, image, batch, generator);
    const noise = randn_tensor(init_latents.dims, { generator });
    let latents = addNoise(scheduler, init_latents, noise, timesteps[0]!);
    await nextTask(signal);

    // 6. what this scheduler's step takes, and the guidance as an input
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });
    const timestep_cond = this.timestepCond(batch);

    // 7. denoising loop
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const noise_pred = await this.predictNoise(latents, t, prompt_embeds, { timestep_cond, added_cond_kwargs });

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
    return this.finish(latents, whole.num_inference_steps, {
      ...options,
      generator,
      described: { "Denoising strength": strength },
    });
  }
}
