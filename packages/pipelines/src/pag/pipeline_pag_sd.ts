import { checkOptions, type RawImage, randn_tensor, Tensor } from "@diffusers-web/core";
import { nextTask } from "../calls.ts";
import { checkNumber, checkTensor } from "../checks.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import {
  type CallbackTensors,
  callbackTensors,
  checkDivisible,
  checkPromptInputs,
  type PromptedOptions,
  promptedOptionNames,
} from "../stable_diffusion/call_options.ts";
import { callParameters } from "../stable_diffusion/call_parameters.ts";
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

/** What a {@link StableDiffusionPAGPipeline} is called with. */
export interface StableDiffusionPAGOptions
  extends PromptedOptions<StableDiffusionPAGPipeline, CallbackTensors>,
    PAGOptions {
  /** A multiple of 8. Default: what the model was trained at. */
  readonly height?: number | null;
  /** A multiple of 8. Default: what the model was trained at. */
  readonly width?: number | null;
  /** The noise to begin with, `[batch, channels, height / 8, width / 8]`. */
  readonly latents?: Tensor | null;
  /** 0 to 1: against the over-exposure of strong guidance. Default 0. */
  readonly guidance_rescale?: number;
}

const optionNames: readonly (keyof StableDiffusionPAGOptions)[] = [
  ...promptedOptionNames,
  ...pagOptionNames,
  "height",
  "width",
  "latents",
  "guidance_rescale",
];

export interface StableDiffusionPAGPipeline extends PromptPipelineCall<StableDiffusionPAGOptions> {}

/**
 * Text to image with Stable Diffusion 1.x and 2.x and perturbed-attention guidance: away from a prediction whose self-attention
 * is made blind, for pictures of better structure. With or without guidance by the text.
 *
 * @example
 * ```ts
 * const pipeline = await AutoPipelineForText2Image.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5", {
 *   enable_pag: true,
 *   pag_applied_layers: ["mid"],
 * });
 * const { images } = await pipeline("an insect robot preparing a delicious meal", { pag_scale: 3 });
 * ```
 * @see Diffusers `StableDiffusionPAGPipeline`; Ahn et al., https://arxiv.org/abs/2403.17377
 */
export class StableDiffusionPAGPipeline extends StableDiffusionBase {
  static override readonly name: string = "StableDiffusionPAGPipeline";
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
    options: StableDiffusionPAGOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, latents: given, callback_on_step_end: callback, signal } = options;
    const { guidance_scale = 7.5, guidance_rescale = 0, eta = 0 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { unet, scheduler } = this;
    this.checkRunParts(options.output_type ?? "image");

    // 0. and 1. default size, and what is wrong with the call
    checkOptions("StableDiffusionPAGPipeline", options, optionNames);
    const [rows, columns] = options.height && options.width ? [0, 0] : this.defaultSize();
    const [height, width] = [options.height || rows, options.width || columns];
    checkDivisible("height", height);
    checkDivisible("width", width);
    checkNumber("guidance_rescale", guidance_rescale);
    checkPromptInputs(
      "StableDiffusionPAGPipeline",
      options,
      unet.config.cross_attention_dim as number,
      callbackTensors,
    );
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;
    const guidance = new PerturbedGuidance(this, options);

    // 2. call parameters
    const { batch, generator } = callParameters(options);

    // 3. the text, and what IP-Adapters see, for each part of the UNet's batch
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    let negative_prompt_embeds = encoded.negative_prompt_embeds ?? undefined;
    let prompt_embeds = Tensor.cat(guidance.parts(encoded.prompt_embeds, encoded.negative_prompt_embeds!));
    const { image_embeds } = await this.imageConditions(options, batch);
    const added_cond_kwargs = image_embeds && { image_embeds: image_embeds.map((one) => guidance.rearranged(one)) };
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
    const size = [Math.floor(height / this.vae_scale_factor), Math.floor(width / this.vae_scale_factor)];
    if (given != null) checkTensor("latents", given, [batch, channels, null, null]);
    const noise = given ?? randn_tensor([batch, channels, ...size], { generator });
    let latents = noise.mul(scheduler.init_noise_sigma);

    // 6. what this scheduler's step takes, and the guidance as an input
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });
    const timestep_cond = this.timestepCond(batch);

    // 7. denoising loop
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const conditions = { timestep_cond, added_cond_kwargs, guidance_rescale };
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
    return this.finish(latents, num_inference_steps, {
      ...{ ...options, generator, isSeeded: given == null },
      described: guidance.described,
    });
  }
}
