import {
  checkOptions,
  type FileInfo,
  type LoadOptions,
  loadOptionNames,
  ModelNotFoundError,
  openSource,
  type ProgressReporter,
  reportProgress,
  type Source,
  type SourceLike,
  subSource,
  UnsupportedModelError,
  ValueError,
  WeightsMismatchError,
} from "@diffusers-web/core";
import {
  type CLIPVisionModelWithProjection,
  lazyModels,
  type UNet2DConditionModel,
  Weights,
} from "@diffusers-web/models";
import { componentRegistry } from "../component_registry.ts";
import { CLIPImageProcessor } from "../image_processing_clip.ts";
import { neededFiles } from "../needed_files.ts";

/** What `load_ip_adapter` takes. */
export interface IPAdapterLoadOptions extends Omit<LoadOptions, "subfolder" | "variant"> {
  /** The file in `subfolder`, as `ip-adapter_sd15.safetensors`; a list of one for each adapter. */
  readonly weight_name: string | readonly string[];
  /** The folder of the file, or a list of one for each adapter. Default: the root. */
  readonly subfolder?: string | readonly string[] | undefined;
  /**
   * The folder of the image encoder, in `subfolder`; with a slash in it, from the root, as `models/image_encoder`. It is read
   * when the pipeline has no image encoder. Null: it is not, and calls take `ip_adapter_image_embeds`. Default `image_encoder`.
   */
  readonly image_encoder_folder?: string | null | undefined;
}

const optionNames: readonly (keyof IPAdapterLoadOptions)[] = [
  ...loadOptionNames.filter((name) => name !== "variant"),
  "weight_name",
  "image_encoder_folder",
];

/** What of a pipeline IP-Adapters are loaded into. */
interface AdaptedParts {
  readonly unet: UNet2DConditionModel;
  readonly image_encoder: CLIPVisionModelWithProjection | null;
  readonly feature_extractor: CLIPImageProcessor | null;
}

/** An adapter's file. */
interface Place {
  readonly source: Source;
  readonly subfolder: string;
  readonly path: string;
}

/** How files are read. */
interface Reading {
  readonly signal: AbortSignal | undefined;
  readonly progress: ProgressReporter | undefined;
}

/**
 * Gives a UNet IP-Adapters.
 *
 * @returns what the pipeline lacked for them, to be made its own
 * @see Diffusers `IPAdapterMixin.load_ip_adapter`
 */
export async function loadIPAdapters(
  { unet, ...parts }: AdaptedParts,
  from: SourceLike | readonly SourceLike[],
  options: IPAdapterLoadOptions,
): Promise<{ image_encoder?: CLIPVisionModelWithProjection; feature_extractor?: CLIPImageProcessor }> {
  checkOptions("load_ip_adapter", options, optionNames);
  const { signal, image_encoder_folder = "image_encoder" } = options;
  const progress = reportProgress(options.progress_callback);
  const places = await placesOf(from, options);
  // One of a pipeline that shared it may be gone.
  const wantsEncoder = parts.image_encoder === null || parts.image_encoder.is_disposed;
  const encoderPlace =
    wantsEncoder && image_encoder_folder !== null ? encoderOf(places[0]!, image_encoder_folder) : null;

  const weights: Weights[] = [];
  let image_encoder: CLIPVisionModelWithProjection | undefined;
  try {
    await fetchFiles(places, encoderPlace, { signal, progress });
    for (const place of places) weights.push(await openAdapter(place, { signal, progress }));
    // Before the image encoder comes, which is far larger.
    unet.check_ip_adapters(weights);
    if (encoderPlace !== null) {
      const encoderClass = await lazyModels.CLIPVisionModelWithProjection();
      image_encoder = await encoderClass.from_pretrained(encoderPlace.source, {
        ...{ subfolder: encoderPlace.folder, device: unet.device, dtype: unet.dtype, signal },
        progress_callback: progress,
      });
    } else if (wantsEncoder) {
      console.warn(
        "No image encoder is loaded, since `image_encoder_folder` is null: the calls of the pipeline take " +
          "`ip_adapter_image_embeds` in place of `ip_adapter_image`.",
      );
    }
    signal?.throwIfAborted();
    unet.set_ip_adapters(weights);
  } catch (error) {
    for (const file of weights) file.close();
    await image_encoder?.dispose();
    throw error;
  }
  // FaceID adapters have no image encoder.
  const encoder = image_encoder ?? (wantsEncoder ? null : parts.image_encoder);
  const size = encoder?.config.image_size ?? 224;
  return {
    ...(image_encoder && { image_encoder }),
    ...(parts.feature_extractor === null && {
      feature_extractor: new CLIPImageProcessor({ size, crop_size: size }),
    }),
  };
}

