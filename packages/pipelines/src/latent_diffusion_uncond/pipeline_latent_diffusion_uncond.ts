import { type RawImage, randn_tensor, type Scheduler, type Tensor } from "@diffusers-web/core";
import type { UNet2DModel, VQModel } from "@diffusers-web/models";
import { checkNumber, checkWhole } from "../checks.ts";
import { sampleShape } from "../ddpm/sample_shape.ts";
import { VaeImageProcessor } from "../image_processor.ts";
import type { ImagePipelineOutput, PipelineCall } from "../pipeline_output.ts";
import { DiffusionPipeline } from "../pipeline_utils.ts";
import { randomGenerator } from "../random_generator.ts";
import { stepOptions } from "../timesteps.ts";
import {
  afterStep,
  checkUnconditional,
  outputOf,
  timestepTensor,
  type UnconditionalOptions,
} from "../unconditional.ts";

/** What a {@link LDMPipeline} is called with. */
export interface LDMOptions extends UnconditionalOptions<LDMPipeline, { readonly latents: Tensor }> {
  /** For a DDIMScheduler: 0 (default) is DDIM, 1 is DDPM. */
  readonly eta?: number;
  /** Default 50. */
  readonly num_inference_steps?: number;
}

export interface LDMPipeline extends PipelineCall<LDMOptions> {
  vqvae: VQModel;
  unet: UNet2DModel;
  scheduler: Scheduler;
}

/**
 * Pictures from noise alone, which is denoised in the latents of a VQ model.
 *
 * @example
 * ```ts
 * const pipeline = await LDMPipeline.from_pretrained("CompVis/ldm-celebahq-256");
 * const { images } = await pipeline({ num_inference_steps: 200 });
 * ```
 * @see Diffusers `LDMPipeline`; Rombach et al., https://arxiv.org/abs/2112.10752
 */
export class LDMPipeline extends DiffusionPipeline {
  static override readonly name: string = "LDMPipeline";
  static override readonly component_names: readonly string[] = ["vqvae", "unet", "scheduler"];
  static override readonly component_types: Readonly<Record<string, readonly string[]>> = {
    vqvae: ["VQModel"],
    unet: ["UNet2DModel"],
  };

  constructor(parts: { readonly vqvae: VQModel; readonly unet: UNet2DModel; readonly scheduler: Scheduler }) {
    super();
    this.register_modules({ vqvae: parts.vqvae, unet: parts.unet, scheduler: parts.scheduler });
  }

  protected override async run(options: LDMOptions): Promise<ImagePipelineOutput<RawImage[] | Tensor>> {
    checkUnconditional("LDMPipeline", options, ["eta", "num_inference_steps"]);
    const { batch_size = 1, eta = 0, num_inference_steps = 50 } = options;
    checkWhole("num_inference_steps", num_inference_steps);
    checkNumber("eta", eta);
    const { vqvae, unet, scheduler } = this;
    this.checkParts(["vqvae", "unet", "scheduler"]);

    const generator = options.generator ?? randomGenerator();

    // Gaussian noise to begin with, as much as the scheduler wants
    let latents = randn_tensor(sampleShape(unet, batch_size), { generator }).mul(scheduler.init_noise_sigma);
    scheduler.set_timesteps(num_inference_steps);
    // Python's steps draw from torch's own generator, whatever was passed. Here the one that was passed goes on, so that
    // the seed gives the picture back: the same numbers as after `torch.manual_seed(seed)`.
    const step_kwargs = stepOptions(scheduler, { eta, generator });

    for (const [i, t] of this.progress_bar(scheduler.timesteps, latents)) {
      if (this.interrupt) break;
      // 1. predict the noise
      const { sample: noise_prediction } = await unet(scheduler.scale_model_input(latents, t), timestepTensor(t));
      // 2. x_t -> x_t-1
      latents = scheduler.step(noise_prediction, t, latents, step_kwargs).prev_sample;
      latents = await afterStep(this, options, [i, t], "latents", latents);
    }

    const { sample } = await vqvae.decode(latents.div(vqvae.config.scaling_factor));
    const images = new VaeImageProcessor().postprocess(sample, options.output_type);
    return outputOf(this, { ...options, generator }, num_inference_steps, images);
  }
}
