import { type RawImage, type Scheduler, Tensor, UnsupportedModelError } from "@diffusers-web/core";
import type {
  Autoencoder,
  CLIPTextModel,
  CLIPTextModelWithProjection,
  CLIPVisionModelWithProjection,
  UNet2DConditionModel,
} from "@diffusers-web/models";
import type { CLIPImageProcessor } from "../image_processing_clip.ts";
import type { LoraComponent } from "../loaders/lora_base.ts";
import type { OutputType, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import type { PipelineClass } from "../pipeline_utils.ts";
import type { Prompt } from "../prompt.ts";
import { checkDivisible } from "../stable_diffusion/call_options.ts";
import type { DescribeOptions } from "../stable_diffusion/guided_pipeline.ts";
import { IPAdapterMixin } from "../stable_diffusion/ip_adapter_mixin.ts";
import type { CLIPTokenizer } from "../tokenization_clip.ts";
import { type EncodePromptXLOptions, encode_prompt, type PromptXLEmbeddings } from "./encode_prompt.ts";

/** What a pipeline of Stable Diffusion XL is built of. */
export interface StableDiffusionXLParts {
  readonly vae: Autoencoder | null;
  /** null, with its tokenizer, in the refiner. */
  readonly text_encoder: CLIPTextModel | null;
  readonly text_encoder_2: CLIPTextModelWithProjection | null;
  readonly tokenizer: CLIPTokenizer | null;
  readonly tokenizer_2: CLIPTokenizer | null;
  readonly unet: UNet2DConditionModel;
  readonly scheduler: Scheduler;
  /** What IP-Adapters see pictures through. */
  readonly image_encoder?: CLIPVisionModelWithProjection | null;
  /** Prepares pictures for the image encoder. */
  readonly feature_extractor?: CLIPImageProcessor | null;
  /** Whether a call without a negative prompt is guided away from zeros, not from the empty text. Default true. */
  readonly force_zeros_for_empty_prompt?: boolean;
  /**
   * Python marks pictures invisibly where the library `invisible-watermark` is installed. There is none here: false and null
   * (the default) are what Python does without it, true is refused.
   */
  readonly add_watermarker?: boolean | null;
}

export interface StableDiffusionXLBase {
  /** null in the refiner, as its tokenizer. */
  text_encoder: CLIPTextModel;
  text_encoder_2: CLIPTextModelWithProjection;
  tokenizer: CLIPTokenizer;
  tokenizer_2: CLIPTokenizer;
}

/** What {@link StableDiffusionXLBase.finish} has to know of a call. */
export interface FinishXLOptions extends DescribeOptions {
  /** Whether `latents_mean` and `latents_std` of the autoencoder's config count, where it has them. Default true. */
  readonly uses_statistics?: boolean;
  readonly output_type?: OutputType | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What the pipelines of Stable Diffusion XL have in common: their components, the text, and the way from latents to pictures. */
export abstract class StableDiffusionXLBase extends IPAdapterMixin {
  static override readonly name: string = "StableDiffusionXLBase";
  static override readonly component_names: readonly string[] = [
    "vae",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "unet",
    "scheduler",
    "image_encoder",
    "feature_extractor",
  ];
  static override readonly optional_components: readonly string[] = [
    "tokenizer",
    "tokenizer_2",
    "text_encoder",
    "text_encoder_2",
    "image_encoder",
    "feature_extractor",
  ];
  static override readonly lora_loadable_modules: readonly LoraComponent[] = ["unet", "text_encoder", "text_encoder_2"];
  static override readonly init_options: readonly string[] = ["force_zeros_for_empty_prompt", "add_watermarker"];
  static override readonly model_cpu_offload_seq: string | null =
    "text_encoder->text_encoder_2->image_encoder->unet->vae";

  constructor(parts: StableDiffusionXLParts) {
    super(parts);
    const { vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet, scheduler } = parts;
    const {
      feature_extractor = null,
      image_encoder = null,
      force_zeros_for_empty_prompt = true,
      add_watermarker,
    } = parts;
    if (add_watermarker === true) {
      throw new UnsupportedModelError(
        "There is no invisible watermark here: leave `add_watermarker` out, or pass false.",
        {
          className: this.constructor.name,
          field: "add_watermarker",
          found: "true",
          expected: "false",
        },
      );
    }
    const texts = { text_encoder, text_encoder_2, tokenizer, tokenizer_2 };
    const modules = { vae, ...texts, unet, scheduler };
    const { component_names } = this.constructor as unknown as PipelineClass;
    const seesPictures = component_names.includes("image_encoder");
    this.register_modules(seesPictures ? { ...modules, image_encoder, feature_extractor } : modules);
    this.register_to_config({ force_zeros_for_empty_prompt });
  }

  /** Encodes prompts, for `prompt_embeds`, `pooled_prompt_embeds` and the negative ones. */
  encode_prompt(
    prompt: Prompt | null,
    options: Omit<EncodePromptXLOptions, "prompt"> = {},
  ): Promise<PromptXLEmbeddings> {
    const force_zeros = this.config["force_zeros_for_empty_prompt"] === true;
    return encode_prompt(this, { ...options, prompt }, force_zeros);
  }

  /** Height and width in pixels; what is not given is what the model was trained at. */
  protected sizeOf({
    height,
    width,
  }: {
    readonly height?: number | null;
    readonly width?: number | null;
  }): [number, number] {
    const [rows, columns] = height && width ? [height, width] : this.defaultSize();
    const size: [number, number] = [height || rows, width || columns];
    checkDivisible("height", size[0]);
    checkDivisible("width", size[1]);
    return size;
  }

  /** The components without which a call that ends in this type cannot run. */
  protected checkRunParts(output_type: OutputType): void {
    this.checkParts(["unet", "scheduler", ...(output_type === "latent" ? [] : ["vae"])]);
  }

  /**
   * Decodes latents, and writes the call's parameters beside the pictures.
   *
   * @param adjust what else becomes of the pictures, such as being laid over the original
   */
  protected async finish(
    latents: Tensor,
    num_inference_steps: number,
    options: FinishXLOptions,
    adjust?: (images: RawImage[] | Tensor) => RawImage[] | Tensor,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { output_type = "image", signal, generator, uses_statistics = true } = options;
    if (output_type === "latent") return { images: latents, nsfw_content_detected: null };
    const { sample } = await this.vae.decode(unscaled(this.vae, latents, uses_statistics), { generator });
    signal?.throwIfAborted();
    const drawn = this.image_processor.postprocess(sample, output_type);
    const images = adjust === undefined ? drawn : adjust(drawn);
    if (!(images instanceof Tensor)) this.describe(images, num_inference_steps, options);
    return { images, nsfw_content_detected: null };
  }
}

/** Latents as the autoencoder knows them. */
function unscaled(vae: Autoencoder, latents: Tensor, uses_statistics: boolean): Tensor {
  const { scaling_factor, latents_mean, latents_std } = vae.config as Autoencoder["config"] & {
    readonly latents_mean?: readonly number[] | null;
    readonly latents_std?: readonly number[] | null;
  };
  if (!uses_statistics || latents_mean == null || latents_std == null) return latents.div(scaling_factor);
  return latents.mul(channels(latents_std)).div(scaling_factor).add(channels(latents_mean));
}

/** One number for each channel. */
function channels(values: readonly number[]): Tensor {
  return new Tensor("float32", values, [1, values.length, 1, 1]);
}
