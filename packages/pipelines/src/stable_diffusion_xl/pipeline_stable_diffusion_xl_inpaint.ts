import { checkOptions, type RawImage, randn_tensor, Tensor } from "@diffusers-web/core";
import type { SingleFileKind } from "@diffusers-web/models";
import { nextTask } from "../calls.ts";
import { checkTensor } from "../checks.ts";
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
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import { checkScores, type ScoredConditioning, scoredTimeIds, scoreNames } from "./aesthetic_scores.ts";
import {
  checkXLPromptInputs,
  type XLCallbackTensors,
  type XLPromptedOptions,
  xlCallbackTensors,
  xlPromptedOptionNames,
} from "./call_options.ts";
import { checkDenoisingRange, checkRangeLeft, isPartial, timestepsFrom, timestepsUntil } from "./denoising_range.ts";
import { timeIds } from "./micro_conditioning.ts";
import type { StableDiffusionXLImg2ImgParts } from "./pipeline_stable_diffusion_xl_img2img.ts";
import { StableDiffusionXLBase } from "./stable_diffusion_xl_base.ts";

/** The tensors that a callback is shown, by name; what it returns replaces them. With guidance all but the first are doubled. */
export type XLInpaintCallbackTensors = XLCallbackTensors &
  Readonly<Partial<Record<"mask" | "masked_image_latents", Tensor>>>;

/** What a {@link StableDiffusionXLInpaintPipeline} is called with. */
export interface StableDiffusionXLInpaintOptions
  extends Omit<
      XLPromptedOptions<StableDiffusionXLInpaintPipeline, XLInpaintCallbackTensors>,
      keyof ScoredConditioning | "guidance_scale"
    >,
    ScoredConditioning {
  /**
   * The picture to fill in, or one for each of the batch; fewer are repeated. It is brought to `height` and `width`. A tensor is
   * `[batch, 3, height, width]` in 0..1; one of 4 channels is taken for latents, scaled as the UNet knows them, and a UNet that
   * sees the mask (9 channels) needs `masked_image_latents` beside them.
   */
  readonly image?: ImageInput | null;
  /**
   * White where the picture is filled in, black where it stays; from the middle between the two on it is white. It is brought to
   * `height` and `width`. A tensor is `[batch, 1, height, width]` in 0..1, or without a batch or channels.
   */
  readonly mask_image?: ImageInput | null;
  /** Latents of the picture without what is masked, `[batch, 4, height / 8, width / 8]`. Default: they are made of `image`. */
  readonly masked_image_latents?: Tensor | null;
  /** Of the pictures that are made, a multiple of 8. Default: what the model was trained at. */
  readonly height?: number | null;
  /** Of the pictures that are made, a multiple of 8. Default: what the model was trained at. */
  readonly width?: number | null;
  /**
   * Works on the masked part of the picture alone, at full size, with so many pixels around it, and puts the result into the
   * original, which stays as it is outside of the mask. For one picture and one mask of its size. Default: all of it.
   */
  readonly padding_mask_crop?: number | null;
  /**
   * How much is made anew where the mask is white, 0 to 1: the share of `num_inference_steps` that is run. At 1 it begins with
   * nothing but noise. Not used with `denoising_start`. Default 0.9999: of 50 steps, all but the first.
   */
  readonly strength?: number;
  /**
   * 0 to 1: the share of the denoising that is done already in `image`, which gets no further noise. With it a refiner goes on
   * where another pipeline has ended with `denoising_end`. As in Diffusers, at 0 and 1 `strength` says where to begin.
   */
  readonly denoising_start?: number | null;
  /** Above 1, the picture is drawn towards the prompt, and away from the negative one. Default 7.5. */
  readonly guidance_scale?: number;
  /** The noise to begin with, `[batch, channels, height / 8, width / 8]`. As in Diffusers, not used with `denoising_start`. */
  readonly latents?: Tensor | null;
}

const optionNames: readonly (keyof StableDiffusionXLInpaintOptions)[] = [
  ...xlPromptedOptionNames,
  ...scoreNames,
  ...(["image", "mask_image", "masked_image_latents", "height", "width", "padding_mask_crop"] as const),
  ...(["strength", "denoising_start", "latents"] as const),
];

const name = "StableDiffusionXLInpaintPipeline";

export interface StableDiffusionXLInpaintPipeline extends PromptPipelineCall<StableDiffusionXLInpaintOptions> {}

/**
 * Fills in the masked part of a picture, guided by text, with Stable Diffusion XL: models made for it, which see the mask
 * (9 channels), and others (4 channels, the refiner among them), whose every step is laid over the original.
 *
 * @example
 * ```ts
 * const pipeline = await StableDiffusionXLInpaintPipeline.from_pretrained(
 *   "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
 *   { variant: "fp16" },
 * );
 * const { images } = await pipeline("A majestic tiger sitting on a bench", {
 *   image: "bench.png",
 *   mask_image: "mask.png",
 *   strength: 0.8,
 * });
 * ```
 * @see Diffusers `StableDiffusionXLInpaintPipeline`
 */
