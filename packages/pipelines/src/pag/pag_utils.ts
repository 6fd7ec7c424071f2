import { type Scheduler, Tensor, UnsupportedModelError, ValueError } from "@diffusers-web/core";
import type { CrossAttentionKwargs, UNet2DConditionModel } from "@diffusers-web/models";
import { checkNumber } from "../checks.ts";
import { apply_guidance, type GuidedNoise, rescale_noise_cfg } from "../guidance.ts";
import type { PredictOptions } from "../stable_diffusion/guided_pipeline.ts";

/** Which self-attentions are perturbed; see `set_pag_applied_layers`. */
export type PAGLayers = string | readonly string[];

/** What pipelines with perturbed-attention guidance are built of besides. */
export interface PAGParts {
  /**
   * The self-attentions that are perturbed: parts of their names, or regular expressions, such as "mid" (the default),
   * "down_blocks.1", "up_blocks.0.attentions.0" or "blocks.(1|2)".
   */
  readonly pag_applied_layers?: PAGLayers;
}

/** What calls with perturbed-attention guidance take besides. */
export interface PAGOptions {
  /** How far away from the perturbed prediction; 0: as without this guidance. Default 3. */
  readonly pag_scale?: number;
  /** How much of `pag_scale` each timestep from 1000 down takes away. Default 0. */
  readonly pag_adaptive_scale?: number;
}

/** The names of {@link PAGOptions}. */
export const pagOptionNames: readonly (keyof PAGOptions)[] = ["pag_scale", "pag_adaptive_scale"];

/**
 * The layers as a list of patterns.
 *
 * @throws ValueError for what are no strings.
 * @see Diffusers `PAGMixin.set_pag_applied_layers`
 */
export function appliedLayers(layers: PAGLayers): readonly string[] {
  const list: readonly unknown[] = Array.isArray(layers) ? layers : [layers];
  const wrong = list.find((layer) => typeof layer !== "string");
  if (wrong === undefined) return [...list] as string[];
  const found = wrong === null ? "null" : typeof wrong;
  throw new ValueError(`\`pag_applied_layers\` has ${found}, expected a string or a list of strings.`, {
    field: "pag_applied_layers",
    found,
    expected: "a string or a list of strings",
  });
}

/** What {@link PerturbedGuidance} has to know of a pipeline, once its guidance scale is set. */
export interface PAGPipeline {
  readonly unet: UNet2DConditionModel;
  readonly scheduler: Scheduler;
  readonly guidance_scale: number;
  readonly do_classifier_free_guidance: boolean;
  readonly cross_attention_kwargs: CrossAttentionKwargs | undefined;
  readonly pag_applied_layers: readonly string[];
}

/**
 * The guidance of one call: away from the prediction without the text, and from the one with perturbed attention.
 *
 * @see Diffusers `PAGMixin`; Ahn et al., "Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance",
 * https://arxiv.org/abs/2403.17377
 */
export class PerturbedGuidance {
  /** Whether attention is perturbed at all. */
  readonly isOn: boolean;
  private readonly pipeline: PAGPipeline;
  private readonly scale: number;
  private readonly adaptiveScale: number;

  /**
   * @throws ValueError for scales that are no numbers, and for layers that the UNet does not have; UnsupportedModelError for a
   * UNet whose graph is fixed.
   */
  constructor(pipeline: PAGPipeline, { pag_scale = 3, pag_adaptive_scale = 0 }: PAGOptions) {
    checkNumber("pag_scale", pag_scale);
    checkNumber("pag_adaptive_scale", pag_adaptive_scale);
    const { unet, pag_applied_layers } = pipeline;
    this.pipeline = pipeline;
    this.scale = pag_scale;
    this.adaptiveScale = pag_adaptive_scale;
    this.isOn = pag_scale > 0 && pag_applied_layers.length > 0;
    if (!this.isOn) return;
    if ((unet as Partial<UNet2DConditionModel>).self_attentions === undefined) {
      const className = unet.constructor.name;
      throw new UnsupportedModelError(
        `This pipeline's unet is an ${className}, whose graph is fixed: its attention cannot be perturbed. Pass \`pag_scale\` 0.`,
        { className, field: "unet", found: className, expected: "a UNet2DConditionModel" },
      );
    }
    unet.self_attentions(pag_applied_layers);
  }

