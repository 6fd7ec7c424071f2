import { type AnyPipeline, type Scheduler, schedulerRegistry, Tensor } from "@diffusers-web/pipelines";
import { optionsOf } from "../../support/calls.ts";
import type { CallRunner, FixtureCall, Given } from "./types.ts";

/** Pictures as one list of values. */
export interface Pictures {
  /** Pictures, height, width, channels. */
  readonly dims: readonly number[];
  readonly data: number[];
}

/** What a call made. */
export interface Made {
  /** Those of the last step. */
  readonly latents: Tensor;
  /** Undefined when the call gives latents. */
  readonly images: Pictures | undefined;
}

/** The pipelines of a fixture set, ready for any of its calls. */
export class LoadedSet {
  /** By name, once the set is open. */
  readonly pipelines: Readonly<Record<string, AnyPipeline>> = {};
  /** The pipelines' own schedulers. */
  readonly originals: Readonly<Record<string, Scheduler>> = {};

  constructor(
    private readonly runner: CallRunner,
    private readonly given: Given,
  ) {}

  async open(): Promise<void> {
    const { place, fixture } = this.given;
    Object.assign(this.pipelines, await this.runner.load(place, fixture));
    const schedulers = Object.entries(this.pipelines).map(([name, { scheduler }]) => [name, scheduler]);
    Object.assign(this.originals, Object.fromEntries(schedulers));
  }

  /** The pipeline of a call. */
  pipelineOf(call: FixtureCall): AnyPipeline {
    return this.pipelines[this.nameOf(call)]!;
  }

  async run(call: FixtureCall): Promise<Made> {
    const { runner, given } = this;
    if ((await runner.renew?.(this.pipelines)) === false) {
      await this.dispose();
      await this.open();
    }
    const pipeline = this.pipelineOf(call);
    const original = this.originals[this.nameOf(call)]!;
    pipeline.scheduler = original;
    if (call.scheduler !== null) {
      const cls = schedulerRegistry[call.scheduler.class]!;
      pipeline.scheduler = cls.from_config(original.config, call.scheduler.kwargs);
    }
    await runner.prepare?.(pipeline, call, given);
    const optionsOfCall = async () => (await runner.options?.(call, given)) ?? optionsOf(call, given.tensors);
    const last = runner.lastOf?.(call);
    // The latents that a picture is decoded of are those of the last step.
    let latents: Tensor | undefined;
    const options = await optionsOfCall();
    const { images } = await pipeline({
      ...options,
      ...(last === undefined ? {} : { callback_on_step_end_tensor_inputs: [last] }),
      callback_on_step_end: (_, __, ___, tensors) => {
        latents = tensors[last ?? "latents"] ?? tensors["image"];
      },
    });
    if (images instanceof Tensor) {
      return { latents: options["output_type"] === "latent" ? images : latents!, images: undefined };
    }
    // A call of no steps shows none.
    latents ??= (await pipeline({ ...(await optionsOfCall()), output_type: "latent" })).images;
    const { height, width, channels } = images[0]!;
    const dims = [images.length, height, width, channels];
    return { latents, images: { dims, data: images.flatMap(({ data }) => [...data]) } };
  }

  async dispose(): Promise<void> {
    for (const pipeline of Object.values(this.pipelines)) await pipeline.dispose();
  }

  private nameOf(call: FixtureCall): string {
    return this.runner.pipelineOf?.(call) ?? call.checkpoint ?? call.pipeline!;
  }
}
