import { checkOptions, type RawImage, randn_tensor, Tensor } from "@diffusers-web/core";
import type { SingleFileKind } from "@diffusers-web/models";
import { nextTask } from "../calls.ts";
import { checkTensor, checkWhole } from "../checks.ts";
import type { VaeImageProcessor } from "../image_processor.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
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
import {
  checkScores,
  type ScoredConditioning,
  scoredTimeIds,
  scoreNames,
} from "../stable_diffusion_xl/aesthetic_scores.ts";
import {
  checkXLPromptInputs,
  type XLPromptedOptions,
  xlCallbackTensors,
  xlPromptedOptionNames,
} from "../stable_diffusion_xl/call_options.ts";
import {
  checkDenoisingRange,
  checkRangeLeft,
  isPartial,
  timestepsFrom,
  timestepsUntil,
} from "../stable_diffusion_xl/denoising_range.ts";
import { timeIds } from "../stable_diffusion_xl/micro_conditioning.ts";
import { type CustomTimesteps, retrieve_timesteps, stepOptions } from "../timesteps.ts";
import {
  type ControlImageInput,
  checkControlSize,
  checkMaskedPictures,
  prepareControlImages,
} from "./control_images.ts";
import { type ControlOptions, controlOptionNames, controlSettings } from "./control_options.ts";
import { controlSteps } from "./control_steps.ts";
import type { XLControlImageCallbackTensors } from "./pipeline_controlnet_sd_xl_img2img.ts";
import {
  StableDiffusionXLControlNetBase,
  type StableDiffusionXLControlNetImageParts,
} from "./stable_diffusion_xl_controlnet_base.ts";

/**
 * The tensors that a callback is shown, by name. As in Diffusers, what it returns replaces `latents`, `prompt_embeds` and
 * `control_image` only; the others are to look at.
 */
export type XLControlNetInpaintCallbackTensors = XLControlImageCallbackTensors &
  Readonly<Partial<Record<"mask" | "masked_image_latents", Tensor>>>;

/** What a {@link StableDiffusionXLControlNetInpaintPipeline} is called with. */
export interface StableDiffusionXLControlNetInpaintOptions
  extends Omit<
      XLPromptedOptions<StableDiffusionXLControlNetInpaintPipeline, XLControlNetInpaintCallbackTensors>,
      keyof CustomTimesteps | keyof ScoredConditioning
    >,
    Omit<ScoredConditioning, `negative_${"original" | "target"}_size` | "negative_crops_coords_top_left">,
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
   * What the net follows. A picture, or one for each prompt; a tensor is `[batch, 3, height, width]`. For several nets a
   * list, with a picture or pictures for each.
   */
  readonly control_image?: ControlImageInput | null;
  /** To which all pictures are brought, rounded down to a multiple of 8. Default: their own. */
  readonly height?: number | null;
  /** To which all pictures are brought, rounded down to a multiple of 8. Default: their own. */
  readonly width?: number | null;
  /**
   * Works on the masked part of the pictures alone, at full size, with so many pixels around it, and puts the result into
   * the original, which stays as it is outside of the mask. For one picture and one mask of its size. Default: all of it.
   */
  readonly padding_mask_crop?: number | null;
  /**
   * How much is made anew where the mask is white, 0 to 1: the share of `num_inference_steps` that is run. At 1 it begins
   * with nothing but noise. Not used with `denoising_start`. Default 0.9999: of 50 steps, all but the first.
   */
  readonly strength?: number;
  /** 0 to 1: the share of the denoising that is done already in `image`, which gets no further noise. */
  readonly denoising_start?: number | null;
  /**
   * The noise to begin with, `[batch, channels, height / 8, width / 8]`. As in Diffusers, not used with
   * `denoising_start`.
   */
  readonly latents?: Tensor | null;
}

const optionNames: readonly (keyof StableDiffusionXLControlNetInpaintOptions)[] = [
  ...xlPromptedOptionNames.filter(
    (option) =>
      option !== "timesteps" &&
      option !== "sigmas" &&
      option !== "negative_original_size" &&
      option !== "negative_target_size" &&
      option !== "negative_crops_coords_top_left",
  ),
  ...(scoreNames as readonly ("aesthetic_score" | "negative_aesthetic_score")[]),
  ...controlOptionNames,
  ...(["image", "mask_image", "control_image", "height", "width", "padding_mask_crop"] as const),
  ...(["strength", "denoising_start", "latents"] as const),
];

const name = "StableDiffusionXLControlNetInpaintPipeline";

