import { IntegrityError } from "../errors.ts";
import type { TransferPolicy } from "./retry.ts";
import { gitBlobId, Sha256 } from "./sha256.ts";
import type { FileInfo, LoadPhase, OpenOptions } from "./source.ts";
import type { FileKey, HubStore, PartialFile } from "./store.ts";
import { type ByteSink, MemorySink, type Remote, streamBytes } from "./stream.ts";

/**
 * Downloads a file of the hub into a store, from where an earlier download of it ended, and checks it: a large file's
 * sha256, which is taken while it streams, a small one's git id. What is wrong is discarded and fetched once more.
 *
 * However it ends, what arrived of a large file is kept. At most one part of it is in memory.
 *
 * @throws IntegrityError when it is wrong twice: `details` has the file, what was found and what was expected.
 * @throws ModelNotFoundError when the server cannot be reached or refuses.
 * @throws QuotaError when the store has no room.
 */
export async function downloadFile(
  remote: Remote,
  key: FileKey,
  info: FileInfo,
  store: HubStore,
  policy: TransferPolicy,
  options: OpenOptions,
): Promise<void> {
  const { size } = info;
  const report = (phase: LoadPhase, loaded: number): void =>
    options.progress_callback?.({ phase, file: info.path, loaded, total: size });
  // Few are that large without being among the hub's large files; they can be resumed, which a small one need not be.
  const isSmall = info.sha256 === undefined && size <= policy.partSize;
  for (let again = false; ; again = true) {
    // A second try must not read the browser's HTTP cache again. A first one of a large file does not fill it either.
    const cache: RequestCache | undefined = again ? "reload" : isSmall ? undefined : "no-store";
    const exact: Remote = { ...remote, size, ...(cache && { cache }) };
    const job: Job = { remote: exact, key, info, store, policy, signal: options.signal, report };
    const wrong = await (isSmall ? downloadSmall(job) : downloadLarge(job));
    if (wrong === undefined) return;
    if (again) throw wrong;
  }
}

interface Job {
  readonly remote: Remote;
  readonly key: FileKey;
  readonly info: FileInfo;
  readonly store: HubStore;
  readonly policy: TransferPolicy;
  readonly signal: AbortSignal | undefined;
  readonly report: (phase: LoadPhase, loaded: number) => void;
}

/** Through memory: the store gets it when it is right. */
async function downloadSmall(job: Job): Promise<IntegrityError | undefined> {
  const { remote, key, info, policy, signal, report } = job;
  const sink = new MemorySink(info.path, (loaded) => report("download", loaded));
  await streamBytes(remote, sink, policy, policy.tries, signal);
  const found = info.oid === undefined ? undefined : await gitBlobId(sink.bytes);
  if (found !== undefined && found !== info.oid) return mismatch(key, "git id", found, info.oid!);
  report("verify", info.size);
  const partial = await startAnew(await job.store.begin(key, info), job);
  if (info.size > 0) await partial.append([sink.bytes], undefined);
  await partial.complete();
  return undefined;
}

/** Part by part into the store. */
async function downloadLarge(job: Job): Promise<IntegrityError | undefined> {
  const { remote, key, info, store, policy, signal, report } = job;
  let partial = await store.begin(key, info);
  let hash: Sha256 | undefined;
  if (info.sha256 !== undefined) {
    const state = partial.offset > 0 ? partial.hash : undefined;
    hash = partial.offset > 0 && state === undefined ? undefined : await Sha256.create(state);
    if (hash === undefined) {
      // What is kept cannot be checked any more.
      partial = await startAnew(partial, job);
      hash = await Sha256.create();
    }
  }
  const sink = new PartSink(partial, hash, policy, (loaded) => report("download", loaded));
  report("download", sink.offset);
  try {
    await streamBytes(remote, sink, policy, policy.tries, signal);
  } finally {
    sink.close();
  }
  signal?.throwIfAborted();
  const found = hash?.digest();
  if (found !== info.sha256) {
    await partial.discard();
    return mismatch(key, "sha256", found!, info.sha256!);
  }
  report("verify", info.size);
  await partial.complete();
  return undefined;
}

async function startAnew(partial: PartialFile, { store, key, info }: Job): Promise<PartialFile> {
  if (partial.offset === 0) return partial;
  await partial.discard();
  return store.begin(key, info);
}

function mismatch(key: FileKey, kind: string, found: string, expected: string): IntegrityError {
  return new IntegrityError(
    `${key.path} of ${key.repo} was downloaded twice, and both times it was not what the hub lists: its ${kind} is ` +
      `${found}, not ${expected}. It was discarded; the other files are kept. Try again, over another network if need be.`,
    { file: key.path, found, expected },
  );
}

/** Gathers what arrives and gives it to the store: when a part is full, when time has passed, and when a try ends. */
class PartSink implements ByteSink {
  offset: number;
  #chunks: Uint8Array<ArrayBuffer>[] = [];
  #buffered = 0;
  #flushed: Promise<void> = Promise.resolve();
  #cancelTimer: (() => void) | undefined;

  constructor(
    private readonly partial: PartialFile,
    private readonly hash: Sha256 | undefined,
    private readonly policy: TransferPolicy,
    private readonly report: (loaded: number) => void,
  ) {
    this.offset = partial.offset;
  }

  async write(chunk: Uint8Array<ArrayBuffer>): Promise<void> {
    const { partSize, flushAfter, timing } = this.policy;
    // The state of the hash must be the one after the bytes that are kept.
    await this.#flushed;
    for (let at = 0; at < chunk.length; ) {
      const piece = chunk.subarray(at, at + partSize - this.#buffered);
      at += piece.length;
      this.hash?.update(piece);
      this.#chunks.push(piece);
      this.#buffered += piece.length;
      this.offset += piece.length;
      this.report(this.offset);
      if (this.#buffered === partSize) await this.settle();
      // A failure is met by the next write, or at the try's end.
      else this.#cancelTimer ??= timing.after(flushAfter, () => void this.settle().catch(() => undefined));
    }
  }

  settle(): Promise<void> {
    this.close();
    this.#flushed = this.#flushed.then(async () => {
      if (this.#buffered === 0) return;
      const chunks = this.#chunks;
      this.#chunks = [];
      this.#buffered = 0;
      await this.partial.append(chunks, this.hash?.save());
    });
    return this.#flushed;
  }

  /** Calls off the timer. */
  close(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
  }
}
