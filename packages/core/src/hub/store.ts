import type { FileInfo, SourceFile } from "./source.ts";

/** Which file: of a repository at a commit, so that two files never come from two states of it. */
export interface FileKey {
  /** The hub's address, without a slash at its end. */
  readonly endpoint: string;
  /** owner/name */
  readonly repo: string;
  readonly commit: string;
  readonly path: string;
}

/** A repository, whatever its state. */
export type RepoKey = Pick<FileKey, "endpoint" | "repo">;

/** A file while it is downloaded: what arrived is kept part by part, so that a cut, a reload or a crash loses none of it. */
export interface PartialFile {
  /** How many bytes are kept, from the file's start. */
  readonly offset: number;
  /** The hasher's state after those bytes; undefined at the start, or where no hash is taken. */
  readonly hash: Uint8Array | undefined;
  /**
   * Keeps the bytes that come next. Once it resolves they survive a crash.
   *
   * @param chunks in order; the store may keep them, so they are not written to afterwards
   * @param hash the hasher's state after them
   * @throws QuotaError when there is no room; what was kept before stays.
   */
  append(chunks: readonly Uint8Array<ArrayBuffer>[], hash: Uint8Array | undefined): Promise<void>;
  /** From now on the file counts as whole. Called when all bytes are there and their hash is right. */
  complete(): Promise<void>;
  /** Drops all that was kept of this file: it was wrong. */
  discard(): Promise<void>;
}

/** Where downloads are kept: IndexedDB, the hub's cache folder in Node, or memory. */
export interface HubStore {
  /** A whole file; undefined where there is none, or only a part. Marks it as used now. */
  open(key: FileKey): Promise<SourceFile | undefined>;
  /** Whether a whole file is kept. Only where it costs less than to open it: a window opens a file into memory. */
  has?(key: FileKey): Promise<boolean>;
  /** Starts a file, or goes on with what is kept of it. `info.size` is exact. */
  begin(key: FileKey, info: FileInfo): Promise<PartialFile>;
  /** Runs `task` while no other tab (or process) does the same for this file. */
  exclusive<T>(key: FileKey, task: () => Promise<T>, signal?: AbortSignal): Promise<T>;
  /** The commit that a revision was at when it was last asked for. */
  commit(repo: RepoKey, revision: string): Promise<string | undefined>;
  keepCommit(repo: RepoKey, revision: string, commit: string): Promise<void>;
  /** The files of a commit, as the hub listed them. */
  listing(repo: RepoKey, commit: string): Promise<readonly FileInfo[] | undefined>;
  keepListing(repo: RepoKey, commit: string, files: readonly FileInfo[]): Promise<void>;
  /**
   * The files that are there of a commit without a listing: another program (Python) downloaded them, so these may not
   * be all. Only a store that is shared with other programs has this; undefined where nothing of the commit is there.
   */
  found?(repo: RepoKey, commit: string): Promise<readonly FileInfo[] | undefined>;
  /** Frees a file of whatever state. */
  delete(key: FileKey): Promise<void>;
}
