import { checkOptions, type RawImage, randn_tensor, type Scheduler, Tensor, ValueError } from "@diffusers-web/core";
import type { Autoencoder, CLIPTextModel, UNet2DConditionModel } from "@diffusers-web/models";
import { nextTask } from "../calls.ts";
import { checkTensor } from "../checks.ts";
import { apply_guidance } from "../guidance.ts";
import { VaeImageProcessor } from "../image_processor.ts";
import { interpolateNearest } from "../image_transforms.ts";
import type { ImagePipelineOutput, PromptImageCall } from "../pipeline_output.ts";
import { checkBatch, negativePrompts, type Prompt, warnOfTruncation } from "../prompt.ts";
import { modelMaxLength } from "../prompt_syntax.ts";
import { stepCallback } from "../step_callback.ts";
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import type { CLIPTokenizer } from "../tokenization_clip.ts";
import { type CallbackTensors, callbackTensors } from "./call_options.ts";
import { callParameters } from "./call_parameters.ts";
import { GuidedPipeline } from "./guided_pipeline.ts";
import { encodeImage, type ImageInput, readImage } from "./image_latents.ts";
import { afterStep } from "./stable_diffusion_base.ts";
import {
  checkImageBatch,
  checkUpscaleChannels,
  checkUpscaleInputs,
  type UpscaleOptions,
  upscaleOptionNames,
} from "./upscale_options.ts";

/** What a {@link StableDiffusionLatentUpscalePipeline} is called with. */
export interface StableDiffusionLatentUpscaleOptions extends UpscaleOptions<StableDiffusionLatentUpscalePipeline> {
  /**
   * The picture to enlarge; several as a list or a batch, one for each prompt. A tensor is `[batch, 3, height, width]` in 0..1; one
   * of 4 channels is taken for latents, scaled as a UNet knows them: what another pipeline gives with `output_type: "latent"`.
   */
  readonly image?: ImageInput | null;
  /** At 0, the picture is enlarged without the prompt. Above 1, it is drawn towards it, and away from the negative one. Default 9. */
  readonly guidance_scale?: number;
  /** The noise to begin with, `[batch, channels, height, width]`: twice the height and width of the picture's latents. */
  readonly latents?: Tensor | null;
  /** `[prompts, width]`; has to be there with `prompt_embeds`. */
  readonly pooled_prompt_embeds?: Tensor | null;
  /** `[prompts, width]`; has to be there with `negative_prompt_embeds`. */
  readonly negative_pooled_prompt_embeds?: Tensor | null;
}

const optionNames: readonly (keyof StableDiffusionLatentUpscaleOptions)[] = [
  ...upscaleOptionNames,
  "latents",
  "pooled_prompt_embeds",
  "negative_pooled_prompt_embeds",
];

/** What {@link StableDiffusionLatentUpscalePipeline.encode_prompt} takes. */
export interface EncodePooledOptions {
  /** Encode the negative prompt as well. Default true. */
  readonly do_classifier_free_guidance?: boolean;
  readonly negative_prompt?: Prompt | null;
  /** `[prompts, tokens, width]`, in place of the prompt. */
  readonly prompt_embeds?: Tensor | null;
  /** `[prompts, tokens, width]`, in place of `negative_prompt`. */
  readonly negative_prompt_embeds?: Tensor | null;
  /** `[prompts, width]`, beside `prompt_embeds`. */
  readonly pooled_prompt_embeds?: Tensor | null;
  /** `[prompts, width]`, beside `negative_prompt_embeds`. */
  readonly negative_pooled_prompt_embeds?: Tensor | null;
}

/** What {@link StableDiffusionLatentUpscalePipeline.encode_prompt} returns. */
export interface PooledEmbeddings {
  /** `[prompts, tokens, width]`: the text encoder's last layer, without its final normalisation. */
  readonly prompt_embeds: Tensor;
  /** `[prompts, tokens, width]`; null without guidance and embeddings of its own. */
  readonly negative_prompt_embeds: Tensor | null;
  /** `[prompts, width]` */
  readonly pooled_prompt_embeds: Tensor;
  /** `[prompts, width]`; null without guidance and embeddings of its own. */
  readonly negative_pooled_prompt_embeds: Tensor | null;
}

