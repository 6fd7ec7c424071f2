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
import {
  checkDenoisingRange,
  isPartial,
  timestepsFrom,
  timestepsUntil,
} from "../stable_diffusion_xl/denoising_range.ts";
import { timeIds } from "../stable_diffusion_xl/micro_conditioning.ts";
import type { StableDiffusionXLImg2ImgParts } from "../stable_diffusion_xl/pipeline_stable_diffusion_xl_img2img.ts";
import { StableDiffusionXLBase } from "../stable_diffusion_xl/stable_diffusion_xl_base.ts";
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import {
  appliedLayers,
  type PAGLayers,
  type PAGOptions,
  type PAGParts,
  PerturbedGuidance,
  pagOptionNames,
} from "./pag_utils.ts";

/** The tensors that a callback is shown, by name; what it returns replaces them. */
export type XLPAGImg2ImgCallbackTensors = XLCallbackTensors &
  Readonly<Partial<Record<"negative_prompt_embeds" | "negative_pooled_prompt_embeds" | "add_neg_time_ids", Tensor>>>;

const tensorNames: readonly (keyof XLPAGImg2ImgCallbackTensors)[] = [
  ...xlCallbackTensors,
  "negative_prompt_embeds",
  "negative_pooled_prompt_embeds",
  "add_neg_time_ids",
];

/** What a {@link StableDiffusionXLPAGImg2ImgPipeline} is called with. */
export interface StableDiffusionXLPAGImg2ImgOptions
  extends Omit<
      XLPromptedOptions<StableDiffusionXLPAGImg2ImgPipeline, XLPAGImg2ImgCallbackTensors>,
      keyof ScoredConditioning
    >,
    ScoredConditioning,
    PAGOptions {
  /** As in `StableDiffusionXLImg2ImgOptions`. */
  readonly image?: ImageInput | null;
  /** How much of the picture is made anew, 0 to 1; not used with `denoising_start`. Default 0.3. */
  readonly strength?: number;
  /** 0 to 1: the share of the denoising that is done already in `image`, which gets no further noise. */
  readonly denoising_start?: number | null;
  /** What to begin with, `[batch, 4, height / 8, width / 8]`, with its noise; `image` is not looked at then. */
  readonly latents?: Tensor | null;
}

const optionNames: readonly (keyof StableDiffusionXLPAGImg2ImgOptions)[] = [
  ...xlPromptedOptionNames,
  ...scoreNames,
  ...pagOptionNames,
  "image",
  "strength",
  "denoising_start",
  "latents",
];

export interface StableDiffusionXLPAGImg2ImgPipeline extends PromptPipelineCall<StableDiffusionXLPAGImg2ImgOptions> {}

/**
 * Picture to picture with Stable Diffusion XL, or its refiner, and perturbed-attention guidance: see
 * {@link StableDiffusionPAGPipeline}.
 *
 * @example
 * ```ts
 * const pipeline = await AutoPipelineForImage2Image.from_pretrained("stabilityai/stable-diffusion-xl-refiner-1.0", {
 *   enable_pag: true,
 *   variant: "fp16",
 * });
 * const { images } = await pipeline("an astronaut on a horse", { image: "photo.png", pag_scale: 0.3 });
 * ```
 * @see Diffusers `StableDiffusionXLPAGImg2ImgPipeline`; Ahn et al., https://arxiv.org/abs/2403.17377
 */
