import {
  type ConfigClass,
  type ConfigDict,
  ConfigMixin,
  checkOptions,
  DeviceError,
  type LoadOptions,
  loadOptionNames,
  makeCallable,
  openSource,
  type ProgressReporter,
  reportProgress,
  type SourceLike,
  sourceName,
  subSource,
  type Tensor,
  WeightsMismatchError,
} from "@diffusers-web/core";
import { GraphBuilder } from "./graph/builder.ts";
import { type Device, type DeviceInfo, type DeviceRequest, type DtypeRequest, getDevice } from "./runtime/device.ts";
import { createSession, type Session } from "./runtime/session.ts";
import type { SingleFileSource } from "./single_file/address.ts";
import type { SingleFileCheckpoint } from "./single_file/checkpoint.ts";
import type { SingleFileOptions } from "./single_file/load.ts";
import type { Weights } from "./weights.ts";
import { openWeights } from "./weights_resolution.ts";

/** Options of a model's `from_pretrained`, besides its config fields, which override the file's. */
export interface ModelLoadOptions extends LoadOptions {
  /** Where to run. Default `auto`: WebGPU on a real GPU, else WASM. */
  readonly device?: DeviceRequest | undefined;
  /** Default `auto`: fp16 where the GPU has it, else fp32. */
  readonly dtype?: DtypeRequest | undefined;
}

/** The names of {@link ModelLoadOptions}. */
export const modelLoadOptionNames: readonly (keyof ModelLoadOptions)[] = [...loadOptionNames, "device", "dtype"];

/** The config of a model class. */
export type ConfigOf<T> = T extends ModelMixin<infer C> ? C : never;

/** The static side of a model class. */
export interface ModelClass<T> extends ConfigClass<T> {
  readonly name: string;
  readonly weights_name: string;
  readonly keys_to_ignore: readonly RegExp[];
  prepare_config(config: ConfigDict): ConfigDict;
}

/** A graph that is ready to be fed. */
export interface Runner {
  /** Outputs by name. Calls may overlap. */
  run(feeds: Readonly<Record<string, Tensor | Tensor<"int64">>>): Promise<Record<string, Tensor>>;
}

/** A model whose config is read and right. */
export interface PreparedModel<T> {
  /** Finds, opens and checks its weights. */
  load(variant: string | undefined): Promise<T>;
}

type EmitGraph = (g: GraphBuilder) => void;

/** What a model has once its weights are found. */
interface Loaded {
  readonly weights: Weights;
  readonly progress: ProgressReporter | undefined;
  device: Device;
  request: { readonly device: DeviceRequest; readonly dtype: DtypeRequest };
}

/**
 * A model with a config and weights, that is called like a function: `model(x)` is `model.forward(x)`.
 *
 * It owns its sessions on the device and its weight files: {@link ModelMixin.dispose} frees them.
 *
 * @see Diffusers `ModelMixin`
 */
export abstract class ModelMixin<C extends object> extends ConfigMixin<C> {
  static override readonly name: string = "ModelMixin";
  /** The weight files' name without ending; transformers' classes say `model`. */
  static readonly weights_name: string = "diffusion_pytorch_model";
  /** Tensors of old checkpoints that no longer mean anything. */
  static readonly keys_to_ignore: readonly RegExp[] = [/\.position_ids$/];

  /** Awaited before each run: a pipeline that offloads makes room on the device in it. */
  before_run: (() => Promise<void>) | undefined = undefined;
  private loaded: Loaded | undefined;
  private disposed = false;
  private readonly sessions = new Map<string, { readonly shape: string; readonly session: Session }>();
  private lastTask: Promise<unknown> = Promise.resolve();

  constructor(config: Partial<C> = {}) {
    super(config);
    // biome-ignore lint/correctness/noConstructorReturn: the instance is a function with the instance's properties.
    return makeCallable(this, (self, args) => self.forward(...(args as never[])));
  }

  /** Computes the model's output. */
  abstract forward(...args: never[]): Promise<unknown>;

  /** Emits every graph of the model once, at a small size: what does not fit the weights is found when they are loaded. */
  protected abstract check(build: (emit: EmitGraph) => void): void;

  /** What a class makes of its config file before its fields are read. */
  static prepare_config(config: ConfigDict): ConfigDict {
    return config;
  }

  /**
   * Loads a model: its config, its weights (which stay as they are in the file) and a device.
   *
   * @param source a hub id, a URL, a folder in Node, or a {@link Source}
   * @param options see {@link ModelLoadOptions}; config fields override the file's
   * @throws ModelNotFoundError when the config or the weights are not there, saying what was looked for.
   * @throws UnsupportedModelError for weights that are only there as a pickle, and for what the class does not build.
   * @throws WeightsMismatchError naming the tensors that are missing or of another shape than the config implies.
   * @throws IntegrityError for a damaged file.
   * @throws DeviceError when the device that was asked for is not there.
   * @see Diffusers `ModelMixin.from_pretrained`
   */
  static async from_pretrained<T extends ModelMixin<object>>(
    this: ModelClass<T>,
    source: SourceLike,
    options: ModelLoadOptions & Partial<ConfigOf<T>> = {},
  ): Promise<T> {
    const prepared = await (ModelMixin.prepare<T>).call(this, source, options);
    return prepared.load(options.variant);
  }

