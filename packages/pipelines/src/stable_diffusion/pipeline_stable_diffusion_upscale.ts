import {
  checkOptions,
  type RawImage,
  randn_tensor,
  type Scheduler,
  Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/core";
import type {
  Autoencoder,
  CLIPTextModel,
  CrossAttentionKwargs,
  SingleFileKind,
  UNet2DConditionModel,
} from "@diffusers-web/models";
import { nextTask } from "../calls.ts";
import { checkTensor, checkWhole } from "../checks.ts";
import type { CLIPImageProcessor } from "../image_processing_clip.ts";
import { VaeImageProcessor } from "../image_processor.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import { type EncodePromptOptions, encode_prompt, type Prompt, type PromptEmbeddings } from "../prompt.ts";
import { stepCallback } from "../step_callback.ts";
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import type { CLIPTokenizer } from "../tokenization_clip.ts";
import { type CallbackTensors, callbackTensors } from "./call_options.ts";
import { callParameters } from "./call_parameters.ts";
import { GuidedPipeline } from "./guided_pipeline.ts";
import { addNoise, readImage } from "./image_latents.ts";
import { afterStep } from "./stable_diffusion_base.ts";
import {
  checkImageBatch,
  checkUpscaleChannels,
  checkUpscaleInputs,
  type UpscaleOptions,
  upscaleOptionNames,
} from "./upscale_options.ts";

/** What a {@link StableDiffusionUpscalePipeline} is called with. */
export interface StableDiffusionUpscaleOptions extends UpscaleOptions<StableDiffusionUpscalePipeline> {
  /**
   * How much noise the picture is given before it is looked at: 0 to the pipeline's `max_noise_level`. More lets the model invent
   * more, and keep to the picture less. Default 20.
   */
  readonly noise_level?: number;
  /** Default 1. Of several prompts with several pictures each, as in Diffusers, `image` is repeated as a whole. */
  readonly num_images_per_prompt?: number;
  /** DDIM: 0 (default, deterministic) to 1. Other schedulers do not use it. */
  readonly eta?: number;
  /** The noise to begin with, `[batch, channels, height, width]` of the picture's size. */
  readonly latents?: Tensor | null;
  /** For the attention layers: `scale` is a factor of the active LoRAs in this call, of the UNet's and the text encoder's. */
  readonly cross_attention_kwargs?: CrossAttentionKwargs | null | undefined;
  /** How many of the text encoder's last layers to leave out. Default: none. */
  readonly clip_skip?: number | null;
}

const optionNames: readonly (keyof StableDiffusionUpscaleOptions)[] = [
  ...upscaleOptionNames,
  "noise_level",
  "num_images_per_prompt",
  "eta",
  "latents",
  "cross_attention_kwargs",
  "clip_skip",
];

/** What a {@link StableDiffusionUpscalePipeline} is built of. */
export interface StableDiffusionUpscaleParts {
  readonly vae: Autoencoder | null;
  readonly text_encoder: CLIPTextModel | null;
  readonly tokenizer: CLIPTokenizer | null;
  /** Takes a picture beside the latents, and how noisy it is as a class. */
  readonly unet: UNet2DConditionModel;
  /** Gives the picture its noise. */
  readonly low_res_scheduler: Scheduler;
  readonly scheduler: Scheduler;
  /** Diffusers runs that of DeepFloyd IF here, which is not built: refused. */
  readonly safety_checker?: null;
  readonly feature_extractor?: CLIPImageProcessor | null;
  /** There is no invisible watermark here: refused. */
  readonly watermarker?: null;
  /** The largest `noise_level`. Default 350. */
  readonly max_noise_level?: number;
}

export interface StableDiffusionUpscalePipeline extends PromptPipelineCall<StableDiffusionUpscaleOptions> {
  text_encoder: CLIPTextModel;
  tokenizer: CLIPTokenizer;
  low_res_scheduler: Scheduler;
  safety_checker: null;
  feature_extractor: CLIPImageProcessor | null;
  watermarker: null;
}

/** The scaling of latents that this kind of checkpoint was trained with; early configs do not have it. */
const scaling_factor = 0.08333;

/**
 * Enlarges pictures four times, guided by text.
 *
 * @example
 * ```ts
 * const pipeline = await StableDiffusionUpscalePipeline.from_pretrained("stabilityai/stable-diffusion-x4-upscaler");
 * const { images } = await pipeline("a white cat", { image: await RawImage.read("low_res_cat.png") });
 * ```
 * @see Diffusers `StableDiffusionUpscalePipeline`
 */
export class StableDiffusionUpscalePipeline extends GuidedPipeline {
  static override readonly name: string = "StableDiffusionUpscalePipeline";
  static override readonly component_names: readonly string[] = [
    "vae",
    "text_encoder",
    "tokenizer",
    "unet",
    "low_res_scheduler",
    "scheduler",
    "safety_checker",
    "feature_extractor",
    "watermarker",
  ];
  static override readonly optional_components: readonly string[] = [
    "watermarker",
    "safety_checker",
    "feature_extractor",
  ];
  static override readonly init_options: readonly string[] = ["max_noise_level"];
  static override readonly model_cpu_offload_seq: string = "text_encoder->unet->vae";
  static override readonly single_file_kinds: readonly SingleFileKind[] = ["upscale"];
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof CallbackTensors)[] = callbackTensors;

  override readonly image_processor: VaeImageProcessor;

  /** @throws UnsupportedModelError for a watermarker or a safety checker. */
  constructor(parts: StableDiffusionUpscaleParts) {
    super(parts);
    const { vae, text_encoder, tokenizer, unet, low_res_scheduler, scheduler } = parts;
    const { safety_checker = null, feature_extractor = null, watermarker = null, max_noise_level = 350 } = parts;
    for (const [field, component] of Object.entries({ safety_checker, watermarker })) {
      if (component === null) continue;
      throw new UnsupportedModelError(
        `A \`${field}\` is not built for the upscaler (Diffusers takes that of DeepFloyd IF): pass { ${field}: null }.`,
        { className: new.target.name, field, found: (component as object).constructor?.name, expected: "null" },
      );
    }
    checkWhole("max_noise_level", max_noise_level, 0);
    if (vae !== null && vae.config.scaling_factor !== scaling_factor) {
      console.warn(
        `vae/config.json is outdated: \`scaling_factor\` is ${vae.config.scaling_factor}; ${scaling_factor} is used, as Diffusers ` +
          "does. Correct the file.",
      );
      vae.register_to_config({ scaling_factor });
    }
    const texts = { text_encoder, tokenizer };
    const schedulers = { low_res_scheduler, scheduler };
    this.register_modules({ vae, ...texts, unet, ...schedulers, safety_checker, watermarker, feature_extractor });
    this.register_to_config({ max_noise_level });
    this.image_processor = new VaeImageProcessor({ vae_scale_factor: this.vae_scale_factor, resample: "bicubic" });
  }

  /** Whether the UNet runs with and without the text: guidance above 1. */
  override get do_classifier_free_guidance(): boolean {
    return this._guidance_scale > 1;
  }

  /** Encodes prompts, for `prompt_embeds` and `negative_prompt_embeds`. */
  encode_prompt(prompt: Prompt | null, options: Omit<EncodePromptOptions, "prompt"> = {}): Promise<PromptEmbeddings> {
    return encode_prompt(this, { ...options, prompt });
  }

  protected override async run(
    options: StableDiffusionUpscaleOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, noise_level = 20, num_inference_steps = 75, guidance_scale = 9, eta = 0 } = options;
    const { num_images_per_prompt = 1, latents: given, output_type = "image", signal } = options;
    const { callback_on_step_end, callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { name } = StableDiffusionUpscalePipeline;
    const { vae, unet, scheduler, low_res_scheduler } = this;
    this.checkParts(["vae", "unet", "low_res_scheduler", "scheduler"]);

    // 1. what is wrong with the call
    checkOptions(name, options, optionNames);
    checkUpscaleInputs(name, options, unet.config.cross_attention_dim as number);
    this.checkNoiseLevel(noise_level);
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 2. call parameters
    const { batch, generator } = callParameters(options);
    let image = await readImage(this.image_processor, vae, options.image);
    checkImageBatch(image.dims[0]!, batch / num_images_per_prompt);
    const [, , height, width] = image.dims as [number, number, number, number];
    const { latent_channels } = vae.config;
    const shape = [batch, latent_channels, height, width];
    if (given != null) checkTensor("latents", given, shape);
    checkUpscaleChannels(name, latent_channels, image.dims[1]!, unet.config.in_channels);

    // 3. the text
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    let { prompt_embeds } = encoded;
    let negative_prompt_embeds = encoded.negative_prompt_embeds ?? undefined;
    if (do_classifier_free_guidance) prompt_embeds = Tensor.cat([negative_prompt_embeds!, prompt_embeds]);
    await nextTask(signal);

    // 4. timesteps
    const { timesteps } = retrieve_timesteps(scheduler, num_inference_steps);
    this._num_timesteps = timesteps.length;

    // 5. the picture with noise, and how much of it there is
    const noise = randn_tensor(image.dims, { generator });
    image = addNoise(low_res_scheduler, image, noise, noise_level);
    const repeats = (do_classifier_free_guidance ? 2 : 1) * num_images_per_prompt;
    image = Tensor.cat(new Array<Tensor>(repeats).fill(image));
    const class_labels = Tensor.full([image.dims[0]!], noise_level, "int64");

    // 6. latents
    let latents = (given ?? randn_tensor(shape, { generator })).mul(scheduler.init_noise_sigma);

    // 7. what this scheduler's step takes
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });

    // 8. denoising loop
    const warmup = timesteps.length - num_inference_steps * scheduler.order;
    const callback = stepCallback(options, { timesteps: timesteps.length, warmup, order: scheduler.order });
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const noise_pred = await this.predictNoise(latents, t, prompt_embeds, { beside: image, class_labels });

      // x_t -> x_t-1
      latents = scheduler.step(noise_pred, t, latents, extra_step_kwargs).prev_sample;

      await callback(i, t, latents);
      if (callback_on_step_end != null) {
        const tensors = { latents, prompt_embeds, negative_prompt_embeds };
        ({ latents, prompt_embeds, negative_prompt_embeds } = await afterStep(
          (shown) => callback_on_step_end(this, i, t, shown as CallbackTensors),
          callback_on_step_end_tensor_inputs,
          tensors,
        ));
      }
      await nextTask(signal);
    }

    // 9. pictures; in half precision, the VAE computes in float32 where its config has `force_upcast`
    if (output_type === "latent") return { images: latents, nsfw_content_detected: null };
    const { sample } = await vae.decode(latents.div(vae.config.scaling_factor), { generator });
    signal?.throwIfAborted();
    const images = this.image_processor.postprocess(sample, output_type);
    if (!(images instanceof Tensor)) {
      const described = { "Noise level": noise_level };
      this.describe(images, num_inference_steps, { ...options, generator, described, isSeeded: given == null });
    }
    return { images, nsfw_content_detected: null };
  }

  /** @throws ValueError for more than `max_noise_level`, or than the UNet knows. */
  private checkNoiseLevel(noise_level: number): void {
    checkWhole("noise_level", noise_level, 0);
    const { num_class_embeds } = this.unet.config;
    const largest = Math.min(
      this.config["max_noise_level"] as number,
      (num_class_embeds ?? Number.POSITIVE_INFINITY) - 1,
    );
    if (noise_level <= largest) return;
    throw new ValueError(`\`noise_level\` is ${noise_level}, expected a whole number from 0 to ${largest}.`, {
      field: "noise_level",
      found: String(noise_level),
      expected: `0 to ${largest}`,
    });
  }
}
