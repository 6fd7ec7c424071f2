import {
  type ConfigDict,
  type LoadOptions,
  ModelNotFoundError,
  nearest,
  parseConfig,
  prefetchFiles,
  readText,
  reportProgress,
  type Source,
  schedulerRegistry,
  subSource,
  UnsupportedModelError,
} from "@diffusers-web/core";
import type { DeviceRequest, DtypeRequest, PreparedModel } from "@diffusers-web/models";
import { type ComponentClass, type ComponentEntry, componentRegistry } from "./component_registry.ts";
import { componentPlace, listedSource, neededFiles, noVariant } from "./needed_files.ts";
import { exportsAmong, originalIndex, prepareOrExport } from "./onnx_layout.ts";

/** What all models have. */
export interface Model {
  readonly device: string;
  readonly dtype: string;
  to(target: DeviceRequest | DtypeRequest): Promise<unknown>;
  dispose(): Promise<void>;
}

export function isModel(component: unknown): component is Model {
  return typeof (component as Partial<Model> | null)?.dispose === "function";
}

export async function disposeModels(components: readonly unknown[]): Promise<void> {
  await Promise.all(components.filter(isModel).map((model) => model.dispose()));
}

/** What a pipeline's folder or repository is described by. */
export const MODEL_INDEX = "model_index.json";

/** Reads and parses model_index.json. @throws ModelNotFoundError when there is none. */
export async function readModelIndex(source: Source, options: LoadOptions): Promise<ConfigDict> {
  const text = await readText(source, MODEL_INDEX, options);
  if (text !== undefined) return originalIndex(parseConfig(text, MODEL_INDEX, source.name));
  throw new ModelNotFoundError(
    `${source.name} has no ${MODEL_INDEX}, which describes a pipeline. ` +
      "If it is a single model or scheduler, load it with that class's from_pretrained.",
    { file: MODEL_INDEX, found: "no such file", expected: MODEL_INDEX },
  );
}

/**
 * The name of the pipeline class that a model_index.json asks for.
 *
 * @param known the classes there are; null where the caller has chosen one
 * @throws UnsupportedModelError for code in the repository, and for a class that there is not.
 */
export function pipelineClassName(index: ConfigDict, known: readonly string[] | null): string {
  const written = index["_class_name"];
  if (typeof written !== "string") {
    const isList = Array.isArray(written);
    throw new UnsupportedModelError(
      isList
        ? `${MODEL_INDEX} names the class ${JSON.stringify(written)}: Python code in the repository, which cannot run here.`
        : `${MODEL_INDEX} has no _class_name: it does not describe a pipeline.`,
      {
        file: MODEL_INDEX,
        field: "_class_name",
        found: JSON.stringify(written) ?? "nothing",
        expected: "a class's name",
      },
    );
  }
  const name = written.replace(/^Flax/, "");
  if (known === null || known.includes(name)) return name;
  const guess = nearest(name, known);
  throw new UnsupportedModelError(
    `${MODEL_INDEX} asks for the pipeline ${written}, which there is not (yet). There are: ${known.join(", ")}.` +
      (guess === undefined ? "" : ` If the parts fit, load it with ${guess}.from_pretrained.`),
    { file: MODEL_INDEX, field: "_class_name", className: written, found: written, expected: known.join(", ") },
  );
}

/**
 * How a component of the class that model_index.json names is loaded.
 *
 * @throws UnsupportedModelError for an entry that is no `[library, class]`, and for a class that there is not.
 */
export function componentEntry(name: string, written: unknown, optional: boolean): ComponentEntry {
  const [library, className] = Array.isArray(written) ? (written as unknown[]) : [];
  if (typeof library !== "string" || typeof className !== "string") {
    throw new UnsupportedModelError(
      `${MODEL_INDEX}, ${name}: found ${JSON.stringify(written)}, expected [library, class] or [null, null].`,
      { file: MODEL_INDEX, field: name, found: JSON.stringify(written), expected: "[library, class]" },
    );
  }
  const scheduler = Object.hasOwn(schedulerRegistry, className) ? schedulerRegistry[className] : undefined;
  if (scheduler !== undefined) {
    return { library: "diffusers", is_model: false, files: [scheduler.config_name], load: async () => scheduler };
  }
  const modelName = className.replace(/^Flax/, "");
  if (Object.hasOwn(componentRegistry, modelName)) return componentRegistry[modelName]!;
  const known = Object.keys(className.endsWith("Scheduler") ? schedulerRegistry : componentRegistry);
  throw new UnsupportedModelError(
    `${MODEL_INDEX}, ${name}: the class ${className} of ${library} is not built (yet). ` +
      (optional ? `Pass { ${name}: null } to do without it.` : `There are: ${known.join(", ")}.`),
    { file: MODEL_INDEX, field: name, className, found: className, expected: optional ? "null" : known.join(", ") },
  );
}

/** A component to load. */
export interface WantedComponent {
  readonly key: string;
  readonly entry: ComponentEntry;
}

