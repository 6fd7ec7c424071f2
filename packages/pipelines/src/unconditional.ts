import { checkOptions, type Generator, type RawImage, Tensor, ValueError } from "@diffusers-web/core";
import { nextTask, type RunOptions } from "./calls.ts";
import { checkGenerator, checkOutputType, checkReturnDict, checkWhole, replaced } from "./checks.ts";
import { describeImages } from "./generation_metadata.ts";
import type { ImagePipelineOutput, OutputType } from "./pipeline_output.ts";
import type { DiffusionPipeline } from "./pipeline_utils.ts";

/** What the pipelines that take no prompt are called with. `Tensors` is what their callback is shown. */
export interface UnconditionalOptions<Pipeline, Tensors = { readonly image: Tensor }> extends RunOptions {
  /** How many pictures. Default 1. */
  readonly batch_size?: number;
  /** One for all, or one for each picture. Default: seeded at random. */
  readonly generator?: Generator | readonly Generator[] | null;
  /** Default "image". */
  readonly output_type?: Exclude<OutputType, "latent">;
  readonly return_dict?: true;
  /** Called after each step with what has become of the noise, and awaited; it may return that to go on with. */
  readonly callback_on_step_end?:
    | ((pipe: Pipeline, step: number, timestep: number, tensors: Tensors) => unknown)
    | null;
}

const shared = ["batch_size", "generator", "output_type", "return_dict", "callback_on_step_end", "signal"];

/** @param own the options that only this pipeline has @throws TypeError or ValueError for what is wrong with a call. */
export function checkUnconditional<P, T>(
  name: string,
  options: UnconditionalOptions<P, T>,
  own: readonly string[],
): void {
  checkOptions(name, options, [...shared, ...own]);
  const { batch_size = 1, output_type = "image", return_dict, generator } = options;
  checkWhole("batch_size", batch_size);
  checkOutputType(output_type, ["image", "pil", "tensor", "pt"]);
  checkReturnDict(return_dict);
  checkGenerator(generator, batch_size);
}

/** A timestep as the scheduler has it, for the whole batch: a model would take a number for a whole one. */
export function timestepTensor(timestep: number): Tensor {
  return new Tensor("float32", Float32Array.of(timestep), [1]);
}

/** Ends a step: the callback is told of it and may replace the tensor, and a signal may cancel. */
export async function afterStep<P extends DiffusionPipeline, Name extends string>(
  pipeline: P,
  options: UnconditionalOptions<P, { readonly [name in Name]: Tensor }>,
  [step, timestep]: readonly [number, number],
  name: Name,
  tensor: Tensor,
): Promise<Tensor> {
  const shown = { [name]: tensor } as { readonly [name in Name]: Tensor };
  const returned = (await options.callback_on_step_end?.(pipeline, step, timestep, shown)) ?? {};
  await nextTask(options.signal);
  return replaced(returned as Record<string, Tensor>, name, tensor);
}

/** What such a pipeline returns: pictures say what they were made with. */
export function outputOf<P, T>(
  pipeline: DiffusionPipeline & { readonly scheduler: object },
  options: UnconditionalOptions<P, T>,
  num_inference_steps: number,
  images: RawImage[] | Tensor,
  described: Readonly<Record<string, string | number>> = {},
): ImagePipelineOutput<RawImage[] | Tensor> {
  if (!(images instanceof Tensor)) {
    const { generator } = options;
    const scheduler = pipeline.scheduler.constructor.name;
    const made = { num_inference_steps, scheduler, generator, model: pipeline.name_or_path, described };
    describeImages(
      images,
      images.map(() => made),
    );
  }
  return { images };
}

/** @throws ValueError for a scheduler whose steps are not of the form that the pipeline needs. */
export function needsScheduler(pipeline: string, scheduler: object, expected: string): void {
  const found = scheduler.constructor.name;
  if (found === expected) return;
  throw new ValueError(`${pipeline} works with a ${expected} alone, but its scheduler is a ${found}.`, {
    className: pipeline,
    field: "scheduler",
    found,
    expected,
  });
}
