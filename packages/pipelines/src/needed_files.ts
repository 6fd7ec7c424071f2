import { type FileInfo, type Source, subSource, ValueError } from "@diffusers-web/core";
import { findWeights, hasWeights } from "@diffusers-web/models";
import type { WantedComponent } from "./pipeline_loading_utils.ts";

/** Where a component's files are, among those that a source lists. */
export interface ComponentPlace {
  /** With a slash at its end; empty for the root of the repository, as in google/ddpm-cat-256. */
  readonly folder: string;
  /** Reads of what is listed, and asks for nothing else. */
  readonly source: Source;
}

/** What a load takes of a source. */
export interface NeededFiles {
  /** Each file once. */
  readonly files: readonly FileInfo[];
  /** By component: the variant that its weights are taken of, undefined for the plain ones. */
  readonly variants: ReadonlyMap<string, string | undefined>;
}

/** How the files are chosen. */
export interface NeededFilesOptions {
  readonly variant?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** The folder of a component's name if it has one of the files that such a component has, else the root if that does. */
export function componentPlace(
  root: Source,
  listing: readonly FileInfo[],
  { key, entry }: WantedComponent,
): ComponentPlace {
  const names = new Set(listing.map(({ path }) => path));
  const own = `${key}/`;
  const folder = [own, ""].find((prefix) => entry.files.some((file) => names.has(prefix + file))) ?? own;
  return { folder, source: listedSource(subSource(root, folder), inFolder(listing, folder)) };
}

/** A source that is asked for nothing but the files that it has. */
export function listedSource(source: Source, files: readonly FileInfo[]): Source {
  const listed = new Set(files.map(({ path }) => path));
  return {
    name: source.name,
    list: async () => files,
    open: async (path, options) => (listed.has(path) ? source.open(path, options) : undefined),
  };
}

/** The places of a component: of one that is several models, a folder for each. */
function componentPlaces(root: Source, listing: readonly FileInfo[], component: WantedComponent): ComponentPlace[] {
  const places = [componentPlace(root, listing, component)];
  if (component.entry.is_several !== true) return places;
  for (;;) {
    const folder = `${component.key}_${places.length}`;
    if (!listing.some(({ path }) => path === `${folder}/config.json`)) return places;
    places.push(componentPlace(root, listing, { ...component, key: folder }));
  }
}

/**
 * The files that a pipeline's components take, of those that a source lists: of each its config, or what else it reads, and
 * its weights in safetensors. Of a variant where the component has it; where it does not, the plain ones, as long as the
 * repository has any weights of that variant. Reads no more than the indices of sharded weights.
 *
 * @throws ValueError when a variant is asked for of which there are no weights at all.
 * @throws ModelNotFoundError, UnsupportedModelError, IntegrityError when a component's weights are not there, are only
 * there as a pickle, or have a damaged index.
 * @see Diffusers `variant_compatible_siblings`
 */
export async function neededFiles(
  root: Source,
  listing: readonly FileInfo[],
  wanted: readonly WantedComponent[],
  { variant, signal }: NeededFilesOptions = {},
): Promise<NeededFiles> {
  const names = new Set(listing.map(({ path }) => path));
  const needed = new Set<string>();
  const variants = new Map<string, string | undefined>();
  let hasPlain = false;
  const searches = [];
  for (const one of wanted) {
    const { key, entry } = one;
    const places = componentPlaces(root, listing, one);
    for (const { folder } of places) {
      const has = (name: string): boolean => names.has(folder + name);
      for (const file of entry.reads?.(has) ?? entry.files) if (has(file)) needed.add(folder + file);
    }
    const { weights_name: stem, name: className } = entry.is_model ? await entry.load() : {};
    // An ONNX export has weights, and no variants.
    hasPlain ||= entry.is_model && stem === undefined;
    if (stem === undefined || className === undefined) continue;
    const haveAll = (of: string | undefined): boolean =>
      places.every(({ folder }) => hasWeights((name) => names.has(folder + name), stem, of));
    hasPlain ||= haveAll(undefined);
    const chosen = variant !== undefined && haveAll(variant) ? variant : undefined;
    variants.set(key, chosen);
    for (const place of places) searches.push({ ...place, request: { stem, className, variant: chosen, signal } });
  }
  // Without any weights the search below says what is wrong.
  if (variant !== undefined && hasPlain && !hasVariant(names, variant)) throw noVariant(root, variant);
  for (const { folder, source, request } of searches) {
    const { files } = await findWeights(source, inFolder(listing, folder), request);
    for (const { path } of files) needed.add(folder + path);
  }
  return { files: listing.filter(({ path }) => needed.has(path)), variants };
}

/** Whether any folder has weights of the variant, also that of a component that was passed. */
function hasVariant(names: ReadonlySet<string>, variant: string): boolean {
  const folders = new Set([...names].map((path) => path.slice(0, path.lastIndexOf("/") + 1)));
  return [...folders].some((folder) =>
    ["diffusion_pytorch_model", "model"].some((stem) => hasWeights((name) => names.has(folder + name), stem, variant)),
  );
}

/** That no component has weights of the variant. */
export function noVariant(root: Source, variant: string, cause?: unknown): ValueError {
  return new ValueError(
    `No component of ${root.name} has weights of the variant ${JSON.stringify(variant)}. Leave { variant } out.`,
    { field: "variant", found: "no such weights", expected: `*.${variant}.safetensors` },
    { cause },
  );
}

/** The files below a folder, by their paths in it. */
function inFolder(listing: readonly FileInfo[], folder: string): readonly FileInfo[] {
  return listing
    .filter(({ path }) => path.startsWith(folder))
    .map((file) => ({ ...file, path: file.path.slice(folder.length) }));
}
