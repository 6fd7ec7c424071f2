import { checkOptions, type RawImage, randn_tensor, type Scheduler, Tensor, ValueError } from "@diffusers-web/core";
import type { Autoencoder, CLIPTextModel, DPTForDepthEstimation, UNet2DConditionModel } from "@diffusers-web/models";
import { nextTask } from "../calls.ts";
import { checkTensor } from "../checks.ts";
import type { DPTImageProcessor } from "../image_processing_dpt.ts";
import type { ImagePipelineOutput, PromptImageCall } from "../pipeline_output.ts";
import { type EncodePromptOptions, encode_prompt, type Prompt, type PromptEmbeddings } from "../prompt.ts";
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import type { CLIPTokenizer } from "../tokenization_clip.ts";
import { checkPromptInputs, type PromptedOptions, promptedOptionNames } from "./call_options.ts";
import { callParameters } from "./call_parameters.ts";
import { spreadDepth } from "./depth_map.ts";
import { GuidedPipeline } from "./guided_pipeline.ts";
import {
  addNoise,
  checkRepeatable,
  checkStepsLeft,
  checkStrength,
  get_timesteps,
  type ImageInput,
  initLatents,
  readPictures,
  repeatToBatch,
} from "./image_latents.ts";
import { updateOldConfigs } from "./old_configs.ts";
import { afterStep } from "./stable_diffusion_base.ts";

/** The tensors that a callback is shown, by name; what it returns replaces them. */
export type DepthCallbackTensors = Readonly<
  Partial<Record<"latents" | "prompt_embeds" | "negative_prompt_embeds" | "depth_mask", Tensor>>
>;

type Left = "timesteps" | "sigmas" | "ip_adapter_image" | "ip_adapter_image_embeds";

/** What a {@link StableDiffusionDepth2ImgPipeline} is called with. */
export interface StableDiffusionDepth2ImgOptions
  extends Omit<PromptedOptions<StableDiffusionDepth2ImgPipeline, DepthCallbackTensors>, Left> {
  /**
   * The picture to start from, or one for each picture of the batch; fewer are repeated. Brought to a multiple of 8 in size, a
   * list to the size of its first. A tensor is `[batch, 3, height, width]` in 0..1; latents, of 4 channels, need a `depth_map`.
   */
  readonly image?: ImageInput | null;
  /**
   * `[batch, height, width]`, the larger the nearer, in any unit and size; fewer than the batch are repeated. Default: what the
   * pipeline's depth estimator makes of `image`.
   */
  readonly depth_map?: Tensor | null;
  /** How much of the picture is made anew, 0 to 1: the share of `num_inference_steps` that is run. Default 0.8. */
  readonly strength?: number;
}

const left: readonly string[] = ["timesteps", "sigmas", "ip_adapter_image", "ip_adapter_image_embeds"];
const optionNames = [
  ...promptedOptionNames.filter((option) => !left.includes(option)),
  ...(["image", "depth_map", "strength"] as const),
];

const callbackTensors: readonly (keyof DepthCallbackTensors)[] = [
  "latents",
  "prompt_embeds",
  "negative_prompt_embeds",
  "depth_mask",
];

/** What a {@link StableDiffusionDepth2ImgPipeline} is built of. */
export interface StableDiffusionDepth2ImgParts {
  readonly vae: Autoencoder | null;
  readonly text_encoder: CLIPTextModel | null;
  readonly tokenizer: CLIPTokenizer | null;
  /** Of one input channel more than latents have. */
  readonly unet: UNet2DConditionModel;
  readonly scheduler: Scheduler;
  /** Null: each call needs a `depth_map`. */
  readonly depth_estimator: DPTForDepthEstimation | null;
  /** Prepares pictures for the depth estimator. */
  readonly feature_extractor: DPTImageProcessor | null;
}

export interface StableDiffusionDepth2ImgPipeline extends PromptImageCall<StableDiffusionDepth2ImgOptions> {
  text_encoder: CLIPTextModel;
  tokenizer: CLIPTokenizer;
  depth_estimator: DPTForDepthEstimation;
  feature_extractor: DPTImageProcessor;
}

/**
 * Picture to picture, guided by text, and by the picture's depth: shapes stay, even where little else does.
 *
 * @example
 * ```ts
 * const pipeline = await StableDiffusionDepth2ImgPipeline.from_pretrained("sd2-community/stable-diffusion-2-depth");
 * const { images } = await pipeline("two tigers", {
 *   image: await RawImage.read("two_cats.jpg"),
 *   negative_prompt: "bad, deformed, ugly, bad anatomy",
 *   strength: 0.7,
 * });
 * ```
 * @see Diffusers `StableDiffusionDepth2ImgPipeline`
 */
