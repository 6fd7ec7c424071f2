import { promisifyRequest } from "idb-keyval";
import { DeviceError, IntegrityError } from "../errors.ts";
import { openBlobs } from "./blob_file.ts";
import {
  cutParts,
  describes,
  emptyManifest,
  keptBytes,
  keys,
  type Manifest,
  partsOf,
  partsToMerge,
} from "./cache_records.ts";
import { askToPersist, type Database, isFull, openDatabase } from "./database.ts";
import { quotaError } from "./quota.ts";
import type { FileInfo, LoadOptions, SourceFile } from "./source.ts";
import type { FileKey, HubStore, PartialFile, RepoKey } from "./store.ts";

/** Options of {@link openIndexedDbStore}. */
export interface IndexedDbStoreOptions {
  /** `"or-memory"`: what finds no room is kept in memory, as long as the store is. */
  readonly cache?: LoadOptions["cache"];
  /** The database's name. Default: the one that `cache` works on. */
  readonly database?: string | undefined;
}

/**
 * Downloads kept in IndexedDB, for pages and workers of one origin together.
 *
 * @throws DeviceError where there is no IndexedDB.
 * @throws UnsupportedModelError when another version of this library wrote the database.
 */
export async function openIndexedDbStore(options: IndexedDbStoreOptions = {}): Promise<HubStore> {
  const orMemory = options.cache === "or-memory";
  try {
    return new IndexedDbStore(await openDatabase(options.database), orMemory);
  } catch (error) {
    if (!orMemory || !(error instanceof DeviceError)) throw error;
    // Private windows of some browsers refuse it.
    const { MemoryStore } = await import("./memory_store.ts");
    return new MemoryStore();
  }
}

/** The rest of a file that found no room in the database. Blobs: a browser may put these on disk on its own. */
interface Rest {
  /** The whole file's size. */
  readonly size: number;
  /** Where in the file it begins: what is before is in the database. */
  readonly begin: number;
  readonly blobs: Blob[];
  bytes: number;
  hash: Uint8Array | undefined;
  whole: boolean;
}

/** A file as of one moment. */
interface Kept {
  readonly manifest: Manifest | undefined;
  readonly blobs: readonly Blob[];
}

class IndexedDbStore implements HubStore {
  readonly #database: Database;
  readonly #orMemory: boolean;
  /** By the file's key. Only with "or-memory". */
  readonly #rests = new Map<string, Rest>();
  /** Commits and listings that found no room. */
  readonly #notes = new Map<string, unknown>();
  #asked = false;

  constructor(database: Database, orMemory: boolean) {
    this.#database = database;
    this.#orMemory = orMemory;
  }

  async open(key: FileKey): Promise<SourceFile | undefined> {
    const blobs = await this.#whole(key, () => this.#readAndMark(key));
    return blobs && openBlobs(key.path, blobs);
  }

  async has(key: FileKey): Promise<boolean> {
    return (await this.#whole(key, () => this.#database.read((store) => keptOf(store, key)))) !== undefined;
  }

  async begin(key: FileKey, info: FileInfo): Promise<PartialFile> {
    this.#askOnce();
    let kept = await this.#database.read((store) => manifestOf(store, key));
    if (kept !== undefined && !describes(kept, info)) {
      // The same path of the same commit with other contents: what is kept was never right.
      await this.delete(key);
      kept = undefined;
    }
    const manifest = kept ?? emptyManifest(key, info);
    const rest = this.#rests.get(idOf(key));
    // Deleted in another tab, or of other contents: the rest alone is of no use.
    if (rest?.begin !== keptBytes(manifest) || rest.size !== manifest.size) this.#rests.delete(idOf(key));
    return new IndexedDbPart(this.#database, manifest, this.#orMemory ? this.#rests : undefined);
  }

  async exclusive<T>(key: FileKey, task: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    signal?.throwIfAborted();
    // Without Web Locks (no secure context, or an old browser) two tabs may download the same file at once: the one that
    // comes second then finds its part changed, and says so.
    if (globalThis.navigator?.locks === undefined) return task();
    // The signal ends the wait only: the task has its own.
    const name = `diffusers-web:${idOf(key)}`;
    return navigator.locks.request(name, signal === undefined ? {} : { signal }, task) as Promise<T>;
  }

  commit(repo: RepoKey, revision: string): Promise<string | undefined> {
    return this.#note(keys.commit(repo, revision));
  }

  keepCommit(repo: RepoKey, revision: string, commit: string): Promise<void> {
    return this.#keepNote(keys.commit(repo, revision), commit, { ...repo, commit, path: `the commit of ${revision}` });
  }

  listing(repo: RepoKey, commit: string): Promise<readonly FileInfo[] | undefined> {
    return this.#note(keys.listing(repo, commit));
  }

  keepListing(repo: RepoKey, commit: string, files: readonly FileInfo[]): Promise<void> {
    return this.#keepNote(keys.listing(repo, commit), files, { ...repo, commit, path: "the list of files" });
  }

  async delete(key: FileKey): Promise<void> {
    this.#rests.delete(idOf(key));
    await this.#database.write((store) => {
      store.delete(keys.file(key));
      store.delete(partsOf(key));
    });
  }

