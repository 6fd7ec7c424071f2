import { checkOptions, type RawImage, randn_tensor, Tensor } from "@diffusers-web/core";
import type { SingleFileKind } from "@diffusers-web/models";
import { nextTask } from "../calls.ts";
import { checkNumber, checkTensor, checkWhole } from "../checks.ts";
import { apply_image_guidance, rescale_noise_cfg } from "../guidance.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import { callParameters } from "../stable_diffusion/call_parameters.ts";
import { checkRepeatable, type ImageInput, readImage } from "../stable_diffusion/image_latents.ts";
import { checkEditingChannels, prepare_image_latents } from "../stable_diffusion/pix2pix_latents.ts";
import { afterStep } from "../stable_diffusion/stable_diffusion_base.ts";
import { type StepCallbackOptions, stepCallback, stepCallbackNames } from "../step_callback.ts";
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
import { StableDiffusionXLBase, type StableDiffusionXLParts } from "./stable_diffusion_xl_base.ts";

/**
 * The tensors that a callback is shown, by name; what it returns replaces them. With guidance all but the first are there three
 * times: for text and picture, the picture alone, and neither.
 */
export type XLPix2PixCallbackTensors = XLCallbackTensors & Readonly<Partial<Record<"image_latents", Tensor>>>;

/** What a {@link StableDiffusionXLInstructPix2PixPipeline} is built of. */
export interface StableDiffusionXLInstructPix2PixParts
  extends Omit<StableDiffusionXLParts, "image_encoder" | "feature_extractor"> {
  /** Whether latents of the picture are scaled, as CosXL Edit knows them. As in Diffusers, not kept in the config. Default false. */
  readonly is_cosxl_edit?: boolean | null;
}

type Left =
  | ("timesteps" | "sigmas" | "clip_skip" | "ip_adapter_image" | "ip_adapter_image_embeds")
  | ("negative_original_size" | "negative_crops_coords_top_left" | "negative_target_size");

/** What a {@link StableDiffusionXLInstructPix2PixPipeline} is called with. */
export interface StableDiffusionXLInstructPix2PixOptions
  extends Omit<XLPromptedOptions<StableDiffusionXLInstructPix2PixPipeline, XLPix2PixCallbackTensors>, Left>,
    StepCallbackOptions {
  /**
   * The picture to edit, or one for each picture of the batch; fewer are repeated. Brought to `height` and `width`. A tensor is
   * `[batch, 3, height, width]` in 0..1; one of 4 channels is taken for latents, as the autoencoder gives them (not scaled).
   */
  readonly image?: ImageInput | null;
  /** Of the pictures that are made, rounded down to a multiple of 8. Default: what the model was trained at. */
  readonly height?: number | null;
  /** Of the pictures that are made, rounded down to a multiple of 8. Default: what the model was trained at. */
  readonly width?: number | null;
  /** At least 1. Default 100. */
  readonly num_inference_steps?: number;
  /** Above 1, what is made keeps to the picture. Below 1, there is no guidance at all, by the text neither. Default 1.5. */
  readonly image_guidance_scale?: number;
  /** The noise to begin with, `[batch, 4, height / 8, width / 8]`. */
  readonly latents?: Tensor | null;
}

const left: readonly string[] = [
  ...(["timesteps", "sigmas", "clip_skip", "ip_adapter_image", "ip_adapter_image_embeds"] as const),
  ...(["negative_original_size", "negative_crops_coords_top_left", "negative_target_size"] as const),
] satisfies Left[];
const optionNames = [
  ...xlPromptedOptionNames.filter((option) => !left.includes(option)),
  ...stepCallbackNames,
  ...(["image", "height", "width", "image_guidance_scale", "latents"] as const),
];

const callbackTensors: readonly (keyof XLPix2PixCallbackTensors)[] = [...xlCallbackTensors, "image_latents"];

const name = "StableDiffusionXLInstructPix2PixPipeline";

export interface StableDiffusionXLInstructPix2PixPipeline
  extends PromptPipelineCall<StableDiffusionXLInstructPix2PixOptions> {}

/**
 * Edits a picture as an instruction says, with models of Stable Diffusion XL that were trained for it.
 *
 * @example
 * ```ts
 * const pipeline = await StableDiffusionXLInstructPix2PixPipeline.from_pretrained("diffusers/sdxl-instructpix2pix-768");
 * const { images } = await pipeline("Turn sky into a cloudy one", {
 *   image: await RawImage.read("mountain.png"),
 *   height: 768,
 *   width: 768,
 *   guidance_scale: 3,
 *   num_inference_steps: 30,
 * });
 * ```
 * @see Diffusers `StableDiffusionXLInstructPix2PixPipeline`; Brooks et al., https://arxiv.org/abs/2211.09800
 */
export class StableDiffusionXLInstructPix2PixPipeline extends StableDiffusionXLBase {
  static override readonly name: string = name;
  static override readonly component_names: readonly string[] = [
    ...["vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "scheduler"],
  ];
  static override readonly optional_components: readonly string[] = [
    ...["tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2"],
  ];
  static override readonly init_options: readonly string[] = [...StableDiffusionXLBase.init_options, "is_cosxl_edit"];
  static override readonly model_cpu_offload_seq: string | null = "text_encoder->text_encoder_2->unet->vae";
  static override readonly single_file_kinds: readonly SingleFileKind[] = ["xl_base"];
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof XLPix2PixCallbackTensors)[] = callbackTensors;

  /** Whether latents of the picture are scaled, as CosXL Edit knows them. */
  is_cosxl_edit: boolean;
  private _image_guidance_scale = 1.5;

