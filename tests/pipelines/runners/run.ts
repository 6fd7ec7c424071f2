import { type AnyPipeline, type RawImage, type Scheduler, schedulerRegistry, Tensor } from "@diffusers-web/pipelines";
import { optionsOf } from "../../support/calls.ts";
import type { CallRunner, FixtureCall, FixtureSet, Given, Place } from "./types.ts";

/** What a call made. */
export interface Made {
  /** Those of the last step. */
  readonly latents: Tensor;
  /** Undefined when the call gives latents. */
  readonly images: readonly RawImage[] | undefined;
}

/** The pipelines of a fixture set, ready for any of its calls. */
export class LoadedSet {
  private readonly originals: ReadonlyMap<string, Scheduler>;

  private constructor(
    private readonly runner: CallRunner,
    private readonly given: Given,
    private readonly place: Place,
    private readonly pipelines: Readonly<Record<string, AnyPipeline>>,
  ) {
    this.originals = new Map(Object.entries(pipelines).map(([name, { scheduler }]) => [name, scheduler]));
  }

  static async load(runner: CallRunner, given: Given, place: Place): Promise<LoadedSet> {
    const fixture: FixtureSet = given.fixture;
    return new LoadedSet(runner, given, place, (await runner.load(place, fixture)) as Record<string, AnyPipeline>);
  }

  async run(call: FixtureCall): Promise<Made> {
    const { runner, given, place } = this;
    const name = runner.pipelineOf?.(call) ?? call.checkpoint ?? call.pipeline!;
    const pipeline = this.pipelines[name]!;
    const original = this.originals.get(name)!;
    pipeline.scheduler = original;
    if (call.scheduler !== null) {
      const cls = schedulerRegistry[call.scheduler.class]!;
      pipeline.scheduler = cls.from_config(original.config, call.scheduler.kwargs);
    }
    await runner.prepare?.(pipeline, call, place);
    const options = (await runner.options?.(call, given)) ?? optionsOf(call, given.tensors);
    const last = runner.lastOf?.(call);
    // The latents that the picture is decoded of are those of the last step.
    let latents: Tensor | undefined;
    const { images } = await pipeline({
      ...options,
      ...(last === undefined ? {} : { callback_on_step_end_tensor_inputs: [last] }),
      callback_on_step_end: (_, __, ___, tensors) => {
        latents = tensors[last ?? "latents"] ?? tensors["image"];
      },
    });
    if (images instanceof Tensor) return { latents: latents ?? images, images: undefined };
    return { latents: latents!, images };
  }

  async dispose(): Promise<void> {
    for (const pipeline of Object.values(this.pipelines)) await pipeline.dispose();
  }
}