export interface StableDiffusionXLControlNetInpaintPipeline
  extends PromptPipelineCall<StableDiffusionXLControlNetInpaintOptions> {}

/**
 * Fills in the masked part of a picture, guided by text and by what a ControlNet follows, with Stable Diffusion XL:
 * models made for inpainting (9 channels), and others (4 channels), whose every step is laid over the original.
 *
 * @example
 * ```ts
 * const controlnet = await ControlNetModel.from_pretrained("diffusers/controlnet-canny-sdxl-1.0", { variant: "fp16" });
 * const pipeline = await StableDiffusionXLControlNetInpaintPipeline.from_pretrained(
 *   "stabilityai/stable-diffusion-xl-base-1.0",
 *   { controlnet, variant: "fp16" },
 * );
 * const { images } = await pipeline("a handsome man", {
 *   image: "photo.png",
 *   mask_image: "mask.png",
 *   control_image: "edges.png",
 * });
 * ```
 * @see Diffusers `StableDiffusionXLControlNetInpaintPipeline`
 */
export class StableDiffusionXLControlNetInpaintPipeline extends StableDiffusionXLControlNetBase {
  static override readonly name: string = name;
  static override readonly init_options: readonly string[] = [
    "requires_aesthetics_score",
    ...StableDiffusionXLControlNetBase.init_options,
  ];
  static override readonly model_cpu_offload_seq: string | null = "text_encoder->text_encoder_2->unet->vae";
  static override readonly single_file_kinds: readonly SingleFileKind[] = ["xl_base", "xl_refiner", "xl_inpaint"];
  static override readonly converts_to_rgb: boolean = false;
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof XLControlNetInpaintCallbackTensors)[] = [
    ...xlCallbackTensors,
    ...(["negative_prompt_embeds", "negative_pooled_prompt_embeds", "add_neg_time_ids"] as const),
    ...(["mask", "masked_image_latents", "control_image"] as const),
  ];

  readonly mask_processor: VaeImageProcessor;

  constructor(parts: StableDiffusionXLControlNetImageParts) {
    super(parts);
    this.register_to_config({ requires_aesthetics_score: parts.requires_aesthetics_score ?? false });
    this.mask_processor = newMaskProcessor(this.vae_scale_factor);
  }

  /** Whether the UNet runs with and without the text: as in Diffusers, also one that takes the guidance as an input. */
  override get do_classifier_free_guidance(): boolean {
    return this._guidance_scale > 1;
  }

  protected override async run(
    options: StableDiffusionXLControlNetInpaintOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, strength = 0.9999, denoising_start, callback_on_step_end: callback, signal } = options;
    const { guidance_scale = 5, guidance_rescale = 0, eta = 0 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    this.checkRunParts("image");
    const { unet, vae, controlnet, scheduler, vae_scale_factor } = this;

    // 1. what is wrong with the call
    this.checkInputs(options);
    // As in Diffusers, a net with `global_pool_conditions` does not mean guess mode here.
    const settings = { ...controlSettings(controlnet, options, 1), guess_mode: options.guess_mode ?? false };
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 2. call parameters, and 5. the pictures and what the nets follow
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
    const size = [Math.floor(height / vae_scale_factor), Math.floor(width / vae_scale_factor)] as const;
    const shape = [batch, vae.config.latent_channels, ...size];
    // Latents that go on from another run are the picture itself.
    const given = denoising_start == null ? (options.latents ?? undefined) : undefined;
    if (given !== undefined) checkTensor("latents", given, shape);

    // 3. the text, and what IP-Adapters see
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    let { prompt_embeds, pooled_prompt_embeds: add_text_embeds } = encoded;
    const image_conditions = await this.imageConditions(options, batch);
    await nextTask(signal);

    // 4. timesteps
    const whole = retrieve_timesteps(scheduler, options.num_inference_steps ?? 50);
    let left: number[];
    if (isPartial(denoising_start)) {
      left = timestepsFrom(scheduler, whole.timesteps, denoising_start);
      checkRangeLeft(left, denoising_start);
    } else {
      const part = get_timesteps(scheduler, whole.timesteps, whole.num_inference_steps, strength);
      left = part.num_inference_steps < 1 ? [] : part.timesteps;
      checkStepsLeft(left, whole.num_inference_steps, strength);
    }
    this._num_timesteps = left.length;

    // 6. latents: those of the picture if it is noisy already; else noise, and below full strength the picture as well,
    // which a UNet that sees no mask needs anyway
    const seesMask = unet.config.in_channels === 9;
    const isPureNoise = denoising_start == null && (given !== undefined || strength === 1);
    const image_latents =
      seesMask && isPureNoise ? undefined : await inpaintImageLatents(this, init_image, { batch, size, generator });
    const noise = given ?? randn_tensor(shape, { generator });
    let latents = image_latents!;
    if (isPureNoise) latents = noise.mul(scheduler.init_noise_sigma);
    else if (denoising_start == null) latents = addNoise(scheduler, latents, noise, left[0]!);
    await nextTask(signal);

    // 7. and 8. the mask, and what it leaves of the picture
    const { mask, masked_image_latents } = await prepare_mask_latents(this, mask_condition, masked_image, {
      ...{ batch, size, generator, do_classifier_free_guidance },
    });
    if (seesMask) checkNineChannels(latents, mask, masked_image_latents);
    const beside = seesMask ? Tensor.cat([mask, masked_image_latents], 1) : undefined;
    await nextTask(signal);

    // 8. what this scheduler's step takes, and when the nets count
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });
    const controlStep = controlSteps(this, settings, left.length);

    // 9. and 10. what is added to the time embedding: the same crop with and without the text
    const conditioning = {
      ...options,
      negative_crops_coords_top_left: options.crops_coords_top_left ?? [0, 0],
    } as const;
    const [rows, columns] = size.map((length) => length * vae_scale_factor) as [number, number];
    const [time_ids, negative_time_ids] = scoredTimeIds(this, conditioning, rows, columns);
    let ids = new Array<number[]>(batch).fill(time_ids);
    let negativeIds = [negative_time_ids];
    if (do_classifier_free_guidance) {
      prompt_embeds = Tensor.cat([encoded.negative_prompt_embeds!, prompt_embeds]);
      add_text_embeds = Tensor.cat([encoded.negative_pooled_prompt_embeds!, add_text_embeds]);
      negativeIds = new Array<number[]>(batch).fill(negative_time_ids);
      ids = [...negativeIds, ...ids];
    }
    const add_time_ids = timeIds(ids);
    const added = { text_embeds: add_text_embeds, time_ids: add_time_ids };
    const shownOnly = {
      ...{ add_text_embeds, add_time_ids, mask, masked_image_latents },
      negative_prompt_embeds: encoded.negative_prompt_embeds ?? undefined,
      negative_pooled_prompt_embeds: encoded.negative_pooled_prompt_embeds ?? undefined,
      add_neg_time_ids: timeIds(negativeIds),
    };

    // 11. denoising loop, up to where the run ends
    const timesteps = timestepsUntil(scheduler, left, options.denoising_end);
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const inputs = { latents, t, prompt_embeds, images: [control_image].flat(), added_cond_kwargs: added };
      const residuals = await controlStep(i, inputs);
      const added_cond_kwargs = { ...added, ...image_conditions };
      const conditions = { ...residuals, beside, added_cond_kwargs, guidance_rescale };
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
        const tensors = { latents, prompt_embeds, control_image, ...shownOnly };
        ({ latents, prompt_embeds, control_image } = await afterStep(
          (shown) => callback(this, i, t, shown),
          callback_on_step_end_tensor_inputs,
          tensors,
        ));
      }
      await nextTask(signal);
    }
    const described: Record<string, number> = isPartial(denoising_start)
      ? { "Denoising start": denoising_start }
      : { "Denoising strength": strength };
    return this.finish(
      latents,
      whole.num_inference_steps,
      { ...options, generator, described, isSeeded: given === undefined, uses_statistics: false },
      overlay && ((images) => (images instanceof Tensor ? images : images.map(overlay))),
    );
  }

  /** @see Diffusers `StableDiffusionXLControlNetInpaintPipeline.check_inputs` */
  private checkInputs(options: StableDiffusionXLControlNetInpaintOptions): void {
    checkOptions(name, options, optionNames);
    const { in_channels, cross_attention_dim } = this.unet.config;
    checkStrength(options.strength ?? 0.9999);
    if (options.height != null) checkWhole("height", options.height, this.vae_scale_factor);
    if (options.width != null) checkWhole("width", options.width, this.vae_scale_factor);
    const allowed = StableDiffusionXLControlNetInpaintPipeline.callback_tensor_inputs;
    checkXLPromptInputs(name, options, cross_attention_dim as number, allowed);
    checkInpaintInputs(name, options, in_channels);
    checkDenoisingRange(options);
    checkScores(this, options);
    if (options.denoising_start == null || options.latents == null) return;
    console.warn(
      "`latents` are not used (as in Diffusers): with `denoising_start` a run begins with the latents of `image`.",
    );
  }
}