  /**
   * The first half of `from_pretrained`: reads the config and chooses the device, so that a pipeline finds what is wrong
   * with one component before it fetches the weights of any.
   *
   * @internal
   */
  static async prepare<T extends ModelMixin<object>>(
    this: ModelClass<T>,
    source: SourceLike,
    options: ModelLoadOptions & Partial<ConfigOf<T>> = {},
  ): Promise<PreparedModel<T>> {
    const fields = Object.keys(this.config_defaults);
    checkOptions(`${this.name}.from_pretrained`, options, [...modelLoadOptionNames, ...fields]);
    const { signal, device = "auto", dtype = "auto" } = options;
    const progress = reportProgress(options.progress_callback);
    const opened = await openSource(source, options);
    const folder = subSource(opened, options.subfolder);

    const prefix = options.subfolder === undefined ? "" : `${options.subfolder}/`;
    progress?.({ phase: "resolve", file: prefix + this.config_name, loaded: 0, total: 0 });
    const loadConfig = ConfigMixin.load_config as (
      this: unknown,
      from: SourceLike,
      o: LoadOptions,
    ) => Promise<ConfigDict>;
    const config = this.prepare_config(await loadConfig.call(this, folder, { signal }));
    const overrides = Object.fromEntries(Object.entries(options).filter(([key]) => fields.includes(key)));
    const fromConfig = ConfigMixin.from_config as (this: unknown, config: object, kwargs: object) => T;
    const model = fromConfig.call(this, config, overrides);
    const chosen = await getDevice(device, dtype);
    signal?.throwIfAborted();

    const load = async (variant: string | undefined): Promise<T> => {
      const request = { stem: this.weights_name, className: this.name, variant, signal, progress };
      const weights = await openWeights(folder, request);
      model.take({ weights, progress, device: chosen, request: { device, dtype } }, this.keys_to_ignore, signal);
      model.register_to_config({
        _name_or_path: sourceName(source, opened),
      });
      return model;
    };
    return { load };
  }

  /**
   * Loads a model from a checkpoint in one file, in the layout of the original Stable Diffusion code (1.x, 2.x and XL, as on
   * Civitai). The weights stay as they are in the file: names and layout are mapped as they are read.
   *
   * @param source the address of a `.safetensors` file, a `File`, `{ source, file }`, or a file that is open
   * @param options see {@link SingleFileOptions}; config fields override the config's
   * @throws UnsupportedModelError for a pickle, and for a checkpoint or a class that is not read from single files.
   * @throws WeightsMismatchError when the file has no such model, or one of another config.
   * @throws ModelNotFoundError, IntegrityError and DeviceError as `from_pretrained`.
   * @see Diffusers `FromOriginalModelMixin.from_single_file`
   */
  static async from_single_file<T extends ModelMixin<object>>(
    this: ModelClass<T>,
    source: SingleFileSource | SingleFileCheckpoint,
    options: SingleFileOptions & Partial<ConfigOf<T>> = {},
  ): Promise<T> {
    const fields = Object.keys(this.config_defaults);
    const known = modelLoadOptionNames.filter((name) => name !== "variant");
    checkOptions(`${this.name}.from_single_file`, options, [...known, "config", "original_config", ...fields]);
    const { signal, device = "auto", dtype = "auto" } = options;
    const progress = reportProgress(options.progress_callback);
    const { openPart } = await import("./single_file/load.ts");
    const part = await openPart(this.name, source, { ...options, progress_callback: progress });
    try {
      const overrides = Object.fromEntries(Object.entries(options).filter(([key]) => fields.includes(key)));
      const fromConfig = ConfigMixin.from_config as (this: unknown, config: object, kwargs: object) => T;
      const model = fromConfig.call(this, this.prepare_config(part.config), overrides);
      const chosen = await getDevice(device, dtype);
      signal?.throwIfAborted();
      const weights = part.weights(model.config);
      model.take({ weights, progress, device: chosen, request: { device, dtype } }, this.keys_to_ignore, signal);
      return model;
    } finally {
      part.close();
    }
  }

  /** Takes weights over: they are closed with the model, and at once when they do not fit. */
  private take(loaded: Loaded, ignored: readonly RegExp[], signal: AbortSignal | undefined): void {
    const { weights, progress } = loaded;
    try {
      this.loaded = loaded;
      progress?.({ phase: "build", file: weights.file, loaded: 0, total: 0 });
      this.checkWeights(ignored);
      signal?.throwIfAborted();
    } catch (error) {
      weights.close();
      throw error;
    }
  }