/** What a {@link StableDiffusionLatentUpscalePipeline} is built of. */
export interface StableDiffusionLatentUpscaleParts {
  readonly vae: Autoencoder | null;
  readonly text_encoder: CLIPTextModel | null;
  readonly tokenizer: CLIPTokenizer | null;
  /** Takes the picture's latents beside those it makes, and the pooled text with the timestep. */
  readonly unet: UNet2DConditionModel;
  /** One that has sigmas, as EulerDiscreteScheduler does. */
  readonly scheduler: Scheduler;
}

export interface StableDiffusionLatentUpscalePipeline extends PromptImageCall<StableDiffusionLatentUpscaleOptions> {
  text_encoder: CLIPTextModel;
  tokenizer: CLIPTokenizer;
}

/**
 * Enlarges pictures, or what Stable Diffusion made before it is decoded, twice.
 *
 * @example
 * ```ts
 * const prompt = "a photo of an astronaut high resolution, unreal engine, ultra realistic";
 * const { images: low_res_latents } = await pipeline(prompt, { output_type: "latent" });
 * const upscaler = await StableDiffusionLatentUpscalePipeline.from_pretrained("stabilityai/sd-x2-latent-upscaler");
 * const { images } = await upscaler(prompt, { image: low_res_latents, num_inference_steps: 20, guidance_scale: 0 });
 * ```
 * @see Diffusers `StableDiffusionLatentUpscalePipeline`
 */
