import { type ConfigDict, ConfigMixin, DeviceError, makeCallable, WeightsMismatchError } from "@diffusers-web/core";
import type { Device, DeviceInfo, DeviceRequest, DtypeRequest } from "./runtime/device.ts";
import type { Session } from "./runtime/session.ts";

/** Where a model was asked to run, and what to compute in. */
export interface Placement {
  readonly device: DeviceRequest;
  readonly dtype: DtypeRequest;
}

/** What a model has once its files are found. */
export interface Loaded {
  device: Device;
  request: Placement;
  /** Frees the files. Idempotent. */
  close(): void;
}

/**
 * A model with a config and files, that is called like a function: `model(x)` is `model.forward(x)`.
 *
 * It owns its sessions on the device and its files: {@link DeviceModel.dispose} frees them. Its calls may overlap; they are
 * taken one after the other.
 */
export abstract class DeviceModel<C extends object, L extends Loaded> extends ConfigMixin<C> {
  static override readonly name: string = "DeviceModel";

  /** Awaited before each run: a pipeline that offloads makes room on the device in it. */
  before_run: (() => Promise<void>) | undefined = undefined;
  protected loaded: L | undefined;
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

  /**
   * The device for a placement.
   *
   * @throws DeviceError when it is not there, or cannot compute in the element type.
   */
  protected abstract place(request: Placement): Promise<Device>;

  /** What a class makes of its config file before its fields are read. */
  static prepare_config(config: ConfigDict): ConfigDict {
    return config;
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
    return { ...this.current.device.info, dtype: this.dtype };
  }

  /**
   * Moves the model to a device, or to another element type on it. The weights are uploaded when it is next called.
   *
   * @throws DeviceError when the device is not there or cannot compute in the element type: the model then stays.
   * @throws ValueError for another element type than an ONNX export's own.
   */
  async to(target: DeviceRequest | DtypeRequest): Promise<this> {
    const { request } = this.current;
    const next = /^(fp|float)/.test(target)
      ? { ...request, dtype: target as DtypeRequest }
      : { ...request, device: target as DeviceRequest };
    const device = await this.place(next);
    await this.exclusive(async () => {
      const loaded = this.current;
      if (!isSame(loaded.device, device)) await this.release();
      loaded.device = device;
      loaded.request = next;
    });
    return this;
  }

  /**
   * Frees the device's memory and keeps the files open: the next call uploads the weights again. Idempotent.
   *
   * @see torch `module.to("cpu")`, as Diffusers' model offloading uses it
   */
  async offload(): Promise<void> {
    await this.exclusive(() => this.release());
  }

  /** Whether its memory and its files are freed. */
  get is_disposed(): boolean {
    return this.disposed;
  }

  /** Frees the device's memory and the files; the model cannot be called afterwards. Idempotent. */
  async dispose(): Promise<void> {
    this.disposed = true;
    await this.exclusive(async () => {
      await this.release();
      this.loaded?.close();
      this.loaded = undefined;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  /**
   * Runs a session of the model on its device. One session per name is kept; another shape replaces it.
   *
   * @param shape tells apart what `create` makes under the same name
   */
  protected async onDevice<T>(
    name: string,
    shape: string,
    create: (loaded: L) => Promise<Session>,
    run: (session: Session) => Promise<T>,
  ): Promise<T> {
    await this.before_run?.();
    return this.exclusive(async () => {
      const loaded = this.current;
      if (loaded.device.gpu?.lost !== undefined) {
        await this.release();
        loaded.device = await this.place(loaded.request);
      }
      const ready = this.sessions.get(name);
      if (ready?.shape === shape) return run(ready.session);
      this.sessions.delete(name);
      await ready?.session.dispose();
      const session = await create(loaded);
      this.sessions.set(name, { shape, session });
      return run(session);
    });
  }

  /**
   * What the model has loaded.
   *
   * @throws DeviceError for a model that is disposed, WeightsMismatchError for one that was made from a config.
   */
  protected get current(): L {
    const name = this.constructor.name;
    if (this.disposed) throw new DeviceError(`This ${name} is disposed: load it again with ${name}.from_pretrained.`);
    if (this.loaded !== undefined) return this.loaded;
    throw new WeightsMismatchError(
      `This ${name} was built from a config and has no weights: load it with ${name}.from_pretrained.`,
      { className: name, found: "no weights" },
    );
  }

  private async release(): Promise<void> {
    const open = [...this.sessions.values()];
    this.sessions.clear();
    for (const { session } of open) await session.dispose();
  }

  /** One task at a time, so that no session is replaced while a call uses it. */
  protected exclusive<T>(task: () => Promise<T>): Promise<T> {
    const result = this.lastTask.then(task);
    // A failed task is reported to its caller; the next one starts all the same.
    this.lastTask = result.catch(() => undefined);
    return result;
  }
}

function isSame(a: Device, b: Device): boolean {
  return a.type === b.type && a.gpu === b.gpu && a.target.dtype === b.target.dtype;
}
