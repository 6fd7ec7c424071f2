import {
  type ConfigClass,
  type ConfigDict,
  ConfigMixin,
  checkOptions,
  type Directory,
  type LoadOptions,
  loadOptionNames,
  openSource,
  type ProgressReporter,
  reportProgress,
  type SourceLike,
  sourceName,
  stringifyPythonJson,
  subSource,
  type Tensor,
  WeightsMismatchError,
  writeFile,
} from "@diffusers-web/core";
import { DeviceModel, type Loaded, type Placement } from "./device_model.ts";
import { GraphBuilder } from "./graph/builder.ts";
import type { LoraSource } from "./lora/lora_adapter.ts";
import type { LoraAdapters } from "./lora/lora_adapters.ts";
import { type Device, type DeviceRequest, type DtypeRequest, getDevice } from "./runtime/device.ts";
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
interface LoadedWeights extends Loaded {
  readonly weights: Weights;
  readonly progress: ProgressReporter | undefined;
}

/**
 * A model whose graph is built from its config, over weights that stay as they are in their files.
 *
 * @see Diffusers `ModelMixin`
 */
export abstract class ModelMixin<C extends object> extends DeviceModel<C, LoadedWeights> {
  static override readonly name: string = "ModelMixin";
  /** The weight files' name without ending; transformers' classes say `model`. */
  static readonly weights_name: string = "diffusion_pytorch_model";
  /** Tensors of old checkpoints that no longer mean anything. */
  static readonly keys_to_ignore: readonly RegExp[] = [/\.position_ids$/];

  /** The LoRA adapters of the model; undefined before the first one is loaded. */
  lora: LoraAdapters | undefined;

  /** The config file as it was read, where nothing was overridden. */
  private writtenConfig: ConfigDict | undefined;

  /** Emits every graph of the model once, at a small size: what does not fit the weights is found when they are loaded. */
  protected abstract check(build: (emit: EmitGraph) => void): void;

  /**
   * Loads a model: its config, its weights (which stay as they are in the file) and a device.
   *
   * @param source a hub id, a URL, a folder in Node, or a {@link Source}
   * @param options see {@link ModelLoadOptions}; config fields override the file's
   * @throws ModelNotFoundError when the config or the weights are not there, saying what was looked for.
   * @throws UnsupportedModelError for weights that are only there as a pickle, and for what the class does not build.
   * @throws WeightsMismatchError naming the tensors that are missing, of another shape than the config implies, or not used.
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
    const written = await loadConfig.call(this, folder, { signal });
    const config = this.prepare_config(written);
    const overrides = Object.fromEntries(Object.entries(options).filter(([key]) => fields.includes(key)));
    const fromConfig = ConfigMixin.from_config as (this: unknown, config: object, kwargs: object) => T;
    const model = fromConfig.call(this, config, overrides);
    if (Object.keys(overrides).length === 0) model.writtenConfig = written;
    const chosen = await getDevice(device, dtype);
    signal?.throwIfAborted();

    const load = async (variant: string | undefined): Promise<T> => {
      const request = { stem: this.weights_name, className: this.name, variant, signal, progress };
      const weights = await openWeights(folder, request);
      // Who overrides a field, to leave out layers for one, knows that tensors are left over.
      const isTolerant = Object.keys(overrides).length > 0;
      model.take(
        weights,
        { progress, device: chosen, request: { device, dtype } },
        { ignored: this.keys_to_ignore, isTolerant },
        signal,
      );
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
      // People's merges carry other programs' tensors: what is left over is only told.
      const weights = part.weights(model.config);
      model.take(
        weights,
        { progress, device: chosen, request: { device, dtype } },
        { ignored: this.keys_to_ignore, isTolerant: true },
        signal,
      );
      return model;
    } finally {
      part.close();
    }
  }

  /**
   * Writes the config and the weights into a folder, for Python or for `from_pretrained`: one safetensors file, with the
   * tensors in the types that they were loaded from.
   *
   * @param directory a path in Node (made when absent), a directory handle in a page, or a `ZipDirectory`
   * @param options `variant`: goes into the name of the weights' file, e.g. "fp16"
   * @throws DeviceError after `dispose`, ValueError for a path that is a file, TypeError for an unknown option.
   * @see Diffusers `ModelMixin.save_pretrained`
   */
  async save_pretrained(directory: Directory, options: { readonly variant?: string | undefined } = {}): Promise<void> {
    checkOptions(`${this.constructor.name}.save_pretrained`, options, ["variant"]);
    const { weights } = this.current;
    const { weights_name, config_name } = this.constructor as unknown as ModelClass<unknown>;
    // transformers tells its models by fields that these classes do without.
    const isForeign = weights_name === "model" && this.writtenConfig !== undefined;
    const saved = this.forSaving(this.writtenConfig ?? {}, this.lora?.saved(weights) ?? weights);
    if (isForeign) await writeFile(directory, config_name, [`${stringifyPythonJson(saved.config)}\n`]);
    else await this.save_config(directory);
    const { saveSafetensors } = await import("./save_weights.ts");
    const file = [weights_name, ...(options.variant === undefined ? [] : [options.variant]), "safetensors"].join(".");
    await saveSafetensors(directory, file, saved.weights.entries());
  }

