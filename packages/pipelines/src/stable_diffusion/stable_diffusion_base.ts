import {
  Generator,
  type RawImage,
  type Scheduler,
  Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/core";
import type {
  Autoencoder,
  AutoencoderKL,
  CLIPTextModel,
  SingleFileSource,
  StableDiffusionSafetyChecker,
  UNet2DConditionModel,
  UNet2DConditionOptions,
} from "@diffusers-web/models";
import { replaced } from "../checks.ts";
import { describeImages } from "../generation_metadata.ts";
import { apply_guidance, get_guidance_scale_embedding, rescale_noise_cfg } from "../guidance.ts";
import type { CLIPImageProcessor } from "../image_processing_clip.ts";
import { VaeImageProcessor } from "../image_processor.ts";
import type { SingleFilePipelineOptions } from "../loaders/single_file.ts";
import type { OutputType, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import type { PipelineClass } from "../pipeline_utils.ts";
import { type EncodePromptOptions, encode_prompt, type Prompt, type PromptEmbeddings } from "../prompt.ts";
import { StableDiffusionMixin } from "../stable_diffusion_mixin.ts";
import type { CLIPTokenizer } from "../tokenization_clip.ts";
import { updateOldConfigs } from "./old_configs.ts";
import { type CheckedPictures, checkSafetyParts, run_safety_checker } from "./safety_checker.ts";

/** What a pipeline of Stable Diffusion is built of. */
export interface StableDiffusionParts {
  readonly vae: Autoencoder | null;
  readonly text_encoder: CLIPTextModel | null;
  readonly tokenizer: CLIPTokenizer | null;
  readonly unet: UNet2DConditionModel;
  readonly scheduler: Scheduler;
  /** Blackens what it takes for unsafe. */
  readonly safety_checker?: StableDiffusionSafetyChecker | null;
  /** Prepares pictures for the safety checker. */
  readonly feature_extractor?: CLIPImageProcessor | null;
  readonly image_encoder?: null;
  /** Warn when there is no safety checker. Default true. */
  readonly requires_safety_checker?: boolean;
}

export interface StableDiffusionBase {
  /** What `from_pretrained` finds in most checkpoints; an {@link Autoencoder} of another class takes its place. */
  vae: AutoencoderKL;
  text_encoder: CLIPTextModel;
  tokenizer: CLIPTokenizer;
  unet: UNet2DConditionModel;
  scheduler: Scheduler;
  safety_checker: StableDiffusionSafetyChecker | null;
  feature_extractor: CLIPImageProcessor | null;
}

/** What one prediction of the noise takes besides latents, timestep and text. */
export interface PredictOptions extends UNet2DConditionOptions {
  /** Channels that stand beside the latents, `[batch or 2 * batch, ...]`: a mask and a masked picture. */
  readonly beside?: Tensor | undefined;
  readonly guidance_rescale?: number;
}

/** What {@link StableDiffusionBase.finish} has to know of a call. */
export interface FinishOptions {
  readonly output_type?: OutputType | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly num_images_per_prompt?: number | undefined;
  readonly prompt?: Prompt | null | undefined;
  readonly negative_prompt?: Prompt | null | undefined;
  /** Where the call's noise comes from. */
  readonly generator: Generator | readonly Generator[];
  /** Further parameters for the pictures' text, such as `strength`. */
  readonly described: Readonly<Record<string, string | number>>;
  /** Whether the seed gives the pictures back. Default true. */
  readonly isSeeded?: boolean;
}

/**
 * What the pipelines of Stable Diffusion 1.x and 2.x have in common: their components, the text, one prediction of the noise
 * with guidance, and the way from latents to checked pictures.
 */
export abstract class StableDiffusionBase extends StableDiffusionMixin {
  static override readonly name: string = "StableDiffusionBase";
  static override readonly component_names: readonly string[] = [
    "vae",
    "text_encoder",
    "tokenizer",
    "unet",
    "scheduler",
    "safety_checker",
    "feature_extractor",
    "image_encoder",
  ];
  static override readonly optional_components: readonly string[] = [
    "safety_checker",
    "feature_extractor",
    "image_encoder",
  ];
  static override readonly init_options: readonly string[] = ["requires_safety_checker"];
  static override readonly model_cpu_offload_seq: string | null = "text_encoder->image_encoder->unet->vae";

  /** Pixels for each latent, along one side. */
  readonly vae_scale_factor: number;
  readonly image_processor: VaeImageProcessor;
  protected _guidance_scale = 7.5;
  protected _num_timesteps = 0;

  constructor(parts: StableDiffusionParts) {
    super();
    const { vae, text_encoder, tokenizer, unet, scheduler, requires_safety_checker = true } = parts;
    const { safety_checker = null, feature_extractor = null } = parts;
    if (parts.image_encoder != null) {
      throw new UnsupportedModelError("An `image_encoder` is not built yet: pass null, or leave it out.", {
        className: this.constructor.name,
        field: "image_encoder",
        expected: "null",
      });
    }
    updateOldConfigs(scheduler, unet);
    checkSafetyParts(safety_checker, feature_extractor, requires_safety_checker);
    const modules = { vae, text_encoder, tokenizer, unet, scheduler, safety_checker, feature_extractor };
    const { component_names } = this.constructor as unknown as PipelineClass;
    this.register_modules(component_names.includes("image_encoder") ? { ...modules, image_encoder: null } : modules);
    this.vae_scale_factor = vae == null ? 8 : 2 ** (vae.config.block_out_channels.length - 1);
    this.image_processor = new VaeImageProcessor({ vae_scale_factor: this.vae_scale_factor });
    this.register_to_config({ requires_safety_checker });
  }

  /**
   * Loads a checkpoint of Stable Diffusion 1.x or 2.x in one file, in the layout of the original code (as on Civitai). No
   * safety checker is loaded: pass one, with its `feature_extractor`.
   *
   * @param from the address of a `.safetensors` file (a URL, a file on the hub, a path in Node), a `File`, or
   * `{ source, file }`
   * @example
   * ```ts
   * const pipeline = await StableDiffusionPipeline.from_single_file("https://example.com/checkpoint.safetensors", {
   *   config: "stable-diffusion-v1-5/stable-diffusion-v1-5",
   * });
   * ```
   * @throws UnsupportedModelError for a pickle and for a checkpoint of another kind, ValueError when it is not said where
   * the tokenizer is, WeightsMismatchError when a model is not in the file or of another config; else as `from_pretrained`.
   * @see Diffusers `FromSingleFileMixin.from_single_file`
   */
  static async from_single_file<T extends StableDiffusionBase>(
    this: PipelineClass<T>,
    from: SingleFileSource,
    options: SingleFilePipelineOptions = {},
  ): Promise<T> {
    const { loadSingleFile } = await import("../loaders/single_file.ts");
    return loadSingleFile<T>(this, ["v1", "v2"], from, options);
  }

  /** The guidance scale of the call at hand. */
  get guidance_scale(): number {
    return this._guidance_scale;
  }

  /** Whether the UNet runs with and without the text: guidance above 1, and no guidance embedding in the model. */
  get do_classifier_free_guidance(): boolean {
    return this._guidance_scale > 1 && this.unet.config.time_cond_proj_dim === null;
  }

  /** How many timesteps the call at hand runs. */
  get num_timesteps(): number {
    return this._num_timesteps;
  }

  /** Encodes prompts, for `prompt_embeds` and `negative_prompt_embeds`. */
  encode_prompt(prompt: Prompt | null, options: Omit<EncodePromptOptions, "prompt"> = {}): Promise<PromptEmbeddings> {
    return encode_prompt(this, { ...options, prompt });
  }

  /**
   * Lets the safety checker look at pictures: those that it flags come back as zeros. Without one, they come back as they are.
   *
   * @param image what the VAE gave, `[batch, channels, height, width]`
   * @see Diffusers `StableDiffusionPipeline.run_safety_checker`
   */
  run_safety_checker(image: Tensor): Promise<CheckedPictures> {
    return run_safety_checker(this, image);
  }

  /** The components without which a call that ends in this type cannot run. */
  protected checkRunParts(output_type: OutputType): void {
    const drawing = this.safety_checker === null ? ["vae"] : ["vae", "feature_extractor"];
    this.checkParts(["unet", "scheduler", ...(output_type === "latent" ? [] : drawing)]);
  }

  /** The guidance as an input, for models that were distilled with it; undefined for others. */
  protected timestepCond(batch: number): Tensor | undefined {
    const { time_cond_proj_dim } = this.unet.config;
    if (time_cond_proj_dim === null) return undefined;
    return get_guidance_scale_embedding(new Array<number>(batch).fill(this._guidance_scale - 1), time_cond_proj_dim);
  }

  /**
   * The noise in latents, drawn towards the text when there is guidance.
   *
   * @param latents `[batch, channels, height, width]`
   * @param prompt_embeds with guidance: those without the text first
   */
  protected async predictNoise(
    latents: Tensor,
    t: number,
    prompt_embeds: Tensor,
    { beside, guidance_rescale = 0, ...rest }: PredictOptions,
  ): Promise<Tensor> {
    const { do_classifier_free_guidance } = this;
    // expand the latents: without the text, and with it
    const expanded = do_classifier_free_guidance ? Tensor.cat([latents, latents]) : latents;
    let latent_model_input = this.scheduler.scale_model_input(expanded, t);
    if (beside !== undefined) latent_model_input = Tensor.cat([latent_model_input, beside], 1);

    // predict the noise residual
    const { sample } = await this.unet(latent_model_input, t, prompt_embeds, rest);
    if (!do_classifier_free_guidance) return sample;

    // perform guidance
    const { noise_pred, noise_pred_text } = apply_guidance(sample, this._guidance_scale);
    return guidance_rescale > 0 ? rescale_noise_cfg(noise_pred, noise_pred_text, guidance_rescale) : noise_pred;
  }

  /**
   * Decodes latents, lets the safety checker look, and writes the call's parameters beside the pictures.
   *
   * @param adjust what else becomes of the pictures, such as being laid over the original
   */
  protected async finish(
    latents: Tensor,
    num_inference_steps: number,
    options: FinishOptions,
    adjust?: (images: RawImage[] | Tensor) => Promise<RawImage[] | Tensor>,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { output_type = "image", signal, prompt, negative_prompt, num_images_per_prompt = 1, generator } = options;
    if (output_type === "latent") return { images: latents, nsfw_content_detected: null };
    const { sample } = await this.vae.decode(latents.div(this.vae.config.scaling_factor), { generator });
    signal?.throwIfAborted();
    const { image, has_nsfw_concept } = await this.run_safety_checker(sample);
    signal?.throwIfAborted();
    const do_denormalize = has_nsfw_concept?.map((flagged) => !flagged);
    const drawn = this.image_processor.postprocess(image, output_type, do_denormalize);
    const images = adjust === undefined ? drawn : await adjust(drawn);
    if (!(images instanceof Tensor)) {
      const of = (texts: Prompt | null | undefined, i: number): string | undefined =>
        texts == null ? undefined : typeof texts === "string" ? texts : texts[Math.floor(i / num_images_per_prompt)];
      describeImages(
        images,
        images.map((_, i) => ({
          prompt: of(prompt, i),
          negative_prompt: of(negative_prompt, i),
          num_inference_steps,
          scheduler: this.scheduler.constructor.name,
          guidance_scale: this._guidance_scale,
          ...options.described,
          // The seed alone would not give the picture back.
          generator: (options.isSeeded ?? true) ? generator : null,
          model: this.name_or_path,
        })),
      );
    }
    return { images, nsfw_content_detected: has_nsfw_concept };
  }

  /** Height and width in pixels: both or neither of the options are used, as in Diffusers. */
  protected sizeOf(
    { height, width }: { readonly height?: number | null; readonly width?: number | null },
    check: (field: string, value: number) => void,
  ): [number, number] {
    if (height != null && height !== 0 && width != null && width !== 0) return [height, width];
    const { sample_size } = this.unet.config;
    const [rows, columns] = typeof sample_size === "number" ? [sample_size, sample_size] : (sample_size ?? []);
    if (rows === undefined || columns === undefined) {
      throw new ValueError("The UNet's config has no sample_size: pass both `height` and `width`.", {
        field: "sample_size",
        found: "null",
        expected: "a size, or both height and width",
      });
    }
    const size: [number, number] = [rows * this.vae_scale_factor, columns * this.vae_scale_factor];
    for (const [name, value] of Object.entries({ height, width })) {
      if (value == null || value === 0) continue;
      check(name, value);
      console.warn(
        `\`${name}\` alone is not used (as in Diffusers): the size is ${size[1]} x ${size[0]}. Pass both \`height\` and \`width\`.`,
      );
    }
    return size;
  }
}

/**
 * Calls a callback after a step.
 *
 * @param shown which of `tensors` it is shown
 * @returns the tensors, those that it gave back in place of its own
 */
export async function afterStep<T extends Readonly<Record<string, Tensor | undefined>>>(
  callback: (tensors: Partial<T>) => unknown,
  shown: readonly (keyof T & string)[],
  tensors: T,
): Promise<T> {
  const selected = Object.fromEntries(shown.map((name) => [name, tensors[name]])) as Partial<T>;
  const returned = ((await callback(selected)) ?? {}) as Record<string, Tensor>;
  return Object.fromEntries(
    Object.entries(tensors).map(([name, tensor]) => [
      name,
      tensor === undefined ? undefined : replaced(returned, name, tensor),
    ]),
  ) as T;
}

/** A generator with a seed of chance, which can be told. */
export function randomGenerator(): Generator {
  const generator = new Generator();
  generator.seed();
  return generator;
}
