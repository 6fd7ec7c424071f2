import {
  Generator,
  randn_tensor,
  type Scheduler,
  Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/core";
import type { AutoencoderKL, CLIPTextModel, SingleFileSource, UNet2DConditionModel } from "@diffusers-web/models";
import { nextTask } from "../calls.ts";
import { checkGenerator, checkTensor, replaced } from "../checks.ts";
import { describeImages } from "../generation_metadata.ts";
import { apply_guidance, get_guidance_scale_embedding, rescale_noise_cfg } from "../guidance.ts";
import { VaeImageProcessor } from "../image_processor.ts";
import type { SingleFilePipelineOptions } from "../loaders/single_file.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import { DiffusionPipeline } from "../pipeline_utils.ts";
import { type EncodePromptOptions, encode_prompt, type Prompt, type PromptEmbeddings } from "../prompt.ts";
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import type { CLIPTokenizer } from "../tokenization_clip.ts";
import {
  type CallbackTensors,
  callbackTensors,
  checkDivisible,
  checkInputs,
  type StableDiffusionOptions,
} from "./call_options.ts";
import { updateOldConfigs } from "./old_configs.ts";

/** What a {@link StableDiffusionPipeline} is built of. */
export interface StableDiffusionParts {
  readonly vae: AutoencoderKL | null;
  readonly text_encoder: CLIPTextModel | null;
  readonly tokenizer: CLIPTokenizer | null;
  readonly unet: UNet2DConditionModel;
  readonly scheduler: Scheduler;
  readonly safety_checker?: null;
  readonly feature_extractor?: null;
  readonly image_encoder?: null;
  /** Warn when there is no safety checker. Default true. */
  readonly requires_safety_checker?: boolean;
}

export interface StableDiffusionPipeline extends PromptPipelineCall<StableDiffusionOptions> {
  vae: AutoencoderKL;
  text_encoder: CLIPTextModel;
  tokenizer: CLIPTokenizer;
  unet: UNet2DConditionModel;
  scheduler: Scheduler;
}

/**
 * Text to image with Stable Diffusion 1.x and 2.x, and models of that layout.
 *
 * @example
 * ```ts
 * const pipeline = await StableDiffusionPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5", {
 *   safety_checker: null,
 * });
 * const { images } = await pipeline("a photo of an astronaut riding a horse", { num_inference_steps: 25 });
 * ```
 * @see Diffusers `StableDiffusionPipeline`; Rombach et al., https://arxiv.org/abs/2112.10752
 */
export class StableDiffusionPipeline extends DiffusionPipeline {
  static override readonly name: string = "StableDiffusionPipeline";
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
  static override readonly unused_components: readonly string[] = ["feature_extractor"];
  static override readonly init_options: readonly string[] = ["requires_safety_checker"];
  static override readonly model_cpu_offload_seq: string = "text_encoder->image_encoder->unet->vae";
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof CallbackTensors)[] = callbackTensors;

  /** Pixels for each latent, along one side. */
  readonly vae_scale_factor: number;
  readonly image_processor: VaeImageProcessor;
  private _guidance_scale = 7.5;
  private _num_timesteps = 0;

  constructor(parts: StableDiffusionParts) {
    super();
    const { vae, text_encoder, tokenizer, unet, scheduler, requires_safety_checker = true } = parts;
    for (const name of ["safety_checker", "feature_extractor", "image_encoder"] as const) {
      if (parts[name] == null) continue;
      throw new UnsupportedModelError(`A \`${name}\` is not built yet: pass null, or leave it out.`, {
        className: "StableDiffusionPipeline",
        field: name,
        expected: "null",
      });
    }
    updateOldConfigs(scheduler, unet);
    if (requires_safety_checker) {
      console.warn(
        "This pipeline runs without a safety checker. The licence of Stable Diffusion asks you not to put unfiltered " +
          "pictures before the public: filter them, or keep this to analysis and private use.",
      );
    }
    this.register_modules({
      vae,
      text_encoder,
      tokenizer,
      unet,
      scheduler,
      safety_checker: null,
      feature_extractor: null,
      image_encoder: null,
    });
    this.vae_scale_factor = vae == null ? 8 : 2 ** (vae.config.block_out_channels.length - 1);
    this.image_processor = new VaeImageProcessor({ vae_scale_factor: this.vae_scale_factor });
    this.register_to_config({ requires_safety_checker });
  }

  /**
   * Loads a checkpoint of Stable Diffusion 1.x or 2.x in one file, in the layout of the original code (as on Civitai). No
   * safety checker is loaded.
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
  static async from_single_file(
    from: SingleFileSource,
    options: SingleFilePipelineOptions = {},
  ): Promise<StableDiffusionPipeline> {
    const { loadSingleFile } = await import("../loaders/single_file.ts");
    return loadSingleFile<StableDiffusionPipeline>(this, ["v1", "v2"], from, options);
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

  protected override async run(
    options: StableDiffusionOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | StableDiffusionPipelineOutput["images"]>> {
    const { prompt, negative_prompt, latents: given, callback_on_step_end: callback, signal } = options;
    const { guidance_scale = 7.5, guidance_rescale = 0, num_images_per_prompt = 1, eta = 0 } = options;
    const { output_type = "image", callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { unet, scheduler } = this;
    this.checkParts(output_type === "latent" ? ["unet", "scheduler"] : ["unet", "scheduler", "vae"]);

    // 0. and 1. default size, and what is wrong with the call
    const [height, width] = this.size(options);
    checkInputs(options, height, width, unet.config.cross_attention_dim as number);
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 2. call parameters
    const prompts = typeof prompt === "string" ? [prompt] : prompt;
    const batch_size = prompts?.length ?? options.prompt_embeds!.dims[0]!;
    const batch = batch_size * num_images_per_prompt;
    checkGenerator(options.generator, batch);
    // One of our own, so that its seed can be told.
    const generator = options.generator ?? randomGenerator();

    // 3. the text
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    let { prompt_embeds } = encoded;
    let negative_prompt_embeds = encoded.negative_prompt_embeds;
    if (do_classifier_free_guidance) prompt_embeds = Tensor.cat([negative_prompt_embeds!, prompt_embeds]);
    await nextTask(signal);

    // 4. timesteps
    const { timesteps, num_inference_steps } = retrieve_timesteps(
      scheduler,
      options.num_inference_steps ?? 50,
      options,
    );
    this._num_timesteps = timesteps.length;

    // 5. latents
    const channels = unet.config.in_channels;
    const shape = [
      batch,
      channels,
      Math.floor(height / this.vae_scale_factor),
      Math.floor(width / this.vae_scale_factor),
    ];
    if (given != null) checkTensor("latents", given, [batch, channels, null, null]);
    let latents = (given ?? randn_tensor(shape, { generator })).mul(scheduler.init_noise_sigma);

    // 6. what this scheduler's step takes, and the guidance as an input
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });
    const { time_cond_proj_dim } = unet.config;
    const timestep_cond =
      time_cond_proj_dim === null
        ? undefined
        : get_guidance_scale_embedding(new Array<number>(batch).fill(guidance_scale - 1), time_cond_proj_dim);

    // 7. denoising loop
    for (const [i, t] of timesteps.entries()) {
      if (this.interrupt) break;

      // expand the latents: without the text, and with it
      const expanded = do_classifier_free_guidance ? Tensor.cat([latents, latents]) : latents;
      const latent_model_input = scheduler.scale_model_input(expanded, t);

      // predict the noise residual
      let { sample: noise_pred } = await unet(latent_model_input, t, prompt_embeds, { timestep_cond });

      // perform guidance
      if (do_classifier_free_guidance) {
        const guided = apply_guidance(noise_pred, guidance_scale);
        noise_pred = guided.noise_pred;
        if (guidance_rescale > 0) noise_pred = rescale_noise_cfg(noise_pred, guided.noise_pred_text, guidance_rescale);
      }

      // x_t -> x_t-1
      latents = scheduler.step(noise_pred, t, latents, extra_step_kwargs).prev_sample;

      if (callback != null) {
        const tensors = { latents, prompt_embeds, negative_prompt_embeds: negative_prompt_embeds ?? undefined };
        const shown = Object.fromEntries(callback_on_step_end_tensor_inputs.map((name) => [name, tensors[name]]));
        const returned = ((await callback(this, i, t, shown)) ?? {}) as Record<string, Tensor>;
        latents = replaced(returned, "latents", latents);
        prompt_embeds = replaced(returned, "prompt_embeds", prompt_embeds);
        if (negative_prompt_embeds !== null) {
          negative_prompt_embeds = replaced(returned, "negative_prompt_embeds", negative_prompt_embeds);
        }
      }
      await nextTask(signal);
    }

    if (output_type === "latent") return { images: latents, nsfw_content_detected: null };
    const { sample } = await this.vae.decode(latents.div(this.vae.config.scaling_factor));
    signal?.throwIfAborted();
    const images = this.image_processor.postprocess(sample, output_type);
    if (!(images instanceof Tensor)) {
      const of = (texts: Prompt | null | undefined, i: number): string | undefined =>
        texts == null ? undefined : typeof texts === "string" ? texts : texts[Math.floor(i / num_images_per_prompt)];
      describeImages(
        images,
        images.map((_, i) => ({
          prompt: of(prompt, i),
          negative_prompt: of(negative_prompt, i),
          num_inference_steps,
          scheduler: scheduler.constructor.name,
          guidance_scale,
          // The seed alone would not give the picture back.
          generator: given == null ? generator : null,
          model: this.name_or_path,
        })),
      );
    }
    return { images, nsfw_content_detected: null };
  }

  /** Height and width in pixels: both or neither of the options are used, as in Diffusers. */
  private size({ height, width }: StableDiffusionOptions): [number, number] {
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
      checkDivisible(name, value);
      console.warn(
        `\`${name}\` alone is not used (as in Diffusers): the size is ${size[1]} x ${size[0]}. Pass both \`height\` and \`width\`.`,
      );
    }
    return size;
  }
}

function randomGenerator(): Generator {
  const generator = new Generator();
  generator.seed();
  return generator;
}
