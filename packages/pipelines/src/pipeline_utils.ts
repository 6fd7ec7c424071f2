import {
  type ConfigDict,
  ConfigMixin,
  type Directory,
  makeCallable,
  type SourceLike,
  type Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/core";
import type { DeviceRequest, DtypeRequest } from "@diffusers-web/models";
import { callOptions, type FirstArgument, untilAborted } from "./calls.ts";
import { componentRegistry } from "./component_registry.ts";
import { type FromPipeOptions, pipelineFromPipe } from "./from_pipe.ts";
import { offloadAll, offloadSequence, withOffload } from "./offload.ts";
import type { Component, PipelineLoadOptions } from "./pipeline_components.ts";
import { loadPipeline } from "./pipeline_loading.ts";
import { disposeModels, isModel, MODEL_INDEX, type Model, pipelineClassName } from "./pipeline_loading_utils.ts";
import { RunTimings, RunWatch } from "./run_progress.ts";
import type { SavePipelineOptions } from "./saving.ts";
import { loadWhere } from "./worker/load.ts";
import { remotes } from "./worker/remotes.ts";

/** The static side of a pipeline's class. */
export interface PipelineClass<T extends DiffusionPipeline = DiffusionPipeline> {
  new (parts: never): T;
  readonly name: string;
  /** The components, in the order of Python's signature. */
  readonly component_names: readonly string[];
  /** Those of them that a checkpoint need not have. */
  readonly optional_components: readonly string[];
  /** The classes that a component may be of, where `from_pipe` should not take over another. */
  readonly component_types: Readonly<Record<string, readonly string[]>>;
  /** Further arguments of the constructor. */
  readonly init_options: readonly string[];
  /** The models that work one after the other, as `text_encoder->unet->vae`; null where they do not. */
  readonly model_cpu_offload_seq: string | null;
}

/** Pipeline classes by name, loaded when they are asked for. */
export type PipelineRegistry = Readonly<Record<string, () => Promise<PipelineClass>>>;

/**
 * Base class of all pipelines: loading and keeping components, moving and freeing them.
 *
 * A pipeline is a function: `pipeline(prompt, options)` or `pipeline(options)`. Calls run one after the other.
 *
 * @example
 * ```ts
 * const pipeline = await DiffusionPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5");
 * const { images } = await pipeline("An image of a squirrel in Picasso style", { num_inference_steps: 25 });
 * await images[0].save("squirrel.png");
 * ```
 * @see Diffusers `DiffusionPipeline`
 */
export abstract class DiffusionPipeline extends ConfigMixin<Record<string, unknown>> {
  static override readonly name: string = "DiffusionPipeline";
  static override readonly config_name: string = MODEL_INDEX;
  /** The classes that a model_index.json may name, put in by registry.ts. */
  static registry: PipelineRegistry = {};
  static readonly component_names: readonly string[] = [];
  static readonly optional_components: readonly string[] = [];
  static readonly component_types: Readonly<Record<string, readonly string[]>> = {};
  static readonly init_options: readonly string[] = [];
  static readonly model_cpu_offload_seq: string | null = null;
  /** The option that a call may be given first, without its name. */
  static readonly first_argument: FirstArgument = "prompt";

  /** Set to true in a callback to leave out the steps that remain. Reset by each call. */
  _interrupt = false;
  /** What tells of the call at hand while it runs. */
  private watch: RunWatch | undefined;
  private readonly timings: RunTimings = new RunTimings();
  /** The options of the call at hand. */
  protected call_options: object = {};
  /** The order in which models take each other off the device; undefined while all of them stay. */
  private offloading: readonly string[] | undefined;
  /** When the calls so far have ended: of this pipeline, and of those that share its components by `from_pipe`. */
  private calls: { last: Promise<void> } = { last: Promise.resolve() };

  constructor() {
    super();
    // biome-ignore lint/correctness/noConstructorReturn: a pipeline is a function.
    return makeCallable(this, (self, args) => self.enqueue(args));
  }

  /** One call, with all its options; calls do not overlap. */
  protected abstract run(options: object): Promise<unknown>;

  private async enqueue(args: unknown[]): Promise<unknown> {
    const { first_argument } = this.constructor as typeof DiffusionPipeline;
    const { progress_callback, ...options } = callOptions(args, first_argument);
    const before = this.calls.last;
    let finish = (): void => {};
    this.calls.last = new Promise((resolve) => {
      finish = resolve;
    });
    let watch: RunWatch | undefined;
    try {
      await untilAborted(before, options.signal);
      this._interrupt = false;
      this.call_options = options;
      watch = new RunWatch(progress_callback, this.timings);
      this.watch = watch;
      const run = (): Promise<unknown> => this.run(options);
      const result = await (this.offloading === undefined ? run() : withOffload(this.components, this.offloading, run));
      watch.done();
      return result;
    } finally {
      // One that is cancelled while it waits leaves the call at hand alone.
      if (this.watch === watch) this.watch = undefined;
      before.then(finish);
    }
  }

  /**
   * The steps of a call, each with its number: what a `progress_callback` is told goes by them.
   *
   * @param latents what the steps work on: other dims take another time
   * @see Diffusers `DiffusionPipeline.progress_bar`
   */
  protected *progress_bar(timesteps: Iterable<number>, latents: Tensor): IterableIterator<[number, number]> {
    const steps = Array.from(timesteps);
    this.watch?.denoise(steps.length, `${this.device} ${this.dtype} ${latents.dims.join("x")}`);
    let isDone = false;
    try {
      for (const entry of steps.entries()) {
        yield entry;
        this.watch?.stepped();
      }
      isDone = true;
    } finally {
      // A loop that is left by an error has nothing more to tell.
      if (isDone || this.interrupt) this.watch?.decode();
    }
  }

  /**
   * Keeps components, and notes their classes in the config. Assigning to one later does the same.
   *
   * @see Diffusers `DiffusionPipeline.register_modules`
   */
  protected register_modules(modules: Readonly<Record<string, Component | null>>): void {
    for (const [name, module] of Object.entries(modules)) {
      this.register_to_config({ [name]: classPair(module) });
      let current = module;
      Object.defineProperty(this, name, {
        enumerable: true,
        configurable: true,
        get: () => current,
        set: (value: Component | null) => {
          const [library] = this.config[name] as [string | null, string | null];
          this.register_to_config({ [name]: library === null ? [null, null] : classPair(value) });
          current = value;
        },
      });
    }
  }

  /** @throws ValueError when a component that a call needs was left out. */
  protected checkParts(names: readonly string[]): void {
    const { components } = this;
    const missing = names.find((name) => components[name] === null);
    if (missing === undefined) return;
    throw new ValueError(`The pipeline was loaded without its ${missing}, which this call needs: assign one.`, {
      field: missing,
      found: "null",
      expected: `a ${missing}`,
    });
  }

  /** The components by name, to build another pipeline of. @see Diffusers `DiffusionPipeline.components` */
  get components(): Record<string, Component | null> {
    const { component_names } = this.constructor as unknown as PipelineClass;
    return Object.fromEntries(
      component_names.map((name) => [name, (this as Record<string, unknown>)[name] as Component]),
    );
  }

  private get models(): Model[] {
    return (Object.values(this.components) as unknown[]).filter(isModel);
  }

  /** Where the models run: "webgpu" or "wasm". */
  get device(): string {
    return this.models[0]?.device ?? "wasm";
  }

  /** What the models compute in: "float32" or "float16". */
  get dtype(): string {
    return this.models[0]?.dtype ?? "float32";
  }

  /** Where the pipeline was loaded from. */
  get name_or_path(): string | undefined {
    return this.config["_name_or_path"] as string | undefined;
  }

  /** Whether the steps that remain are left out. */
  get interrupt(): boolean {
    return this._interrupt;
  }

  /**
   * Moves all models to a device, or to a number type.
   *
   * @throws DeviceError when the device is not there or lacks something.
   */
  async to(target: DeviceRequest | DtypeRequest): Promise<this> {
    for (const model of this.models) await model.to(target);
    return this;
  }

  /**
   * Keeps each model on the device only while it works, from now on: the peak is the largest model's in place of all
   * models' together. Each call uploads the weights again, from where they lie, and prepares the models anew.
   *
   * @throws ValueError for a pipeline whose class does not say in which order its models work.
   * @see Diffusers `DiffusionPipeline.enable_model_cpu_offload`
   */
  async enable_model_cpu_offload(): Promise<void> {
    const { name, model_cpu_offload_seq } = this.constructor as unknown as PipelineClass;
    this.offloading = offloadSequence(name, model_cpu_offload_seq);
    await this.maybe_free_model_hooks();
  }

  /**
   * Refused: the engine holds a model as a whole, so its layers cannot come to the device one by one.
   *
   * @throws UnsupportedModelError
   */
  enable_sequential_cpu_offload(): never {
    throw new UnsupportedModelError(
      "Sequential offloading moves single layers, but the engine holds a model as a whole. " +
        "Use enable_model_cpu_offload(), which moves whole models.",
      { field: "enable_sequential_cpu_offload", expected: "enable_model_cpu_offload" },
    );
  }

  /**
   * Ends what {@link enable_model_cpu_offload} began: models stay on the device once they have run.
   *
   * @see Diffusers `DiffusionPipeline.remove_all_hooks`
   */
  remove_all_hooks(): void {
    this.offloading = undefined;
  }

  /**
   * With {@link enable_model_cpu_offload}, takes all models off the device: after a part was called by itself, e.g.
   * `encode_prompt`. Each call of the pipeline does so at its end.
   *
   * @see Diffusers `DiffusionPipeline.maybe_free_model_hooks`
   */
  async maybe_free_model_hooks(): Promise<void> {
    if (this.offloading !== undefined) await offloadAll(this.components);
  }

  /**
   * Writes the pipeline into a folder, for Python or for `from_pretrained`. Weights are written in the types that they were
   * loaded from, tokenizer files as they were.
   *
   * @param directory a path in Node (made when absent), a directory handle in a page, or a `ZipDirectory`
   * @throws UnsupportedModelError for a component that cannot be saved (an ONNX export), before anything is written;
   * DeviceError after `dispose`, ValueError for a path that is a file, TypeError for an unknown option.
   * @see Diffusers `DiffusionPipeline.save_pretrained`
   */
  async save_pretrained(directory: Directory, options: SavePipelineOptions = {}): Promise<void> {
    const { savePipeline } = await import("./saving.ts");
    await savePipeline(this, directory, options);
  }

  /** Frees the models' memory. Idempotent; the pipeline cannot be called afterwards. */
  async dispose(): Promise<void> {
    await disposeModels(this.models);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  /**
   * Loads a pipeline in the Diffusers layout. On this base class, model_index.json decides which one it is.
   *
   * Nothing is fetched but what the pipeline needs, and nothing twice.
   *
   * @param from a hub id, a base URL, a folder in Node, or a source of the caller's own
   * @throws ModelNotFoundError for a missing file, UnsupportedModelError for a class or config that is not built,
   * WeightsMismatchError and IntegrityError for weights that do not fit or are damaged, ValueError when a component
   * is missing, TypeError for an unknown option.
   * @see Diffusers `DiffusionPipeline.from_pretrained`
   */
  static from_pretrained<T extends DiffusionPipeline>(
    this: PipelineClass<T>,
    from: SourceLike,
    options?: PipelineLoadOptions,
  ): Promise<T>;
  static from_pretrained(
    this: typeof DiffusionPipeline,
    from: SourceLike,
    options?: PipelineLoadOptions,
  ): Promise<import("./any_pipeline.ts").AnyPipeline>;
  static async from_pretrained(
    this: PipelineClass | typeof DiffusionPipeline,
    from: SourceLike,
    options: PipelineLoadOptions = {},
  ): Promise<DiffusionPipeline> {
    const load = (here: PipelineLoadOptions): Promise<DiffusionPipeline> =>
      loadPipeline((index) => chosenClass(this, index), from, here);
    const lookUp = async (name: string): Promise<PipelineClass> =>
      name === this.name ? (this as PipelineClass) : DiffusionPipeline.registry[name]!();
    return loadWhere([this.name, "from_pretrained"], from, options, lookUp, load);
  }

  /**
   * Makes a pipeline of this class out of another one's components: nothing is loaded a second time, and what changes in
   * a model (its device, an adapter) changes for both. Calls of the two run one after the other; `dispose` of one frees
   * the models of both.
   *
   * What this class takes besides is passed as an option, as is what should differ. Unlike Python, models stay in their
   * number type when no `dtype` is passed.
   *
   * @example
   * ```ts
   * const img2img = await StableDiffusionImg2ImgPipeline.from_pipe(pipeline);
   * const { images } = await img2img("a dog", { image: "cat.png" });
   * ```
   * @throws ValueError when a component is missing or of another kind, and on this base class; TypeError for an unknown
   * option and for what is no pipeline.
   * @see Diffusers `DiffusionPipeline.from_pipe`
   */
  static async from_pipe<T extends DiffusionPipeline>(
    this: PipelineClass<T>,
    pipeline: DiffusionPipeline,
    options: FromPipeOptions = {},
  ): Promise<T> {
    if (!(pipeline instanceof DiffusionPipeline))
      throw new TypeError("from_pipe makes a pipeline of another pipeline.");
    const owner = remotes.get(pipeline);
    if (owner !== undefined) return (await owner.fromPipe(this, pipeline, options)) as T;
    const made = pipelineFromPipe(this, pipeline, options);
    made.calls = pipeline.calls;
    if (options.dtype !== undefined) await made.to(options.dtype);
    return made;
  }
}

/** The class that `from_pretrained` was called on, or on the base class the one that model_index.json names. */
async function chosenClass(
  called: PipelineClass | typeof DiffusionPipeline,
  index: ConfigDict,
): Promise<PipelineClass> {
  const { registry } = DiffusionPipeline;
  const isBase = called === DiffusionPipeline;
  const className = pipelineClassName(index, isBase ? Object.keys(registry) : null);
  return isBase ? registry[className]!() : (called as PipelineClass);
}

/** Schedulers that Python keeps in a package of this name, which it takes for that of a pipeline. */
const movedSchedulers: readonly string[] = ["KarrasVeScheduler", "ScoreSdeVpScheduler"];

/** `[library, class]` as model_index.json names a component. */
function classPair(component: Component | null): [string, string] | [null, null] {
  if (component === null) return [null, null];
  const { name } = component.constructor;
  const library = componentRegistry[name]?.library ?? (movedSchedulers.includes(name) ? "deprecated" : "diffusers");
  return [library, name];
}
