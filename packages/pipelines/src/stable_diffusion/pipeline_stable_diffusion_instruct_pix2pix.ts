import { checkOptions, type RawImage, randn_tensor, Tensor } from "@diffusers-web/core";
import type { SingleFileKind } from "@diffusers-web/models";
import { nextTask } from "../calls.ts";
import { checkNumber, checkTensor } from "../checks.ts";
import { apply_image_guidance } from "../guidance.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import { checkPromptInputs, type PromptedOptions, promptedOptionNames } from "./call_options.ts";
import { callParameters } from "./call_parameters.ts";
import { checkRepeatable, type ImageInput, readImage } from "./image_latents.ts";
import type { IPAdapterCallOptions } from "./ip_adapter_mixin.ts";
import type { OutdatedField } from "./old_configs.ts";
import { checkEditingChannels, prepare_image_latents } from "./pix2pix_latents.ts";
import { afterStep, StableDiffusionBase } from "./stable_diffusion_base.ts";

/**
 * The tensors that a callback is shown, by name; what it returns replaces them. With guidance the last two are there three times:
 * for text and picture, the picture alone, and neither.
 */
export type Pix2PixCallbackTensors = Readonly<Partial<Record<"latents" | "prompt_embeds" | "image_latents", Tensor>>>;

type Left = "timesteps" | "sigmas" | "clip_skip";

/** What a {@link StableDiffusionInstructPix2PixPipeline} is called with. */
export interface StableDiffusionInstructPix2PixOptions
  extends Omit<PromptedOptions<StableDiffusionInstructPix2PixPipeline, Pix2PixCallbackTensors>, Left> {
  /**
   * The picture to edit, or one for each picture of the batch; fewer are repeated. Brought to a multiple of 8 in size, a list to
   * the size of its first. A tensor is `[batch, 3, height, width]` in 0..1; one of 4 channels is taken for latents, as the
   * autoencoder gives them (not scaled).
   */
  readonly image?: ImageInput | null;
  /** At least 1. Default 100. */
  readonly num_inference_steps?: number;
  /** Above 1, what is made keeps to the picture. Below 1, there is no guidance at all, by the text neither. Default 1.5. */
  readonly image_guidance_scale?: number;
  /** The noise to begin with, `[batch, 4, height / 8, width / 8]`. */
  readonly latents?: Tensor | null;
}

const left: readonly string[] = ["timesteps", "sigmas", "clip_skip"] satisfies Left[];
const optionNames = [
  ...promptedOptionNames.filter((option) => !left.includes(option)),
  ...(["image", "image_guidance_scale", "latents"] as const),
];

const callbackTensors: readonly (keyof Pix2PixCallbackTensors)[] = ["latents", "prompt_embeds", "image_latents"];

const name = "StableDiffusionInstructPix2PixPipeline";

export interface StableDiffusionInstructPix2PixPipeline
  extends PromptPipelineCall<StableDiffusionInstructPix2PixOptions> {}

/**
 * Edits a picture as an instruction says, with models that were trained for it.
 *
 * @example
 * ```ts
 * const pipeline = await StableDiffusionInstructPix2PixPipeline.from_pretrained("timbrooks/instruct-pix2pix");
 * const { images } = await pipeline("make the mountains snowy", {
 *   image: await RawImage.read("mountain.png"),
 *   num_inference_steps: 20,
 * });
 * ```
 * @see Diffusers `StableDiffusionInstructPix2PixPipeline`; Brooks et al., https://arxiv.org/abs/2211.09800
 */