/** Where the adapters' files are. One source or folder stands for all of them. */
async function placesOf(
  from: SourceLike | readonly SourceLike[],
  options: IPAdapterLoadOptions,
): Promise<readonly Place[]> {
  const names = listOf(options.weight_name);
  if (names.length === 0 || !names.every((name) => typeof name === "string" && name !== "")) {
    const found = JSON.stringify(options.weight_name) ?? "nothing";
    throw new ValueError(
      `\`weight_name\` is ${found}, expected an adapter's file, as "ip-adapter_sd15.safetensors", or a list of them.`,
      { field: "weight_name", found, expected: "a file's name" },
    );
  }
  for (const name of names) checkFormat(name);
  // A list of files is one source.
  const isOne = !Array.isArray(from) || from.every((item) => item instanceof Blob);
  const sources = spread("source", isOne ? [from as SourceLike] : (from as readonly SourceLike[]), names.length);
  const folders = spread("subfolder", listOf(options.subfolder ?? ""), names.length);
  const opened = new Map<SourceLike, Source>();
  const { subfolder: _, ...loading } = options;
  for (const source of new Set(sources)) opened.set(source, await openSource(source, loading));
  return names.map((name, i) => {
    const subfolder = folders[i]!.replace(/\/+$/, "");
    return { source: opened.get(sources[i]!)!, subfolder, path: within(subfolder, name) };
  });
}

function listOf(value: string | readonly string[]): readonly string[] {
  return typeof value === "string" ? [value] : (value ?? []);
}

function within(folder: string, name: string): string {
  return folder === "" ? name : `${folder}/${name}`;
}

function spread<T>(field: string, values: readonly T[], count: number): readonly T[] {
  if (values.length === count) return values;
  if (values.length === 1) return new Array<T>(count).fill(values[0]!);
  throw new ValueError(
    `There are ${count} names in \`weight_name\`, but ${values.length} of \`${field}\`: pass one for all, or one for each.`,
    { field, found: String(values.length), expected: `1 or ${count}` },
  );
}

/** @throws UnsupportedModelError for what is no safetensors file, by its name. */
function checkFormat(file: string): void {
  if (file.endsWith(".safetensors")) return;
  throw new UnsupportedModelError(
    `${file} is no .safetensors file. A pickle (.bin) can run code when it is read: take the .safetensors file of the same ` +
      "adapter, or convert it in Python: state = torch.load(file, weights_only=True); safetensors.torch.save_file(" +
      '{f"{part}.{name}": t.contiguous() for part in state for name, t in state[part].items()}, name).',
    { className: "IPAdapter", field: "weight_name", file, found: file, expected: "a .safetensors file" },
  );
}

interface EncoderPlace {
  readonly source: Source;
  readonly folder: string;
}

function encoderOf({ source, subfolder }: Place, folder: string): EncoderPlace {
  return { source, folder: folder.includes("/") ? folder : within(subfolder, folder) };
}

/**
 * Fetches the adapters' files, of sources that list theirs. All that the load fetches is announced first, the image encoder
 * too.
 *
 * @throws ModelNotFoundError, UnsupportedModelError for what is not there, or only as a pickle.
 */
