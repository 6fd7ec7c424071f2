import { ModelNotFoundError, ValueError } from "../errors.ts";
import { isNode } from "../node.ts";
import type { HubApi } from "./hub_api.ts";
import { leadsOut } from "./paths.ts";
import { abortable, defaultPolicy, type TransferPolicy } from "./retry.ts";
import type { FileInfo, LoadOptions, OpenOptions, Source, SourceFile } from "./source.ts";
import type { FileKey, HubStore, RepoKey } from "./store.ts";

/**
 * A repository of the Hugging Face hub, at the commit that its revision is at when it is first asked for.
 *
 * @throws ModelNotFoundError for a name that cannot be a repository's.
 * @throws ValueError for options that contradict each other.
 */
export function hubSource(id: string, options: LoadOptions = {}, policy: TransferPolicy = defaultPolicy): Source {
  if (!/^[\w.-]+(\/[\w.-]+)?$/.test(id) || leadsOut(id)) {
    throw new ModelNotFoundError(`${JSON.stringify(id)} is no folder, no URL and no hub id (owner/name).`, {
      found: id,
    });
  }
  if (options.force_download === true && options.local_files_only === true) {
    throw new ValueError("force_download and local_files_only contradict each other. Pass one of them.", {
      field: "force_download",
      found: "true",
      expected: "false beside local_files_only",
    });
  }
  return new HubSource(id, options, policy);
}

/** A repository at a commit. */
interface Snapshot {
  readonly store: HubStore;
  readonly commit: string;
  readonly files: ReadonlyMap<string, FileInfo>;
}

class HubSource implements Source {
  readonly #repo: RepoKey;
  readonly #options: LoadOptions;
  readonly #policy: TransferPolicy;
  #snapshot: { readonly promise: Promise<Snapshot>; readonly signal: AbortSignal | undefined } | undefined;
  #api: HubApi | undefined;
  /** What `force_download` has fetched already. */
  readonly #renewed = new Set<string>();

  constructor(
    readonly name: string,
    options: LoadOptions,
    policy: TransferPolicy,
  ) {
    const endpoint = (options.endpoint ?? "https://huggingface.co").replace(/\/+$/, "");
    this.#repo = { endpoint, repo: name };
    this.#options = options;
    this.#policy = policy;
  }

  /** @throws ModelNotFoundError when the repository or its revision is not there, may not be read, or cannot be asked for. */
  async list(options: OpenOptions = {}): Promise<readonly FileInfo[]> {
    const { files } = await this.#resolve(options);
    return [...files.values()];
  }

