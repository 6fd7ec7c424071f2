import { type RawImage, type Scheduler, Tensor } from "@diffusers-web/core";
import type {
  Autoencoder,
  CLIPTextModel,
  CLIPVisionModelWithProjection,
  MaskedDecodeOptions,
  SingleFileKind,
  StableDiffusionSafetyChecker,
  UNet2DConditionModel,
} from "@diffusers-web/models";
import { replaced, replacedList } from "../checks.ts";
import type { CLIPImageProcessor } from "../image_processing_clip.ts";
import type { OutputType, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import type { PipelineClass } from "../pipeline_utils.ts";
import { type EncodePromptOptions, encode_prompt, type Prompt, type PromptEmbeddings } from "../prompt.ts";
import type { CLIPTokenizer } from "../tokenization_clip.ts";
import type { DescribeOptions } from "./guided_pipeline.ts";
import { IPAdapterMixin } from "./ip_adapter_mixin.ts";
import { type OutdatedField, updateOldConfigs } from "./old_configs.ts";
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
  /** Prepares pictures for the safety checker and the image encoder. */
  readonly feature_extractor?: CLIPImageProcessor | null;
  /** What IP-Adapters see pictures through. */
  readonly image_encoder?: CLIPVisionModelWithProjection | null;
  /** Warn when there is no safety checker. Default true. */
  readonly requires_safety_checker?: boolean;
}

export interface StableDiffusionBase {
  text_encoder: CLIPTextModel;
  tokenizer: CLIPTokenizer;
  safety_checker: StableDiffusionSafetyChecker | null;
}

/** What {@link StableDiffusionBase.finish} has to know of a call. */
export interface FinishOptions extends DescribeOptions {
  readonly output_type?: OutputType | undefined;
  readonly signal?: AbortSignal | undefined;
  /** What an autoencoder for inpainting decodes with: the picture to keep to, and where. */
  readonly condition?: Pick<MaskedDecodeOptions, "image" | "mask"> | undefined;
}

/**
 * What the pipelines of Stable Diffusion 1.x and 2.x have in common: their components, the text, and the way from latents to
 * checked pictures.
 */
export abstract class StableDiffusionBase extends IPAdapterMixin {
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
  /** The config values of early checkpoints that are put right. */
  static readonly outdated_fields: readonly OutdatedField[] = ["steps_offset", "clip_sample", "sample_size"];
  static override readonly single_file_kinds: readonly SingleFileKind[] = ["v1", "v2"];
  /** Whether `requires_safety_checker` is kept in the config: not by all classes of Diffusers. */
  static readonly keeps_safety_requirement: boolean = true;

  constructor(parts: StableDiffusionParts) {
    super(parts);
    const { vae, text_encoder, tokenizer, unet, scheduler, requires_safety_checker = true } = parts;
    const { safety_checker = null, feature_extractor = null, image_encoder = null } = parts;
    updateOldConfigs(scheduler, unet, new.target.outdated_fields);
    checkSafetyParts(safety_checker, feature_extractor, requires_safety_checker);
    const modules = { vae, text_encoder, tokenizer, unet, scheduler, safety_checker, feature_extractor };
    const { component_names } = this.constructor as unknown as PipelineClass;
    this.register_modules(component_names.includes("image_encoder") ? { ...modules, image_encoder } : modules);
    if (new.target.keeps_safety_requirement) this.register_to_config({ requires_safety_checker });
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
    const { output_type = "image", signal, generator } = options;
    if (output_type === "latent") return { images: latents, nsfw_content_detected: null };
    const decode_options = { generator, ...options.condition };
    const { sample } = await this.vae.decode(latents.div(this.vae.config.scaling_factor), decode_options);
    signal?.throwIfAborted();
    const { image, has_nsfw_concept } = await this.run_safety_checker(sample);
    signal?.throwIfAborted();
    const do_denormalize = has_nsfw_concept?.map((flagged) => !flagged);
    const drawn = this.image_processor.postprocess(image, output_type, do_denormalize);
    const images = adjust === undefined ? drawn : await adjust(drawn);
    if (!(images instanceof Tensor)) this.describe(images, num_inference_steps, options);
    return { images, nsfw_content_detected: has_nsfw_concept };
  }

  /** Height and width in pixels: both or neither of the options are used, as in Diffusers. */
  protected sizeOf(
    { height, width }: { readonly height?: number | null; readonly width?: number | null },
    check: (field: string, value: number) => void,
  ): [number, number] {
    if (height != null && height !== 0 && width != null && width !== 0) return [height, width];
    const size = this.defaultSize();
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
export async function afterStep<T extends Readonly<Record<string, Tensor | readonly Tensor[] | undefined>>>(
  callback: (tensors: Partial<T>) => unknown,
  shown: readonly (keyof T & string)[],
  tensors: T,
): Promise<T> {
  const selected = Object.fromEntries(shown.map((name) => [name, tensors[name]])) as Partial<T>;
  const returned = ((await callback(selected)) ?? {}) as Record<string, Tensor>;
  return Object.fromEntries(
    Object.entries(tensors).map(([name, tensor]) => {
      if (tensor === undefined) return [name, undefined];
      return [name, tensor instanceof Tensor ? replaced(returned, name, tensor) : replacedList(returned, name, tensor)];
    }),
  ) as T;
}