export class StableDiffusionInstructPix2PixPipeline extends StableDiffusionBase {
  static override readonly name: string = name;
  static override readonly model_cpu_offload_seq: string | null = "text_encoder->unet->vae";
  static override readonly outdated_fields: readonly OutdatedField[] = [];
  static override readonly single_file_kinds: readonly SingleFileKind[] = ["instruct-pix2pix"];
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof Pix2PixCallbackTensors)[] = callbackTensors;

  private _image_guidance_scale = 1.5;

  /** How much the call at hand keeps to its picture. */
  get image_guidance_scale(): number {
    return this._image_guidance_scale;
  }

  /** Whether the UNet runs with text and picture, with the picture alone, and with neither. */
  override get do_classifier_free_guidance(): boolean {
    return this._guidance_scale > 1 && this._image_guidance_scale >= 1;
  }

  protected override async run(
    options: StableDiffusionInstructPix2PixOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, num_inference_steps = 100, callback_on_step_end: callback, signal } = options;
    const { guidance_scale = 7.5, image_guidance_scale = 1.5, eta = 0, latents: given } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { unet, vae, scheduler, cross_attention_kwargs } = this;
    this.checkRunParts(options.output_type ?? "image");
    this.checkParts(["vae"]);

    // 0. what is wrong with the call
    checkOptions(name, options, optionNames);
    const { in_channels, cross_attention_dim } = unet.config;
    checkPromptInputs(name, options, cross_attention_dim as number, callbackTensors);
    checkNumber("image_guidance_scale", image_guidance_scale);
    checkEditingChannels(name, in_channels, vae.config.latent_channels);
    this._guidance_scale = guidance_scale;
    this._image_guidance_scale = image_guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 1. call parameters
    const { batch, generator } = callParameters(options);
    const image = await readImage(this.image_processor, vae, options.image);
    checkRepeatable("image", image, batch);

    // 2. the text: with it, and twice without it; and what IP-Adapters see. As in Diffusers, LoRAs of the text encoder are not scaled
    const { cross_attention_kwargs: _, ...text } = options;
    const encoded = await this.encode_prompt(prompt ?? null, { ...text, do_classifier_free_guidance });
    const negative_prompt_embeds = encoded.negative_prompt_embeds!;
    let prompt_embeds = do_classifier_free_guidance
      ? Tensor.cat([encoded.prompt_embeds, negative_prompt_embeds, negative_prompt_embeds])
      : encoded.prompt_embeds;
    const added_cond_kwargs = await this.imageConditions(options, batch);
    await nextTask(signal);

    // 3. and 4. timesteps
    const { timesteps } = retrieve_timesteps(scheduler, num_inference_steps);
    this._num_timesteps = timesteps.length;

    // 5. latents of the picture
    let image_latents = await prepare_image_latents(this, image, batch);
    await nextTask(signal);

    // 6. and 7. latents: noise
    const shape = [batch, vae.config.latent_channels, ...image_latents.dims.slice(2)];
    if (given != null) checkTensor("latents", given, shape);
    let latents = (given ?? randn_tensor(shape, { generator })).mul(scheduler.init_noise_sigma);

    // 8. what this scheduler's step takes
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });

    // 9. denoising loop
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      // expand the latents: with text and picture, with the picture alone, with neither
      const expanded = do_classifier_free_guidance ? Tensor.cat([latents, latents, latents]) : latents;
      const latent_model_input = Tensor.cat([scheduler.scale_model_input(expanded, t), image_latents], 1);

      // predict the noise residual
      const conditions = { added_cond_kwargs, cross_attention_kwargs };
      let noise_pred = (await unet(latent_model_input, t, prompt_embeds, conditions)).sample;

      // perform guidance
      if (do_classifier_free_guidance) {
        ({ noise_pred } = apply_image_guidance(noise_pred, guidance_scale, image_guidance_scale));
      }

      // x_t -> x_t-1
      latents = scheduler.step(noise_pred, t, latents, extra_step_kwargs).prev_sample;

      if (callback != null) {
        const tensors = { latents, prompt_embeds, image_latents };
        ({ latents, prompt_embeds, image_latents } = await afterStep(
          (shown) => callback(this, i, t, shown),
          callback_on_step_end_tensor_inputs,
          tensors,
        ));
      }
      await nextTask(signal);
    }
    return this.finish(latents, num_inference_steps, {
      ...options,
      generator,
      described: { "Image CFG scale": image_guidance_scale },
      isSeeded: given == null,
    });
  }

  /** For text and picture what IP-Adapters see; without the text nothing, as for neither. */
  protected override async imageConditions(
    options: IPAdapterCallOptions,
    batch: number,
  ): Promise<{ readonly image_embeds?: readonly Tensor[] }> {
    const { image_embeds } = await super.imageConditions(options, batch);
    if (image_embeds === undefined) return {};
    if (!this.do_classifier_free_guidance) return { image_embeds };
    return {
      image_embeds: image_embeds.map((embeds) => {
        const [none, shown] = embeds.chunk(2) as [Tensor, Tensor];
        return Tensor.cat([shown, none, none]);
      }),
    };
  }
}
