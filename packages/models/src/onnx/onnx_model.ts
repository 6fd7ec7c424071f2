import {
  type ConfigClass,
  type ConfigDict,
  ConfigMixin,
  checkOptions,
  DeviceError,
  ModelNotFoundError,
  openSource,
  type ProgressReporter,
  reportProgress,
  type Source,
  type SourceLike,
  sourceName,
  subSource,
  type Tensor,
  ValueError,
} from "@diffusers-web/core";
import { DeviceModel, type Loaded, type Placement } from "../device_model.ts";
import { type ModelLoadOptions, modelLoadOptionNames, type PreparedModel } from "../modeling_utils.ts";
import { type Device, type DtypeRequest, getDevice } from "../runtime/device.ts";
import { createSession, type Session } from "../runtime/session.ts";
import { matchFeeds, type OnnxFeeds } from "./onnx_feeds.ts";
import type { OnnxFile } from "./onnx_file.ts";
import { closeAll, type OnnxParts, openParts, readPartConfig } from "./onnx_parts.ts";

/** The static side of a model that is an ONNX export. */
export interface OnnxModelClass<T> extends ConfigClass<T> {
  readonly name: string;
  readonly parts: OnnxParts;
  derive_config(files: Readonly<Record<string, OnnxFile>>): ConfigDict;
  prepare_config(config: ConfigDict): ConfigDict;
}

/** The files of a model, open, and where it runs. */
interface LoadedFiles extends Loaded {
  readonly files: Readonly<Record<string, OnnxFile>>;
  readonly isHalf: boolean;
  readonly progress: ProgressReporter | undefined;
}

/**
 * A model that is an ONNX export, in one file or several. It has the face of the class whose export it is.
 *
 * It computes in the element type that it was exported in.
 *
 * @see Diffusers `OnnxRuntimeModel`, Optimum `ORTModelMixin`
 */
export abstract class OnnxModel<C extends object> extends DeviceModel<C, LoadedFiles> {
  static override readonly name: string = "OnnxModel";
  static readonly parts: OnnxParts = {};

  /** What the graphs tell of the config, for an export without one. */
  static derive_config(_files: Readonly<Record<string, OnnxFile>>): ConfigDict {
    return {};
  }

  /**
   * Loads an export: its graphs, the config beside them where there is one, and a device. Weights stay in their files.
   *
   * @throws ModelNotFoundError for a missing file, IntegrityError for a damaged one.
   * @throws UnsupportedModelError for a graph with inputs or outputs of another model.
   * @throws ValueError for a dtype that is not the export's.
   * @throws DeviceError when the device is not there, or cannot compute in the export's element type.
   */
  static async from_pretrained<T extends OnnxModel<object>>(
    this: OnnxModelClass<T>,
    source: SourceLike,
    options: ModelLoadOptions = {},
  ): Promise<T> {
    const prepared = await (OnnxModel.prepare<T>).call(this, source, options);
    return prepared.load(options.variant);
  }

  /**
   * The first half of `from_pretrained`: reads the config.
   *
   * @internal
   * @see ModelMixin.prepare
   */
  static async prepare<T extends OnnxModel<object>>(
    this: OnnxModelClass<T>,
    source: SourceLike,
    options: ModelLoadOptions = {},
  ): Promise<PreparedModel<T>> {
    checkOptions(`${this.name}.from_pretrained`, options, modelLoadOptionNames);
    const { signal } = options;
    const request: Placement = { device: options.device ?? "auto", dtype: options.dtype ?? "auto" };
    const progress = reportProgress(options.progress_callback);
    const opened = await openSource(source, options);
    const folder = subSource(opened, options.subfolder);
    const written = this.prepare_config((await readPartConfig(this, folder, signal)) ?? {});

    const load = async (variant: string | undefined): Promise<T> => {
      if (variant !== undefined) throw noVariants(this, folder, variant);
      const files = await openParts(this, folder, { signal, progress_callback: progress });
      try {
        const isHalf = Object.values(files).some((file) => file.isHalf);
        const fromConfig = ConfigMixin.from_config as (this: unknown, config: object) => T;
        const model = fromConfig.call(this, { ...this.derive_config(files), ...written });
        const device = await deviceFor(this.name, isHalf, request);
        signal?.throwIfAborted();
        model.take({ files, isHalf, progress, device, request, close: () => closeAll(files) });
        model.register_to_config({
          _name_or_path: sourceName(source, opened),
        });
        return model;
      } catch (error) {
        closeAll(files);
        throw error;
      }
    };
    return { load };
  }