export class StableDiffusionDepth2ImgPipeline extends GuidedPipeline {
  static override readonly name: string = "StableDiffusionDepth2ImgPipeline";
  static override readonly component_names: readonly string[] = [
    "vae",
    "text_encoder",
    "tokenizer",
    "unet",
    "scheduler",
    "depth_estimator",
    "feature_extractor",
  ];
  static override readonly model_cpu_offload_seq: string = "text_encoder->unet->vae";
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof DepthCallbackTensors)[] = callbackTensors;

  constructor(parts: StableDiffusionDepth2ImgParts) {
    super(parts);
    const { vae, text_encoder, tokenizer, unet, scheduler, depth_estimator, feature_extractor } = parts;
    updateOldConfigs(scheduler, unet, ["sample_size"]);
    this.register_modules({ vae, text_encoder, tokenizer, unet, scheduler, depth_estimator, feature_extractor });
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
    options: StableDiffusionDepth2ImgOptions,
  ): Promise<ImagePipelineOutput<Tensor | RawImage[]>> {
    const { prompt, strength = 0.8, output_type = "image", callback_on_step_end: callback, signal } = options;
    const { guidance_scale = 7.5, num_inference_steps = 50, eta = 0 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { name } = StableDiffusionDepth2ImgPipeline;
    const { unet, scheduler, vae } = this;
    this.checkParts(["unet", "scheduler", ...(output_type === "latent" ? [] : ["vae"])]);

    // 1. what is wrong with the call
    checkOptions(name, options, optionNames);
    checkStrength(strength);
    checkPromptInputs(name, options, unet.config.cross_attention_dim as number, callbackTensors);
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 2. call parameters
    const { batch, generator } = callParameters(options);
    const pictures = await readPictures(this.image_processor, vae, options.image);
    const image = await this.image_processor.preprocess(pictures);
    checkRepeatable("image", image, batch);
    const isLatent = image.dims[1] === this.image_processor.config.vae_latent_channels;
    if (!isLatent) this.checkParts(["vae"]);
    const [rows, columns] = image.dims.slice(2).map((size) => (isLatent ? size : size / this.vae_scale_factor));
    checkDepth(options.depth_map, isLatent, batch);

    // 3. the text
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    let { prompt_embeds } = encoded;
    let negative_prompt_embeds = encoded.negative_prompt_embeds ?? undefined;
    if (do_classifier_free_guidance) prompt_embeds = Tensor.cat([negative_prompt_embeds!, prompt_embeds]);
    await nextTask(signal);

    // 4. the depth
    const depth = options.depth_map ?? (await this.estimateDepth(pictures));
    let depth_mask = repeatToBatch(spreadDepth(depth, rows!, columns!), batch);
    if (do_classifier_free_guidance) depth_mask = Tensor.cat([depth_mask, depth_mask]);
    await nextTask(signal);

    // 5. timesteps
    const whole = retrieve_timesteps(scheduler, num_inference_steps);
    const { timesteps } = get_timesteps(scheduler, whole.timesteps, num_inference_steps, strength);
    checkStepsLeft(timesteps, num_inference_steps, strength);
    this._num_timesteps = timesteps.length;

    // 6. latents: those of the picture, with noise
    const init_latents = await initLatents(this, image, batch, generator);
    const noise = randn_tensor(init_latents.dims, { generator });
    let latents = addNoise(scheduler, init_latents, noise, timesteps[0]!);
    await nextTask(signal);

    // 7. what this scheduler's step takes
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });

    // 8. denoising loop
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const noise_pred = await this.predictNoise(latents, t, prompt_embeds, { beside: depth_mask });

      // x_t -> x_t-1
      latents = scheduler.step(noise_pred, t, latents, extra_step_kwargs).prev_sample;

      if (callback != null) {
        const tensors = { latents, prompt_embeds, negative_prompt_embeds, depth_mask };
        ({ latents, prompt_embeds, negative_prompt_embeds, depth_mask } = await afterStep(
          (shown) => callback(this, i, t, shown as DepthCallbackTensors),
          callback_on_step_end_tensor_inputs,
          tensors,
        ));
      }
      await nextTask(signal);
    }

    // 9. pictures
    if (output_type === "latent") return { images: latents };
    const { sample } = await vae.decode(latents.div(vae.config.scaling_factor), { generator });
    signal?.throwIfAborted();
    const images = this.image_processor.postprocess(sample, output_type);
    if (!(images instanceof Tensor)) {
      this.describe(images, num_inference_steps, {
        ...options,
        generator,
        described: { "Denoising strength": strength },
        isSeeded: true,
      });
    }
    return { images };
  }

  /** `[batch, height, width]`, by the pipeline's depth estimator. */
  private async estimateDepth(pictures: readonly (RawImage | Tensor)[]): Promise<Tensor> {
    this.checkParts(["depth_estimator", "feature_extractor"]);
    const { pixel_values } = await this.feature_extractor(pictures);
    return (await this.depth_estimator(pixel_values)).predicted_depth;
  }
}

function checkDepth(depth_map: Tensor | null | undefined, isLatent: boolean, batch: number): void {
  if (depth_map != null) {
    checkTensor("depth_map", depth_map, [null, null, null]);
    if (depth_map.size === 0)
      throw new ValueError(`\`depth_map\` is empty: [${depth_map.dims}].`, { field: "depth_map" });
    checkRepeatable("depth_map", depth_map, batch);
  } else if (isLatent) {
    throw new ValueError("The depth of latents cannot be estimated: pass a `depth_map`, or a picture as `image`.", {
      field: "depth_map",
      found: "nothing",
      expected: "a depth_map",
    });
  }
}
