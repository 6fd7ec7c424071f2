import { checkOptions, type RawImage, randn_tensor, Tensor } from "@diffusers-web/core";
import { MultiAdapter, type T2IAdapter } from "@diffusers-web/models";
import { nextTask } from "../calls.ts";
import { checkTensor } from "../checks.ts";
import type { PromptPipelineCall, StableDiffusionPipelineOutput } from "../pipeline_output.ts";
import {
  type CallbackTensors,
  callbackTensors,
  checkPromptInputs,
  type PromptedOptions,
  promptedOptionNames,
} from "../stable_diffusion/call_options.ts";
import { callParameters } from "../stable_diffusion/call_parameters.ts";
import type { OutdatedField } from "../stable_diffusion/old_configs.ts";
import {
  afterStep,
  StableDiffusionBase,
  type StableDiffusionParts,
} from "../stable_diffusion/stable_diffusion_base.ts";
import { stepCallback } from "../step_callback.ts";
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import {
  type AdapterOptions,
  adapterFeatures,
  adapterOptionNames,
  checkAdapterOptions,
  readAdapterPictures,
} from "./adapter_images.ts";

/** What a {@link StableDiffusionAdapterPipeline} is built of. */
export interface StableDiffusionAdapterParts extends Omit<StableDiffusionParts, "image_encoder"> {
  /** One, or several whose features are added up. */
  readonly adapter: T2IAdapter | MultiAdapter | readonly T2IAdapter[] | null;
}

/** What a {@link StableDiffusionAdapterPipeline} is called with. */
export interface StableDiffusionAdapterOptions
  extends Omit<
      PromptedOptions<StableDiffusionAdapterPipeline, CallbackTensors>,
      "ip_adapter_image" | "ip_adapter_image_embeds"
    >,
    AdapterOptions {}

const optionNames: readonly string[] = [
  ...promptedOptionNames.filter((name) => !name.startsWith("ip_adapter")),
  ...adapterOptionNames,
];

export interface StableDiffusionAdapterPipeline extends PromptPipelineCall<StableDiffusionAdapterOptions> {
  adapter: T2IAdapter | MultiAdapter;
}

/**
 * Text to image with Stable Diffusion 1.x, and a T2I-Adapter that makes the picture follow another one: a sketch, edges, depth,
 * a pose, colours.
 *
 * @example
 * ```ts
 * const adapter = await T2IAdapter.from_pretrained("TencentARC/t2iadapter_color_sd14v1");
 * const pipeline = await StableDiffusionAdapterPipeline.from_pretrained("CompVis/stable-diffusion-v1-4", { adapter });
 * const { images } = await pipeline("At night, glowing cubes in front of the beach", { image: "palette.png" });
 * ```
 * @see Diffusers `StableDiffusionAdapterPipeline`; Mou et al., https://arxiv.org/abs/2302.08453
 */
export class StableDiffusionAdapterPipeline extends StableDiffusionBase {
  static override readonly name: string = "StableDiffusionAdapterPipeline";
  static override readonly component_names: readonly string[] = [
    "vae",
    "text_encoder",
    "tokenizer",
    "unet",
    "adapter",
    "scheduler",
    "safety_checker",
    "feature_extractor",
  ];
  static override readonly optional_components: readonly string[] = ["safety_checker", "feature_extractor"];
  static override readonly model_cpu_offload_seq: string | null = "text_encoder->adapter->unet->vae";
  static override readonly outdated_fields: readonly OutdatedField[] = [];
  /** The tensors that a callback may be shown. */
  static readonly callback_tensor_inputs: readonly (keyof CallbackTensors)[] = callbackTensors;

  constructor(parts: StableDiffusionAdapterParts) {
    super(parts);
    const { adapter } = parts;
    this.register_modules({ adapter: Array.isArray(adapter) ? new MultiAdapter(adapter) : (adapter as T2IAdapter) });
  }

  protected override async run(
    options: StableDiffusionAdapterOptions,
  ): Promise<StableDiffusionPipelineOutput<Tensor | RawImage[]>> {
    const { prompt, latents: given, callback_on_step_end, signal } = options;
    const { guidance_scale = 7.5, eta = 0, adapter_conditioning_scale: scale = 1, num_images_per_prompt = 1 } = options;
    const { callback_on_step_end_tensor_inputs = ["latents"] } = options;
    const { unet, scheduler, adapter } = this;
    this.checkRunParts(options.output_type ?? "image");
    this.checkParts(["adapter"]);

    // 0. and 1. the pictures, which give the default size, and what is wrong with the call
    checkOptions("StableDiffusionAdapterPipeline", options, optionNames);
    checkPromptInputs(
      "StableDiffusionAdapterPipeline",
      options,
      unet.config.cross_attention_dim as number,
      callbackTensors,
    );
    checkAdapterOptions(adapter, options);
    const pictures = await readAdapterPictures(adapter, options);
    const { height, width } = pictures;
    this._guidance_scale = guidance_scale;
    const { do_classifier_free_guidance } = this;

    // 2. call parameters
    const { batch, generator } = callParameters(options);

    // 3. the text
    const encoded = await this.encode_prompt(prompt ?? null, { ...options, do_classifier_free_guidance });
    let { prompt_embeds } = encoded;
    let negative_prompt_embeds = encoded.negative_prompt_embeds ?? undefined;
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
    const size = [Math.floor(height / this.vae_scale_factor), Math.floor(width / this.vae_scale_factor)];
    if (given != null) checkTensor("latents", given, [batch, channels, ...size]);
    const noise = given ?? randn_tensor([batch, channels, ...size], { generator });
    let latents = noise.mul(scheduler.init_noise_sigma);

    // 6. what this scheduler's step takes, and the guidance as an input
    const extra_step_kwargs = stepOptions(scheduler, { generator, eta });
    const timestep_cond = this.timestepCond(batch);

    // 7. the adapter's features, once for all steps, and the denoising loop
    const down_intrablock_additional_residuals = await adapterFeatures(adapter, pictures, {
      ...{ scale, batch, num_images_per_prompt },
      guided: do_classifier_free_guidance,
      blocks: unet.config.down_block_types.length,
    });
    const conditions = { timestep_cond, down_intrablock_additional_residuals };
    const warmup = timesteps.length - num_inference_steps * scheduler.order;
    const calledBack = stepCallback(options, { timesteps: timesteps.length, warmup, order: scheduler.order });
    for (const [i, t] of this.progress_bar(timesteps, latents)) {
      if (this.interrupt) break;
      const noise_pred = await this.predictNoise(latents, t, prompt_embeds, conditions);

      // x_t -> x_t-1
      latents = scheduler.step(noise_pred, t, latents, extra_step_kwargs).prev_sample;

      await calledBack(i, t, latents);
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
    return this.finish(latents, num_inference_steps, { ...options, generator, described: {}, isSeeded: given == null });
  }
}
