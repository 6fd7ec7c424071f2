import {
  type DataType,
  Generator,
  type RawImage,
  randn_tensor,
  type Scheduler,
  Tensor,
  ValueError,
} from "@diffusers-web/core";
import type { UNet2DModel } from "@diffusers-web/models";
import { checkTensor, checkWhole } from "../checks.ts";
import { sampleShape } from "../ddpm/sample_shape.ts";
import { VaeImageProcessor } from "../image_processor.ts";
import type { ImagePipelineOutput, PipelineCall } from "../pipeline_output.ts";
import { DiffusionPipeline } from "../pipeline_utils.ts";
import { randomGenerator } from "../random_generator.ts";
import { retrieve_timesteps, stepOptions } from "../timesteps.ts";
import {
  afterStep,
  checkUnconditional,
  outputOf,
  timestepTensor,
  type UnconditionalOptions,
} from "../unconditional.ts";

/** What a {@link ConsistencyModelPipeline} is called with. */
export interface ConsistencyModelOptions
  extends UnconditionalOptions<ConsistencyModelPipeline, { readonly latents: Tensor }> {
  /**
   * For a model with classes: the class of the one picture, or one for each of them. Default: drawn with the generator.
   * A model without classes does not use them.
   */
  readonly class_labels?: number | readonly number[] | Tensor<DataType> | null;
  /** Null with `timesteps`. Default 1. */
  readonly num_inference_steps?: number | null;
  /** Places among the noise levels of the training, descending, in place of a number of steps. */
  readonly timesteps?: ArrayLike<number> | null;
  /** The noise to begin with, `[batch_size, channels, height, width]`, of variance 1. Default: drawn. */
  readonly latents?: Tensor | null;
  /** Called after every `callback_steps`-th step. `callback_on_step_end` can do more. */
  readonly callback?: ((step: number, timestep: number, latents: Tensor) => unknown) | null;
  /** Default 1. */
  readonly callback_steps?: number;
}

export interface ConsistencyModelPipeline extends PipelineCall<ConsistencyModelOptions> {
  unet: UNet2DModel;
  scheduler: Scheduler;
}

const optionNames = ["class_labels", "num_inference_steps", "timesteps", "latents", "callback", "callback_steps"];

/**
 * Pictures from noise alone, or of a class, in one step or a few.
 *
 * @example
 * ```ts
 * const pipeline = await ConsistencyModelPipeline.from_pretrained("openai/diffusers-cd_imagenet64_l2");
 * const { images } = await pipeline({ num_inference_steps: null, timesteps: [22, 0], class_labels: 145 });
 * ```
 * @see Diffusers `ConsistencyModelPipeline`; Song et al., https://huggingface.co/papers/2303.01469 (algorithm 1)
 */
export class ConsistencyModelPipeline extends DiffusionPipeline {
  static override readonly name: string = "ConsistencyModelPipeline";
  static override readonly component_names: readonly string[] = ["unet", "scheduler"];
  static override readonly component_types: Readonly<Record<string, readonly string[]>> = { unet: ["UNet2DModel"] };
  static override readonly model_cpu_offload_seq: string = "unet";

  constructor(parts: { readonly unet: UNet2DModel; readonly scheduler: Scheduler }) {
    super();
    this.register_modules({ unet: parts.unet, scheduler: parts.scheduler });
  }

  protected override async run(options: ConsistencyModelOptions): Promise<ImagePipelineOutput<RawImage[] | Tensor>> {
    checkUnconditional("ConsistencyModelPipeline", options, optionNames);
    const { batch_size = 1, timesteps: custom, latents, callback, callback_steps = 1 } = options;
    // One step is meant when nothing is said, null only beside timesteps.
    const asked = options.num_inference_steps === undefined ? 1 : options.num_inference_steps;
    checkSteps(asked, options);
    checkWhole("callback_steps", callback_steps);
    const { unet, scheduler } = this;
    this.checkParts(["unet", "scheduler"]);
    const shape = sampleShape(unet, batch_size);
    if (latents != null) checkTensor("latents", latents, shape);
    const generator = options.generator ?? randomGenerator();

    // 1. noise, as much as the largest noise level
    let sample = (latents ?? randn_tensor(shape, { generator })).mul(scheduler.init_noise_sigma);

    // 2. classes
    const class_labels = labelsOf(unet, options.class_labels, batch_size, generator);

    // 3. timesteps
    const run = retrieve_timesteps(scheduler, asked ?? 1, { timesteps: custom });
    const step_kwargs = stepOptions(scheduler, { generator });

    // 4. denoise in one go, add less noise, and again
    for (const [i, t] of this.progress_bar(run.timesteps, sample)) {
      if (this.interrupt) break;
      const scaled_sample = scheduler.scale_model_input(sample, t);
      const { sample: model_output } = await unet(scaled_sample, timestepTensor(t), { class_labels });
      sample = scheduler.step(model_output, t, sample, step_kwargs).prev_sample;

      if (i % callback_steps === 0) await callback?.(i, t, sample);
      sample = await afterStep(this, options, [i, t], "latents", sample);
    }

    const images = new VaeImageProcessor().postprocess(sample, options.output_type);
    return outputOf(this, { ...options, generator }, run.num_inference_steps, images);
  }
}

function checkSteps(num_inference_steps: number | null, { timesteps, ...options }: ConsistencyModelOptions): void {
  if (num_inference_steps !== null) checkWhole("num_inference_steps", num_inference_steps);
  if (timesteps == null) {
    if (num_inference_steps !== null) return;
    throw new ValueError("Neither `num_inference_steps` nor `timesteps` was given: pass one of them.", {
      field: "num_inference_steps",
      found: "null",
      expected: "a whole number of at least 1",
    });
  }
  if (options.num_inference_steps != null) {
    console.warn("`num_inference_steps` and `timesteps` were both given: `timesteps` is used.");
  }
}

/** The classes as the model takes them; undefined for a model without. */
function labelsOf(
  unet: UNet2DModel,
  given: ConsistencyModelOptions["class_labels"],
  batch: number,
  generator: Generator | readonly Generator[],
): Tensor<DataType> | undefined {
  const { num_class_embeds } = unet.config;
  if (num_class_embeds == null) return undefined;
  if (given == null) {
    // Python draws them from torch's own generator: the same numbers after `torch.manual_seed(seed)`.
    if (generator instanceof Generator) return generator.randint(0, num_class_embeds, [batch]);
    return Tensor.cat(
      generator.map((one) => one.randint(0, num_class_embeds, [1])),
      0,
    );
  }
  const labels = given instanceof Tensor ? Array.from(given.data, Number) : typeof given === "number" ? [given] : given;
  const fits = (label: number): boolean => Number.isInteger(label) && label >= 0 && label < num_class_embeds;
  if (labels.length === batch && labels.every(fits)) {
    return new Tensor("int64", BigInt64Array.from(labels, BigInt), [batch]);
  }
  throw new ValueError(
    `\`class_labels\` is ${JSON.stringify(labels)}, expected ${batch} whole numbers from 0 to ${num_class_embeds - 1}.`,
    {
      field: "class_labels",
      found: JSON.stringify(labels),
      expected: `${batch} of 0 to ${num_class_embeds - 1}`,
    },
  );
}
