import { promisifyRequest } from "idb-keyval";
import { IntegrityError, ModelNotFoundError } from "../errors.ts";
import type { CachedModelKey, CacheExportOptions } from "./cache.ts";
import {
  allManifests,
  below,
  type CachedModel,
  firstOf,
  keptBytes,
  keys,
  type Manifest,
  modelsOf,
  partsOf,
} from "./cache_records.ts";
import { askToPersist, emptyDatabase, openDatabase } from "./database.ts";
import { leadsOut } from "./paths.ts";

/** What `cache.list` does. */
export async function listModels(): Promise<CachedModel[]> {
  return modelsOf(await (await openDatabase()).read(allManifests));
}

/** What `cache.size` does. */
export async function cacheSize(): Promise<number> {
  const manifests = await (await openDatabase()).read(allManifests);
  return manifests.reduce((sum, manifest) => sum + keptBytes(manifest), 0);
}

/** What `cache.evictable` does. */
export async function evictableModels(bytes: number): Promise<CachedModel[]> {
  return firstOf(await listModels(), bytes);
}

/** What `cache.clear` does. */
export function clearCache(): Promise<void> {
  return emptyDatabase();
}

/** What `cache.persist` does. */
export async function persistCache(): Promise<boolean> {
  return askToPersist(await openDatabase());
}

/** What `cache.delete` does. */
export async function deleteModel(model: CachedModelKey): Promise<number> {
  return (await openDatabase()).write(async (store) => {
    const manifests = (await allManifests(store)).filter((manifest) => isOf(manifest, model));
    for (const manifest of manifests) {
      store.delete(keys.file(manifest));
      store.delete(partsOf(manifest));
    }
    // What a branch was at, and the lists of files.
    const commits = below("commit");
    const [commitKeys, values] = await Promise.all([
      promisifyRequest(store.getAllKeys(commits)),
      promisifyRequest<string[]>(store.getAll(commits)),
    ]);
    for (const [i, key] of commitKeys.entries()) {
      const [, endpoint, repo] = key as string[];
      if (isOf({ endpoint: endpoint!, repo: repo!, commit: values[i]! }, model)) store.delete(key);
    }
    for (const key of await promisifyRequest(store.getAllKeys(below("listing")))) {
      const [, endpoint, repo, commit] = key as string[];
      if (isOf({ endpoint: endpoint!, repo: repo!, commit: commit! }, model)) store.delete(key);
    }
    return manifests.reduce((sum, manifest) => sum + keptBytes(manifest), 0);
  });
}

/** What `cache.export` does. */
export async function exportModel(
  repo: string,
  folder: FileSystemDirectoryHandle,
  options: CacheExportOptions,
): Promise<string[]> {
  const { signal, ...state } = options;
  const database = await openDatabase();
  const manifests = (await database.read(allManifests)).filter((manifest) => isOf(manifest, { repo, ...state }));
  const latest = modelsOf(manifests).at(-1);
  if (latest === undefined) {
    throw new ModelNotFoundError(
      `Nothing of ${repo}${state.commit === undefined ? "" : ` at ${state.commit}`} is kept here. Load it first, or see ` +
        "cache.list() for what is.",
      { found: repo, expected: "a repository that was downloaded" },
    );
  }
  const files = manifests.filter((manifest) => isOf(manifest, latest));
  const partial = files.find(({ whole }) => !whole);
  if (partial !== undefined) {
    throw new IntegrityError(
      `${partial.path} of ${repo} is there only in part (${keptBytes(partial)} of ${partial.size} bytes). Load the model ` +
        "to its end before it is exported.",
      { file: partial.path, found: `${keptBytes(partial)} bytes`, expected: `${partial.size} bytes` },
    );
  }
  for (const file of files) {
    signal?.throwIfAborted();
    await exportFile(
      file,
      await database.read((store) => promisifyRequest(store.getAll(partsOf(file)))),
      folder,
      signal,
    );
  }
  return files.map(({ path }) => path);
}

async function exportFile(
  { path, size }: Manifest,
  blobs: readonly Blob[],
  folder: FileSystemDirectoryHandle,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (leadsOut(path)) throw new IntegrityError(`${path} leads out of the folder.`, { file: path });
  const found = blobs.reduce((sum, blob) => sum + blob.size, 0);
  if (found !== size) {
    throw new IntegrityError(`${path} was deleted while it was exported. Load the model again.`, {
      ...{ file: path, found: `${found} bytes`, expected: `${size} bytes` },
    });
  }
  const names = path.split("/");
  let parent = folder;
  for (const name of names.slice(0, -1)) parent = await parent.getDirectoryHandle(name, { create: true });
  const writable = await (await parent.getFileHandle(names.at(-1)!, { create: true })).createWritable();
  try {
    for (const blob of blobs) {
      signal?.throwIfAborted();
      await writable.write(blob);
    }
  } catch (error) {
    // Until it is closed, the folder has none of it.
    await writable.abort();
    throw error;
  }
  await writable.close();
}

function isOf(
  { endpoint, repo, commit }: Pick<CachedModel, "endpoint" | "repo" | "commit">,
  model: CachedModelKey,
): boolean {
  return (
    repo === model.repo &&
    (model.commit === undefined || commit === model.commit) &&
    (model.endpoint === undefined || endpoint === model.endpoint)
  );
}
