import { checkOptions, type Generator, type RawImage, randn_tensor, Tensor } from "@diffusers-web/core";
import type { SingleFileKind } from "@diffusers-web/models";
import { nextTask } from "../calls.ts";
import { checkTensor } from "../checks.ts";
import type { VaeImageProcessor } from "../image_processor.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import {
  type CallbackTensors,
  callbackTensors,
  checkDivisible,
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
  repeatToBatch,
} from "./image_latents.ts";
import {
  checkInpaintInputs,
  checkNineChannels,
  inpaintImageLatents,
  maskedImage,
  newMaskProcessor,
  prepare_mask_latents,
  readInpaintPictures,
} from "./inpaint_latents.ts";
import type { OutdatedField } from "./old_configs.ts";
import { afterStep, StableDiffusionBase, type StableDiffusionParts } from "./stable_diffusion_base.ts";

/** The tensors that a callback is shown, by name; what it returns replaces them. With guidance the last two are doubled. */
export type InpaintCallbackTensors = CallbackTensors &
  Readonly<Partial<Record<"mask" | "masked_image_latents", Tensor>>>;

/** What a {@link StableDiffusionInpaintPipeline} is called with. */
export interface StableDiffusionInpaintOptions
  extends PromptedOptions<StableDiffusionInpaintPipeline, InpaintCallbackTensors> {
  /**
   * The picture to fill in, or one for each of the batch; fewer are repeated. It is brought to `height` and `width`. A tensor is
   * `[batch, 3, height, width]` in 0..1; one of 4 channels is taken for latents, scaled as the UNet knows them, and needs
   * `masked_image_latents`.
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
   * How much is made anew where the mask is white, 0 to 1: the share of `num_inference_steps` that is run. Default 1, which
   * begins with nothing but noise.
   */
  readonly strength?: number;
  /** The noise to begin with, `[batch, channels, height / 8, width / 8]`. */
  readonly latents?: Tensor | null;
}

const optionNames: readonly (keyof StableDiffusionInpaintOptions)[] = [
  ...promptedOptionNames,
  ...(["image", "mask_image", "masked_image_latents", "height", "width", "padding_mask_crop"] as const),
  ...(["strength", "latents"] as const),
];

const name = "StableDiffusionInpaintPipeline";

export interface StableDiffusionInpaintPipeline extends PromptPipelineCall<StableDiffusionInpaintOptions> {}

/**
 * Fills in the masked part of a picture, guided by text, with Stable Diffusion 1.x and 2.x: models made for it, which see the
 * mask (9 channels), and others (4 channels), whose every step is laid over the original.
 *
 * @example
 * ```ts
 * const pipeline = await StableDiffusionInpaintPipeline.from_pretrained(
 *   "stable-diffusion-v1-5/stable-diffusion-inpainting",
 * );
 * const { images } = await pipeline("Face of a yellow cat, high resolution, sitting on a park bench", {
 *   image: "bench.png",
 *   mask_image: "mask.png",
 * });
 * ```
 * @see Diffusers `StableDiffusionInpaintPipeline`
 */
