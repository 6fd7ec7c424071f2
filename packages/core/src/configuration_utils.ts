import { type Directory, writeFile } from "./directory.ts";
import { checkOptions, IntegrityError, ModelNotFoundError, nearest, ValueError } from "./errors.ts";
import { type LoadOptions, loadOptionNames, openSource, readText, type SourceLike, subSource } from "./hub/source.ts";
import { copyJson, floatsOf, markFloats, parsePythonJson, stringifyPythonJson } from "./python_json.ts";

/** The Diffusers release whose behaviour this library follows; `_diffusers_version` in every config it writes. */
export const DIFFUSERS_VERSION = "0.42.1";

/** A config as the Python library writes it: the class's fields, and what other classes left in it. */
export type ConfigDict = Readonly<Record<string, unknown>>;

/** What `scheduler.config` is: the fields of the class, frozen, and whatever else the file held. */
export type FrozenConfig<C extends object> = Readonly<C> & ConfigDict;

class PythonFloat {
  constructor(readonly value: number) {}
}

/** A default that Python writes as a float although its value is whole: `float(1)` prints as `1.0`. */
export function float(value: number): number {
  return new PythonFloat(value) as unknown as number;
}

/** Declares a class's config fields with their defaults, in the order of Python's signature. */
export function configDefaults<C extends object>(fields: C): Readonly<C> {
  return copyJson(unwrapFloats(fields), true) as Readonly<C>;
}

/** Plain numbers in place of the marked floats of a list or an object, which remembers where they were. */
function unwrapFloats(container: object): object {
  const floats: string[] = [];
  const unwrapped = Object.entries(container).map(([key, value]): [string, unknown] => {
    if (value instanceof PythonFloat || (typeof value === "number" && !Number.isInteger(value))) floats.push(key);
    if (value instanceof PythonFloat) return [key, value.value];
    return [key, typeof value === "object" && value !== null ? unwrapFloats(value) : value];
  });
  if (!Array.isArray(container)) return markFloats(Object.fromEntries(unwrapped), floats);
  // Of a list with a float in it, Python's defaults have floats throughout.
  const list = unwrapped.map(([, value]) => value);
  return markFloats(list, floats.length > 0 ? Object.keys(list) : []);
}

/** The static side of a class with a config. `never` accepts every constructor, whatever its config type. */
export interface ConfigClass<T> {
  new (config?: never): T;
  readonly config_name: string;
  readonly config_defaults: object;
  readonly compatible_fields: readonly string[];
  readonly deprecated_fields?: readonly string[];
}

/** What a class makes; of one out of several classes, one out of theirs. */
export type InstanceOf<C> = C extends { new (config?: never): infer T } ? T : never;

/**
 * A class whose constructor arguments are its config, kept frozen, printed and saved as Diffusers does.
 *
 * @see Diffusers `ConfigMixin`, `register_to_config`
 */
export abstract class ConfigMixin<C extends object> {
  /** The class's name in configs and messages. Written out in each class, since minifiers rename classes. */
  static readonly name: string = "ConfigMixin";
  /** The file that `save_config` writes and `load_config` reads. */
  static readonly config_name: string = "config.json";
  /** Fields and defaults; each class has its own. */
  static readonly config_defaults: object = {};
  /** Fields that only compatible classes take: kept hidden in the config, so that `from_config` there and back is lossless. */
  static readonly compatible_fields: readonly string[] = [];
  /**
   * Fields that the constructor still heeds, but does not keep. A class that has any also takes what nobody knows, with
   * a warning, as Python's `**kwargs` do.
   */
  static readonly deprecated_fields: readonly string[] = [];

  // An ordinary property: models and pipelines are functions that take over their instance's own properties.
  private _config!: FrozenConfig<C>;

  /**
   * @param config the fields that differ from the defaults
   * @throws TypeError for a field the class does not have, naming the nearest one it has.
   */
  constructor(config: Partial<C> = {}) {
    const { config_defaults: defaults, deprecated_fields = [], name } = new.target as unknown as ConfigClass<unknown>;
    const publicKeys = Object.keys(config).filter((key) => !key.startsWith("_"));
    if (deprecated_fields.length === 0) {
      checkOptions(name, Object.fromEntries(publicKeys.map((key) => [key, true])), Object.keys(defaults));
    } else {
      for (const key of publicKeys) {
        if (!Object.hasOwn(defaults, key) && !deprecated_fields.includes(key))
          warnIgnored(name, key, Object.keys(defaults));
      }
    }

    const given = floatsOf(config);
    const declared = floatsOf(defaults);
    const values: Record<string, unknown> = {};
    const floats: string[] = [];
    const usedDefaults: string[] = [];
    for (const [key, fallback] of Object.entries(defaults)) {
      const passed = (config as Record<string, unknown>)[key];
      if (passed === undefined) usedDefaults.push(key);
      values[key] = passed === undefined ? fallback : passed;
      const isFloat = passed === undefined || given === undefined ? declared?.has(key) : given.has(key);
      if (isFloat) floats.push(key);
    }
    for (const [key, value] of Object.entries(config)) {
      if (key.startsWith("_") && key !== "__proto__") values[key] = value;
    }
    if (usedDefaults.length > 0) values["_use_default_values"] = usedDefaults;
    this.setConfig(markFloats(values, floats));
  }

