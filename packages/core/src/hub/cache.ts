import { checkOptions, ValueError } from "../errors.ts";
import type { CachedModel } from "./cache_records.ts";

export type { CachedModel } from "./cache_records.ts";

/** Which kept models: all of a repository, or one commit of it. */
export interface CachedModelKey {
  /** owner/name */
  readonly repo: string;
  /** Default: all commits; of `export`, the one that was used last. */
  readonly commit?: string | undefined;
  /** The hub's address. Default: any. */
  readonly endpoint?: string | undefined;
}

/** Options of `cache.export`. */
export interface CacheExportOptions {
  readonly commit?: string | undefined;
  readonly endpoint?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * What `from_pretrained` has downloaded and keeps in the browser, for all pages and workers of this origin.
 *
 * Every method throws a DeviceError where there is no IndexedDB (Node: its downloads are in the hub's cache folder).
 */
export interface DownloadCache {
  /** The models that are kept, by repository and commit, the least recently used first. */
  list(): Promise<CachedModel[]>;
  /** How many bytes are kept in all. */
  size(): Promise<number>;
  /**
   * Deletes a repository, or one commit of it. Models that are in use keep their open files.
   *
   * @returns how many bytes that freed; 0 when nothing of it was kept
   */
  delete(model: CachedModelKey): Promise<number>;
  /** Deletes all that is kept, whichever version of this library wrote it. */
  clear(): Promise<void>;
  /** The least recently used models that together have at least `bytes`; all where that is not enough. */
  evictable(bytes: number): Promise<CachedModel[]>;
  /**
   * Writes the files of a model into a folder as they lie in its repository, e.g. for another browser or for Python.
   *
   * @returns the paths that were written
   * @throws ModelNotFoundError when nothing of it is kept.
   * @throws IntegrityError when a file is there only in part.
   */
  export(repo: string, folder: FileSystemDirectoryHandle, options?: CacheExportOptions): Promise<string[]>;
  /**
   * Asks the browser to keep what is stored when the disk gets full, unless it was asked before. Downloads in a window
   * ask on their own; only a window can, so a page whose models load in a worker calls this.
   *
   * @returns whether it will be kept
   */
  persist(): Promise<boolean>;
}

/** {@link DownloadCache} of this origin. */
export const cache: DownloadCache = {
  list: async () => (await load()).listModels(),
  size: async () => (await load()).cacheSize(),
  delete: async (model) => {
    checkOptions("cache.delete", model, ["repo", "commit", "endpoint"]);
    if (typeof model.repo !== "string") throw new TypeError("cache.delete takes { repo }: a hub id (owner/name).");
    return (await load()).deleteModel(model);
  },
  clear: async () => (await load()).clearCache(),
  evictable: async (bytes) => {
    if (!(bytes >= 0)) throw new ValueError(`cache.evictable takes a number of bytes, got ${bytes}.`);
    return (await load()).evictableModels(bytes);
  },
  export: async (repo, folder, options = {}) => {
    checkOptions("cache.export", options, ["commit", "endpoint", "signal"]);
    return (await load()).exportModel(repo, folder, options);
  },
  persist: async () => (await load()).persistCache(),
};

/** Importing the package opens no database. */
function load(): Promise<typeof import("./cache_models.ts")> {
  return import("./cache_models.ts");
}
