import {
  type ConfigDict,
  ConfigMixin,
  checkOptions,
  type ImageSource,
  type LoadOptions,
  loadOptionNames,
  ModelNotFoundError,
  makeCallable,
  openSource,
  parseConfig,
  RawImage,
  type Resample,
  readText,
  type SourceLike,
  stringifyPythonJson,
  subSource,
  Tensor,
  ValueError,
} from "@diffusers-web/core";
import {
  convertToRgb,
  normalize,
  type Planes,
  planesOf,
  planesOfTensor,
  planesToRgb,
  rescale,
  resizePlanes,
  type SizeDict,
} from "./image_transforms.ts";

/** What the configs of all image processors have: fields of preprocessor_config.json. A flag that is null is off. */
export interface ImageProcessorConfig {
  do_resize: boolean | null;
  size: SizeDict | null;
  /** Whether a `size` that is one number means a square, not the shorter side. */
  default_to_square: boolean | null;
  /** Pillow's number of the filter. */
  resample: number | null;
  /** Multiply by `rescale_factor`. */
  do_rescale: boolean | null;
  rescale_factor: number | null;
  /** Subtract the mean, divide by the standard deviation. */
  do_normalize: boolean | null;
  /** One for all channels, or one for each. */
  image_mean: number | readonly number[] | null;
  /** One for all channels, or one for each. */
  image_std: number | readonly number[] | null;
  /** Three channels of any picture; transparency lies on white. */
  do_convert_rgb: boolean | null;
  do_pad: boolean | null;
}

/** The fields of a processor's config, in all forms that a file or a caller may write. */
export type ImageProcessorOptions<C extends ImageProcessorConfig> = {
  readonly [F in keyof C]?: F extends "resample"
    ? // Pillow's number of the filter, or its name.
      number | Resample | null
    : F extends `${string}size`
      ? // A list is `[height, width]`. A number is both sides; of `size`, see `default_to_square`.
        number | readonly number[] | SizeDict | null
      : C[F];
};

/** What an image processor gives. */
export interface ImageProcessorOutput {
  /** `[batch, channels, height, width]`. */
  readonly pixel_values: Tensor;
}

/** The static side of an image processor. */
export interface ImageProcessorClass<T> {
  new (config?: never): T;
  readonly name: string;
  readonly config_defaults: object;
  prepare_config(config: ConfigDict): ConfigDict;
}

type OptionsOf<T> = T extends BaseImageProcessor<infer C> ? ImageProcessorOptions<C> : never;

const FILE = "preprocessor_config.json";
/** Of a processor for several things, which has the one for pictures inside. */
const NESTED_FILE = "processor_config.json";

/** By Pillow's numbers. */
const filters: readonly Resample[] = ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"];

/**
 * Turns pictures into what a model takes. It computes what transformers does with Pillow, to the bit up to the
 * normalisation.
 *
 * @see transformers `BaseImageProcessor`, `PilBackend`
 */
export abstract class BaseImageProcessor<C extends ImageProcessorConfig> extends ConfigMixin<C> {
  static override readonly name: string = "BaseImageProcessor";
  static override readonly config_name: string = FILE;
  /** What has to have a value when a flag is set. */
  static readonly needed_fields: Readonly<Record<string, readonly string[]>> = {
    do_resize: ["size", "resample"],
    do_rescale: ["rescale_factor"],
    do_normalize: ["image_mean", "image_std"],
  };
  // Written by transformers, and without an effect on pictures.
  static override readonly compatible_fields: readonly string[] = [
    ...["data_format", "input_data_format", "return_tensors", "device", "disable_grouping", "image_seq_length"],
    ...["image_processor_type", "feature_extractor_type", "processor_class"],
  ];

  /** @throws ValueError for a size, filter, mean, deviation or factor that cannot be. */
  constructor(config: ImageProcessorOptions<C> = {}) {
    super(standardized(new.target, config));
    // biome-ignore lint/correctness/noConstructorReturn: a processor is a function.
    return makeCallable(this, (self, args) => self.preprocess(args[0] as ImageSource, args[1] as object));
  }

  /** The height and width that a picture is resized to. */
  protected abstract resizedTo(config: C, height: number, width: number): [height: number, width: number];

  /** What follows the resizing, of all pictures of a call. */
  protected abstract finish(pictures: readonly Planes[], config: C): Planes[];

  /** What a class makes of its file before its fields are read. */
  static prepare_config(config: ConfigDict): ConfigDict {
    return config;
  }