/** How components are loaded. */
export interface ComponentLoadOptions extends LoadOptions {
  readonly device?: DeviceRequest;
  readonly dtype?: DtypeRequest;
}

/**
 * Loads components. Everything small comes first, so that what is wrong with it shows before a long download; then the
 * weights, one component after the other. When one fails, those loaded before it are freed.
 *
 * Of a source that lists its files exactly those that are needed are chosen, and fetched as one whole. Elsewhere each file is
 * asked for as it is needed. A component without weights of the variant that was asked for is loaded without it, as long as
 * another one has it.
 *
 * @throws ValueError when none has the variant.
 */
export async function loadComponents(
  root: Source,
  asked: readonly WantedComponent[],
  options: ComponentLoadOptions,
): Promise<Record<string, unknown>> {
  const { signal, device, dtype } = options;
  const progress = reportProgress(options.progress_callback);
  const listing = await root.list?.({ signal });
  const wanted = listing === undefined ? asked : exportsAmong(asked, listing);
  const listed = listing === undefined ? root : listedSource(root, listing);
  const place = async (component: WantedComponent): Promise<Source> =>
    component.entry.place?.(listed, component.key) ??
    (listing === undefined
      ? componentSource(root, component.key, component.entry.files, options)
      : componentPlace(root, listing, component).source);
  const shared = { signal, progress_callback: progress };
  const loaded: Record<string, unknown> = {};
  try {
    const small = wanted.filter(({ entry }) => !entry.is_model);
    await Promise.all(
      small.map(async (component) => {
        const componentClass = await component.entry.load();
        loaded[component.key] = await componentClass.from_pretrained(await place(component), withoutUndefined(shared));
      }),
    );
    const prepare = async (component: WantedComponent): Promise<PreparedModel<unknown>> => {
      signal?.throwIfAborted();
      const modelClass = (await component.entry.load()) as Required<ComponentClass>;
      const modelOptions = withoutUndefined({ ...shared, device, dtype });
      return modelClass.prepare(await place(component), modelOptions);
    };
    const models = await Promise.all(
      wanted
        .filter(({ entry }) => entry.is_model)
        .map(async (component) => ({
          key: component.key,
          model: await (listing === undefined ? prepareOrExport(component, prepare) : prepare(component)),
        })),
    );
    const load = async ({ key, model }: (typeof models)[number], variant?: string): Promise<void> => {
      signal?.throwIfAborted();
      loaded[key] = await model.load(variant);
    };
    if (listing === undefined) {
      await loadByTrying(root, models, load, options.variant);
    } else {
      const { files, variants } = await neededFiles(root, listing, wanted, options);
      await prefetchFiles(root, files, { signal, progress });
      for (const one of models) await load(one, variants.get(one.key));
    }
    signal?.throwIfAborted();
    return loaded;
  } catch (error) {
    await disposeModels(Object.values(loaded));
    throw error;
  }
}

/** Where nobody knows which component has the variant. */
async function loadByTrying<M>(
  root: Source,
  models: readonly M[],
  load: (model: M, variant?: string) => Promise<void>,
  variant: string | undefined,
): Promise<void> {
  const plain: M[] = [];
  for (const model of models) {
    try {
      await load(model, variant);
    } catch (error) {
      if (variant === undefined || !isVariantMissing(error)) throw error;
      plain.push(model);
      if (plain.length === models.length) throw noVariant(root, variant, error);
    }
  }
  for (const model of plain) await load(model);
}

/** Whether only the variant is missing, and there are weights without it. */
function isVariantMissing(error: unknown): boolean {
  if (!(error instanceof ModelNotFoundError)) return false;
  return error.details.field === "variant" && /\.(safetensors|onnx)$/.test(error.details.found ?? "");
}

function withoutUndefined<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
}

/**
 * Where a component's files are: the folder of its name, or the root of the repository (as in google/ddpm-cat-256).
 * What was read to find out is handed over, so that it is not read twice.
 */
async function componentSource(
  root: Source,
  name: string,
  files: readonly string[],
  options: LoadOptions,
): Promise<Source> {
  const folder = subSource(root, name);
  for (const place of [folder, root]) {
    const read = new Map<string, Uint8Array | undefined>();
    for (const file of files) {
      const handle = await place.open(file, { signal: options.signal });
      read.set(file, handle?.readSync(0, handle.size).slice());
      handle?.close();
      if (handle !== undefined) return withRead(place, read);
    }
  }
  return folder;
}

function withRead(source: Source, read: ReadonlyMap<string, Uint8Array | undefined>): Source {
  return {
    name: source.name,
    open: async (path, options) => {
      if (!read.has(path)) return source.open(path, options);
      const bytes = read.get(path);
      if (bytes === undefined) return undefined;
      return { path, size: bytes.length, readSync: (begin, end) => bytes.subarray(begin, end), close: () => {} };
    },
  };
}