  /** The config, frozen. */
  get config(): FrozenConfig<C> {
    return this._config;
  }

  /** @throws TypeError always: a config is what the object was built from. Use `from_config(config, { field: value })`. */
  set config(_value: unknown) {
    throw new TypeError(
      `${this.constructor.name}.config is frozen. Build a new one with ${this.constructor.name}.from_config(config, { field: value }).`,
    );
  }

  /** Adds values to the config, as Python's method of that name does (a loader's `_name_or_path`). */
  register_to_config(values: ConfigDict): void {
    const merged = { ...this._config, ...values };
    const declared = floatsOf((this.constructor as unknown as ConfigClass<unknown>).config_defaults);
    const added = floatsOf(values) ?? declared ?? new Set<string>();
    const kept = [...(floatsOf(this._config) ?? [])].filter((key) => !Object.hasOwn(values, key));
    this.setConfig(markFloats(merged, [...kept, ...Object.keys(values).filter((key) => added.has(key))]));
  }

  private setConfig(values: Record<string, unknown>): void {
    Object.defineProperty(this, "_config", {
      value: copyJson(values, true),
      enumerable: false,
      writable: true,
      configurable: true,
    });
  }

  /**
   * Builds an object from a config: a plain object, another object's `.config`, or (as Diffusers still allows) a
   * repository's name, which loads the file and gives a promise.
   *
   * @param config what to build from; fields of compatible classes are kept, hidden
   * @param kwargs fields that override the config's; with a repository's name, also how to load
   * @throws ValueError without a config, or for a `_class_name` that is no name.
   * @throws TypeError for a field in `kwargs` that the class does not have, naming the nearest one it has.
   */
  static from_config<C extends ConfigClass<ConfigMixin<object>>>(
    this: C,
    config: SourceLike,
    kwargs?: LoadOptions | (LoadOptions & ConfigDict),
  ): Promise<InstanceOf<C>>;
  static from_config<C extends ConfigClass<ConfigMixin<object>>>(
    this: C,
    config: ConfigDict | object,
    kwargs?: object,
  ): InstanceOf<C>;
  static from_config<T extends ConfigMixin<object>>(
    this: ConfigClass<T>,
    config: object | SourceLike,
    kwargs: object = {},
  ): T | Promise<T> {
    if (config === undefined || config === null) {
      throw new ValueError("from_config needs a config as its first argument.", { field: "config" });
    }
    if (!isPlainObject(config) || typeof (config as { open?: unknown }).open === "function") {
      const { load, rest } = splitLoadOptions(kwargs);
      return loadConfig(this, config as SourceLike, load).then((loaded) => fromConfig(this, loaded, rest));
    }
    return fromConfig(this, config as ConfigDict, kwargs);
  }

  /** Reads the class's config file from a repository, URL or folder. */
  static load_config(this: ConfigClass<unknown>, source: SourceLike, options: LoadOptions = {}): Promise<ConfigDict> {
    return loadConfig(this, source, options);
  }

  /** The config as Python's `to_json_string` writes it: keys sorted, two spaces, ints and floats kept apart. */
  to_json_string(): string {
    const { _use_default_values, _ignore_files, _pre_quantization_dtype, ...shown } = this._config as Record<
      string,
      unknown
    >;
    const values = { ...shown, _class_name: this.constructor.name, _diffusers_version: DIFFUSERS_VERSION };
    return `${stringifyPythonJson(markFloats(values, floatsOf(this._config) ?? []))}\n`;
  }

  /** Python's `repr`: the class name and the config. */
  toString(): string {
    return `${this.constructor.name} ${this.to_json_string()}`;
  }

  /**
   * Writes the config file into a folder.
   *
   * @param directory a path in Node (made when absent), or a directory handle in a page
   * @throws ValueError for a path that is a file.
   */
  async save_config(directory: Directory): Promise<void> {
    const { config_name } = this.constructor as unknown as ConfigClass<unknown>;
    await writeFile(directory, config_name, [this.to_json_string()]);
  }
}

function isPlainObject(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function splitLoadOptions(kwargs: object): { load: LoadOptions; rest: Record<string, unknown> } {
  const load: Record<string, unknown> = {};
  const rest: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(kwargs))
    ((loadOptionNames as readonly string[]).includes(key) ? load : rest)[key] = value;
  return { load, rest };
}

/**
 * Reads and parses the config file of `cls`, or the JSON file that is named outright.
 *
 * @throws ModelNotFoundError when there is none, IntegrityError when it is not a JSON object.
 */