  /**
   * @param images one or several; a tensor is `[channels, height, width]` or `[batch, channels, height, width]`. As in
   * transformers, a tensor's values are multiplied by `rescale_factor` as well: pass `{ do_rescale: false }` for 0..1
   * @param options fields of the config that are different for this call
   * @throws ValueError for pictures that end up in different sizes, and for what the constructor refuses.
   */
  async preprocess(
    images: ImageSource | readonly ImageSource[],
    options: ImageProcessorOptions<C> = {},
  ): Promise<ImageProcessorOutput> {
    const cls = this.constructor as unknown as typeof BaseImageProcessor;
    checkOptions(cls.name, options, Object.keys(cls.config_defaults));
    const { default_to_square } = this.config;
    const config = { ...this.config, ...standardized(cls, { default_to_square, ...options }) } as C;
    checkNeeded(cls, config);
    const list = (Array.isArray(images) ? images : [images]) as readonly ImageSource[];
    const prepared = (await Promise.all(list.map((image) => this.prepared(image, config)))).flat();
    if (prepared.length === 0) throw wrongField(cls.name, "images", "an empty list", "at least one picture");
    const pictures = this.finish(prepared, config);

    const [{ channels, height, width }] = pictures as [Planes];
    const sizes = pictures.map((one) => `${one.channels} x ${one.height} x ${one.width}`);
    if (sizes.some((size) => size !== sizes[0])) {
      const found = [...new Set(sizes)].join(", ");
      throw wrongField(
        cls.name,
        "images",
        `${found} (channels x height x width)`,
        "equal sizes: set do_center_crop, or a square size",
      );
    }
    const values = new Float32Array(pictures.length * channels * height * width);
    for (const [i, { data }] of pictures.entries()) values.set(data, i * data.length);
    return { pixel_values: new Tensor("float32", values, [pictures.length, channels, height, width]) };
  }

  /** Reads, converts and resizes what was passed. */
  private async prepared(image: ImageSource, config: C): Promise<Planes[]> {
    const resample = filters[config.resample ?? 3]!;
    if (image instanceof Tensor) {
      const isWhole = !["float16", "float32", "float64"].includes(image.type);
      return planesOfTensor(image).map((planes) => {
        const rgb = config.do_convert_rgb ? planesToRgb(planes, isWhole) : planes;
        if (!config.do_resize) return rgb;
        return resizePlanes(rgb, ...this.resizedTo(config, rgb.height, rgb.width), resample);
      });
    }
    const read = await RawImage.read(image);
    const rgb = config.do_convert_rgb ? convertToRgb(read) : read;
    if (!config.do_resize) return [planesOf(rgb)];
    const [height, width] = this.resizedTo(config, rgb.height, rgb.width);
    return [planesOf(rgb.resize(width, height, { resample }))];
  }

  /** What transformers prints and saves: without a version, and without fields that were not set. */
  override to_json_string(): string {
    const { _use_default_values, ...config } = this.config as Readonly<Record<string, unknown>>;
    const cls = this.constructor as typeof BaseImageProcessor;
    const defaults = cls.config_defaults as Readonly<Record<string, unknown>>;
    const isShown = ([key, value]: [string, unknown]): boolean =>
      // A null is shown where it says something.
      (value !== null || (defaults[key] ?? null) !== null) &&
      !key.startsWith("_") &&
      !["feature_extractor_type", "processor_class"].includes(key);
    const shown = Object.fromEntries(Object.entries(config).filter(isShown));
    if ((_use_default_values as string[] | undefined)?.includes("default_to_square")) delete shown["default_to_square"];
    return `${stringifyPythonJson({ ...shown, image_processor_type: this.constructor.name.replace(/Pil$/, "") })}\n`;
  }

  /**
   * Loads a processor's config.
   *
   * @param options fields of the config override the file's
   * @throws ModelNotFoundError when there is none, IntegrityError when it is damaged, ValueError for what the constructor
   * refuses.
   * @see transformers `ImageProcessingMixin.from_pretrained`
   */
  static async from_pretrained<T extends ConfigMixin<object>>(
    this: ImageProcessorClass<T>,
    from: SourceLike,
    options: LoadOptions & OptionsOf<T> = {} as LoadOptions & OptionsOf<T>,
  ): Promise<T> {
    const fields = Object.keys(this.config_defaults);
    checkOptions(`${this.name}.from_pretrained`, options, [...loadOptionNames, ...fields]);
    const source = subSource(await openSource(from, options), options.subfolder);
    const read = async (file: string): Promise<ConfigDict | undefined> => {
      const text = await readText(source, file, options);
      return text === undefined ? undefined : parseConfig(text, file, source.name);
    };
    const [nested, own] = await Promise.all([read(NESTED_FILE), read(FILE)]);
    const config = (nested?.["image_processor"] as ConfigDict | undefined) ?? own;
    if (config === undefined) {
      throw new ModelNotFoundError(
        `${source.name} has no ${FILE}, which ${this.name} needs. ` +
          "If the folder is a pipeline's, name the component with { subfolder }.",
        { file: FILE, found: "no such file", expected: FILE },
      );
    }
    const overrides = Object.fromEntries(Object.entries(options).filter(([key]) => fields.includes(key)));
    const fromConfig = ConfigMixin.from_config as (this: unknown, config: object) => T;
    return fromConfig.call(this, { ...this.prepare_config(config), ...overrides });
  }
}

