import { type RawImage, randn_tensor, type ScoreSdeVeScheduler, Tensor } from "@diffusers-web/core";
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

/** What a {@link ScoreSdeVePipeline} is called with. */
export interface ScoreSdeVeOptions extends UnconditionalOptions<ScoreSdeVePipeline> {
  /** Default 2000. */
  readonly num_inference_steps?: number;
}

export interface ScoreSdeVePipeline extends PipelineCall<ScoreSdeVeOptions> {
  unet: UNet2DModel;
  scheduler: ScoreSdeVeScheduler;
}

/**
 * Pictures from noise alone, by the variance-exploding SDE: each step corrects the sample and then predicts the next.
 *
 * @example
 * ```ts
 * const pipeline = await ScoreSdeVePipeline.from_pretrained("google/ncsnpp-celebahq-256");
 * const { images } = await pipeline();
 * ```
 * @see Diffusers `ScoreSdeVePipeline`; Song et al., https://huggingface.co/papers/2011.13456 (algorithm 2)
 */
export class ScoreSdeVePipeline extends DiffusionPipeline {
  static override readonly name: string = "ScoreSdeVePipeline";
  static override readonly component_names: readonly string[] = ["unet", "scheduler"];
  static override readonly component_types: Readonly<Record<string, readonly string[]>> = { unet: ["UNet2DModel"] };

  constructor(parts: { readonly unet: UNet2DModel; readonly scheduler: ScoreSdeVeScheduler }) {
    super();
    this.register_modules({ unet: parts.unet, scheduler: parts.scheduler });
  }

  protected override async run(options: ScoreSdeVeOptions): Promise<ImagePipelineOutput<RawImage[] | Tensor>> {
    checkUnconditional("ScoreSdeVePipeline", options, ["num_inference_steps"]);
    const { batch_size = 1, num_inference_steps = 2000 } = options;
    checkWhole("num_inference_steps", num_inference_steps);
    const { unet, scheduler } = this;
    this.checkParts(["unet", "scheduler"]);
    needsScheduler("ScoreSdeVePipeline", scheduler, "ScoreSdeVeScheduler");

    const generator = options.generator ?? randomGenerator();

    let sample = randn_tensor(sampleShape(unet, batch_size), { generator }).mul(scheduler.init_noise_sigma);
    // What is shown in the end: the sample without the last step's noise.
    let sample_mean = sample;
    scheduler.set_timesteps(num_inference_steps);
    scheduler.set_sigmas(num_inference_steps);

    for (const [i, t] of this.progress_bar(scheduler.timesteps, sample)) {
      if (this.interrupt) break;
      const sigma_t = timestepTensor(scheduler.sigmas[i]!);

      // 1. the corrector
      for (let k = 0; k < scheduler.config.correct_steps; k++) {
        const { sample: score } = await unet(sample, sigma_t);
        sample = scheduler.step_correct(score, sample, { generator }).prev_sample;
      }

      // 2. the predictor
      const { sample: score } = await unet(sample, sigma_t);
      const output = scheduler.step_pred(score, t, sample, { generator });
      sample = output.prev_sample;
      sample_mean = output.prev_sample_mean;

      sample = await afterStep(this, options, [i, t], "image", sample);
    }

    // The model works on 0..1.
    const shown = new Tensor(
      "float32",
      sample_mean.data.map((value) => Math.min(Math.max(value, 0), 1)),
      sample_mean.dims,
    );
    const images = new VaeImageProcessor({ do_normalize: false }).postprocess(shown, options.output_type);
    return outputOf(this, { ...options, generator }, num_inference_steps, images);
  }
}