  /**
   * What is saved: of a class whose models grow once they are loaded, other than what was read.
   *
   * @param config as it was read
   */
  protected forSaving(
    config: ConfigDict,
    weights: Weights,
  ): { readonly config: ConfigDict; readonly weights: Weights } {
    return { config, weights };
  }

  /**
   * The first half of loading a LoRA adapter: checks that it fits. What comes back adds it; until then nothing changes.
   *
   * @param name null: one that is free
   * @param source the adapter's tensors, and what they belong to; the model closes it
   * @throws ValueError for a name that is in use, WeightsMismatchError naming the first tensor that does not fit.
   * @see Diffusers `PeftAdapterMixin.load_lora_adapter`
   * @internal
   */
  async prepare_lora_adapter(name: string | null, source: LoraSource): Promise<() => void> {
    const { LoraAdapters } = await import("./lora/lora_adapters.ts");
    this.lora ??= new LoraAdapters({
      className: this.constructor.name,
      config: this.config,
      weights: () => this.current.weights,
      tryOut: (prepare) =>
        this.check((emit) => {
          const g = new GraphBuilder(this.current.weights, this.current.device.target);
          prepare(g);
          emit(g);
          g.build();
        }),
      afterCalls: (task) => void this.exclusive(async () => task()),
    });
    return this.lora.prepare(name, source);
  }

  /** Takes weights over: they are closed with the model, and at once when they do not fit. */
  private take(
    weights: Weights,
    rest: Omit<LoadedWeights, "weights" | "close">,
    check: { readonly ignored: readonly RegExp[]; readonly isTolerant: boolean },
    signal: AbortSignal | undefined,
  ): void {
    try {
      const close = (): void => {
        weights.close();
        this.lora?.close();
      };
      this.loaded = { ...rest, weights, close };
      rest.progress?.({ phase: "build", file: weights.file, loaded: 0, total: 0 });
      this.checkWeights(check);
      signal?.throwIfAborted();
    } catch (error) {
      weights.close();
      throw error;
    }
  }

  protected override place({ device, dtype }: Placement): Promise<Device> {
    return getDevice(device, dtype);
  }

  /**
   * The graph `name`, ready for feeds of the given dims. One session per name is kept; other dims replace it.
   *
   * @param dims all that `build` depends on, as plain data
   * @param lora_scale a factor of the model's LoRA adapters in this run
   */
  protected async session(name: string, dims: unknown, build: EmitGraph, lora_scale = 1): Promise<Runner> {
    const lora = this.lora?.graph(lora_scale);
    const create = ({ weights, device, progress }: LoadedWeights): Promise<Session> => {
      const g = new GraphBuilder(lora?.weights(weights) ?? weights, device.target);
      lora?.attach(g);
      build(g);
      return createSession(g.build(), device, { name: weights.file, progress_callback: progress });
    };
    const shape = JSON.stringify([dims, lora?.version]);
    return {
      run: (feeds) => this.onDevice(name, shape, create, (session) => session.run({ ...feeds, ...lora?.feeds })),
    };
  }

  private checkWeights({ ignored, isTolerant }: { ignored: readonly RegExp[]; isTolerant: boolean }): void {
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
    if (unused.length === 0) return;
    const name = this.constructor.name;
    const more = unused.length > 5 ? ` and ${unused.length - 5} more` : "";
    const message =
      `${name} with its config has no place for ${unused.slice(0, 5).join(", ")}${more} of ${weights.file}: ` +
      "the weights are another model's, or the config says less than it should.";
    if (isTolerant) console.warn(message);
    else throw new WeightsMismatchError(message, { className: name, file: weights.file, tensors: unused });
  }
}