async function fetchFiles(
  places: readonly Place[],
  encoder: EncoderPlace | null,
  { signal, progress }: Reading,
): Promise<void> {
  for (const source of new Set(places.map((place) => place.source))) {
    const listing = await source.list?.({ signal });
    if (listing === undefined) continue;
    const files = places.filter((place) => place.source === source).map(({ path }) => listed(source, listing, path));
    const later = encoder?.source === source ? await encoderFiles(encoder, listing, signal) : [];
    progress?.announce([...files, ...later]);
    await source.prefetch?.(
      files.map(({ path }) => path),
      { signal, progress_callback: progress },
    );
  }
  if (encoder === null) progress?.arrived();
}

function listed(source: Source, listing: readonly FileInfo[], path: string): FileInfo {
  const found = listing.find((file) => file.path === path);
  if (found !== undefined) return found;
  const folder = path.slice(0, path.lastIndexOf("/") + 1);
  const others = listing.filter((file) => file.path.startsWith(folder) && /adapter.*\.safetensors$/i.test(file.path));
  const expected = others.map((file) => file.path).join(", ");
  throw noFile(source, path, expected === "" ? "" : ` There are: ${expected}.`);
}

function noFile(source: Source, path: string, others = ""): ModelNotFoundError {
  return new ModelNotFoundError(
    `${source.name} has no file ${path}. Check \`weight_name\` and \`subfolder\`.${others}`,
    {
      file: path,
      found: "no such file",
      expected: path,
    },
  );
}

async function encoderFiles(
  { source, folder }: EncoderPlace,
  listing: readonly FileInfo[],
  signal: AbortSignal | undefined,
): Promise<readonly Pick<FileInfo, "path" | "size">[]> {
  const config = `${folder}/config.json`;
  if (!listing.some(({ path }) => path === config)) {
    throw new ModelNotFoundError(
      `${source.name} has no ${config}: no image encoder is there. Pass the \`image_encoder_folder\` (as ` +
        '"models/image_encoder"), an image_encoder to the pipeline, or null to do with `ip_adapter_image_embeds`.',
      { file: config, field: "image_encoder_folder", found: "no such file", expected: config },
    );
  }
  const cut = folder.lastIndexOf("/") + 1;
  const parent = subSource(source, folder.slice(0, cut));
  const files = listing.map((file) => ({ ...file, path: file.path.slice(cut) }));
  const inParent = files.filter((_, i) => listing[i]!.path.startsWith(folder.slice(0, cut)));
  const wanted = { key: folder.slice(cut), entry: componentRegistry["CLIPVisionModelWithProjection"]! };
  const needed = await neededFiles(parent, inParent, [wanted], { signal });
  return needed.files.map(({ path, size }) => ({ path: folder.slice(0, cut) + path, size }));
}

/**
 * Opens an adapter's file: of what is in it, that which is an IP-Adapter's.
 *
 * @throws WeightsMismatchError for a file without any of it.
 */
async function openAdapter({ source, path }: Place, { signal, progress }: Reading): Promise<Weights> {
  const file = await source.open(path, { signal, progress_callback: progress });
  if (file === undefined) throw noFile(source, path);
  try {
    progress?.({ phase: "verify", file: path, loaded: 0, total: 0 });
    const weights = new Weights([file]);
    const isPart = (name: string): boolean => /^(image_proj|ip_adapter)\./.test(name);
    const names = [...weights.names()];
    const strangers = names.filter((name) => !isPart(name));
    if (strangers.length === names.length) {
      throw new WeightsMismatchError(
        `${path} is no IP-Adapter: none of its tensors is called image_proj.* or ip_adapter.*, as all of an adapter's are ` +
          `(found ${names.slice(0, 3).join(", ") || "none"}).`,
        { file: path, tensors: names, found: names[0] ?? "no tensors", expected: "image_proj.* and ip_adapter.*" },
      );
    }
    if (strangers.length === 0) return weights;
    console.warn(`${path}: ${strangers.slice(0, 5).join(", ")} belong to no IP-Adapter; left out, as in Diffusers.`);
    return weights.view((tensors) => new Map([...tensors].filter(([name]) => isPart(name))));
  } catch (error) {
    file.close();
    throw error;
  }
}