export class StableDiffusionXLPAGImg2ImgPipeline extends StableDiffusionXLBase {
  static override readonly name: string = "StableDiffusionXLPAGImg2ImgPipeline";
  static override readonly init_options: readonly string[] = [
    "requires_aesthetics_score",
    ...StableDiffusionXLBase.init_options,
    "pag_applied_layers",
  ];
  static override readonly single_file_kinds: readonly SingleFileKind[] = ["xl_base", "xl_refiner"];
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof XLPAGImg2ImgCallbackTensors)[] = tensorNames;

  /** The self-attentions that are perturbed. */
  pag_applied_layers: readonly string[];

  constructor(parts: StableDiffusionXLImg2ImgParts & PAGParts) {
    super(parts);
    this.register_to_config({ requires_aesthetics_score: parts.requires_aesthetics_score ?? false });
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
    options: StableDiffusionXLPAGImg2ImgOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, strength = 0.3, denoising_start, callback_on_step_end: callback, signal } = options;
    const { guidance_scale = 5, guidance_rescale = 0, eta = 0 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { unet, scheduler } = this;
    this.checkRunParts(options.output_type ?? "image");

    // 1. what is wrong with the call
    checkOptions("StableDiffusionXLPAGImg2ImgPipeline", options, optionNames);
    checkStrength(strength);
    checkXLPromptInputs(
      "StableDiffusionXLPAGImg2ImgPipeline",
      options,
      unet.config.cross_attention_dim as number,
      tensorNames,
    );
    checkDenoisingRange(options);
    checkScores(this, options);
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;
    const guidance = new PerturbedGuidance(this, options);

    // 2. call parameters
    const { batch, generator } = callParameters(options);
    const { given, image } = await readStart(this, options, batch);
    if (image !== undefined && image.dims[1] !== this.image_processor.config.vae_latent_channels)
      this.checkParts(["vae"]);

    // 3. the text, and what IP-Adapters see
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    const { image_embeds } = await this.imageConditions(options, batch);
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

    // 7. the conditions, for each part of the UNet's batch
    const [height, width] = latents.dims.slice(2).map((length) => length * this.vae_scale_factor) as [number, number];
    const [time_ids, negative_time_ids] = scoredTimeIds(this, options, height, width);
    const [ids, add_neg_time_ids] = [time_ids, negative_time_ids].map((row) =>
      timeIds(new Array<number[]>(batch).fill(row)),
    ) as [Tensor, Tensor];
    const negative_prompt_embeds = encoded.negative_prompt_embeds ?? undefined;
    const negative_pooled_prompt_embeds = encoded.negative_pooled_prompt_embeds ?? undefined;
    let tensors = {
      latents,
      prompt_embeds: Tensor.cat(guidance.parts(encoded.prompt_embeds, negative_prompt_embeds!)),
      add_text_embeds: Tensor.cat(guidance.parts(encoded.pooled_prompt_embeds, negative_pooled_prompt_embeds!)),
      add_time_ids: Tensor.cat(guidance.parts(ids, add_neg_time_ids)),
      ...{ negative_prompt_embeds, negative_pooled_prompt_embeds, add_neg_time_ids },
    };
    const image_conditions = image_embeds && { image_embeds: image_embeds.map((one) => guidance.rearranged(one)) };

    // 8. where the run ends, and the guidance as an input
    timesteps = timestepsUntil(scheduler, timesteps, options.denoising_end);
    const timestep_cond = this.timestepCond(batch);
    this._num_timesteps = timesteps.length;

    // 9. denoising loop
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const { prompt_embeds, add_text_embeds, add_time_ids } = tensors;
      const added_cond_kwargs = { text_embeds: add_text_embeds, time_ids: add_time_ids, ...image_conditions };
      const conditions = { timestep_cond, added_cond_kwargs, guidance_rescale };
      const noise_pred = await guidance.predictNoise(tensors.latents, t, prompt_embeds, conditions);

      // x_t -> x_t-1
      const { prev_sample } = scheduler.step(noise_pred, t, tensors.latents, extra_step_kwargs);
      tensors = { ...tensors, latents: prev_sample };

      if (callback != null) {
        tensors = await afterStep(
          (shown) => callback(this, i, t, shown as XLPAGImg2ImgCallbackTensors),
          callback_on_step_end_tensor_inputs,
          tensors,
        );
      }
      await nextTask(signal);
    }
    const start: Record<string, number> = isPartial(denoising_start)
      ? { "Denoising start": denoising_start }
      : { "Denoising strength": strength };
    return this.finish(tensors.latents, whole.num_inference_steps, {
      ...{ ...options, generator, isSeeded: given === undefined },
      described: { ...start, ...guidance.described },
    });
  }
}
