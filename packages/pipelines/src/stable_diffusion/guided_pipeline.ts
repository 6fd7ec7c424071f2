import { type Generator, type RawImage, type Scheduler, Tensor, ValueError } from "@diffusers-web/core";
import type {
  Autoencoder,
  AutoencoderKL,
  AutoencoderTiny,
  CrossAttentionKwargs,
  SingleFileKind,
  SingleFileSource,
  UNet2DConditionModel,
  UNet2DConditionOptions,
} from "@diffusers-web/models";
import { describeImages } from "../generation_metadata.ts";
import { apply_guidance, get_guidance_scale_embedding, rescale_noise_cfg } from "../guidance.ts";
import { VaeImageProcessor } from "../image_processor.ts";
import type { SingleFilePipelineOptions } from "../loaders/single_file.ts";
import { TextualInversionLoaderMixin } from "../loaders/textual_inversion.ts";
import type { PipelineClass } from "../pipeline_utils.ts";
import type { Prompt } from "../prompt.ts";
import { loadWhere } from "../worker/load.ts";

export interface GuidedPipeline {
  /** What `from_pretrained` finds in most checkpoints; an {@link Autoencoder} of another class takes its place. */
  vae: AutoencoderKL;
  unet: UNet2DConditionModel;
  scheduler: Scheduler;
}

/** What one prediction of the noise takes besides latents, timestep and text. */
export interface PredictOptions extends UNet2DConditionOptions {
  /** Channels that stand beside the latents, `[batch or 2 * batch, ...]`: a mask and a masked picture. */
  readonly beside?: Tensor | undefined;
  readonly guidance_rescale?: number;
}

/** What the text in pictures is made of. */
export interface DescribeOptions {
  readonly num_images_per_prompt?: number | undefined;
  readonly prompt?: Prompt | null | undefined;
  readonly negative_prompt?: Prompt | null | undefined;
  /** Where the call's noise comes from. */
  readonly generator: Generator | readonly Generator[];
  /** Further parameters for the pictures' text, under the names that image tools know: `{ "Denoising strength": 0.8 }`. */
  readonly described: Readonly<Record<string, string | number>>;
  /** Whether the seed gives the pictures back. Default true. */
  readonly isSeeded?: boolean;
}

/**
 * What pipelines with a UNet that is guided by text have in common, whatever encodes the text: one prediction of the noise
 * with guidance, and what they say of themselves.
 */
export abstract class GuidedPipeline extends TextualInversionLoaderMixin {
  static override readonly name: string = "GuidedPipeline";
  /** The checkpoints in one file that the class can be made of. */
  static readonly single_file_kinds: readonly SingleFileKind[] = [];

  /** Pixels for each latent, along one side. */
  readonly vae_scale_factor: number;
  readonly image_processor: VaeImageProcessor;
  /** What {@link decode_preview} decodes with; null: a linear projection. */
  preview_decoder: AutoencoderTiny | null = null;
  protected _guidance_scale = 1;
  protected _num_timesteps = 0;

  constructor({ vae }: { readonly vae: Autoencoder | null }) {
    super();
    this.vae_scale_factor = vae == null ? 8 : 2 ** (vae.config.block_out_channels.length - 1);
    this.image_processor = new VaeImageProcessor({ vae_scale_factor: this.vae_scale_factor });
  }

  /**
   * Loads a checkpoint of Stable Diffusion 1.x, 2.x or XL in one file, in the layout of the original code (as on Civitai),
   * each with its pipeline class. No safety checker is loaded: pass one, with its `feature_extractor`.
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
  static async from_single_file<T extends GuidedPipeline>(
    this: PipelineClass<T> & Pick<typeof GuidedPipeline, "single_file_kinds">,
    from: SingleFileSource,
    options: SingleFilePipelineOptions = {},
  ): Promise<T> {
    const load = async (here: SingleFilePipelineOptions): Promise<T> => {
      const { loadSingleFile } = await import("../loaders/single_file.ts");
      return loadSingleFile<T>(this, this.single_file_kinds, from, here);
    };
    return loadWhere([this.name, "from_single_file"], from, options, async () => this, load);
  }

  /** The guidance scale of the call at hand. */
  get guidance_scale(): number {
    return this._guidance_scale;
  }

  /** Whether the UNet runs with and without the text: guidance above 1, and no guidance embedding in the model. */
  get do_classifier_free_guidance(): boolean {
    return this._guidance_scale > 1 && this.unet.config.time_cond_proj_dim === null;
  }

  /** What the call at hand tells attention layers: the scale of LoRAs. */
  get cross_attention_kwargs(): CrossAttentionKwargs | undefined {
    return (
      (this.call_options as Pick<UNet2DConditionOptions, "cross_attention_kwargs">).cross_attention_kwargs ?? undefined
    );
  }

  /** How many timesteps the call at hand runs. */
  get num_timesteps(): number {
    return this._num_timesteps;
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
    const { cross_attention_kwargs } = this;
    const { sample } = await this.unet(latent_model_input, t, prompt_embeds, { cross_attention_kwargs, ...rest });
    if (!do_classifier_free_guidance) return sample;

    // perform guidance
    const { noise_pred, noise_pred_text } = apply_guidance(sample, this._guidance_scale);
    return guidance_rescale > 0 ? rescale_noise_cfg(noise_pred, noise_pred_text, guidance_rescale) : noise_pred;
  }

  /**
   * Rough pictures of latents, at little cost: for a callback to show how the picture forms. With a {@link preview_decoder}
   * (`madebyollin/taesd`, `madebyollin/taesdxl`) at full size, else one pixel for each latent.
   *
   * @param latents `[batch, channels, height, width]`, as a callback is shown them
   * @example
   * ```ts
   * await pipeline("a fox", {
   *   callback_on_step_end: async (_pipe, _step, _timestep, { latents }) => {
   *     const [picture] = await pipeline.decode_preview(latents);
   *     canvas.getContext("2d").drawImage(picture.toCanvas(), 0, 0, canvas.width, canvas.height);
   *   },
   * });
   * ```
   */
  async decode_preview(latents: Tensor): Promise<RawImage[]> {
    if (this.preview_decoder === null) this.checkParts(["vae"]);
    const { decodePreview } = await import("../preview.ts");
    return decodePreview(this, latents);
  }

  /** Writes the call's parameters into its pictures. */
  protected describe(images: readonly RawImage[], num_inference_steps: number, options: DescribeOptions): void {
    const { prompt, negative_prompt, num_images_per_prompt = 1, generator } = options;
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
        described: options.described,
        // The seed alone would not give the picture back.
        generator: (options.isSeeded ?? true) ? generator : null,
        model: this.name_or_path,
      })),
    );
  }

  /** Height and width in pixels that the model was trained at. @throws ValueError when its config does not say. */
  protected defaultSize(): [number, number] {
    const { sample_size } = this.unet.config;
    const [rows, columns] = typeof sample_size === "number" ? [sample_size, sample_size] : (sample_size ?? []);
    if (rows === undefined || columns === undefined) {
      throw new ValueError("The UNet's config has no sample_size: pass both `height` and `width`.", {
        field: "sample_size",
        found: "null",
        expected: "a size, or both height and width",
      });
    }
    return [rows * this.vae_scale_factor, columns * this.vae_scale_factor];
  }
}