  constructor(parts: StableDiffusionXLInstructPix2PixParts) {
    super(parts);
    this.is_cosxl_edit = parts.is_cosxl_edit ?? false;
  }

  /** How much the call at hand keeps to its picture. */
  get image_guidance_scale(): number {
    return this._image_guidance_scale;
  }

  /** Whether the UNet runs with text and picture, with the picture alone, and with neither. */
  override get do_classifier_free_guidance(): boolean {
    return this._guidance_scale > 1 && this._image_guidance_scale >= 1;
  }

  protected override async run(
    options: StableDiffusionXLInstructPix2PixOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, num_inference_steps = 100, callback_on_step_end: callback, signal, latents: given } = options;
    const { guidance_scale = 5, image_guidance_scale = 1.5, guidance_rescale = 0, eta = 0 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { unet, vae, scheduler, vae_scale_factor, cross_attention_kwargs } = this;
    this.checkRunParts("image");

    // 0. and 1. default size, and what is wrong with the call
    checkOptions(name, options, optionNames);
    const height = options.height || this.defaultSize()[0];
    const width = options.width || this.defaultSize()[1];
    checkWhole("height", height, vae_scale_factor);
    checkWhole("width", width, vae_scale_factor);
    const { in_channels, cross_attention_dim } = unet.config;
    checkXLPromptInputs(name, options, cross_attention_dim as number, callbackTensors);
    checkNumber("image_guidance_scale", image_guidance_scale);
    checkWhole("callback_steps", options.callback_steps ?? 1);
    checkEditingChannels(name, in_channels, vae.config.latent_channels);
    const [time_ids] = textTimeIds(this, options, height, width);
    this._guidance_scale = guidance_scale;
    this._image_guidance_scale = image_guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 2. and 4. call parameters, and the picture
    const { batch, generator } = callParameters(options);
    const size = [Math.floor(height / vae_scale_factor), Math.floor(width / vae_scale_factor)];
    const shape = [batch, vae.config.latent_channels, ...size];
    if (given != null) checkTensor("latents", given, shape);
    const image = await readImage(this.image_processor, vae, options.image, { height, width });
    checkRepeatable("image", image, batch);
    const isLatents = image.dims[1] === this.image_processor.config.vae_latent_channels;
    if (isLatents) checkTensor("image", image, [null, null, ...size]);

    // 3. the text
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    await nextTask(signal);

    // 5. timesteps
    const { timesteps: all } = retrieve_timesteps(scheduler, num_inference_steps);

    // 6. latents of the picture
    let image_latents = await prepare_image_latents(this, image, batch);
    if (this.is_cosxl_edit) image_latents = image_latents.mul(vae.config.scaling_factor);
    await nextTask(signal);

    // 7. and 8. latents: noise
    let latents = (given ?? randn_tensor(shape, { generator })).mul(scheduler.init_noise_sigma);

    // 9. what this scheduler's step takes
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });

    // 10. what is added to the time embedding
    let { prompt_embeds, pooled_prompt_embeds: add_text_embeds } = encoded;
    if (do_classifier_free_guidance) {
      const [negative, pooled] = [encoded.negative_prompt_embeds!, encoded.negative_pooled_prompt_embeds!];
      prompt_embeds = Tensor.cat([prompt_embeds, negative, negative]);
      add_text_embeds = Tensor.cat([add_text_embeds, pooled, pooled]);
    }
    let add_time_ids = timeIds(new Array<number[]>(prompt_embeds.dims[0]!).fill(time_ids));

    // 11. where the run ends
    const timesteps = timestepsUntil(scheduler, all, options.denoising_end);
    this._num_timesteps = timesteps.length;
    const warmup = all.length - num_inference_steps * scheduler.order;
    const calledBack = stepCallback(options, { timesteps: timesteps.length, warmup, order: scheduler.order });

    // 12. denoising loop
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      // expand the latents: with text and picture, with the picture alone, with neither
      const expanded = do_classifier_free_guidance ? Tensor.cat([latents, latents, latents]) : latents;
      const latent_model_input = Tensor.cat([scheduler.scale_model_input(expanded, t), image_latents], 1);

      // predict the noise residual
      const added_cond_kwargs = { text_embeds: add_text_embeds, time_ids: add_time_ids };
      const conditions = { added_cond_kwargs, cross_attention_kwargs };
      let noise_pred = (await unet(latent_model_input, t, prompt_embeds, conditions)).sample;

      // perform guidance
      if (do_classifier_free_guidance) {
        const guided = apply_image_guidance(noise_pred, guidance_scale, image_guidance_scale);
        noise_pred = guided.noise_pred;
        if (guidance_rescale > 0) {
          noise_pred = rescale_noise_cfg(noise_pred, guided.noise_pred_text, guidance_rescale);
        }
      }

      // x_t -> x_t-1
      latents = scheduler.step(noise_pred, t, latents, extra_step_kwargs).prev_sample;

      if (callback != null) {
        const tensors = { latents, prompt_embeds, add_text_embeds, add_time_ids, image_latents };
        ({ latents, prompt_embeds, add_text_embeds, add_time_ids, image_latents } = await afterStep(
          (shown) => callback(this, i, t, shown),
          callback_on_step_end_tensor_inputs,
          tensors,
        ));
      }
      await calledBack(i, t, latents);
      await nextTask(signal);
    }
    const described = { "Image CFG scale": image_guidance_scale };
    const isSeeded = given == null;
    return this.finish(latents, num_inference_steps, { ...options, generator, described, isSeeded });
  }
}