  /** Where the model runs: `webgpu` or `wasm`. */
  get device(): "webgpu" | "wasm" {
    return this.current.device.type;
  }

  /** What the model computes in. */
  get dtype(): "float32" | "float16" {
    return this.current.device.target.dtype;
  }

  /** What is known of the device, and why it was chosen. */
  get device_info(): DeviceInfo {
    return this.current.device.info;
  }

  /**
   * Moves the model to a device, or to another element type on it. The weights are uploaded when it is next called.
   *
   * @throws DeviceError when the device is not there or cannot compute in the element type: the model then stays.
   */
  async to(target: DeviceRequest | DtypeRequest): Promise<this> {
    const { request } = this.current;
    const isDtype = /^(fp|float)/.test(target);
    const next = isDtype
      ? { ...request, dtype: target as DtypeRequest }
      : { ...request, device: target as DeviceRequest };
    const device = await getDevice(next.device, next.dtype);
    await this.exclusive(async () => {
      const loaded = this.current;
      if (loaded.device !== device) await this.release();
      loaded.device = device;
      loaded.request = next;
    });
    return this;
  }

  /**
   * Frees the device's memory and keeps the weight files open: the next call uploads the weights again. Idempotent.
   *
   * @see torch `module.to("cpu")`, as Diffusers' model offloading uses it
   */
  async offload(): Promise<void> {
    await this.exclusive(() => this.release());
  }

  /** Frees the device's memory and the weight files; the model cannot be called afterwards. Idempotent. */
  async dispose(): Promise<void> {
    this.disposed = true;
    await this.exclusive(async () => {
      await this.release();
      this.loaded?.weights.close();
      this.loaded = undefined;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  /**
   * The graph `name`, ready for feeds of the given dims. One session per name is kept; other dims replace it.
   *
   * @param dims all that `build` depends on, as plain data
   */
  protected async session(name: string, dims: unknown, build: EmitGraph): Promise<Runner> {
    const shape = JSON.stringify(dims);
    return {
      run: async (feeds) => {
        await this.before_run?.();
        return this.exclusive(async () => (await this.prepare(name, shape, build)).run(feeds));
      },
    };
  }

  private async prepare(name: string, shape: string, build: EmitGraph): Promise<Session> {
    const loaded = this.current;
    if (loaded.device.gpu?.lost !== undefined) {
      await this.release();
      loaded.device = await getDevice(loaded.request.device, loaded.request.dtype);
    }
    const ready = this.sessions.get(name);
    if (ready?.shape === shape) return ready.session;
    this.sessions.delete(name);
    await ready?.session.dispose();
    const g = new GraphBuilder(loaded.weights, loaded.device.target);
    build(g);
    const { file } = loaded.weights;
    const session = await createSession(g.build(), loaded.device, {
      name: file,
      progress_callback: loaded.progress,
    });
    this.sessions.set(name, { shape, session });
    return session;
  }

  private checkWeights(ignored: readonly RegExp[]): void {
    const { weights, device, progress } = this.current;
    const used = new Set<string>();
    const uploads = new Map<string, number>();
    this.check((emit) => {
      const g = new GraphBuilder(weights, device.target);
      emit(g);
      for (const { name, byteLength } of g.build().external) uploads.set(name, byteLength);
      for (const name of g.used) used.add(name);
    });
    if (progress !== undefined) {
      const bytes = [...uploads.values()].reduce((sum, one) => sum + one, 0);
      progress.announceUpload(weights.file, bytes);
    }
    const unused = [...weights.names()].filter((name) => !used.has(name) && !ignored.some((one) => one.test(name)));
    if (unused.length > 0) {
      const more = unused.length > 5 ? ` and ${unused.length - 5} more` : "";
      console.warn(
        `${this.constructor.name} does not use ${unused.slice(0, 5).join(", ")}${more} of ${weights.file}: ` +
          "the weights may be another model's.",
      );
    }
  }

  private get current(): Loaded {
    const name = this.constructor.name;
    if (this.disposed) throw new DeviceError(`This ${name} is disposed: load it again with ${name}.from_pretrained.`);
    if (this.loaded === undefined) {
      throw new WeightsMismatchError(
        `This ${name} was built from a config and has no weights: load it with ${name}.from_pretrained.`,
        { className: name, found: "no weights" },
      );
    }
    return this.loaded;
  }

  private async release(): Promise<void> {
    const open = [...this.sessions.values()];
    this.sessions.clear();
    for (const { session } of open) await session.dispose();
  }

  /** One task at a time, so that no session is replaced while a call uses it. */
  private exclusive<T>(task: () => Promise<T>): Promise<T> {
    const result = this.lastTask.then(task);
    // A failed task is reported to its caller; the next one starts all the same.
    this.lastTask = result.catch(() => undefined);
    return result;
  }
}
