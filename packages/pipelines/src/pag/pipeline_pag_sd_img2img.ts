import { checkOptions, type RawImage, randn_tensor, Tensor } from "@diffusers-web/core";
import { nextTask } from "../calls.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import {
  type CallbackTensors,
  callbackTensors,
  checkPromptInputs,
  type PromptedOptions,
  promptedOptionNames,
} from "../stable_diffusion/call_options.ts";
import { callParameters } from "../stable_diffusion/call_parameters.ts";
import {
  addNoise,
  checkRepeatable,
  checkStepsLeft,
  checkStrength,
  get_timesteps,
  type ImageInput,
  initLatents,
  readImage,
} from "../stable_diffusion/image_latents.ts";
import {
  afterStep,
  StableDiffusionBase,
  type StableDiffusionParts,
} from "../stable_diffusion/stable_diffusion_base.ts";
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import {
  appliedLayers,
  type PAGLayers,
  type PAGOptions,
  type PAGParts,
  PerturbedGuidance,
  pagOptionNames,
} from "./pag_utils.ts";

/** What a {@link StableDiffusionPAGImg2ImgPipeline} is called with. */
export interface StableDiffusionPAGImg2ImgOptions
  extends PromptedOptions<StableDiffusionPAGImg2ImgPipeline, CallbackTensors>,
    PAGOptions {
  /** As in `StableDiffusionImg2ImgOptions`. */
  readonly image?: ImageInput | null;
  /** How much of the picture is made anew, 0 to 1: the share of `num_inference_steps` that is run. Default 0.8. */
  readonly strength?: number;
}

const optionNames: readonly (keyof StableDiffusionPAGImg2ImgOptions)[] = [
  ...promptedOptionNames,
  ...pagOptionNames,
  "image",
  "strength",
];

export interface StableDiffusionPAGImg2ImgPipeline extends PromptPipelineCall<StableDiffusionPAGImg2ImgOptions> {}

/**
 * Picture to picture with Stable Diffusion 1.x and 2.x and perturbed-attention guidance: see {@link StableDiffusionPAGPipeline}.
 *
 * @example
 * ```ts
 * const pipeline = await AutoPipelineForImage2Image.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5", {
 *   enable_pag: true,
 * });
 * const { images } = await pipeline("an astronaut on a horse", { image: "photo.png", pag_scale: 0.3 });
 * ```
 * @see Diffusers `StableDiffusionPAGImg2ImgPipeline`; Ahn et al., https://arxiv.org/abs/2403.17377
 */
export class StableDiffusionPAGImg2ImgPipeline extends StableDiffusionBase {
  static override readonly name: string = "StableDiffusionPAGImg2ImgPipeline";
  static override readonly init_options: readonly string[] = ["requires_safety_checker", "pag_applied_layers"];
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof CallbackTensors)[] = callbackTensors;

  /** The self-attentions that are perturbed. */
  pag_applied_layers: readonly string[];

  constructor(parts: StableDiffusionParts & PAGParts) {
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
    options: StableDiffusionPAGImg2ImgOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, strength = 0.8, callback_on_step_end: callback, signal } = options;
    const { guidance_scale = 7.5, eta = 0 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { unet, scheduler } = this;
    this.checkRunParts(options.output_type ?? "image");

    // 1. what is wrong with the call
    checkOptions("StableDiffusionPAGImg2ImgPipeline", options, optionNames);
    checkStrength(strength);
    checkPromptInputs(
      "StableDiffusionPAGImg2ImgPipeline",
      options,
      unet.config.cross_attention_dim as number,
      callbackTensors,
    );
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;
    const guidance = new PerturbedGuidance(this, options);

    // 2. call parameters
    const { batch, generator } = callParameters(options);
    const image = await readImage(this.image_processor, this.vae, options.image);
    checkRepeatable("image", image, batch);
    if (image.dims[1] !== this.image_processor.config.vae_latent_channels) this.checkParts(["vae"]);

    // 3. the text, and what IP-Adapters see, for each part of the UNet's batch
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    let negative_prompt_embeds = encoded.negative_prompt_embeds ?? undefined;
    let prompt_embeds = Tensor.cat(guidance.parts(encoded.prompt_embeds, encoded.negative_prompt_embeds!));
    const { image_embeds } = await this.imageConditions(options, batch);
    const added_cond_kwargs = image_embeds && { image_embeds: image_embeds.map((one) => guidance.rearranged(one)) };
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
      const conditions = { timestep_cond, added_cond_kwargs };
      const noise_pred = await guidance.predictNoise(latents, t, prompt_embeds, conditions);

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
      ...{ ...options, generator },
      described: { "Denoising strength": strength, ...guidance.described },
    });
  }
}
