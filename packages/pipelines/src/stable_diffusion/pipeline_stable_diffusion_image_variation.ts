import { checkOptions, type RawImage, randn_tensor, type Scheduler, Tensor, ValueError } from "@diffusers-web/core";
import type {
  Autoencoder,
  CLIPVisionModelWithProjection,
  StableDiffusionSafetyChecker,
  UNet2DConditionModel,
} from "@diffusers-web/models";
import { nextTask, type RunOptions } from "../calls.ts";
import { checkGenerator, checkNumber, checkOutputType, checkReturnDict, checkTensor, checkWhole } from "../checks.ts";
import type { CLIPImageProcessor } from "../image_processing_clip.ts";
import type { LoraComponent } from "../loaders/lora_base.ts";
import type { PicturePipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import { randomGenerator } from "../random_generator.ts";
import { type StepCallbackOptions, stepCallback, stepCallbackNames } from "../step_callback.ts";
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import { checkCallbackTensors, checkDivisible, type PromptedOptions } from "./call_options.ts";
import { GuidedPipeline } from "./guided_pipeline.ts";
import { type ImageInput, imagesOf } from "./image_latents.ts";
import { updateOldConfigs } from "./old_configs.ts";
import { checkSafetyParts, run_safety_checker } from "./safety_checker.ts";
import { afterStep } from "./stable_diffusion_base.ts";

/** The tensors that a callback is shown, by name; what it returns replaces them. */
export type ImageVariationCallbackTensors = Readonly<Partial<Record<"latents" | "image_embeddings", Tensor>>>;

type Prompted = PromptedOptions<StableDiffusionImageVariationPipeline, ImageVariationCallbackTensors>;

/** What a {@link StableDiffusionImageVariationPipeline} is called with. */
export interface StableDiffusionImageVariationOptions
  extends RunOptions,
    StepCallbackOptions,
    Pick<Prompted, "num_inference_steps" | "guidance_scale" | "eta" | "generator" | "output_type" | "return_dict">,
    Pick<Prompted, "callback_on_step_end" | "callback_on_step_end_tensor_inputs"> {
  /**
   * The picture to vary, or several. A tensor is `[batch, 3, height, width]` in the size of the image encoder, normalised as the
   * feature extractor does it.
   */
  readonly image?: ImageInput | null;
  /** Of the pictures that are made, a multiple of 8. Default: what the model was trained at. */
  readonly height?: number | null;
  /** Of the pictures that are made, a multiple of 8. Default: what the model was trained at. */
  readonly width?: number | null;
  /** How many pictures are made of each. Default 1. */
  readonly num_images_per_prompt?: number;
  /** The noise to begin with, `[batch, channels, height / 8, width / 8]`. */
  readonly latents?: Tensor | null;
}

const optionNames: readonly (keyof StableDiffusionImageVariationOptions)[] = [
  ...(["image", "height", "width", "num_inference_steps", "guidance_scale", "num_images_per_prompt", "eta"] as const),
  ...(["generator", "latents", "output_type", "return_dict", "signal"] as const),
  ...(["callback_on_step_end", "callback_on_step_end_tensor_inputs"] as const),
  ...stepCallbackNames,
];

const callbackTensors: readonly (keyof ImageVariationCallbackTensors)[] = ["latents", "image_embeddings"];

/** What a {@link StableDiffusionImageVariationPipeline} is built of. */
export interface StableDiffusionImageVariationParts {
  readonly vae: Autoencoder | null;
  readonly image_encoder: CLIPVisionModelWithProjection | null;
  readonly unet: UNet2DConditionModel;
  readonly scheduler: Scheduler;
  /** Blackens what it takes for unsafe. */
  readonly safety_checker: StableDiffusionSafetyChecker | null;
  /** Prepares pictures for the image encoder, and for the safety checker. */
  readonly feature_extractor: CLIPImageProcessor | null;
  /** Warn when there is no safety checker. Default true. */
  readonly requires_safety_checker?: boolean;
}

const name = "StableDiffusionImageVariationPipeline";

export interface StableDiffusionImageVariationPipeline
  extends PicturePipelineCall<StableDiffusionImageVariationOptions> {
  image_encoder: CLIPVisionModelWithProjection;
  safety_checker: StableDiffusionSafetyChecker | null;
  feature_extractor: CLIPImageProcessor;
}

/**
 * Variations of a picture: the UNet sees its CLIP embedding in place of a text.
 *
 * @example
 * ```ts
 * const pipeline = await StableDiffusionImageVariationPipeline.from_pretrained("lambdalabs/sd-image-variations-diffusers", {
 *   revision: "v2.0",
 * });
 * const { images } = await pipeline(await RawImage.read("photo.jpg"), { num_images_per_prompt: 3, guidance_scale: 15 });
 * ```
 * @see Diffusers `StableDiffusionImageVariationPipeline`
 */
export class StableDiffusionImageVariationPipeline extends GuidedPipeline {
  static override readonly name: string = name;
  static override readonly component_names: readonly string[] = [
    ...["vae", "image_encoder", "unet", "scheduler", "safety_checker", "feature_extractor"],
  ];
  static override readonly optional_components: readonly string[] = ["safety_checker"];
  static override readonly init_options: readonly string[] = ["requires_safety_checker"];
  static override readonly model_cpu_offload_seq: string | null = "image_encoder->unet->vae";
  static override readonly lora_loadable_modules: readonly LoraComponent[] = ["unet"];
  static override readonly first_argument = "image";
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof ImageVariationCallbackTensors)[] = callbackTensors;

  constructor(parts: StableDiffusionImageVariationParts) {
    super(parts);
    const { vae, image_encoder, unet, scheduler, safety_checker, feature_extractor } = parts;
    const { requires_safety_checker = true } = parts;
    updateOldConfigs(scheduler, unet, ["sample_size"]);
    checkSafetyParts(safety_checker, feature_extractor, requires_safety_checker);
    this.register_modules({ vae, image_encoder, unet, scheduler, safety_checker, feature_extractor });
    this.register_to_config({ requires_safety_checker });
  }

  /** Whether the UNet runs with and without the picture: guidance above 1. */
  override get do_classifier_free_guidance(): boolean {
    return this._guidance_scale > 1;
  }

  protected override async run(
    options: StableDiffusionImageVariationOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { num_inference_steps = 50, num_images_per_prompt = 1, latents: given, output_type = "image" } = options;
    const { guidance_scale = 7.5, eta = 0, callback_on_step_end: callback, signal } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const generator = options.generator ?? randomGenerator();
    const { unet, vae, scheduler, vae_scale_factor } = this;
    this.checkParts(["unet", "scheduler", "image_encoder", ...(output_type === "latent" ? [] : ["vae"])]);

    // 0. and 1. default size, and what is wrong with the call
    checkOptions(name, options, optionNames);
    const height = options.height || this.defaultSize()[0];
    const width = options.width || this.defaultSize()[1];
    checkDivisible("height", height);
    checkDivisible("width", width);
    this.checkInputs(options);
    this._guidance_scale = guidance_scale;

    // 2. and 3. the picture, which tells how many are made
    let image_embeddings = await this.encodeImage(options.image, num_images_per_prompt);
    const batch = image_embeddings.dims[0]!;
    checkGenerator(generator, batch);
    if (this.do_classifier_free_guidance) {
      image_embeddings = Tensor.cat([Tensor.zeros(image_embeddings.dims), image_embeddings]);
    }
    await nextTask(signal);

    // 4. timesteps
    const { timesteps } = retrieve_timesteps(scheduler, num_inference_steps);
    this._num_timesteps = timesteps.length;

    // 5. latents
    const channels = unet.config.in_channels;
    const shape = [batch, channels, Math.floor(height / vae_scale_factor), Math.floor(width / vae_scale_factor)];
    if (given != null) checkTensor("latents", given, [batch, channels, null, null]);
    let latents = (given ?? randn_tensor(shape, { generator })).mul(scheduler.init_noise_sigma);

    // 6. what this scheduler's step takes
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });
    const warmup = timesteps.length - num_inference_steps * scheduler.order;
    const calledBack = stepCallback(options, { timesteps: timesteps.length, warmup, order: scheduler.order });

    // 7. denoising loop
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const noise_pred = await this.predictNoise(latents, t, image_embeddings, {});

      // x_t -> x_t-1
      latents = scheduler.step(noise_pred, t, latents, extra_step_kwargs).prev_sample;

      if (callback != null) {
        const tensors = { latents, image_embeddings };
        ({ latents, image_embeddings } = await afterStep(
          (shown) => callback(this, i, t, shown),
          callback_on_step_end_tensor_inputs,
          tensors,
        ));
      }
      await calledBack(i, t, latents);
      await nextTask(signal);
    }
    if (output_type === "latent") return { images: latents, nsfw_content_detected: null };

    // 8. pictures
    const { sample } = await vae.decode(latents.div(vae.config.scaling_factor), { generator });
    signal?.throwIfAborted();
    const { image, has_nsfw_concept } = await run_safety_checker(this, sample);
    signal?.throwIfAborted();
    const do_denormalize = has_nsfw_concept?.map((flagged) => !flagged);
    const images = this.image_processor.postprocess(image, output_type, do_denormalize);
    const isSeeded = given == null;
    if (!(images instanceof Tensor)) {
      this.describe(images, num_inference_steps, { generator, described: {}, isSeeded });
    }
    return { images, nsfw_content_detected: has_nsfw_concept };
  }

  /**
   * The embedding of each picture as a text of one token, `[pictures * num_images_per_prompt, 1, width]`.
   *
   * @see Diffusers `StableDiffusionImageVariationPipeline._encode_image`
   */
  private async encodeImage(image: ImageInput | null | undefined, num_images_per_prompt: number): Promise<Tensor> {
    let pixel_values: Tensor;
    if (image instanceof Tensor) {
      checkTensor("image", image, [null, null, null, null]);
      pixel_values = image;
    } else {
      const { tensors, others } = imagesOf("image", image);
      this.checkParts(["feature_extractor"]);
      ({ pixel_values } = await this.feature_extractor(tensors.length > 0 ? tensors : others));
    }
    const { image_embeds } = await this.image_encoder(pixel_values, { output_hidden_states: false });
    return image_embeds.repeat_interleave(num_images_per_prompt, 0).unsqueeze(1);
  }

  private checkInputs(options: StableDiffusionImageVariationOptions): void {
    imagesOf("image", options.image);
    checkWhole("num_inference_steps", options.num_inference_steps ?? 50);
    checkWhole("num_images_per_prompt", options.num_images_per_prompt ?? 1);
    checkWhole("callback_steps", options.callback_steps ?? 1);
    checkNumber("guidance_scale", options.guidance_scale ?? 7.5, 0);
    checkNumber("eta", options.eta ?? 0);
    checkOutputType(options.output_type ?? "image");
    checkReturnDict(options.return_dict);
    checkCallbackTensors(options.callback_on_step_end_tensor_inputs, callbackTensors);
    const { projection_dim } = this.image_encoder.config;
    const { cross_attention_dim } = this.unet.config;
    if (projection_dim === cross_attention_dim) return;
    throw new ValueError(
      `The image encoder gives embeddings of width ${projection_dim}, but the UNet takes ${cross_attention_dim}: one of them is ` +
        "of another model. Use a checkpoint that was trained for variations of pictures.",
      {
        className: name,
        field: "cross_attention_dim",
        found: String(projection_dim),
        expected: String(cross_attention_dim),
      },
    );
  }
}