/** Rescales and normalises. */
export function scaled(planes: Planes, config: ImageProcessorConfig): Planes {
  const rescaled = config.do_rescale ? rescale(planes, config.rescale_factor!) : planes;
  return config.do_normalize ? normalize(rescaled, config.image_mean!, config.image_std!) : rescaled;
}

/** The error for a value of a field. */
export function wrongField(className: string, field: string, found: string, expected: string): ValueError {
  const message = `${className}: \`${field}\` is ${found}, expected ${expected}.`;
  return new ValueError(message, { className, field, found, expected });
}

/** The fields that are given, each in its one form. */
function standardized<C>(
  cls: { readonly name: string; readonly config_defaults: object },
  options: { readonly default_to_square?: unknown },
): Partial<C> {
  const { name: className, config_defaults: defaults } = cls;
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const square = (options.default_to_square ?? (defaults as ImageProcessorConfig).default_to_square) === true;
  const one = ([field, value]: [string, unknown]): [string, unknown] => {
    if (value === null || !(field in defaults)) return [field, value];
    if (field === "resample") return [field, filterNumber(className, value)];
    if (/^(crop_|pad_)?size$/.test(field))
      return [field, sizeDict(className, field, value, square || field !== "size")];
    const isFlag = field.startsWith("do_") || ["default_to_square", "keep_aspect_ratio"].includes(field);
    const mayBeList = field.startsWith("image_");
    const isList = mayBeList && Array.isArray(value) && value.every((item) => typeof item === "number");
    if (isFlag ? typeof value === "boolean" : typeof value === "number" || isList) return [field, value];
    const expected = isFlag ? "true or false" : mayBeList ? "a number, or one for each channel" : "a number";
    throw wrongField(className, field, JSON.stringify(value), expected);
  };
  return Object.fromEntries(given.map(one)) as Partial<C>;
}

function filterNumber(className: string, resample: unknown): number {
  const number = typeof resample === "string" ? filters.indexOf(resample as Resample) : resample;
  if (filters[number as number] !== undefined) return number as number;
  const expected = filters.map((filter, i) => `${i} (${filter})`).join(", ");
  throw wrongField(className, "resample", JSON.stringify(resample), `one of ${expected}`);
}

/** @see transformers `validate_preprocess_arguments` */
function checkNeeded({ name, needed_fields }: typeof BaseImageProcessor, config: object): void {
  const values = config as Readonly<Record<string, unknown>>;
  for (const [flag, fields] of Object.entries(needed_fields)) {
    const missing = fields.find((field) => values[field] === null);
    if (values[flag] && missing !== undefined)
      throw wrongField(name, missing, "null", `a value, as \`${flag}\` is true`);
  }
}

const sizeKeys: readonly string[] = [
  ...["height,width", "shortest_edge", "longest_edge,shortest_edge", "longest_edge", "max_height,max_width"],
  "max_pixels,min_pixels",
];

/** @see transformers `get_size_dict` */
function sizeDict(className: string, field: string, value: unknown, square: boolean): SizeDict {
  let size = value;
  if (typeof value === "number") size = square ? { height: value, width: value } : { shortest_edge: value };
  else if (Array.isArray(value)) size = value.length < 2 ? null : { height: value[0], width: value[1] };
  const isWhole = (one: unknown): boolean => one === null || (Number.isInteger(one) && (one as number) >= 0);
  if (typeof size === "object" && size !== null && Object.values(size).every(isWhole)) {
    if (sizeKeys.includes(Object.keys(size).sort().join(","))) return size as SizeDict;
  }
  const expected = "whole numbers as n, [height, width], { height, width } or { shortest_edge }";
  throw wrongField(className, field, JSON.stringify(value), expected);
}