  private take(loaded: LoadedFiles): void {
    this.loaded = loaded;
    for (const { path, graph } of Object.values(loaded.files)) {
      loaded.progress?.({ phase: "build", file: path, loaded: 0, total: 0 });
      loaded.progress?.announceUpload(
        path,
        graph.external.reduce((sum, { byteLength }) => sum + byteLength, 0),
      );
    }
  }

  /** What the model was exported in. */
  override get dtype(): "float32" | "float16" {
    return this.current.isHalf ? "float16" : "float32";
  }

  protected override place(request: Placement): Promise<Device> {
    return deviceFor(this.constructor.name, this.current.isHalf, request);
  }

  /** A part's file; undefined when the export came without it. */
  protected part(name: string): OnnxFile | undefined {
    return this.current.files[name];
  }

  /**
   * Runs a part, fed in the types that its graph asks for.
   *
   * @param outputs those that are wanted; each has to be one of the graph's
   * @returns the outputs in float32
   * @throws ValueError for an input that is missing, that the graph does not have, or of other dims than it was made for.
   */
  protected async runPart(name: string, given: OnnxFeeds, outputs: readonly string[]): Promise<Record<string, Tensor>> {
    const file = this.part(name)!;
    const feeds = matchFeeds(this.constructor.name, file, given);
    const create = ({ files, device, progress }: LoadedFiles): Promise<Session> => {
      const { path, graph } = files[name]!;
      return createSession(graph, device, { name: path, progress_callback: progress });
    };
    const results = await this.onDevice(name, "", create, (session) => session.runTyped(feeds, outputs));
    return Object.fromEntries(Object.entries(results).map(([key, value]) => [key, value.to("float32")]));
  }
}

function noVariants(
  { name, parts }: { readonly name: string; readonly parts: OnnxParts },
  folder: Source,
  variant: string,
): ModelNotFoundError {
  const { file } = Object.values(parts)[0]!;
  return new ModelNotFoundError(
    `${folder.name} has ${name} as an ONNX export, which comes without variants. Leave { variant } out.`,
    { file, className: name, field: "variant", found: file, expected: `a variant ${variant}` },
  );
}

function checkDtype(className: string, isHalf: boolean, asked: DtypeRequest): void {
  if (asked === "auto" || /16$/.test(asked) === isHalf) return;
  const is = isHalf ? "float16" : "float32";
  throw new ValueError(`This ${className} is an ONNX export in ${is}, and runs in no other type: leave dtype out.`, {
    className,
    field: "dtype",
    found: asked,
    expected: is,
  });
}

/** WASM computes a float16 graph by casting; a GPU has to have the type. */
async function deviceFor(className: string, isHalf: boolean, request: Placement): Promise<Device> {
  checkDtype(className, isHalf, request.dtype);
  const device = await getDevice(request.device, isHalf ? "auto" : "fp32");
  if (!isHalf || device.type === "wasm" || device.info.features.includes("shader-f16")) return device;
  const reason = `The GPU lacks the feature shader-f16, which this ${className}, an ONNX export in float16, needs.`;
  if (request.device !== "auto") {
    throw new DeviceError(`${reason} Use device "wasm", or an export in float32.`, {
      className,
      found: "no shader-f16",
      expected: "shader-f16",
    });
  }
  const fallback = await getDevice("wasm", "auto");
  return { ...fallback, info: { ...fallback.info, reason: `${reason} WASM is used instead.` } };
}
