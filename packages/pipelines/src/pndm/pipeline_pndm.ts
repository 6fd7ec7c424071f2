import { PNDMScheduler, type RawImage, randn_tensor, type Scheduler, type Tensor } from "@diffusers-web/core";
import type { UNet2DModel } from "@diffusers-web/models";
import { checkWhole } from "../checks.ts";
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

/** What a {@link PNDMPipeline} is called with. */
export interface PNDMOptions extends UnconditionalOptions<PNDMPipeline> {
  /** At least 4 as long as the scheduler skips no Runge-Kutta steps. Default 50. */
  readonly num_inference_steps?: number;
}

export interface PNDMPipeline extends PipelineCall<PNDMOptions> {
  unet: UNet2DModel;
  scheduler: Scheduler;
}

/**
 * Pictures from noise alone, by a pseudo numerical method. The scheduler is made a PNDMScheduler, whatever it was.
 *
 * @see Diffusers `PNDMPipeline`; Liu et al., https://huggingface.co/papers/2202.09778 (algorithm 2)
 */
export class PNDMPipeline extends DiffusionPipeline {
  static override readonly name: string = "PNDMPipeline";
  static override readonly component_names: readonly string[] = ["unet", "scheduler"];
  static override readonly component_types: Readonly<Record<string, readonly string[]>> = { unet: ["UNet2DModel"] };

  constructor(parts: { readonly unet: UNet2DModel; readonly scheduler: Scheduler }) {
    super();
    this.register_modules({ unet: parts.unet, scheduler: PNDMScheduler.from_config(parts.scheduler.config) });
  }

  protected override async run(options: PNDMOptions): Promise<ImagePipelineOutput<RawImage[] | Tensor>> {
    checkUnconditional("PNDMPipeline", options, ["num_inference_steps"]);
    const { batch_size = 1, num_inference_steps = 50 } = options;
    checkWhole("num_inference_steps", num_inference_steps);
    const { unet, scheduler } = this;
    this.checkParts(["unet", "scheduler"]);

    const generator = options.generator ?? randomGenerator();

    // Gaussian noise to begin with
    let image = randn_tensor(sampleShape(unet, batch_size), { generator });
    scheduler.set_timesteps(num_inference_steps);
    // PNDM draws nothing; a scheduler that took its place goes on with the generator.
    const step_kwargs = stepOptions(scheduler, { generator });

    for (const [i, t] of this.progress_bar(scheduler.timesteps, image)) {
      if (this.interrupt) break;
      const { sample: model_output } = await unet(image, timestepTensor(t));
      image = scheduler.step(model_output, t, image, step_kwargs).prev_sample;
      image = await afterStep(this, options, [i, t], "image", image);
    }

    const images = new VaeImageProcessor().postprocess(image, options.output_type);
    return outputOf(this, { ...options, generator }, num_inference_steps, images);
  }
}
