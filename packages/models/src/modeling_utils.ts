import {
  type ConfigClass,
  type ConfigDict,
  ConfigMixin,
  checkOptions,
  DeviceError,
  type LoadOptions,
  type LoadProgress,
  loadOptionNames,
  makeCallable,
  openSource,
  type SourceLike,
  subSource,
  type Tensor,
  WeightsMismatchError,
} from "@diffusers-web/core";
import { GraphBuilder } from "./graph/builder.ts";
import { type Device, type DeviceInfo, type DeviceRequest, type DtypeRequest, getDevice } from "./runtime/device.ts";
import { createSession, type Session } from "./runtime/session.ts";
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

type EmitGraph = (g: GraphBuilder) => void;

/** What a model has once its weights are found. */
interface Loaded {
  readonly weights: Weights;
  readonly progress_callback: ((progress: LoadProgress) => void) | undefined;
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
    const fields = Object.keys(this.config_defaults);
    checkOptions(`${this.name}.from_pretrained`, options, [...modelLoadOptionNames, ...fields]);
    const { signal, progress_callback, device = "auto", dtype = "auto" } = options;
    const opened = await openSource(source, options);
    const folder = subSource(opened, options.subfolder);

    const prefix = options.subfolder === undefined ? "" : `${options.subfolder}/`;
    progress_callback?.({ phase: "resolve", file: prefix + this.config_name, loaded: 0, total: 0 });
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

    const weights = await openWeights(folder, {
      stem: this.weights_name,
      className: this.name,
      options: { variant: options.variant, signal, progress_callback },
    });
    try {
      model.loaded = { weights, progress_callback, device: chosen, request: { device, dtype } };
      progress_callback?.({ phase: "build", file: weights.file, loaded: 0, total: 0 });
      model.checkWeights(this.keys_to_ignore);
      signal?.throwIfAborted();
    } catch (error) {
      weights.close();
      throw error;
    }
    model.register_to_config({
      _name_or_path: typeof source === "object" && "open" in source ? source.name : String(source),
    });
    return model;
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
      run: (feeds) => this.exclusive(async () => (await this.prepare(name, shape, build)).run(feeds)),
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
      progress_callback: loaded.progress_callback,
    });
    this.sessions.set(name, { shape, session });
    return session;
  }

  private checkWeights(ignored: readonly RegExp[]): void {
    const { weights, device } = this.current;
    const used = new Set<string>();
    this.check((emit) => {
      const g = new GraphBuilder(weights, device.target);
      emit(g);
      g.build();
      for (const name of g.used) used.add(name);
    });
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