export class StableDiffusionLatentUpscalePipeline extends GuidedPipeline {
  static override readonly name: string = "StableDiffusionLatentUpscalePipeline";
  static override readonly component_names: readonly string[] = [
    "vae",
    "text_encoder",
    "tokenizer",
    "unet",
    "scheduler",
  ];
  static override readonly model_cpu_offload_seq: string = "text_encoder->unet->vae";
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof CallbackTensors)[] = callbackTensors;

  override readonly image_processor: VaeImageProcessor;

  constructor(parts: StableDiffusionLatentUpscaleParts) {
    super(parts);
    const { vae, text_encoder, tokenizer, unet, scheduler } = parts;
    this.register_modules({ vae, text_encoder, tokenizer, unet, scheduler });
    this.image_processor = new VaeImageProcessor({ vae_scale_factor: this.vae_scale_factor, resample: "bicubic" });
  }

  /** Whether the UNet runs with and without the text: guidance above 1. */
  override get do_classifier_free_guidance(): boolean {
    return this._guidance_scale > 1;
  }

  /**
   * Encodes prompts, for `prompt_embeds`, `pooled_prompt_embeds` and their negative ones.
   *
   * @throws ValueError for batches that do not fit, or a text encoder that is not there; TypeError when one of prompt and
   * negative prompt is a list only.
   * @see Diffusers `StableDiffusionLatentUpscalePipeline.encode_prompt`
   */
  async encode_prompt(prompt: Prompt | null, options: EncodePooledOptions = {}): Promise<PooledEmbeddings> {
    const { do_classifier_free_guidance = true, negative_prompt } = options;
    let { prompt_embeds, pooled_prompt_embeds, negative_prompt_embeds, negative_pooled_prompt_embeds } = options;
    const encode = async (texts: readonly string[], max_length: number | null): Promise<readonly [Tensor, Tensor]> => {
      this.checkParts(["text_encoder", "tokenizer"]);
      const { text_encoder, tokenizer } = this;
      const length = max_length ?? modelMaxLength(tokenizer);
      const { input_ids } = tokenizer(texts, { padding: "max_length", max_length: length, truncation: true });
      if (max_length === null) warnOfTruncation(tokenizer, texts, input_ids);
      const { hidden_states, pooler_output } = await text_encoder(input_ids);
      return [hidden_states.at(-1)!, pooler_output];
    };

    if (prompt_embeds == null || pooled_prompt_embeds == null) {
      [prompt_embeds, pooled_prompt_embeds] = await encode(typeof prompt === "string" ? [prompt] : prompt!, null);
    }
    const batch_size = prompt_embeds.dims[0]!;
    checkBatch("pooled_prompt_embeds", pooled_prompt_embeds.dims[0]!, batch_size);

    // unconditional embeddings for classifier free guidance
    if (!do_classifier_free_guidance) {
      negative_prompt_embeds ??= null;
      negative_pooled_prompt_embeds ??= null;
    } else if (negative_prompt_embeds == null || negative_pooled_prompt_embeds == null) {
      const negatives = negativePrompts(prompt, negative_prompt, batch_size);
      [negative_prompt_embeds, negative_pooled_prompt_embeds] = await encode(negatives, prompt_embeds.dims[1]!);
    } else {
      checkBatch("negative_prompt_embeds", negative_prompt_embeds.dims[0]!, batch_size);
      checkBatch("negative_pooled_prompt_embeds", negative_pooled_prompt_embeds.dims[0]!, batch_size);
    }
    return { prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds };
  }

  protected override async run(
    options: StableDiffusionLatentUpscaleOptions,
  ): Promise<ImagePipelineOutput<Tensor | RawImage[]>> {
    const { num_inference_steps = 75, guidance_scale = 9, latents: given, output_type = "image", signal } = options;
    const { callback_on_step_end, callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { name } = StableDiffusionLatentUpscalePipeline;
    const { vae, unet, scheduler } = this;
    this.checkParts(["vae", "unet", "scheduler"]);

    // 1. what is wrong with the call
    checkOptions(name, options, optionNames);
    checkUpscaleInputs(name, options, unet.config.cross_attention_dim as number);
    this.checkPooled(options);
    checkSigmas(scheduler);
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 2. call parameters
    const { batch, generator } = callParameters(options);
    let image = await readImage(this.image_processor, vae, options.image);
    checkImageBatch(image.dims[0]!, batch);
    this.checkChannels();
    const prompt = guidance_scale === 0 ? new Array<string>(batch).fill("") : (options.prompt ?? null);

    // 3. the text
    const encoded = await this.encode_prompt(prompt, { ...options, do_classifier_free_guidance });
    let { prompt_embeds, pooled_prompt_embeds } = encoded;
    let negative_prompt_embeds = encoded.negative_prompt_embeds ?? undefined;
    if (do_classifier_free_guidance) {
      prompt_embeds = Tensor.cat([negative_prompt_embeds!, prompt_embeds]);
      pooled_prompt_embeds = Tensor.cat([encoded.negative_pooled_prompt_embeds!, pooled_prompt_embeds]);
    }
    await nextTask(signal);

    // 4. the picture's latents
    if (image.dims[1] !== vae.config.latent_channels) image = await encodeImage(vae, image, generator);
    await nextTask(signal);

    // 5. timesteps
    const { timesteps } = retrieve_timesteps(scheduler, num_inference_steps);
    this._num_timesteps = timesteps.length;

    // 6. what the UNet sees of the picture: without noise, which is what the first half of the embedding says
    const [, channels, rows, columns] = image.dims as [number, number, number, number];
    const enlarged = interpolateNearest(image, 2 * rows, 2 * columns);
    const image_cond = do_classifier_free_guidance ? Tensor.cat([enlarged, enlarged]) : enlarged;
    const [count] = pooled_prompt_embeds.dims as [number];
    const noise_level_embed = [Tensor.ones([count, 64]), Tensor.zeros([count, 64])];
    const timestep_cond = Tensor.cat([...noise_level_embed, pooled_prompt_embeds], 1);

    // 7. latents
    const shape = [batch, channels, 2 * rows, 2 * columns];
    if (given != null) checkTensor("latents", given, shape);
    let latents = (given ?? randn_tensor(shape, { generator })).mul(scheduler.init_noise_sigma);

    // Python draws from torch's own generator here, which is that of the docs' `torch.manual_seed(33)`.
    const extra_step_kwargs = stepOptions(scheduler, { generator });

    // 8. denoising loop
    const callback = stepCallback(options, { timesteps: timesteps.length, warmup: 0, order: scheduler.order });
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const sigma = scheduler.sigmas[i]!;
      const latent_model_input = do_classifier_free_guidance ? Tensor.cat([latents, latents]) : latents;
      let scaled_model_input = scheduler.scale_model_input(latent_model_input, t);
      scaled_model_input = Tensor.cat([scaled_model_input, image_cond], 1);

      // preconditioning, Karras et al. (2022), table 1
      const timestep = new Tensor("float32", [Math.fround(Math.log(sigma)) * 0.25], [1]);
      const { sample } = await unet(scaled_model_input, timestep, prompt_embeds, { timestep_cond });

      // the last channel is a variance, which is not used
      let noise_pred = sample.slice(null, [0, -1]);
      const inv_sigma = Math.fround(1 / Math.fround(Math.fround(sigma * sigma) + 1));
      const scaled_sigma = scheduler.scale_model_input(new Tensor("float32", [sigma], [1]), t);
      noise_pred = latent_model_input.mul(inv_sigma).add(noise_pred.mul(scaled_sigma));

      // perform guidance
      if (do_classifier_free_guidance) ({ noise_pred } = apply_guidance(noise_pred, guidance_scale));

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

    // 9. pictures
    if (output_type === "latent") return { images: latents };
    const { sample } = await vae.decode(latents.div(vae.config.scaling_factor), { generator });
    signal?.throwIfAborted();
    const images = this.image_processor.postprocess(sample, output_type);
    if (!(images instanceof Tensor)) {
      this.describe(images, num_inference_steps, { ...options, generator, described: {}, isSeeded: given == null });
    }
    return { images };
  }

  /** @throws ValueError for embeddings without pooled ones, and the other way round, or of another width than the UNet takes. */
  private checkPooled(options: StableDiffusionLatentUpscaleOptions): void {
    const { time_cond_proj_dim } = this.unet.config;
    for (const field of ["prompt_embeds", "negative_prompt_embeds"] as const) {
      const pooledField = field === "prompt_embeds" ? "pooled_prompt_embeds" : "negative_pooled_prompt_embeds";
      const [embeds, pooled] = [options[field], options[pooledField]];
      if ((embeds == null) !== (pooled == null)) {
        const [missing, there] = embeds == null ? [field, pooledField] : [pooledField, field];
        throw new ValueError(`\`${there}\` was given without \`${missing}\`: pass both, of the same text.`, {
          field: missing,
          found: "nothing",
          expected: "a tensor",
        });
      }
      const width = time_cond_proj_dim === null ? null : time_cond_proj_dim - 128;
      if (pooled != null) checkTensor(pooledField, pooled, [embeds!.dims[0]!, width]);
    }
  }

  /** @throws ValueError unless the UNet takes twice the latents' channels, and gives one more than they have. */
  private checkChannels(): void {
    const { name } = StableDiffusionLatentUpscalePipeline;
    const { latent_channels } = this.vae.config;
    const { in_channels, out_channels } = this.unet.config;
    checkUpscaleChannels(name, latent_channels, latent_channels, in_channels);
    if (out_channels === latent_channels + 1) return;
    throw new ValueError(
      `The UNet gives ${out_channels} channels, expected ${latent_channels + 1}: those of the latents, and a variance.`,
      { className: name, field: "out_channels", found: String(out_channels), expected: String(latent_channels + 1) },
    );
  }
}

/** @throws ValueError for a scheduler without noise levels. */
function checkSigmas(scheduler: Scheduler): asserts scheduler is Scheduler & { readonly sigmas: Float32Array } {
  if ("sigmas" in scheduler) return;
  const found = scheduler.constructor.name;
  throw new ValueError(
    `The scheduler is a ${found}, which has no sigmas: use an EulerDiscreteScheduler, as the checkpoint does.`,
    {
      className: StableDiffusionLatentUpscalePipeline.name,
      field: "scheduler",
      found,
      expected: "EulerDiscreteScheduler",
    },
  );
}
