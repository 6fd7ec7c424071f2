import { checkOptions, type RawImage, randn_tensor, Tensor } from "@diffusers-web/core";
import type { SingleFileKind } from "@diffusers-web/models";
import { nextTask } from "../calls.ts";
import { checkTensor } from "../checks.ts";
import type { VaeImageProcessor } from "../image_processor.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import {
  callbackTensors,
  checkDivisible,
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
} from "../stable_diffusion/image_latents.ts";
import {
  checkInpaintInputs,
  checkNineChannels,
  inpaintImageLatents,
  maskedImage,
  newMaskProcessor,
  prepare_mask_latents,
  readInpaintPictures,
} from "../stable_diffusion/inpaint_latents.ts";
import { afterStep } from "../stable_diffusion/stable_diffusion_base.ts";
import { type CustomTimesteps, retrieve_timesteps, stepOptions } from "../timesteps.ts";
import {
  type ControlImageInput,
  checkControlSize,
  checkMaskedPictures,
  prepareControlImages,
} from "./control_images.ts";
import { type ControlOptions, controlOptionNames, controlSettings } from "./control_options.ts";
import { controlSteps } from "./control_steps.ts";
import type { ControlImageCallbackTensors } from "./pipeline_controlnet_img2img.ts";
import {
  StableDiffusionControlNetBase,
  type StableDiffusionControlNetParts,
} from "./stable_diffusion_controlnet_base.ts";

/**
 * The tensors that a callback is shown, by name; what it returns replaces them. As in Diffusers, `mask` and
 * `masked_image_latents` are to look at only: what is returned for them does not count.
 */
export type ControlNetInpaintCallbackTensors = ControlImageCallbackTensors &
  Readonly<Partial<Record<"mask" | "masked_image_latents", Tensor>>>;

/** What a {@link StableDiffusionControlNetInpaintPipeline} is called with. */
export interface StableDiffusionControlNetInpaintOptions
  extends Omit<
      PromptedOptions<StableDiffusionControlNetInpaintPipeline, ControlNetInpaintCallbackTensors>,
      keyof CustomTimesteps
    >,
    ControlOptions {
  /**
   * The picture to fill in, or one for each of the batch; fewer are repeated. A tensor is `[batch, 3, height, width]` in
   * 0..1.
   */
  readonly image?: ImageInput | null;
  /**
   * White where the picture is filled in, black where it stays; from the middle between the two on it is white. A tensor is
   * `[batch, 1, height, width]` in 0..1, or without a batch or channels.
   */
  readonly mask_image?: ImageInput | null;
  /**
   * What the net follows, such as the picture with -1 where it is masked. A picture, or one for each prompt; a tensor is
   * `[batch, 3, height, width]`. For several nets a list, with a picture or pictures for each.
   */
  readonly control_image?: ControlImageInput | null;
  /** To which all pictures are brought, a multiple of 8. Default: their own, rounded down. */
  readonly height?: number | null;
  /** To which all pictures are brought, a multiple of 8. Default: their own, rounded down. */
  readonly width?: number | null;
  /**
   * Works on the masked part of the pictures alone, at full size, with so many pixels around it, and puts the result into
   * the original, which stays as it is outside of the mask. For one picture and one mask of its size. Default: all of it.
   */
  readonly padding_mask_crop?: number | null;
  /**
   * How much is made anew where the mask is white, 0 to 1: the share of `num_inference_steps` that is run. Default 1,
   * which begins with nothing but noise.
   */
  readonly strength?: number;
  /** The noise to begin with, `[batch, channels, height / 8, width / 8]`. */
  readonly latents?: Tensor | null;
  /** What the residuals are multiplied with before the UNet adds them: a number, or one for each net. Default 0.5. */
  readonly controlnet_conditioning_scale?: number | readonly number[];
}

const optionNames: readonly (keyof StableDiffusionControlNetInpaintOptions)[] = [
  ...promptedOptionNames.filter((option) => option !== "timesteps" && option !== "sigmas"),
  ...controlOptionNames,
  ...(["image", "mask_image", "control_image", "height", "width", "padding_mask_crop", "strength", "latents"] as const),
];

