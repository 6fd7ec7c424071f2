import { abortable } from "./retry.ts";
import type { FileInfo, SourceFile } from "./source.ts";
import type { FileKey, HubStore, PartialFile, RepoKey } from "./store.ts";

/** Keeps downloads in memory, for as long as it is referred to. */
export class MemoryStore implements HubStore {
  readonly #files = new Map<string, Stored>();
  readonly #commits = new Map<string, string>();
  readonly #listings = new Map<string, readonly FileInfo[]>();
  /** The last task of each file that is worked at. */
  readonly #tasks = new Map<string, Promise<unknown>>();

  async open(key: FileKey): Promise<SourceFile | undefined> {
    const stored = this.#files.get(nameOf(key));
    return stored?.isWhole ? new ChunkedFile(key.path, stored.chunks, stored.size) : undefined;
  }

  async begin(key: FileKey, _info: FileInfo): Promise<PartialFile> {
    const name = nameOf(key);
    const kept = this.#files.get(name);
    const stored = kept === undefined || kept.isWhole ? new Stored() : kept;
    this.#files.set(name, stored);
    return {
      get offset() {
        return stored.size;
      },
      get hash() {
        return stored.hash;
      },
      append: async (chunks, hash) => {
        for (const chunk of chunks) stored.chunks.push(chunk);
        stored.size += chunks.reduce((sum, { length }) => sum + length, 0);
        stored.hash = hash;
      },
      complete: async () => {
        stored.isWhole = true;
      },
      discard: async () => {
        if (this.#files.get(name) === stored) this.#files.delete(name);
      },
    };
  }

  async exclusive<T>(key: FileKey, task: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const name = nameOf(key);
    const before = this.#tasks.get(name) ?? Promise.resolve();
    const own = abortable(before, signal).then(task);
    // Who comes next waits for all before, also for those behind a caller that gave up; how they ended is not its matter.
    const last: Promise<unknown> = Promise.allSettled([before, own]).then(() => {
      if (this.#tasks.get(name) === last) this.#tasks.delete(name);
    });
    this.#tasks.set(name, last);
    return own;
  }

  async commit(repo: RepoKey, revision: string): Promise<string | undefined> {
    return this.#commits.get(JSON.stringify([repo.endpoint, repo.repo, revision]));
  }

  async keepCommit(repo: RepoKey, revision: string, commit: string): Promise<void> {
    this.#commits.set(JSON.stringify([repo.endpoint, repo.repo, revision]), commit);
  }

  async listing(repo: RepoKey, commit: string): Promise<readonly FileInfo[] | undefined> {
    return this.#listings.get(JSON.stringify([repo.endpoint, repo.repo, commit]));
  }

  async keepListing(repo: RepoKey, commit: string, files: readonly FileInfo[]): Promise<void> {
    this.#listings.set(JSON.stringify([repo.endpoint, repo.repo, commit]), files);
  }

  async delete(key: FileKey): Promise<void> {
    this.#files.delete(nameOf(key));
  }
}

function nameOf({ endpoint, repo, commit, path }: FileKey): string {
  return JSON.stringify([endpoint, repo, commit, path]);
}

/** What is kept of a file. */
class Stored {
  readonly chunks: Uint8Array[] = [];
  size = 0;
  hash: Uint8Array | undefined;
  isWhole = false;
}

/** A file in the pieces that it arrived in: joining gigabytes would take them twice. */
class ChunkedFile implements SourceFile {
  #chunks: readonly Uint8Array[];
  /** Where each piece begins. */
  #starts: readonly number[];

  constructor(
    readonly path: string,
    chunks: readonly Uint8Array[],
    readonly size: number,
  ) {
    let at = 0;
    this.#chunks = chunks;
    this.#starts = chunks.map(({ length }) => {
      at += length;
      return at - length;
    });
  }

  readSync(begin: number, end: number): Uint8Array {
    const stop = Math.min(end, this.size);
    let index = this.#indexOf(begin);
    const first = this.#chunks[index];
    if (first === undefined || stop <= begin) return new Uint8Array(0);
    const offset = begin - this.#starts[index]!;
    if (offset + stop - begin <= first.length) return first.subarray(offset, offset + stop - begin);
    const bytes = new Uint8Array(stop - begin);
    for (let at = begin; at < stop; index++) {
      const chunk = this.#chunks[index]!;
      const from = at - this.#starts[index]!;
      const piece = chunk.subarray(from, from + stop - at);
      bytes.set(piece, at - begin);
      at += piece.length;
    }
    return bytes;
  }

  /** The piece that holds a byte, by halving. */
  #indexOf(position: number): number {
    let low = 0;
    let high = this.#starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#starts[middle]! <= position) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  close(): void {
    this.#chunks = [];
    this.#starts = [];
  }
}