  /**
   * Downloads what is not in the store yet. When one file fails the others stop; what arrived of them is kept.
   *
   * @throws ModelNotFoundError for a path that the commit lacks, or as `open` does.
   */
  async prefetch(paths: readonly string[], options: OpenOptions = {}): Promise<void> {
    const snapshot = await this.#resolve(options);
    const wanted = [...new Set(paths)].map((path) => {
      const info = snapshot.files.get(path);
      if (info !== undefined) return info;
      throw new ModelNotFoundError(`${this.name} has no file ${path} at ${snapshot.commit}.`, { file: path });
    });
    // What is there already is told of first: how much is to come is known before the first byte comes.
    const queue: FileInfo[] = [];
    for (const info of wanted) {
      if (await this.#isStored(snapshot, info, options)) continue;
      queue.push(info);
    }
    // The largest first: begun last, it would go on alone when all others are done.
    queue.sort((a, b) => b.size - a.size);
    const controller = new AbortController();
    const abort = (): void => controller.abort(options.signal?.reason);
    options.signal?.addEventListener("abort", abort);
    const work = async (): Promise<void> => {
      for (let info = queue.shift(); info !== undefined; info = queue.shift()) {
        await this.#fetchFile(snapshot, info, { ...options, signal: controller.signal });
      }
    };
    const stopped = (error: unknown): never => {
      queue.length = 0;
      controller.abort(error);
      throw error;
    };
    try {
      // All have to end, so that nothing goes on behind the caller's back.
      const workers = Array.from({ length: this.#policy.parallel }, () => work().catch(stopped));
      const results = await Promise.allSettled(workers);
      options.signal?.throwIfAborted();
      if (results.some(({ status }) => status === "rejected")) throw controller.signal.reason;
    } finally {
      options.signal?.removeEventListener("abort", abort);
    }
  }

  /**
   * @throws ModelNotFoundError when the hub refuses or cannot be reached, or with `local_files_only` when the file is not
   * in the store.
   * @throws IntegrityError when what arrives is not what the hub lists.
   * @throws QuotaError when the store has no room.
   */
  async open(path: string, options: OpenOptions = {}): Promise<SourceFile | undefined> {
    if (leadsOut(path)) return undefined;
    const snapshot = await this.#resolve(options);
    const info = snapshot.files.get(path);
    if (info === undefined) return undefined;
    const key = this.#key(snapshot, path);
    const stored = this.#mustRenew(path) ? undefined : await openStored(snapshot.store, key, options.signal);
    if (stored !== undefined) return stored;
    await this.#fetchFile(snapshot, info, options);
    const file = await openStored(snapshot.store, key, options.signal);
    if (file !== undefined) return file;
    throw new ModelNotFoundError(`${path} of ${this.name} was deleted while it was loaded. Load it again.`, {
      file: path,
      expected: "a file in the cache",
    });
  }

  #key({ commit }: Snapshot, path: string): FileKey {
    return { ...this.#repo, commit, path };
  }

  #mustRenew(path: string): boolean {
    return this.#options.force_download === true && !this.#renewed.has(path);
  }

  /** Whether a file is in the store, and need not be fetched anew; told as a download that is over. */
  async #isStored(snapshot: Snapshot, { path, size }: FileInfo, options: OpenOptions): Promise<boolean> {
    if (this.#mustRenew(path)) return false;
    const { store } = snapshot;
    const key = this.#key(snapshot, path);
    let found: boolean;
    if (store.has !== undefined) {
      found = await store.has(key);
    } else {
      const file = await store.open(key);
      file?.close();
      found = file !== undefined;
    }
    if (found) options.progress_callback?.({ phase: "download", file: path, loaded: size, total: size });
    return found;
  }

  /** Gets a file into the store, if it is not there. */
  async #fetchFile(snapshot: Snapshot, info: FileInfo, options: OpenOptions): Promise<void> {
    const { store } = snapshot;
    const { path } = info;
    const key = this.#key(snapshot, path);
    options.signal?.throwIfAborted();
    if (await this.#isStored(snapshot, info, options)) return;
    if (this.#options.local_files_only === true) {
      throw new ModelNotFoundError(
        `${path} of ${this.name} at ${snapshot.commit} is not in the cache, and with local_files_only nothing is ` +
          "downloaded. Load the model once without it.",
        { file: path, found: "no such file in the cache" },
      );
    }
    const { downloadFile } = await import("./download.ts");
    const remote = (await this.#hub()).remote(snapshot.commit, info);
    await store.exclusive(
      key,
      async () => {
        // Another tab may have fetched it while this one waited.
        if (await this.#isStored(snapshot, info, options)) return;
        if (this.#mustRenew(path)) await store.delete(key);
        await downloadFile(remote, key, info, store, this.#policy, options);
        this.#renewed.add(path);
      },
      options.signal,
    );
  }

  /** Finds out once what there is; concurrent callers share the work, but not each other's cancelling. */
  async #resolve({ signal, progress_callback }: OpenOptions): Promise<Snapshot> {
    for (;;) {
      signal?.throwIfAborted();
      if (this.#snapshot === undefined) {
        progress_callback?.({ phase: "resolve", file: this.name, loaded: 0, total: 0 });
        this.#snapshot = { promise: this.#find(signal), signal };
      }
      const current = this.#snapshot;
      try {
        return await abortable(current.promise, signal);
      } catch (error) {
        // Own cancelling leaves the others' work alone.
        if (signal?.aborted && current.signal !== signal) throw error;
        // After a failure, who asks next asks anew.
        if (this.#snapshot === current) this.#snapshot = undefined;
        if (signal?.aborted || !current.signal?.aborted) throw error;
      }
    }
  }

  async #find(signal: AbortSignal | undefined): Promise<Snapshot> {
    const { force_download = false, local_files_only = false, revision = "main" } = this.#options;
    const store = await openStore(this.#options);
    const isCommit = /^[0-9a-f]{40}$/.test(revision);
    let commit = isCommit ? revision : force_download ? undefined : await store.commit(this.#repo, revision);
    const isRemembered = commit !== undefined;
    if (commit === undefined) {
      if (local_files_only) throw this.#notCached(revision);
      commit = await (await this.#hub()).commit(revision, signal);
    }
    let files = await store.listing(this.#repo, commit);
    if (files === undefined && local_files_only) {
      files = await store.found?.(this.#repo, commit);
      if (files === undefined) throw this.#notCached(revision);
    }
    if (files === undefined) {
      files = await (await this.#hub()).list(commit, signal);
      await store.keepListing(this.#repo, commit, files);
    }
    // Last: who finds the commit finds its listing too.
    if (!isCommit && !isRemembered) await store.keepCommit(this.#repo, revision, commit);
    return { store, commit, files: new Map(files.map((info) => [info.path, info])) };
  }

  /** Only what asks loads the code that can ask: a second load does not. */
  async #hub(): Promise<HubApi> {
    const { HubApi } = await import("./hub_api.ts");
    const { endpoint, repo } = this.#repo;
    const { token, fetch = globalThis.fetch } = this.#options;
    this.#api ??= new HubApi(endpoint, repo, token, fetch, this.#policy);
    return this.#api;
  }

  #notCached(revision: string): ModelNotFoundError {
    return new ModelNotFoundError(
      `${this.name} at ${revision} is not in the cache, and with local_files_only nothing is downloaded. ` +
        "Load it once without it.",
      { found: "no such model in the cache", expected: `${this.name} at ${revision}` },
    );
  }
}

async function openStore(options: LoadOptions): Promise<HubStore> {
  if (options.cache === false || (options.cache === "or-memory" && !isNode && typeof indexedDB === "undefined")) {
    const { MemoryStore } = await import("./memory_store.ts");
    return new MemoryStore();
  }
  if (isNode) {
    const { openNodeStore } = await import("./node_store.ts");
    return openNodeStore(options);
  }
  const { openIndexedDbStore } = await import("./indexeddb_store.ts");
  return openIndexedDbStore({ cache: options.cache });
}

/** A whole file of the store. In a window it is read into memory, which takes its time: who cancelled does not get it. */
async function openStored(
  store: HubStore,
  key: FileKey,
  signal: AbortSignal | undefined,
): Promise<SourceFile | undefined> {
  const file = await store.open(key);
  if (!signal?.aborted) return file;
  file?.close();
  throw signal.reason;
}
