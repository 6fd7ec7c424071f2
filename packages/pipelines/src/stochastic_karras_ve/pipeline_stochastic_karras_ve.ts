import { type KarrasVeScheduler, type RawImage, randn_tensor, type Tensor, ValueError } from "@diffusers-web/core";
import type { UNet2DModel } from "@diffusers-web/models";
import { checkWhole } from "../checks.ts";
import { sampleShape } from "../ddpm/sample_shape.ts";
import { VaeImageProcessor } from "../image_processor.ts";
import type { ImagePipelineOutput, PipelineCall } from "../pipeline_output.ts";
import { DiffusionPipeline } from "../pipeline_utils.ts";
import { randomGenerator } from "../random_generator.ts";
import {
  afterStep,
  checkUnconditional,
  needsScheduler,
  outputOf,
  timestepTensor,
  type UnconditionalOptions,
} from "../unconditional.ts";

/** What a {@link KarrasVePipeline} is called with. */
export interface KarrasVeOptions extends UnconditionalOptions<KarrasVePipeline> {
  /** At least 2: of one step, the noise level is undefined. Default 50. */
  readonly num_inference_steps?: number;
}

export interface KarrasVePipeline extends PipelineCall<KarrasVeOptions> {
  unet: UNet2DModel;
  scheduler: KarrasVeScheduler;
}

/**
 * Pictures from noise alone, by Heun's method with added noise.
 *
 * @see Diffusers `KarrasVePipeline`; Karras et al., https://huggingface.co/papers/2206.00364 (algorithm 2)
 */
export class KarrasVePipeline extends DiffusionPipeline {
  static override readonly name: string = "KarrasVePipeline";
  static override readonly component_names: readonly string[] = ["unet", "scheduler"];
  static override readonly component_types: Readonly<Record<string, readonly string[]>> = { unet: ["UNet2DModel"] };

  constructor(parts: { readonly unet: UNet2DModel; readonly scheduler: KarrasVeScheduler }) {
    super();
    this.register_modules({ unet: parts.unet, scheduler: parts.scheduler });
  }

  protected override async run(options: KarrasVeOptions): Promise<ImagePipelineOutput<RawImage[] | Tensor>> {
    checkUnconditional("KarrasVePipeline", options, ["num_inference_steps"]);
    const { batch_size = 1, num_inference_steps = 50 } = options;
    checkWhole("num_inference_steps", num_inference_steps, 2);
    const { unet, scheduler } = this;
    this.checkParts(["unet", "scheduler"]);
    needsScheduler("KarrasVePipeline", scheduler, "KarrasVeScheduler");

    const generator = options.generator ?? randomGenerator();

    let sample = randn_tensor(sampleShape(unet, batch_size), { generator }).mul(scheduler.init_noise_sigma);
    scheduler.set_timesteps(num_inference_steps);
    const schedule = scheduler.schedule;
    if (schedule === null) throw new ValueError("The scheduler has no schedule.", { field: "scheduler" });

    // The model's input and output at a noise level, after formula (213)
    const denoise = async (x: Tensor, sigma: number): Promise<Tensor> => {
      const half = Math.fround(sigma / 2);
      const { sample: output } = await unet(x.add(1).div(2), timestepTensor(half));
      return output.mul(half);
    };

    for (const [i, t] of this.progress_bar(scheduler.timesteps, sample)) {
      if (this.interrupt) break;
      const sigma = schedule[t]!;
      const sigma_prev = t > 0 ? schedule[t - 1]! : 0;

      // 1. raise the noise level to sigma_hat
      const { sample_hat, sigma_hat } = scheduler.add_noise_to_input(sample, sigma, {
        generator,
      });

      // 2. Euler's step from sigma_hat to sigma_prev
      let output = scheduler.step(await denoise(sample_hat, sigma_hat), sigma_hat, sigma_prev, sample_hat);

      // 3. Heun's correction
      if (sigma_prev !== 0) {
        const { prev_sample, derivative } = output;
        const corrected = await denoise(prev_sample, sigma_prev);
        output = scheduler.step_correct(corrected, sigma_hat, sigma_prev, sample_hat, prev_sample, derivative);
      }
      sample = await afterStep(this, options, [i, t], "image", output.prev_sample);
    }

    const images = new VaeImageProcessor().postprocess(sample, options.output_type);
    return outputOf(this, { ...options, generator }, num_inference_steps, images);
  }
}