  /** The Blobs of a whole file. */
  async #whole(key: FileKey, read: () => Promise<Kept>): Promise<readonly Blob[] | undefined> {
    const rest = this.#rests.get(idOf(key));
    if (rest !== undefined && !rest.whole) return undefined;
    const kept = await read();
    if (rest === undefined && !kept.manifest?.whole) return undefined;
    const blobs = [...kept.blobs, ...(rest?.blobs ?? [])];
    if (blobs.reduce((sum, blob) => sum + blob.size, 0) === (rest ?? kept.manifest)?.size) return blobs;
    // The browser lost a part: as if the file had never been there, so that it is downloaded again.
    await this.delete(key);
    return undefined;
  }

  /** A whole file counts as used now. */
  async #readAndMark(key: FileKey): Promise<Kept> {
    try {
      return await this.#database.write(async (store) => {
        const kept = await keptOf(store, key);
        if (kept.manifest?.whole) store.put({ ...kept.manifest, used: Date.now() }, keys.file(key));
        return kept;
      });
    } catch (error) {
      if (!isFull(error)) throw error;
      // Without room for a date, the files can still be read.
      return this.#database.read((store) => keptOf(store, key));
    }
  }

  async #note<T>(key: IDBValidKey): Promise<T | undefined> {
    const noted = this.#notes.get(JSON.stringify(key));
    return (noted ?? (await this.#database.read((store) => promisifyRequest(store.get(key))))) as T | undefined;
  }

  async #keepNote(key: IDBValidKey, value: unknown, about: FileKey): Promise<void> {
    try {
      await this.#database.write((store) => store.put(value, key));
    } catch (error) {
      if (!isFull(error)) throw error;
      if (!this.#orMemory) throw await quotaError(this.#database, about, JSON.stringify(value).length, error);
      this.#notes.set(JSON.stringify(key), value);
    }
  }

  #askOnce(): void {
    if (this.#asked) return;
    this.#asked = true;
    // Not awaited: in Firefox it is a question to the visitor. Without an answer, or where asking fails, downloads are
    // kept as browsers keep everything else.
    askToPersist(this.#database).catch(() => false);
  }
}

class IndexedDbPart implements PartialFile {
  readonly #database: Database;
  /** Where the rest goes when there is no room; undefined when that is an error. */
  readonly #rests: Map<string, Rest> | undefined;
  #manifest: Manifest;

  constructor(database: Database, manifest: Manifest, rests: Map<string, Rest> | undefined) {
    this.#database = database;
    this.#manifest = manifest;
    this.#rests = rests;
  }

  get #rest(): Rest | undefined {
    return this.#rests?.get(idOf(this.#manifest));
  }

  get offset(): number {
    return keptBytes(this.#manifest) + (this.#rest?.bytes ?? 0);
  }

  get hash(): Uint8Array | undefined {
    return (this.#rest ?? this.#manifest).hash;
  }

  async append(chunks: readonly Uint8Array<ArrayBuffer>[], hash: Uint8Array | undefined): Promise<void> {
    const bytes = chunks.reduce((sum, { length }) => sum + length, 0);
    const { path, size } = this.#manifest;
    if (this.offset + bytes > size) {
      throw new IntegrityError(`${path} is longer than the ${size} bytes that the hub announced. Load it again.`, {
        ...{ file: path, found: `${this.offset + bytes} bytes or more`, expected: `${size} bytes` },
      });
    }
    if (bytes === 0) return;
    const pieces = cutParts(chunks);
    if (this.#rest === undefined && (await this.#write((store) => this.#put(store, pieces, hash)))) return;
    const rest = this.#memory();
    rest.blobs.push(...pieces.map((piece) => new Blob(piece)));
    rest.bytes += bytes;
    rest.hash = hash;
  }

  async complete(): Promise<void> {
    const { path, size } = this.#manifest;
    if (this.offset !== size) {
      throw new IntegrityError(`${path} has ${this.offset} bytes, ${size} were announced. Load it again.`, {
        ...{ file: path, found: `${this.offset} bytes`, expected: `${size} bytes` },
      });
    }
    if (this.#rest === undefined && (await this.#write(() => ({ ...this.#manifest, whole: true })))) return;
    this.#memory().whole = true;
  }

  async discard(): Promise<void> {
    this.#rests?.delete(idOf(this.#manifest));
    await this.#database.write((store) => {
      store.delete(keys.file(this.#manifest));
      store.delete(partsOf(this.#manifest));
    });
    this.#manifest = { ...this.#manifest, parts: [], hash: undefined, whole: false };
  }

  /** Puts new parts; small ones before them are written again, with them, as one. */
  async #put(
    store: IDBObjectStore,
    pieces: readonly Uint8Array<ArrayBuffer>[][],
    hash: Uint8Array | undefined,
  ): Promise<Manifest> {
    const { parts, path } = this.#manifest;
    const keyOf = (id: number): IDBValidKey => keys.part(this.#manifest, id);
    const sizes = pieces.map((piece) => piece.reduce((sum, { length }) => sum + length, 0));
    const merged = sizes.length === 1 ? partsToMerge(parts, sizes[0]!) : 0;
    const old = parts.slice(parts.length - merged);
    // These stay on disk: the browser copies them, the page never holds their bytes.
    const before = await Promise.all(old.map(({ id }) => promisifyRequest<Blob | undefined>(store.get(keyOf(id)))));
    const stored = before.filter((blob) => blob !== undefined);
    if (stored.length < merged) {
      throw new IntegrityError(
        `The browser lost a part of ${path}. Delete the model with cache.delete(), load it anew.`,
        {
          ...{ file: path, found: `${stored.length} parts`, expected: `${merged} parts` },
        },
      );
    }
    for (const { id } of old) store.delete(keyOf(id));
    const first = (parts.at(-1)?.id ?? -1) + 1;
    const added = pieces.map((piece, i) => {
      const blob = new Blob([...stored, ...piece]);
      store.put(blob, keyOf(first + i));
      return { id: first + i, size: blob.size };
    });
    return { ...this.#manifest, parts: [...parts.slice(0, parts.length - merged), ...added], hash };
  }

  /**
   * Changes what is kept in one transaction, unless someone else changed it.
   *
   * @returns false when there is no room, and the rest goes into memory
   */
  async #write(change: (store: IDBObjectStore) => Manifest | Promise<Manifest>): Promise<boolean> {
    const stamp = Math.random();
    try {
      this.#manifest = await this.#database.write(async (store) => {
        const kept = await manifestOf(store, this.#manifest);
        // This is the second try, after a lost connection, and the first one had arrived.
        if (kept?.stamp === stamp) return kept;
        if (kept === undefined ? this.#manifest.parts.length > 0 : kept.stamp !== this.#manifest.stamp) {
          throw changed(this.#manifest, kept);
        }
        const next = { ...(await change(store)), used: Date.now(), stamp };
        store.put(next, keys.file(next));
        return next;
      });
      return true;
    } catch (error) {
      if (!isFull(error)) throw error;
      if (this.#rests !== undefined) return false;
      // When all bytes are there, it was the manifest that found no room.
      const needed = Math.max(this.#manifest.size - this.offset, 1000);
      throw await quotaError(this.#database, this.#manifest, needed, error);
    }
  }

  /** The rest of this file, from here on in memory. */
  #memory(): Rest {
    const { size, hash } = this.#manifest;
    const rest = this.#rest ?? { size, begin: keptBytes(this.#manifest), blobs: [], bytes: 0, hash, whole: false };
    this.#rests?.set(idOf(this.#manifest), rest);
    return rest;
  }
}

async function keptOf(store: IDBObjectStore, key: FileKey): Promise<Kept> {
  const manifest = await manifestOf(store, key);
  return { manifest, blobs: manifest === undefined ? [] : await promisifyRequest<Blob[]>(store.getAll(partsOf(key))) };
}

function manifestOf(store: IDBObjectStore, key: FileKey): Promise<Manifest | undefined> {
  return promisifyRequest<Manifest | undefined>(store.get(keys.file(key)));
}

function changed({ path, repo }: FileKey, kept: Manifest | undefined): IntegrityError {
  return new IntegrityError(
    `What is kept of ${path} of ${repo} was ${kept === undefined ? "deleted" : "written by another tab"} while it was ` +
      "downloaded. Load the model again.",
    {
      file: path,
      found: kept === undefined ? "nothing" : `${keptBytes(kept)} bytes of another tab's`,
      expected: "the parts that were kept before",
    },
  );
}

/** A file's key as one text. */
function idOf({ endpoint, repo, commit, path }: FileKey): string {
  return `${endpoint}/${repo}@${commit}/${path}`;
}