export class StableDiffusionInpaintPipeline extends StableDiffusionBase {
  static override readonly name: string = name;
  static override readonly outdated_fields: readonly OutdatedField[] = [
    "steps_offset",
    "skip_prk_steps",
    "sample_size",
  ];
  static override readonly single_file_kinds: readonly SingleFileKind[] = ["v1", "v2", "inpainting", "inpainting_v2"];
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof InpaintCallbackTensors)[] = [
    ...callbackTensors,
    "mask",
    "masked_image_latents",
  ];

  readonly mask_processor: VaeImageProcessor;

  constructor(parts: StableDiffusionParts) {
    super(parts);
    this.mask_processor = newMaskProcessor(this.vae_scale_factor);
  }

  protected override async run(
    options: StableDiffusionInpaintOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, latents: given, strength = 1, callback_on_step_end: callback, signal } = options;
    const { guidance_scale = 7.5, eta = 0, output_type = "image" } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { unet, vae, scheduler, vae_scale_factor } = this;
    this.checkRunParts(output_type);
    this.checkParts(["vae"]);

    // 0. and 1. default size, and what is wrong with the call
    const height = isGiven(options.height) ? options.height : this.defaultSize()[0];
    const width = isGiven(options.width) ? options.width : this.defaultSize()[1];
    this.checkInputs(options, height, width);
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 2. call parameters
    const { batch, generator } = callParameters(options);
    const size = [Math.floor(height / vae_scale_factor), Math.floor(width / vae_scale_factor)] as const;
    const shape = [batch, vae.config.latent_channels, ...size];
    if (given != null) checkTensor("latents", given, shape);
    const pictures = await readInpaintPictures(this, { ...options, height, width });
    const { init_image, mask_condition, overlay } = pictures;
    const { vae_latent_channels } = this.image_processor.config;
    const masked_image = options.masked_image_latents ?? maskedImage(pictures, vae_latent_channels);
    checkRepeatable("mask_image", mask_condition, batch);
    checkRepeatable("image", init_image, batch);
    checkRepeatable("masked_image_latents", masked_image, batch);

    // 3. the text, and what IP-Adapters see
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    let { prompt_embeds } = encoded;
    let negative_prompt_embeds = encoded.negative_prompt_embeds ?? undefined;
    if (do_classifier_free_guidance) prompt_embeds = Tensor.cat([negative_prompt_embeds!, prompt_embeds]);
    const added_cond_kwargs = await this.imageConditions(options, batch);
    await nextTask(signal);

    // 4. timesteps
    const whole = retrieve_timesteps(scheduler, options.num_inference_steps ?? 50, options);
    const left = get_timesteps(scheduler, whole.timesteps, whole.num_inference_steps, strength);
    const timesteps = left.num_inference_steps < 1 ? [] : left.timesteps;
    checkStepsLeft(timesteps, whole.num_inference_steps, strength);
    this._num_timesteps = timesteps.length;

    // 5. and 6. latents: noise, and below full strength the picture as well, which a UNet that sees no mask needs anyway
    const seesMask = unet.config.in_channels === 9;
    const isPureNoise = given != null || strength === 1;
    const image_latents =
      seesMask && isPureNoise ? undefined : await inpaintImageLatents(this, init_image, { batch, size, generator });
    const noise = given ?? randn_tensor(shape, { generator });
    let latents = isPureNoise
      ? noise.mul(scheduler.init_noise_sigma)
      : addNoise(scheduler, image_latents!, noise, timesteps[0]!);
    await nextTask(signal);

    // 7. and 8. the mask, and what it leaves of the picture
    const prepared = await prepare_mask_latents(this, mask_condition, masked_image, {
      ...{ batch, size, generator, do_classifier_free_guidance },
    });
    let { mask, masked_image_latents } = prepared;
    if (seesMask) checkNineChannels(latents, mask, masked_image_latents);
    await nextTask(signal);

    // 9. what this scheduler's step takes, and the guidance as an input
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });
    const timestep_cond = this.timestepCond(batch);

    // 10. denoising loop
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const beside = seesMask ? Tensor.cat([mask, masked_image_latents], 1) : undefined;
      const noise_pred = await this.predictNoise(latents, t, prompt_embeds, {
        beside,
        timestep_cond,
        added_cond_kwargs,
      });

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
        const tensors = { latents, prompt_embeds, negative_prompt_embeds, mask, masked_image_latents };
        ({ latents, prompt_embeds, negative_prompt_embeds, mask, masked_image_latents } = await afterStep(
          (shown) => callback(this, i, t, shown as InpaintCallbackTensors),
          callback_on_step_end_tensor_inputs,
          tensors,
        ));
      }
      await nextTask(signal);
    }

    // An autoencoder for inpainting is shown the picture around the mask.
    const isAsymmetric = vae.constructor.name === "AsymmetricAutoencoderKL";
    if (isAsymmetric && output_type !== "latent") drawAsEncoding(init_image.dims[0]!, shape, generator);
    return this.finish(
      latents,
      whole.num_inference_steps,
      {
        ...options,
        generator,
        described: { "Denoising strength": strength },
        isSeeded: given == null,
        condition: isAsymmetric ? { image: repeatToBatch(init_image, batch), mask: mask_condition } : undefined,
      },
      overlay && (async (images) => (images instanceof Tensor ? images : images.map(overlay))),
    );
  }

  /** @see Diffusers `StableDiffusionInpaintPipeline.check_inputs` */
  private checkInputs(options: StableDiffusionInpaintOptions, height: number, width: number): void {
    checkOptions(name, options, optionNames);
    const { in_channels, cross_attention_dim } = this.unet.config;
    checkStrength(options.strength ?? 1);
    checkDivisible("height", height, this.vae_scale_factor);
    checkDivisible("width", width, this.vae_scale_factor);
    const allowed = StableDiffusionInpaintPipeline.callback_tensor_inputs;
    checkPromptInputs(name, options, cross_attention_dim as number, allowed);
    checkInpaintInputs(name, options, in_channels);
  }
}

function isGiven(size: number | null | undefined): size is number {
  return size != null && size !== 0;
}

/** Diffusers encodes the pictures once more at this point. Nothing comes of it, but that the generators go on. */
function drawAsEncoding(pictures: number, shape: readonly number[], generator: Generator | readonly Generator[]): void {
  const generators = Array.isArray(generator) ? generator.slice(0, pictures) : generator;
  randn_tensor([pictures, ...shape.slice(1)], { generator: generators as Generator });
}
