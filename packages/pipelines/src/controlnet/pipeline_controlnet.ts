import { checkOptions, type RawImage, randn_tensor, Tensor } from "@diffusers-web/core";
import { nextTask } from "../calls.ts";
import { checkTensor, checkWhole } from "../checks.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import {
  type CallbackTensors,
  callbackTensors,
  checkPromptInputs,
  type PromptedOptions,
  promptedOptionNames,
} from "../stable_diffusion/call_options.ts";
import { callParameters } from "../stable_diffusion/call_parameters.ts";
import { afterStep } from "../stable_diffusion/stable_diffusion_base.ts";
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import { type ControlImageInput, prepareControlImages } from "./control_images.ts";
import { type ControlOptions, controlOptionNames, controlSettings } from "./control_options.ts";
import { controlSteps } from "./control_steps.ts";
import { StableDiffusionControlNetBase } from "./stable_diffusion_controlnet_base.ts";

/**
 * The tensors that a callback is shown, by name; what it returns replaces them. `image` is what the net follows, of
 * several nets a list; with guidance, but not in guess mode, each is there twice.
 */
export type ControlNetCallbackTensors = CallbackTensors & { readonly image?: Tensor | readonly Tensor[] };

/** What a {@link StableDiffusionControlNetPipeline} is called with. */
export interface StableDiffusionControlNetOptions
  extends PromptedOptions<StableDiffusionControlNetPipeline, ControlNetCallbackTensors>,
    ControlOptions {
  /**
   * What the net follows: edges, a depth map, a pose. A picture, or one for each prompt; a tensor is `[batch, 3, height,
   * width]` in 0..1. For several nets a list, with a picture or pictures for each; or, for each prompt, a list with a
   * picture for each net.
   */
  readonly image?: ControlImageInput | null;
  /** Rounded down to a multiple of 8. Default: the picture's. */
  readonly height?: number | null;
  /** Rounded down to a multiple of 8. Default: the picture's. */
  readonly width?: number | null;
  /** The noise to begin with, `[batch, channels, height / 8, width / 8]`. */
  readonly latents?: Tensor | null;
}

const optionNames: readonly (keyof StableDiffusionControlNetOptions)[] = [
  ...promptedOptionNames,
  ...controlOptionNames,
  ...(["image", "height", "width", "latents"] as const),
];

const name = "StableDiffusionControlNetPipeline";

export interface StableDiffusionControlNetPipeline extends PromptPipelineCall<StableDiffusionControlNetOptions> {}

/**
 * Text to image that follows a picture, with Stable Diffusion 1.x and 2.x and a ControlNet.
 *
 * @example
 * ```ts
 * const controlnet = await ControlNetModel.from_pretrained("lllyasviel/sd-controlnet-canny");
 * const pipeline = await StableDiffusionControlNetPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5", {
 *   controlnet,
 * });
 * const { images } = await pipeline("a futuristic-looking woman", { image: "edges.png", num_inference_steps: 20 });
 * ```
 * @see Diffusers `StableDiffusionControlNetPipeline`; Zhang et al., https://arxiv.org/abs/2302.05543
 */
export class StableDiffusionControlNetPipeline extends StableDiffusionControlNetBase {
  static override readonly name: string = name;
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof ControlNetCallbackTensors)[] = [...callbackTensors, "image"];

  protected override async run(
    options: StableDiffusionControlNetOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, latents: given, callback_on_step_end: callback, signal } = options;
    const { guidance_scale = 7.5, eta = 0 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    this.checkRunParts(options.output_type ?? "image");
    const { unet, controlnet, scheduler, vae_scale_factor } = this;

    // 1. what is wrong with the call
    checkOptions(name, options, optionNames);
    const allowed = StableDiffusionControlNetPipeline.callback_tensor_inputs;
    checkPromptInputs(name, options, unet.config.cross_attention_dim as number, allowed);
    const settings = controlSettings(controlnet, options, 1);
    if (options.height != null) checkWhole("height", options.height, vae_scale_factor);
    if (options.width != null) checkWhole("width", options.width, vae_scale_factor);
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 2. call parameters, and 4. the picture
    const { batch, generator } = callParameters(options);
    const prepared = await prepareControlImages(this.control_image_processor, controlnet, options.image, {
      field: "image",
      height: options.height ?? null,
      width: options.width ?? null,
      batch_size: batch / (options.num_images_per_prompt ?? 1),
      num_images_per_prompt: options.num_images_per_prompt,
      twice: do_classifier_free_guidance && !settings.guess_mode,
      allows_nested: true,
    });
    let image = "nets" in controlnet ? prepared : prepared[0]!;
    const [height, width] = prepared[0]!.dims.slice(-2) as [number, number];

    // 3. the text, and what IP-Adapters see
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    let { prompt_embeds } = encoded;
    let negative_prompt_embeds = encoded.negative_prompt_embeds ?? undefined;
    if (do_classifier_free_guidance) prompt_embeds = Tensor.cat([negative_prompt_embeds!, prompt_embeds]);
    const added_cond_kwargs = await this.imageConditions(options, batch);
    await nextTask(signal);

    // 5. timesteps
    const { timesteps, num_inference_steps } = retrieve_timesteps(
      scheduler,
      options.num_inference_steps ?? 50,
      options,
    );
    this._num_timesteps = timesteps.length;

    // 6. latents, and the guidance as an input
    const size = [Math.floor(height / vae_scale_factor), Math.floor(width / vae_scale_factor)];
    const shape = [batch, unet.config.in_channels, ...size];
    if (given != null) checkTensor("latents", given, shape);
    let latents = (given ?? randn_tensor(shape, { generator })).mul(scheduler.init_noise_sigma);
    const timestep_cond = this.timestepCond(batch);

    // 7. what this scheduler's step takes, and when the nets count
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });
    const controlStep = controlSteps(this, settings, timesteps.length);

    // 8. denoising loop
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const residuals = await controlStep(i, { latents, t, prompt_embeds, images: [image].flat() });
      const conditions = { ...residuals, timestep_cond, added_cond_kwargs };
      const noise_pred = await this.predictNoise(latents, t, prompt_embeds, conditions);

      // x_t -> x_t-1
      latents = scheduler.step(noise_pred, t, latents, extra_step_kwargs).prev_sample;

      if (callback != null) {
        const tensors = { latents, prompt_embeds, negative_prompt_embeds, image };
        ({ latents, prompt_embeds, negative_prompt_embeds, image } = await afterStep(
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
