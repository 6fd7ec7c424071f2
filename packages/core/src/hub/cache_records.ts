import { promisifyRequest } from "idb-keyval";
import type { FileInfo } from "./source.ts";
import type { FileKey, RepoKey } from "./store.ts";

/** Blobs are at most this large: browsers failed on larger ones. */
export const partSize: number = 64 * 2 ** 20;
/** A part of at least this size is not written again. */
const smallPart = partSize / 2;
/** So many small parts become one, however small they are. */
const manyParts = 16;

/** A Blob of a file. */
export interface Part {
  /** Never used twice within a file. */
  readonly id: number;
  /** Bytes. */
  readonly size: number;
}

/** What is kept of a file. It is written in one transaction with the parts that it names. */
export interface Manifest extends FileKey {
  readonly size: number;
  readonly sha256: string | undefined;
  readonly oid: string | undefined;
  /** In order, from the file's start. */
  readonly parts: readonly Part[];
  /** The hasher's state after these parts. */
  readonly hash: Uint8Array | undefined;
  readonly whole: boolean;
  /** When it was last written or opened, in ms since 1970. */
  readonly used: number;
  /** Another one after every change of what is kept: by it a writer sees that someone else wrote or deleted. */
  readonly stamp: number;
}

/** Keys of the records. An array is ordered by its elements, so that one range holds all files of a commit. */
export const keys: {
  file(key: FileKey): IDBValidKey;
  part(key: FileKey, id: number): IDBValidKey;
  commit(repo: RepoKey, revision: string): IDBValidKey;
  listing(repo: RepoKey, commit: string): IDBValidKey;
} = {
  file: ({ endpoint, repo, commit, path }) => ["file", endpoint, repo, commit, path],
  part: ({ endpoint, repo, commit, path }, id) => ["part", endpoint, repo, commit, path, id],
  commit: ({ endpoint, repo }, revision) => ["commit", endpoint, repo, revision],
  listing: ({ endpoint, repo }, commit) => ["listing", endpoint, repo, commit],
};

/** All keys that begin with these elements. */
export function below(...start: readonly string[]): IDBKeyRange {
  // An array sorts after every text and number.
  return IDBKeyRange.bound([...start], [...start, []]);
}

/** The parts of a file. */
export function partsOf({ endpoint, repo, commit, path }: FileKey): IDBKeyRange {
  return below("part", endpoint, repo, commit, path);
}

/** How many bytes are kept of a file. */
export function keptBytes(manifest: Pick<Manifest, "parts">): number {
  return manifest.parts.reduce((sum, { size }) => sum + size, 0);
}

/** Nothing kept of a file yet. */
export function emptyManifest(key: FileKey, info: FileInfo): Manifest {
  const { endpoint, repo, commit, path } = key;
  const { size, sha256, oid } = info;
  return {
    ...{ endpoint, repo, commit, path, size, sha256, oid },
    ...{ parts: [], hash: undefined, whole: false, used: Date.now(), stamp: Math.random() },
  };
}

/** Whether what is kept is of the file that the hub now describes. */
export function describes(manifest: Manifest, info: FileInfo): boolean {
  const same = (a: string | undefined, b: string | undefined): boolean => a === undefined || b === undefined || a === b;
  return manifest.size === info.size && same(manifest.sha256, info.sha256) && same(manifest.oid, info.oid);
}

/** How many of the last parts are to become one Blob with `size` new bytes. */
export function partsToMerge(parts: readonly Part[], size: number): number {
  let count = 0;
  let sum = size;
  for (const part of [...parts].reverse()) {
    if (part.size >= smallPart) break;
    count++;
    sum += part.size;
  }
  return sum <= partSize && (sum >= smallPart || count >= manyParts) ? count : 0;
}

/** Cuts what arrived into pieces of at most a part's size, without copying. */
export function cutParts(chunks: readonly Uint8Array<ArrayBuffer>[]): Uint8Array<ArrayBuffer>[][] {
  const parts: Uint8Array<ArrayBuffer>[][] = [];
  let room = 0;
  for (const chunk of chunks) {
    for (let begin = 0; begin < chunk.length; ) {
      if (room === 0) {
        parts.push([]);
        room = partSize;
      }
      const piece = chunk.subarray(begin, begin + room);
      parts.at(-1)!.push(piece);
      begin += piece.length;
      room -= piece.length;
    }
  }
  return parts;
}

/** All manifests of a database. */
export function allManifests(store: IDBObjectStore): Promise<Manifest[]> {
  return promisifyRequest(store.getAll(below("file")));
}

/** A repository at one commit, as far as it is kept. */
export interface CachedModel {
  /** The hub's address. */
  readonly endpoint: string;
  /** owner/name */
  readonly repo: string;
  readonly commit: string;
  /** What is kept of it. */
  readonly bytes: number;
  /** How many files are kept, whole or in part. */
  readonly files: number;
  /** False while a file that was begun is not there to its end. */
  readonly whole: boolean;
  /** When a file of it was last written or opened. */
  readonly last_used: Date;
}

/** Files by repository and commit, the least recently used first. */
export function modelsOf(manifests: readonly Manifest[]): CachedModel[] {
  const groups = new Map<string, Manifest[]>();
  for (const manifest of manifests) {
    const id = JSON.stringify([manifest.endpoint, manifest.repo, manifest.commit]);
    const group = groups.get(id);
    if (group === undefined) groups.set(id, [manifest]);
    else group.push(manifest);
  }
  return [...groups.values()]
    .map((files) => {
      const { endpoint, repo, commit } = files[0]!;
      return {
        ...{ endpoint, repo, commit },
        bytes: files.reduce((sum, file) => sum + keptBytes(file), 0),
        files: files.length,
        whole: files.every(({ whole }) => whole),
        last_used: new Date(Math.max(...files.map(({ used }) => used))),
      };
    })
    .sort((a, b) => a.last_used.getTime() - b.last_used.getTime());
}

/** The first models that together have so many bytes; all where that is not enough. */
export function firstOf(models: readonly CachedModel[], bytes: number): CachedModel[] {
  const chosen: CachedModel[] = [];
  let sum = 0;
  for (const model of models) {
    if (sum >= bytes) break;
    chosen.push(model);
    sum += model.bytes;
  }
  return chosen;
}