async function loadConfig(cls: ConfigClass<unknown>, from: SourceLike, options: LoadOptions): Promise<ConfigDict> {
  const file = typeof from === "string" || from instanceof URL ? /^(.*\/)?([^/]+\.json)$/.exec(String(from)) : null;
  if (file !== null) {
    const [, folder = "./", name] = file as unknown as [string, string | undefined, string];
    const parent = await openSource(folder, options);
    const text = await readText(parent, name, options);
    if (text !== undefined) return parseConfig(text, name, parent.name);
  }
  const source = subSource(await openSource(from, options), options.subfolder);
  const text = await readText(source, cls.config_name, options);
  if (text === undefined) {
    throw new ModelNotFoundError(
      `${source.name} has no ${cls.config_name}, which ${(cls as { name?: string }).name} needs. ` +
        "If the folder is a pipeline's, name the component with { subfolder }.",
      { file: cls.config_name, found: "no such file", expected: cls.config_name },
    );
  }
  return parseConfig(text, cls.config_name, source.name);
}

/** @throws IntegrityError for text that is not a JSON object, naming the file. */
export function parseConfig(text: string, file: string, where: string): ConfigDict {
  const details = { file, found: text.slice(0, 60), expected: "a JSON object" };
  let value: unknown;
  try {
    value = parsePythonJson(text);
  } catch (cause) {
    throw new IntegrityError(
      `The file ${file} of ${where} is not valid JSON: ${(cause as Error).message}. Download it again.`,
      details,
      { cause },
    );
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as ConfigDict;
  const kind = Array.isArray(value) ? "a list" : value === null ? "null" : `a ${typeof value}`;
  throw new IntegrityError(`The file ${file} of ${where} holds ${kind}, not a JSON object.`, details);
}

/** The rules of Diffusers' `extract_init_dict` and `from_config`, in its order. */
function fromConfig<T extends ConfigMixin<object>>(cls: ConfigClass<T>, config: ConfigDict, kwargs: object): T {
  const name = (cls as unknown as { name: string }).name;
  // Fields that the config never set: each class fills in its own default.
  const usedDefaults = Array.isArray(config["_use_default_values"]) ? (config["_use_default_values"] as string[]) : [];
  const original = Object.entries(config).filter(
    ([key]) => key !== "_use_default_values" && !usedDefaults.includes(key),
  );
  const expected = Object.keys(cls.config_defaults);
  const deprecated = cls.deprecated_fields ?? [];

  const className = config["_class_name"] ?? name;
  if (typeof className !== "string" && !Array.isArray(className)) {
    throw new ValueError("The `_class_name` of a config is a string or a list of strings.", {
      className: name,
      field: "_class_name",
      found: JSON.stringify(className),
      expected: "a string or a list of strings",
    });
  }
  const given = Object.fromEntries(Object.entries(kwargs).filter(([, value]) => value !== undefined));
  checkOptions(`${name}.from_config`, given, [...expected, ...deprecated]);

  const declared = floatsOf(cls.config_defaults);
  const init: Record<string, unknown> = {};
  const initFloats: string[] = [];
  for (const [entries, floats] of [
    [original, floatsOf(config) ?? declared],
    [Object.entries(given), floatsOf(kwargs) ?? declared],
  ] as const) {
    for (const [key, value] of entries) {
      if (!expected.includes(key) || (entries === original && Object.hasOwn(given, key))) continue;
      init[key] = value;
      if (floats?.has(key)) initFloats.push(key);
    }
  }

  // What is left belongs to a compatible class, to the class that wrote the file, or to nobody we know.
  const writtenByOther = typeof className === "string" && className !== name;
  for (const [key] of original) {
    const known = Object.hasOwn(init, key) || key.startsWith("_") || key === "quantization_config";
    if (known || writtenByOther || cls.compatible_fields.includes(key) || deprecated.includes(key)) continue;
    warnIgnored(name, key, expected);
  }

  const heeded = Object.entries({ ...Object.fromEntries(original), ...given }).filter(([key]) =>
    deprecated.includes(key),
  );
  const instance = new cls(markFloats({ ...init, ...Object.fromEntries(heeded) }, initFloats) as never);
  const hidden = Object.fromEntries(original.filter(([key]) => !Object.hasOwn(init, key)));
  if ("_class_name" in hidden) hidden["_class_name"] = name;
  const hiddenFloats = Object.keys(hidden).filter((key) => floatsOf(config)?.has(key));
  instance.register_to_config(markFloats(hidden, hiddenFloats));
  return instance;
}

function warnIgnored(className: string, key: string, expected: readonly string[]): void {
  const guess = nearest(key, expected);
  console.warn(
    `The config attribute \`${key}\` was passed to ${className}, but is not expected and will be ignored.` +
      (guess === undefined ? "" : ` Did you mean \`${guess}\`?`),
  );
}
