import { checkOptions, type RawImage, randn_tensor, Tensor } from "@diffusers-web/core";
import type { SingleFileKind } from "@diffusers-web/models";
import { nextTask } from "../calls.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import { callParameters } from "../stable_diffusion/call_parameters.ts";
import {
  addNoise,
  checkStepsLeft,
  checkStrength,
  get_timesteps,
  type ImageInput,
  initLatents,
  readStart,
} from "../stable_diffusion/image_latents.ts";
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
import { checkDenoisingRange, isPartial, timestepsFrom, timestepsUntil } from "./denoising_range.ts";
import { timeIds } from "./micro_conditioning.ts";
import { StableDiffusionXLBase, type StableDiffusionXLParts } from "./stable_diffusion_xl_base.ts";

/** What a {@link StableDiffusionXLImg2ImgPipeline} is built of. */
export interface StableDiffusionXLImg2ImgParts extends StableDiffusionXLParts {
  /** Whether the UNet is told aesthetic scores in place of the target size, as the refiner is. Default false. */
  readonly requires_aesthetics_score?: boolean;
}

/** What a {@link StableDiffusionXLImg2ImgPipeline} is called with. */
export interface StableDiffusionXLImg2ImgOptions
  extends Omit<XLPromptedOptions<StableDiffusionXLImg2ImgPipeline>, keyof ScoredConditioning>,
    ScoredConditioning {
  /**
   * The picture to start from, or one for each picture of the batch; fewer are repeated. Brought to a multiple of 8 in size, a
   * list to the size of its first. A tensor is `[batch, 3, height, width]` in 0..1; one of 4 channels is taken for latents,
   * scaled as the UNet knows them.
   */
  readonly image?: ImageInput | null;
  /**
   * How much of the picture is made anew, 0 to 1: the share of `num_inference_steps` that is run. Not used with
   * `denoising_start`. Default 0.3.
   */
  readonly strength?: number;
  /**
   * 0 to 1: the share of the denoising that is done already in `image`, which gets no further noise. With it a refiner goes on
   * where another pipeline has ended with `denoising_end`. As in Diffusers, at 0 and 1 `strength` says where to begin.
   */
  readonly denoising_start?: number | null;
  /** What to begin with, `[batch, 4, height / 8, width / 8]`, with its noise; `image` is not looked at then. */
  readonly latents?: Tensor | null;
}

const optionNames: readonly (keyof StableDiffusionXLImg2ImgOptions)[] = [
  ...xlPromptedOptionNames,
  ...scoreNames,
  "image",
  "strength",
  "denoising_start",
  "latents",
];

export interface StableDiffusionXLImg2ImgPipeline extends PromptPipelineCall<StableDiffusionXLImg2ImgOptions> {}

/**
 * Picture to picture, guided by text, with Stable Diffusion XL; and its refiner.
 *
 * @example
 * ```ts
 * const refiner = await StableDiffusionXLImg2ImgPipeline.from_pretrained("stabilityai/stable-diffusion-xl-refiner-1.0", {
 *   variant: "fp16",
 *   vae: base.vae,
 *   text_encoder_2: base.text_encoder_2,
 * });
 * const { images: image } = await base(prompt, { denoising_end: 0.8, output_type: "latent" });
 * const { images } = await refiner(prompt, { image, denoising_start: 0.8 });
 * ```
 * @see Diffusers `StableDiffusionXLImg2ImgPipeline`; Podell et al., https://arxiv.org/abs/2307.01952, section 2.5
 */
