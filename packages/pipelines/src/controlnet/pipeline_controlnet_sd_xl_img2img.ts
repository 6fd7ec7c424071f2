import { checkOptions, type RawImage, randn_tensor, Tensor } from "@diffusers-web/core";
import type { SingleFileKind } from "@diffusers-web/models";
import { nextTask } from "../calls.ts";
import { checkTensor, checkWhole } from "../checks.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
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
import { afterStep } from "../stable_diffusion/stable_diffusion_base.ts";
import {
  checkScores,
  type ScoredConditioning,
  scoredTimeIds,
  scoreNames,
} from "../stable_diffusion_xl/aesthetic_scores.ts";
import {
  checkXLPromptInputs,
  type XLCallbackTensors,
  type XLPromptedOptions,
  xlCallbackTensors,
  xlPromptedOptionNames,
} from "../stable_diffusion_xl/call_options.ts";
import { timeIds } from "../stable_diffusion_xl/micro_conditioning.ts";
import { type CustomTimesteps, retrieve_timesteps, stepOptions } from "../timesteps.ts";
import { type ControlImageInput, checkControlSize, prepareControlImages } from "./control_images.ts";
import { type ControlOptions, controlOptionNames, controlSettings } from "./control_options.ts";
import { controlSteps } from "./control_steps.ts";
import {
  StableDiffusionXLControlNetBase,
  type StableDiffusionXLControlNetImageParts,
} from "./stable_diffusion_xl_controlnet_base.ts";

/**
 * The tensors that a callback is shown, by name; what it returns replaces them. `control_image` is what the net follows,
 * of several nets a list; with guidance, but not in guess mode, each is there twice. The negative ones, as in Diffusers,
 * are to look at only.
 */
export type XLControlImageCallbackTensors = XLCallbackTensors &
  Readonly<
    Partial<
      Record<"negative_prompt_embeds" | "negative_pooled_prompt_embeds" | "add_neg_time_ids", Tensor> &
        Record<"control_image", Tensor | readonly Tensor[]>
    >
  >;

/** What a {@link StableDiffusionXLControlNetImg2ImgPipeline} is called with. */
export interface StableDiffusionXLControlNetImg2ImgOptions
  extends Omit<
      XLPromptedOptions<StableDiffusionXLControlNetImg2ImgPipeline, XLControlImageCallbackTensors>,
      keyof CustomTimesteps | keyof ScoredConditioning | "guidance_rescale" | "denoising_end"
    >,
    ScoredConditioning,
    ControlOptions {
  /**
   * The picture to start from, or one for each picture of the batch; fewer are repeated. A tensor is `[batch, 3, height,
   * width]` in 0..1; one of 4 channels is taken for latents, scaled as the UNet knows them.
   */
  readonly image?: ImageInput | null;
  /**
   * What the net follows: edges, a depth map, a pose. A picture, or one for each prompt; a tensor is `[batch, 3, height,
   * width]` in 0..1. For several nets a list, with a picture or pictures for each. All have to come to the size of
   * `image`.
   */
  readonly control_image?: ControlImageInput | null;
  /** Of all pictures, rounded down to a multiple of 8. Default: their own. */
  readonly height?: number | null;
  /** Of all pictures, rounded down to a multiple of 8. Default: their own. */
  readonly width?: number | null;
  /** How much of the picture is made anew, 0 to 1: the share of `num_inference_steps` that is run. Default 0.8. */
  readonly strength?: number;
  /** What to begin with, `[batch, 4, height / 8, width / 8]`, with its noise; what `image` shows does not count then. */
  readonly latents?: Tensor | null;
  /** What the residuals are multiplied with before the UNet adds them: a number, or one for each net. Default 0.8. */
  readonly controlnet_conditioning_scale?: number | readonly number[];
}

const optionNames: readonly (keyof StableDiffusionXLControlNetImg2ImgOptions)[] = [
  ...xlPromptedOptionNames.filter(
    (option) =>
      option !== "timesteps" && option !== "sigmas" && option !== "guidance_rescale" && option !== "denoising_end",
  ),
  ...scoreNames,
  ...controlOptionNames,
  ...(["image", "control_image", "height", "width", "strength", "latents"] as const),
];

const name = "StableDiffusionXLControlNetImg2ImgPipeline";

export interface StableDiffusionXLControlNetImg2ImgPipeline
  extends PromptPipelineCall<StableDiffusionXLControlNetImg2ImgOptions> {}

/**
 * Picture to picture, guided by text and by what a ControlNet follows, with Stable Diffusion XL.
 *
 * @example
 * ```ts
 * const controlnet = await ControlNetModel.from_pretrained("diffusers/controlnet-depth-sdxl-1.0-small", {
 *   variant: "fp16",
 * });
 * const pipeline = await StableDiffusionXLControlNetImg2ImgPipeline.from_pretrained(
 *   "stabilityai/stable-diffusion-xl-base-1.0",
 *   { controlnet, variant: "fp16" },
 * );
 * const { images } = await pipeline("A robot, 4k photo", { image: "cat.png", control_image: "depth.png", strength: 0.99 });
 * ```
 * @see Diffusers `StableDiffusionXLControlNetImg2ImgPipeline`
 */
