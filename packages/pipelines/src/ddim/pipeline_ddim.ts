import {
  checkOptions,
  DDIMScheduler,
  type Generator,
  type RawImage,
  randn_tensor,
  type Scheduler,
  Tensor,
} from "@diffusers-web/core";
import type { UNet2DModel } from "@diffusers-web/models";
import { nextTask, type RunOptions } from "../calls.ts";
import { checkGenerator, checkNumber, checkOutputType, checkReturnDict, checkWhole, replaced } from "../checks.ts";
import { sampleShape } from "../ddpm/sample_shape.ts";
import { describeImages } from "../generation_metadata.ts";
import { VaeImageProcessor } from "../image_processor.ts";
import type { ImagePipelineOutput, OutputType, PipelineCall } from "../pipeline_output.ts";
import { DiffusionPipeline } from "../pipeline_utils.ts";
import { randomGenerator } from "../random_generator.ts";
import { stepOptions } from "../timesteps.ts";
import { timestepTensor } from "../unconditional.ts";

/** What a {@link DDIMPipeline} is called with. */
export interface DDIMOptions extends RunOptions {
  /** How many pictures. Default 1. */
  readonly batch_size?: number;
  /** One for all, or one for each picture. Default: seeded at random. */
  readonly generator?: Generator | readonly Generator[] | null;
  /** 0 (default) is DDIM, 1 is DDPM. */
  readonly eta?: number;
  /** Default 50. */
  readonly num_inference_steps?: number;
  /** Derive the noise again from the clipped sample. Default: what the scheduler does by itself. */
  readonly use_clipped_model_output?: boolean | null;
  /** Default "image". */
  readonly output_type?: Exclude<OutputType, "latent">;
  readonly return_dict?: true;
  /** Called after each step with `{ image }`, and awaited; it may return `{ image }` to go on with. */
  readonly callback_on_step_end?:
    | ((pipe: DDIMPipeline, step: number, timestep: number, tensors: { readonly image: Tensor }) => unknown)
    | null;
}

export interface DDIMPipeline extends PipelineCall<DDIMOptions> {
  unet: UNet2DModel;
  scheduler: Scheduler;
}

/**
 * Pictures from noise alone, in fewer steps than DDPM. The scheduler is made a DDIMScheduler, whatever it was.
 *
 * @see Diffusers `DDIMPipeline`; Song et al., https://arxiv.org/abs/2010.02502
 */
export class DDIMPipeline extends DiffusionPipeline {
  static override readonly name: string = "DDIMPipeline";
  static override readonly component_names: readonly string[] = ["unet", "scheduler"];
  static override readonly component_types: Readonly<Record<string, readonly string[]>> = { unet: ["UNet2DModel"] };
  static override readonly model_cpu_offload_seq: string = "unet";

  constructor(parts: { readonly unet: UNet2DModel; readonly scheduler: Scheduler }) {
    super();
    this.register_modules({ unet: parts.unet, scheduler: DDIMScheduler.from_config(parts.scheduler.config) });
  }

  protected override async run(options: DDIMOptions): Promise<ImagePipelineOutput<RawImage[] | Tensor>> {
    checkOptions("DDIMPipeline", options, [
      "batch_size",
      "generator",
      "eta",
      "num_inference_steps",
      "use_clipped_model_output",
      "output_type",
      "return_dict",
      "callback_on_step_end",
      "signal",
    ]);
    const { batch_size = 1, eta = 0, num_inference_steps = 50, output_type = "image", signal } = options;
    const { callback_on_step_end: callback } = options;
    checkWhole("batch_size", batch_size);
    checkWhole("num_inference_steps", num_inference_steps);
    checkNumber("eta", eta);
    checkOutputType(output_type, ["image", "pil", "tensor", "pt"]);
    checkReturnDict(options.return_dict);
    checkGenerator(options.generator, batch_size);
    if (eta < 0 || eta > 1) {
      console.warn(`\`eta\` is ${eta}, outside of 0 (DDIM) to 1 (DDPM): the pictures may not be what you expect.`);
    }
    const { unet, scheduler } = this;
    this.checkParts(["unet", "scheduler"]);

    const generator = options.generator ?? randomGenerator();

    // Gaussian noise to begin with
    let image = randn_tensor(sampleShape(unet, batch_size), { generator });
    scheduler.set_timesteps(num_inference_steps);
    const step_kwargs = stepOptions(scheduler, {
      eta,
      use_clipped_model_output: options.use_clipped_model_output ?? undefined,
      generator,
    });

    for (const [i, t] of this.progress_bar(scheduler.timesteps, image)) {
      if (this.interrupt) break;
      // 1. predict the noise
      const { sample: model_output } = await unet(image, timestepTensor(t));
      // 2. x_t -> x_t-1: eta of the paper is how much of the variance is drawn
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
