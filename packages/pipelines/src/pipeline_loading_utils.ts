import {
  type ConfigDict,
  type LoadOptions,
  ModelNotFoundError,
  nearest,
  parseConfig,
  readText,
  type Source,
  schedulerRegistry,
  subSource,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/core";
import type { DeviceRequest, DtypeRequest } from "@diffusers-web/models";
import { type ComponentEntry, componentRegistry } from "./component_registry.ts";

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
  if (text !== undefined) return parseConfig(text, MODEL_INDEX, source.name);
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
  const scheduler = schedulerRegistry[className];
  if (scheduler !== undefined) {
    return { library: "diffusers", is_model: false, files: [scheduler.config_name], load: async () => scheduler };
  }
  const entry = componentRegistry[className.replace(/^Flax/, "")];
  if (entry !== undefined) return entry;
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
 * Loads components one after the other. When one fails, those loaded before it are freed.
 *
 * A component without weights of the variant that was asked for is loaded without it, as long as another one has it.
 *
 * @throws ValueError when none has the variant.
 */
export async function loadComponents(
  root: Source,
  wanted: readonly WantedComponent[],
  options: ComponentLoadOptions,
): Promise<Record<string, unknown>> {
  const { signal, progress_callback, device, dtype } = options;
  const places = new Map<string, Promise<Source>>();
  const loaded: Record<string, unknown> = {};
  const load = async ({ key, entry }: WantedComponent, variant?: string): Promise<void> => {
    signal?.throwIfAborted();
    const place = places.get(key) ?? componentSource(root, key, entry.files, options);
    places.set(key, place);
    const componentClass = await entry.load();
    const modelOptions = entry.is_model ? { device, dtype, variant } : {};
    const all = withoutUndefined({ signal, progress_callback, ...modelOptions });
    loaded[key] = await componentClass.from_pretrained(await place, all);
  };
  try {
    // Those without weights are small, and come first: what is wrong with them shows before a long download.
    await Promise.all(wanted.filter(({ entry }) => !entry.is_model).map((one) => load(one)));
    const models = wanted.filter(({ entry }) => entry.is_model);
    const plain: WantedComponent[] = [];
    for (const model of models) {
      try {
        await load(model, options.variant);
      } catch (error) {
        if (options.variant === undefined || !isVariantMissing(error)) throw error;
        plain.push(model);
        if (plain.length === models.length) throw noVariant(root, options.variant, error);
      }
    }
    for (const model of plain) await load(model);
    signal?.throwIfAborted();
    return loaded;
  } catch (error) {
    await disposeModels(Object.values(loaded));
    throw error;
  }
}

/** Whether only the variant is missing, and there are weights without it. */
function isVariantMissing(error: unknown): boolean {
  if (!(error instanceof ModelNotFoundError)) return false;
  return error.details.field === "variant" && error.details.found?.endsWith(".safetensors") === true;
}

function noVariant(root: Source, variant: string, cause: unknown): ValueError {
  return new ValueError(
    `No component of ${root.name} has weights of the variant ${JSON.stringify(variant)}. Leave { variant } out.`,
    { field: "variant", found: "no such weights", expected: `*.${variant}.safetensors` },
    { cause },
  );
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