  /** Whether there is guidance by the text as well; a callback may end it. */
  private get isGuided(): boolean {
    return this.pipeline.do_classifier_free_guidance;
  }

  /** What pictures say of it, under the names of its options. */
  get described(): Record<string, number> {
    if (!this.isOn) return {};
    return { pag_scale: this.scale, ...(this.adaptiveScale > 0 && { pag_adaptive_scale: this.adaptiveScale }) };
  }

  /** For each part of the UNet's batch what it is told, in order: without the text, with it, and with it when perturbed. */
  parts<T>(cond: T, uncond: T): T[] {
    return [...(this.isGuided ? [uncond] : []), cond, ...(this.isOn ? [cond] : [])];
  }

  /** Conditions that are there for the parts of plain guidance, for those of this one. */
  rearranged(conditions: Tensor): Tensor {
    const [first, last] = this.isGuided ? (conditions.chunk(2) as [Tensor, Tensor]) : [conditions, conditions];
    return Tensor.cat(this.parts(last, first));
  }

  /**
   * The noise in latents.
   *
   * @param latents `[batch, channels, height, width]`
   * @param prompt_embeds for all parts
   * @param conditions for all parts, but `timestep_cond` for one
   */
  async predictNoise(
    latents: Tensor,
    t: number,
    prompt_embeds: Tensor,
    { guidance_rescale = 0, timestep_cond, ...conditions }: Omit<PredictOptions, "beside">,
  ): Promise<Tensor> {
    const { unet, scheduler, guidance_scale, cross_attention_kwargs, pag_applied_layers: layers } = this.pipeline;
    // expand the latents: for each part
    const count = Math.floor(prompt_embeds.dims[0]! / latents.dims[0]!);
    const expanded = Tensor.cat(new Array<Tensor>(count).fill(latents));
    const latent_model_input = scheduler.scale_model_input(expanded, t);

    // predict the noise residual
    const { sample } = await unet(latent_model_input, t, prompt_embeds, {
      ...{ cross_attention_kwargs, ...conditions },
      timestep_cond: timestep_cond && Tensor.cat(this.parts(timestep_cond, timestep_cond)),
      perturbed_attention: this.isOn ? { layers, parts: this.isGuided ? 3 : 2 } : undefined,
    });

    // perform guidance
    if (!this.isOn && !this.isGuided) return sample;
    const { noise_pred, noise_pred_text } = this.isOn ? this.apply(sample, t) : apply_guidance(sample, guidance_scale);
    const isRescaled = this.isGuided && guidance_rescale > 0;
    return isRescaled ? rescale_noise_cfg(noise_pred, noise_pred_text, guidance_rescale) : noise_pred;
  }

  /** @see Diffusers `PAGMixin._apply_perturbed_attention_guidance` */
  private apply(sample: Tensor, t: number): GuidedNoise {
    const parts = sample.chunk(this.isGuided ? 3 : 2);
    const [noise_pred_text, noise_pred_perturb] = parts.slice(-2) as [Tensor, Tensor];
    // Without guidance by the text the first part is the one with the text, and its term is 0.
    const [u, c, p] = [parts[0]!.data, noise_pred_text.data, noise_pred_perturb.data];
    const scale = Math.fround(this.pipeline.guidance_scale);
    const pagScale = this.scaleAt(t);
    const guided = new Float32Array(c.length);
    for (let i = 0; i < guided.length; i++) {
      const byText = Math.fround(u[i]! + Math.fround(scale * Math.fround(c[i]! - u[i]!)));
      guided[i] = byText + Math.fround(pagScale * Math.fround(c[i]! - p[i]!));
    }
    return { noise_pred: new Tensor("float32", guided, noise_pred_text.dims), noise_pred_text };
  }

  /** The scale at a timestep, in float32 as there. @see Diffusers `PAGMixin._get_pag_scale` */
  private scaleAt(t: number): number {
    const scale = Math.fround(this.scale);
    if (this.adaptiveScale <= 0) return scale;
    const taken = Math.fround(Math.fround(this.adaptiveScale) * Math.fround(1000 - t));
    return Math.max(Math.fround(scale - taken), 0);
  }
}
