import { checkOptions, type Generator, type RawImage, randn_tensor, type Scheduler, Tensor } from "@diffusers-web/core";
import type { UNet2DModel } from "@diffusers-web/models";
import { nextTask, type RunOptions } from "../calls.ts";
import { checkGenerator, checkOutputType, checkReturnDict, checkWhole, replaced } from "../checks.ts";
import { describeImages } from "../generation_metadata.ts";
import { VaeImageProcessor } from "../image_processor.ts";
import type { ImagePipelineOutput, OutputType, PipelineCall } from "../pipeline_output.ts";
import { DiffusionPipeline } from "../pipeline_utils.ts";
import { randomGenerator } from "../random_generator.ts";
import { stepOptions } from "../timesteps.ts";
import { timestepTensor } from "../unconditional.ts";
import { sampleShape } from "./sample_shape.ts";

/** What a {@link DDPMPipeline} is called with. */
export interface DDPMOptions extends RunOptions {
  /** How many pictures. Default 1. */
  readonly batch_size?: number;
  /** One for all, or one for each picture. Default: seeded at random. */
  readonly generator?: Generator | readonly Generator[] | null;
  /** Default 1000. */
  readonly num_inference_steps?: number;
  /** Default "image". */
  readonly output_type?: Exclude<OutputType, "latent">;
  readonly return_dict?: true;
  /** Called after each step with `{ image }`, and awaited; it may return `{ image }` to go on with. */
  readonly callback_on_step_end?:
    | ((pipe: DDPMPipeline, step: number, timestep: number, tensors: { readonly image: Tensor }) => unknown)
    | null;
}

export interface DDPMPipeline extends PipelineCall<DDPMOptions> {
  unet: UNet2DModel;
  scheduler: Scheduler;
}

/**
 * Pictures from noise alone, without a prompt.
 *
 * @example
 * ```ts
 * const pipeline = await DDPMPipeline.from_pretrained("google/ddpm-cat-256");
 * const { images } = await pipeline({ num_inference_steps: 1000 });
 * ```
 * @see Diffusers `DDPMPipeline`; Ho et al., https://arxiv.org/abs/2006.11239
 */
export class DDPMPipeline extends DiffusionPipeline {
  static override readonly name: string = "DDPMPipeline";
  static override readonly component_names: readonly string[] = ["unet", "scheduler"];
  static override readonly component_types: Readonly<Record<string, readonly string[]>> = { unet: ["UNet2DModel"] };
  static override readonly model_cpu_offload_seq: string = "unet";

  constructor(parts: { readonly unet: UNet2DModel; readonly scheduler: Scheduler }) {
    super();
    this.register_modules({ unet: parts.unet, scheduler: parts.scheduler });
  }

  protected override async run(options: DDPMOptions): Promise<ImagePipelineOutput<RawImage[] | Tensor>> {
    checkOptions("DDPMPipeline", options, [
      "batch_size",
      "generator",
      "num_inference_steps",
      "output_type",
      "return_dict",
      "callback_on_step_end",
      "signal",
    ]);
    const { batch_size = 1, num_inference_steps = 1000, output_type = "image", signal } = options;
    const { callback_on_step_end: callback } = options;
    checkWhole("batch_size", batch_size);
    checkWhole("num_inference_steps", num_inference_steps);
    checkOutputType(output_type, ["image", "pil", "tensor", "pt"]);
    checkReturnDict(options.return_dict);
    checkGenerator(options.generator, batch_size);
    const { unet, scheduler } = this;
    this.checkParts(["unet", "scheduler"]);

    const generator = options.generator ?? randomGenerator();

    // Gaussian noise to begin with
    let image = randn_tensor(sampleShape(unet, batch_size), { generator });
    scheduler.set_timesteps(num_inference_steps);
    const step_kwargs = stepOptions(scheduler, { generator });

    for (const [i, t] of this.progress_bar(scheduler.timesteps, image)) {
      if (this.interrupt) break;
      // 1. predict the noise
      const { sample: model_output } = await unet(image, timestepTensor(t));
      // 2. x_t -> x_t-1
      image = scheduler.step(model_output, t, image, step_kwargs).prev_sample;

      const returned = (await callback?.(this, i, t, { image })) ?? {};
      image = replaced(returned as Record<string, Tensor>, "image", image);
      await nextTask(signal);
    }

    const images = new VaeImageProcessor().postprocess(image, output_type);
    if (!(images instanceof Tensor)) {
      const made = { num_inference_steps, scheduler: scheduler.constructor.name, generator, model: this.name_or_path };
      describeImages(
        images,
        images.map(() => made),
      );
    }
    return { images };
  }
}