export class StableDiffusionXLImg2ImgPipeline extends StableDiffusionXLBase {
  static override readonly name: string = "StableDiffusionXLImg2ImgPipeline";
  static override readonly init_options: readonly string[] = [
    "requires_aesthetics_score",
    ...StableDiffusionXLBase.init_options,
  ];
  static override readonly single_file_kinds: readonly SingleFileKind[] = ["xl_base", "xl_refiner"];
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof XLCallbackTensors)[] = xlCallbackTensors;

  constructor(parts: StableDiffusionXLImg2ImgParts) {
    super(parts);
    this.register_to_config({ requires_aesthetics_score: parts.requires_aesthetics_score ?? false });
  }

  protected override async run(
    options: StableDiffusionXLImg2ImgOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, strength = 0.3, denoising_start, callback_on_step_end: callback, signal } = options;
    const { guidance_scale = 5, guidance_rescale = 0, eta = 0 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { unet, scheduler } = this;
    this.checkRunParts(options.output_type ?? "image");

    // 1. what is wrong with the call
    checkOptions("StableDiffusionXLImg2ImgPipeline", options, optionNames);
    checkStrength(strength);
    checkXLPromptInputs("StableDiffusionXLImg2ImgPipeline", options, unet.config.cross_attention_dim as number);
    checkDenoisingRange(options);
    checkScores(this, options);
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 2. call parameters
    const { batch, generator } = callParameters(options);
    const { given, image } = await readStart(this, options, batch);
    if (image !== undefined && image.dims[1] !== this.image_processor.config.vae_latent_channels)
      this.checkParts(["vae"]);

    // 3. the text, and what IP-Adapters see
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    let { prompt_embeds, pooled_prompt_embeds: add_text_embeds } = encoded;
    const image_conditions = await this.imageConditions(options, batch);
    await nextTask(signal);

    // 4. timesteps
    const whole = retrieve_timesteps(scheduler, options.num_inference_steps ?? 50, options);
    let timesteps = isPartial(denoising_start)
      ? timestepsFrom(scheduler, whole.timesteps, denoising_start)
      : get_timesteps(scheduler, whole.timesteps, whole.num_inference_steps, strength).timesteps;
    const needsNoise = given === undefined && denoising_start == null;
    if (needsNoise) checkStepsLeft(timesteps, whole.num_inference_steps, strength);

    // 5. latents: those of the picture, with noise unless it is in them
    let latents = given ?? (await initLatents(this, image!, batch, generator, { uses_statistics: true }));
    if (needsNoise) {
      latents = addNoise(scheduler, latents, randn_tensor(latents.dims, { generator }), timesteps[0]!);
    }
    await nextTask(signal);

    // 6. what this scheduler's step takes
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });

    // 7. what is added to the time embedding
    const [height, width] = latents.dims.slice(2).map((length) => length * this.vae_scale_factor) as [number, number];
    const [time_ids, negative_time_ids] = scoredTimeIds(this, options, height, width);
    let rows = new Array<number[]>(batch).fill(time_ids);
    if (do_classifier_free_guidance) {
      prompt_embeds = Tensor.cat([encoded.negative_prompt_embeds!, prompt_embeds]);
      add_text_embeds = Tensor.cat([encoded.negative_pooled_prompt_embeds!, add_text_embeds]);
      rows = [...new Array<number[]>(batch).fill(negative_time_ids), ...rows];
    }
    let add_time_ids = timeIds(rows);

    // 8. where the run ends, and the guidance as an input
    timesteps = timestepsUntil(scheduler, timesteps, options.denoising_end);
    const timestep_cond = this.timestepCond(batch);
    this._num_timesteps = timesteps.length;

    // 9. denoising loop
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const added_cond_kwargs = { text_embeds: add_text_embeds, time_ids: add_time_ids, ...image_conditions };
      const conditions = { timestep_cond, added_cond_kwargs, guidance_rescale };
      const noise_pred = await this.predictNoise(latents, t, prompt_embeds, conditions);

      // x_t -> x_t-1
      latents = scheduler.step(noise_pred, t, latents, extra_step_kwargs).prev_sample;

      if (callback != null) {
        const tensors = { latents, prompt_embeds, add_text_embeds, add_time_ids };
        ({ latents, prompt_embeds, add_text_embeds, add_time_ids } = await afterStep(
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
    const isSeeded = given === undefined;
    return this.finish(latents, whole.num_inference_steps, { ...options, generator, described, isSeeded });
  }
}