export class StableDiffusionXLControlNetImg2ImgPipeline extends StableDiffusionXLControlNetBase {
  static override readonly name: string = name;
  static override readonly init_options: readonly string[] = [
    "requires_aesthetics_score",
    ...StableDiffusionXLControlNetBase.init_options,
  ];
  static override readonly single_file_kinds: readonly SingleFileKind[] = ["xl_base", "xl_refiner"];
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof XLControlImageCallbackTensors)[] = [
    ...xlCallbackTensors,
    ...(["negative_prompt_embeds", "negative_pooled_prompt_embeds", "add_neg_time_ids", "control_image"] as const),
  ];

  constructor(parts: StableDiffusionXLControlNetImageParts) {
    super(parts);
    this.register_to_config({ requires_aesthetics_score: parts.requires_aesthetics_score ?? false });
  }

  /** Whether the UNet runs with and without the text: as in Diffusers, also one that takes the guidance as an input. */
  override get do_classifier_free_guidance(): boolean {
    return this._guidance_scale > 1;
  }

  protected override async run(
    options: StableDiffusionXLControlNetImg2ImgOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, latents: given, strength = 0.8, callback_on_step_end: callback, signal } = options;
    const { guidance_scale = 5, eta = 0 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    this.checkRunParts(options.output_type ?? "image");
    const { unet, controlnet, scheduler, vae_scale_factor } = this;

    // 1. what is wrong with the call
    checkOptions(name, options, optionNames);
    checkStrength(strength);
    const allowed = StableDiffusionXLControlNetImg2ImgPipeline.callback_tensor_inputs;
    checkXLPromptInputs(name, options, unet.config.cross_attention_dim as number, allowed);
    checkScores(this, options);
    const settings = controlSettings(controlnet, options, 0.8);
    if (options.height != null) checkWhole("height", options.height, vae_scale_factor);
    if (options.width != null) checkWhole("width", options.width, vae_scale_factor);
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 2. call parameters, and 4. the picture and what the nets follow
    const { batch, generator } = callParameters(options);
    const wanted = { height: options.height ?? null, width: options.width ?? null };
    const image = await readImage(this.image_processor, this.vae, options.image, wanted);
    checkRepeatable("image", image, batch);
    const isPicture = image.dims[1] !== this.image_processor.config.vae_latent_channels;
    if (isPicture && given == null) this.checkParts(["vae"]);
    const prepared = await prepareControlImages(this.control_image_processor, controlnet, options.control_image, {
      ...wanted,
      field: "control_image",
      batch_size: batch / (options.num_images_per_prompt ?? 1),
      num_images_per_prompt: options.num_images_per_prompt,
      twice: do_classifier_free_guidance && !settings.guess_mode,
    });
    let control_image = "nets" in controlnet ? prepared : prepared[0]!;
    const [height, width] = prepared[0]!.dims.slice(-2) as [number, number];
    const inPixels = (length: number): number => (isPicture ? length : length * vae_scale_factor);
    checkControlSize("control_image", prepared[0]!, image.dims.slice(-2).map(inPixels));

    // 3. the text, and what IP-Adapters see
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    let { prompt_embeds, pooled_prompt_embeds: add_text_embeds } = encoded;
    const image_conditions = await this.imageConditions(options, batch);
    await nextTask(signal);

    // 5. timesteps
    const whole = retrieve_timesteps(scheduler, options.num_inference_steps ?? 50);
    const { timesteps } = get_timesteps(scheduler, whole.timesteps, whole.num_inference_steps, strength);
    if (given == null) checkStepsLeft(timesteps, whole.num_inference_steps, strength);
    this._num_timesteps = timesteps.length;

    // 6. latents: those of the picture, with noise
    let latents: Tensor;
    if (given == null) {
      const init_latents = await initLatents(this, image, batch, generator, { uses_statistics: true });
      const noise = randn_tensor(init_latents.dims, { generator });
      latents = addNoise(scheduler, init_latents, noise, timesteps[0]!);
    } else {
      const size = [height, width].map((length) => Math.floor(length / vae_scale_factor));
      checkTensor("latents", given, [batch, unet.config.in_channels, ...size]);
      latents = given;
    }
    await nextTask(signal);

    // 7. what this scheduler's step takes, and when the nets count
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });
    const controlStep = controlSteps(this, settings, timesteps.length);

    // 7.2 what is added to the time embedding
    const [time_ids, negative_time_ids] = scoredTimeIds(this, options, height, width);
    let rows = new Array<number[]>(batch).fill(time_ids);
    let negativeRows = [negative_time_ids];
    if (do_classifier_free_guidance) {
      prompt_embeds = Tensor.cat([encoded.negative_prompt_embeds!, prompt_embeds]);
      add_text_embeds = Tensor.cat([encoded.negative_pooled_prompt_embeds!, add_text_embeds]);
      negativeRows = new Array<number[]>(batch).fill(negative_time_ids);
      rows = [...negativeRows, ...rows];
    }
    let add_time_ids = timeIds(rows);
    const negatives = {
      negative_prompt_embeds: encoded.negative_prompt_embeds ?? undefined,
      negative_pooled_prompt_embeds: encoded.negative_pooled_prompt_embeds ?? undefined,
      add_neg_time_ids: timeIds(negativeRows),
    };

    // 8. denoising loop
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const added = { text_embeds: add_text_embeds, time_ids: add_time_ids };
      const inputs = { latents, t, prompt_embeds, images: [control_image].flat(), added_cond_kwargs: added };
      const residuals = await controlStep(i, inputs);
      const conditions = { ...residuals, added_cond_kwargs: { ...added, ...image_conditions } };
      const noise_pred = await this.predictNoise(latents, t, prompt_embeds, conditions);

      // x_t -> x_t-1
      latents = scheduler.step(noise_pred, t, latents, extra_step_kwargs).prev_sample;

      if (callback != null) {
        const tensors = { latents, prompt_embeds, add_text_embeds, add_time_ids, control_image, ...negatives };
        ({ latents, prompt_embeds, add_text_embeds, add_time_ids, control_image } = await afterStep(
          (shown) => callback(this, i, t, shown),
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
      isSeeded: given == null,
    });
  }
}