export class StableDiffusionXLInpaintPipeline extends StableDiffusionXLBase {
  static override readonly name: string = name;
  static override readonly init_options: readonly string[] = [
    "requires_aesthetics_score",
    ...StableDiffusionXLBase.init_options,
  ];
  static override readonly single_file_kinds: readonly SingleFileKind[] = ["xl_base", "xl_refiner", "xl_inpaint"];
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof XLInpaintCallbackTensors)[] = [
    ...xlCallbackTensors,
    "mask",
    "masked_image_latents",
  ];

  readonly mask_processor: VaeImageProcessor;

  constructor(parts: StableDiffusionXLImg2ImgParts) {
    super(parts);
    this.register_to_config({ requires_aesthetics_score: parts.requires_aesthetics_score ?? false });
    this.mask_processor = newMaskProcessor(this.vae_scale_factor);
  }

  protected override async run(
    options: StableDiffusionXLInpaintOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, strength = 0.9999, denoising_start, callback_on_step_end: callback, signal } = options;
    const { guidance_scale = 7.5, guidance_rescale = 0, eta = 0 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { unet, vae, scheduler, vae_scale_factor } = this;
    this.checkRunParts("image");

    // 0. and 1. default size, and what is wrong with the call
    checkOptions(name, options, optionNames);
    const [height, width] = this.sizeOf(options);
    this.checkInputs(options);
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 2. call parameters
    const { batch, generator } = callParameters(options);
    const size = [Math.floor(height / vae_scale_factor), Math.floor(width / vae_scale_factor)] as const;
    const shape = [batch, vae.config.latent_channels, ...size];
    // Latents that go on from another run are the picture itself.
    const given = denoising_start == null ? (options.latents ?? undefined) : undefined;
    if (given !== undefined) checkTensor("latents", given, shape);
    const seesMask = unet.config.in_channels === 9;
    const pictures = await readInpaintPictures(this, { ...options, height, width });
    const { init_image, mask_condition, overlay } = pictures;
    const { vae_latent_channels } = this.image_processor.config;
    const needsMasked = seesMask || init_image.dims[1] !== vae_latent_channels;
    const masked_image =
      options.masked_image_latents ?? (needsMasked ? maskedImage(pictures, vae_latent_channels) : undefined);
    checkRepeatable("mask_image", mask_condition, batch);
    checkRepeatable("image", init_image, batch);
    if (masked_image !== undefined) checkRepeatable("masked_image_latents", masked_image, batch);

    // 3. the text, and what IP-Adapters see
    const image_conditions = await this.imageConditions(options, batch);
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    let { prompt_embeds, pooled_prompt_embeds: add_text_embeds } = encoded;
    await nextTask(signal);

    // 4. timesteps
    const whole = retrieve_timesteps(scheduler, options.num_inference_steps ?? 50, options);
    let left: number[];
    if (isPartial(denoising_start)) {
      left = timestepsFrom(scheduler, whole.timesteps, denoising_start);
      checkRangeLeft(left, denoising_start);
    } else {
      const part = get_timesteps(scheduler, whole.timesteps, whole.num_inference_steps, strength);
      left = part.num_inference_steps < 1 ? [] : part.timesteps;
      checkStepsLeft(left, whole.num_inference_steps, strength);
    }

    // 5. and 6. latents: those of the picture if it is noisy already; else noise, and below full strength the picture as well,
    // which a UNet that sees no mask needs anyway
    const isPureNoise = denoising_start == null && (given !== undefined || strength === 1);
    const image_latents =
      seesMask && isPureNoise ? undefined : await inpaintImageLatents(this, init_image, { batch, size, generator });
    const noise = given ?? randn_tensor(shape, { generator });
    let latents = image_latents!;
    if (isPureNoise) latents = noise.mul(scheduler.init_noise_sigma);
    else if (denoising_start == null) latents = addNoise(scheduler, latents, noise, left[0]!);
    await nextTask(signal);

    // 7. and 8. the mask, and what it leaves of the picture
    let { mask, masked_image_latents } = await prepare_mask_latents(this, mask_condition, masked_image, {
      ...{ batch, size, generator, do_classifier_free_guidance },
    });
    if (seesMask) checkNineChannels(latents, mask, masked_image_latents!);
    await nextTask(signal);

    // 9. what this scheduler's step takes
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });

    // 10. what is added to the time embedding
    const [rows, columns] = size.map((length) => length * vae_scale_factor) as [number, number];
    const [time_ids, negative_time_ids] = scoredTimeIds(this, options, rows, columns);
    let ids = new Array<number[]>(batch).fill(time_ids);
    if (do_classifier_free_guidance) {
      prompt_embeds = Tensor.cat([encoded.negative_prompt_embeds!, prompt_embeds]);
      add_text_embeds = Tensor.cat([encoded.negative_pooled_prompt_embeds!, add_text_embeds]);
      ids = [...new Array<number[]>(batch).fill(negative_time_ids), ...ids];
    }
    let add_time_ids = timeIds(ids);

    // 11. where the run ends, and the guidance as an input
    const timesteps = timestepsUntil(scheduler, left, options.denoising_end);
    const timestep_cond = this.timestepCond(batch);
    this._num_timesteps = timesteps.length;

    // 12. denoising loop
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const beside = seesMask ? Tensor.cat([mask, masked_image_latents!], 1) : undefined;
      const added_cond_kwargs = { text_embeds: add_text_embeds, time_ids: add_time_ids, ...image_conditions };
      const conditions = { beside, timestep_cond, added_cond_kwargs, guidance_rescale };
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
        const tensors = { latents, prompt_embeds, add_text_embeds, add_time_ids, mask, masked_image_latents };
        ({ latents, prompt_embeds, add_text_embeds, add_time_ids, mask, masked_image_latents } = await afterStep(
          (shown) => callback(this, i, t, shown as XLInpaintCallbackTensors),
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
      { ...options, generator, described, isSeeded: given === undefined },
      overlay && ((images) => (images instanceof Tensor ? images : images.map(overlay))),
    );
  }

  /** @see Diffusers `StableDiffusionXLInpaintPipeline.check_inputs` */
  private checkInputs(options: StableDiffusionXLInpaintOptions): void {
    const { in_channels, cross_attention_dim } = this.unet.config;
    checkStrength(options.strength ?? 0.9999);
    const allowed = StableDiffusionXLInpaintPipeline.callback_tensor_inputs;
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