const name = "StableDiffusionControlNetInpaintPipeline";

export interface StableDiffusionControlNetInpaintPipeline
  extends PromptPipelineCall<StableDiffusionControlNetInpaintOptions> {}

/**
 * Fills in the masked part of a picture, guided by text and by what a ControlNet follows, with Stable Diffusion 1.x and
 * 2.x: models made for inpainting (9 channels), and others (4 channels), whose every step is laid over the original.
 *
 * @example
 * ```ts
 * const controlnet = await ControlNetModel.from_pretrained("lllyasviel/control_v11p_sd15_inpaint");
 * const pipeline = await StableDiffusionControlNetInpaintPipeline.from_pretrained(
 *   "stable-diffusion-v1-5/stable-diffusion-v1-5",
 *   { controlnet },
 * );
 * const { images } = await pipeline("a handsome man", { image: "photo.png", mask_image: "mask.png", control_image });
 * ```
 * @see Diffusers `StableDiffusionControlNetInpaintPipeline`
 */
export class StableDiffusionControlNetInpaintPipeline extends StableDiffusionControlNetBase {
  static override readonly name: string = name;
  static override readonly single_file_kinds: readonly SingleFileKind[] = ["v1", "v2", "inpainting", "inpainting_v2"];
  static override readonly converts_to_rgb: boolean = false;
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof ControlNetInpaintCallbackTensors)[] = [
    ...callbackTensors,
    "control_image",
    "mask",
    "masked_image_latents",
  ];

  readonly mask_processor: VaeImageProcessor;

  constructor(parts: StableDiffusionControlNetParts) {
    super(parts);
    this.mask_processor = newMaskProcessor(this.vae_scale_factor);
  }

  /** Whether the UNet runs with and without the text: as in Diffusers, also one that takes the guidance as an input. */
  override get do_classifier_free_guidance(): boolean {
    return this._guidance_scale > 1;
  }

  protected override async run(
    options: StableDiffusionControlNetInpaintOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, latents: given, strength = 1, callback_on_step_end: callback, signal } = options;
    const { guidance_scale = 7.5, eta = 0, output_type = "image" } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    this.checkRunParts(output_type);
    this.checkParts(["vae"]);
    const { unet, vae, controlnet, scheduler, vae_scale_factor } = this;

    // 1. what is wrong with the call
    this.checkInputs(options);
    const settings = controlSettings(controlnet, options, 0.5);
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 2. call parameters, and 4. the pictures and what the nets follow
    const { batch, generator } = callParameters(options);
    const wanted = { height: options.height ?? null, width: options.width ?? null };
    const pictures = await readInpaintPictures(this, { ...options, ...wanted });
    const { init_image, mask_condition, crops_coords, overlay } = pictures;
    checkMaskedPictures(this.image_processor, pictures);
    const masked_image = maskedImage(pictures, this.image_processor.config.vae_latent_channels);
    checkRepeatable("mask_image", mask_condition, batch);
    checkRepeatable("image", init_image, batch);
    const [height, width] = init_image.dims.slice(-2) as [number, number];
    const prepared = await prepareControlImages(this.control_image_processor, controlnet, options.control_image, {
      ...(crops_coords === undefined ? wanted : { height, width, crops_coords, resize_mode: "fill" }),
      field: "control_image",
      batch_size: batch / (options.num_images_per_prompt ?? 1),
      num_images_per_prompt: options.num_images_per_prompt,
      twice: do_classifier_free_guidance && !settings.guess_mode,
    });
    checkControlSize("control_image", prepared[0]!, [height, width]);
    let control_image = "nets" in controlnet ? prepared : prepared[0]!;

    // 3. the text, and what IP-Adapters see
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    let { prompt_embeds } = encoded;
    let negative_prompt_embeds = encoded.negative_prompt_embeds ?? undefined;
    if (do_classifier_free_guidance) prompt_embeds = Tensor.cat([negative_prompt_embeds!, prompt_embeds]);
    const added_cond_kwargs = await this.imageConditions(options, batch);
    await nextTask(signal);

    // 5. timesteps
    const whole = retrieve_timesteps(scheduler, options.num_inference_steps ?? 50);
    const { timesteps } = get_timesteps(scheduler, whole.timesteps, whole.num_inference_steps, strength);
    checkStepsLeft(timesteps, whole.num_inference_steps, strength);
    this._num_timesteps = timesteps.length;

    // 6. latents: noise, and below full strength the picture as well, which a UNet that sees no mask needs anyway
    const size = [Math.floor(height / vae_scale_factor), Math.floor(width / vae_scale_factor)] as const;
    const shape = [batch, vae.config.latent_channels, ...size];
    if (given != null) checkTensor("latents", given, shape);
    const seesMask = unet.config.in_channels === 9;
    const isPureNoise = given != null || strength === 1;
    const image_latents =
      seesMask && isPureNoise ? undefined : await inpaintImageLatents(this, init_image, { batch, size, generator });
    const noise = given ?? randn_tensor(shape, { generator });
    let latents = isPureNoise
      ? noise.mul(scheduler.init_noise_sigma)
      : addNoise(scheduler, image_latents!, noise, timesteps[0]!);
    await nextTask(signal);

    // 7. the mask, and what it leaves of the picture
    const { mask, masked_image_latents } = await prepare_mask_latents(this, mask_condition, masked_image, {
      ...{ batch, size, generator, do_classifier_free_guidance },
    });
    if (seesMask) checkNineChannels(latents, mask, masked_image_latents);
    const beside = seesMask ? Tensor.cat([mask, masked_image_latents], 1) : undefined;
    await nextTask(signal);

    // 7.1 what this scheduler's step takes, and when the nets count
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });
    const controlStep = controlSteps(this, settings, timesteps.length);

    // 8. denoising loop
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const residuals = await controlStep(i, { latents, t, prompt_embeds, images: [control_image].flat() });
      const conditions = { ...residuals, beside, added_cond_kwargs };
      const noise_pred = await this.predictNoise(latents, t, prompt_embeds, conditions);

      // x_t -> x_t-1
      latents = scheduler.step(noise_pred, t, latents, extra_step_kwargs).prev_sample;
      if (!seesMask) {
        // outside of the mask the original, as noisy as the latents are now
        const next = timesteps[i + 1];
        const original = next === undefined ? image_latents! : addNoise(scheduler, image_latents!, noise, next);
        const init_mask = do_classifier_free_guidance ? mask.chunk(2)[0]! : mask;
        latents = init_mask.neg().add(1).mul(original).add(init_mask.mul(latents));
      }

      if (callback != null) {
        const tensors = {
          ...{ latents, prompt_embeds, negative_prompt_embeds },
          ...{ control_image, mask, masked_image_latents },
        };
        ({ latents, prompt_embeds, negative_prompt_embeds, control_image } = await afterStep(
          (shown) => callback(this, i, t, shown),
          callback_on_step_end_tensor_inputs,
          tensors,
        ));
      }
      await nextTask(signal);
    }
    return this.finish(
      latents,
      whole.num_inference_steps,
      {
        ...options,
        generator,
        described: { "Denoising strength": strength },
        isSeeded: given == null,
      },
      overlay && (async (images) => (images instanceof Tensor ? images : images.map(overlay))),
    );
  }

  /** @see Diffusers `StableDiffusionControlNetInpaintPipeline.check_inputs` */
  private checkInputs(options: StableDiffusionControlNetInpaintOptions): void {
    checkOptions(name, options, optionNames);
    const { in_channels, cross_attention_dim } = this.unet.config;
    checkStrength(options.strength ?? 1);
    if (options.height != null) checkDivisible("height", options.height, this.vae_scale_factor);
    if (options.width != null) checkDivisible("width", options.width, this.vae_scale_factor);
    const allowed = StableDiffusionControlNetInpaintPipeline.callback_tensor_inputs;
    checkPromptInputs(name, options, cross_attention_dim as number, allowed);
    checkInpaintInputs(name, options, in_channels);
  }
}
