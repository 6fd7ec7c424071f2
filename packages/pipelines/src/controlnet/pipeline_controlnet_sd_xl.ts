import { checkOptions, type RawImage, randn_tensor, Tensor } from "@diffusers-web/core";
import type { SingleFileKind } from "@diffusers-web/models";
import { nextTask } from "../calls.ts";
import { checkTensor, checkWhole } from "../checks.ts";
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
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import { type ControlImageInput, prepareControlImages } from "./control_images.ts";
import { type ControlOptions, controlOptionNames, controlSettings } from "./control_options.ts";
import { controlSteps } from "./control_steps.ts";
import { StableDiffusionXLControlNetBase } from "./stable_diffusion_xl_controlnet_base.ts";

/**
 * The tensors that a callback is shown, by name; what it returns replaces them. `image` is what the net follows, of
 * several nets a list; with guidance, but not in guess mode, each is there twice. The negative ones, as in Diffusers, are
 * to look at only.
 */
export type XLControlNetCallbackTensors = XLCallbackTensors &
  Readonly<
    Partial<
      Record<"negative_prompt_embeds" | "negative_pooled_prompt_embeds" | "negative_add_time_ids", Tensor> &
        Record<"image", Tensor | readonly Tensor[]>
    >
  >;

/** What a {@link StableDiffusionXLControlNetPipeline} is called with. */
export interface StableDiffusionXLControlNetOptions
  extends Omit<XLPromptedOptions<StableDiffusionXLControlNetPipeline, XLControlNetCallbackTensors>, "guidance_rescale">,
    ControlOptions {
  /**
   * What the net follows: edges, a depth map, a pose. A picture, or one for each prompt; a tensor is `[batch, 3, height,
   * width]` in 0..1. For several nets a list, with a picture or pictures for each.
   */
  readonly image?: ControlImageInput | null;
  /** Rounded down to a multiple of 8. Default: the picture's. */
  readonly height?: number | null;
  /** Rounded down to a multiple of 8. Default: the picture's. */
  readonly width?: number | null;
  /** The noise to begin with, `[batch, channels, height / 8, width / 8]`. */
  readonly latents?: Tensor | null;
}

const optionNames: readonly (keyof StableDiffusionXLControlNetOptions)[] = [
  ...xlPromptedOptionNames.filter((option) => option !== "guidance_rescale"),
  ...controlOptionNames,
  ...(["image", "height", "width", "latents"] as const),
];

const name = "StableDiffusionXLControlNetPipeline";

export interface StableDiffusionXLControlNetPipeline extends PromptPipelineCall<StableDiffusionXLControlNetOptions> {}

/**
 * Text to image that follows a picture, with Stable Diffusion XL and a ControlNet.
 *
 * @example
 * ```ts
 * const controlnet = await ControlNetModel.from_pretrained("diffusers/controlnet-canny-sdxl-1.0", { variant: "fp16" });
 * const pipeline = await StableDiffusionXLControlNetPipeline.from_pretrained("stabilityai/stable-diffusion-xl-base-1.0", {
 *   controlnet,
 *   variant: "fp16",
 * });
 * const { images } = await pipeline("aerial view, a futuristic research complex", {
 *   image: "edges.png",
 *   controlnet_conditioning_scale: 0.5,
 * });
 * ```
 * @see Diffusers `StableDiffusionXLControlNetPipeline`
 */
export class StableDiffusionXLControlNetPipeline extends StableDiffusionXLControlNetBase {
  static override readonly name: string = name;
  static override readonly single_file_kinds: readonly SingleFileKind[] = ["xl_base"];
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof XLControlNetCallbackTensors)[] = [
    ...xlCallbackTensors,
    ...(["negative_prompt_embeds", "negative_pooled_prompt_embeds", "negative_add_time_ids", "image"] as const),
  ];

  protected override async run(
    options: StableDiffusionXLControlNetOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, latents: given, callback_on_step_end: callback, signal } = options;
    const { guidance_scale = 5, eta = 0 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    this.checkRunParts(options.output_type ?? "image");
    const { unet, controlnet, scheduler, vae_scale_factor } = this;

    // 1. what is wrong with the call
    checkOptions(name, options, optionNames);
    const allowed = StableDiffusionXLControlNetPipeline.callback_tensor_inputs;
    checkXLPromptInputs(name, options, unet.config.cross_attention_dim as number, allowed);
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
    });
    let image = "nets" in controlnet ? prepared : prepared[0]!;
    const [height, width] = prepared[0]!.dims.slice(-2) as [number, number];
    const [time_ids, negative_time_ids] = textTimeIds(this, options, height, width);

    // 3. the text, and what IP-Adapters see
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    let { prompt_embeds, pooled_prompt_embeds: add_text_embeds } = encoded;
    const image_conditions = await this.imageConditions(options, batch);
    await nextTask(signal);

    // 5. timesteps
    const { timesteps: all, num_inference_steps } = retrieve_timesteps(
      scheduler,
      options.num_inference_steps ?? 50,
      options,
    );
    this._num_timesteps = all.length;

    // 6. latents, and the guidance as an input
    const size = [Math.floor(height / vae_scale_factor), Math.floor(width / vae_scale_factor)];
    const shape = [batch, unet.config.in_channels, ...size];
    if (given != null) checkTensor("latents", given, shape);
    let latents = (given ?? randn_tensor(shape, { generator })).mul(scheduler.init_noise_sigma);
    const timestep_cond = this.timestepCond(batch);

    // 7. what this scheduler's step takes, and when the nets count
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });
    const controlStep = controlSteps(this, settings, all.length);

    // 7.2 what is added to the time embedding. In a batch the rows alternate, with and without the text, as in Diffusers
    const negatives = {
      negative_prompt_embeds: encoded.negative_prompt_embeds ?? undefined,
      negative_pooled_prompt_embeds: encoded.negative_pooled_prompt_embeds ?? undefined,
      negative_add_time_ids: timeIds([negative_time_ids]),
    };
    let rows = [time_ids];
    if (do_classifier_free_guidance) {
      prompt_embeds = Tensor.cat([encoded.negative_prompt_embeds!, prompt_embeds]);
      add_text_embeds = Tensor.cat([encoded.negative_pooled_prompt_embeds!, add_text_embeds]);
      rows = [negative_time_ids, time_ids];
    }
    let add_time_ids = timeIds(new Array(batch).fill(rows).flat());

    // 8. denoising loop, up to where the run ends
    const timesteps = timestepsUntil(scheduler, all, options.denoising_end);
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const added = { text_embeds: add_text_embeds, time_ids: add_time_ids };
      const inputs = { latents, t, prompt_embeds, images: [image].flat(), added_cond_kwargs: added };
      const residuals = await controlStep(i, inputs);
      const added_cond_kwargs = { ...added, ...image_conditions };
      const conditions = { ...residuals, timestep_cond, added_cond_kwargs };
      const noise_pred = await this.predictNoise(latents, t, prompt_embeds, conditions);

      // x_t -> x_t-1
      latents = scheduler.step(noise_pred, t, latents, extra_step_kwargs).prev_sample;

      if (callback != null) {
        const tensors = { latents, prompt_embeds, add_text_embeds, add_time_ids, image, ...negatives };
        ({ latents, prompt_embeds, add_text_embeds, add_time_ids, image } = await afterStep(
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
