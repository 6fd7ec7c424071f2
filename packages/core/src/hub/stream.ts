import { IntegrityError, ModelNotFoundError } from "../errors.ts";
import { isTransientStatus, retry, serverWait, type TransferPolicy, Transient, type Trial } from "./retry.ts";

/** A file on a server. */
export interface Remote {
  readonly url: string;
  /** Relative to the source, for errors. */
  readonly path: string;
  readonly fetch: typeof fetch;
  readonly headers: Readonly<Record<string, string>>;
  readonly cache?: RequestCache;
  /** Bytes, where it is known beforehand. */
  readonly size?: number;
  /** What an answer means that will not change; undefined: there is no such file. */
  refused(response: Response): Error | undefined;
  /** Whether a good answer means nonetheless that there is no such file. */
  isAbsent?(response: Response): boolean;
}

/** Where the bytes go. */
export interface ByteSink {
  /** How many bytes are there, from the file's start. */
  readonly offset: number;
  /** An answer has come. `total` is the file's size in bytes, 0 where the server does not tell. */
  begin?(total: number): void;
  write(chunk: Uint8Array<ArrayBuffer>): void | Promise<void>;
  /** A try has ended, well or not: what arrived is to be kept. */
  settle?(): Promise<void>;
  /** Starts anew: the server has other content now. Absent where content cannot change. */
  restart?(): void;
}

/**
 * Streams a file into a sink, from where the sink is: over cuts, silence, refusals that pass, and signed URLs that
 * expire (each try asks the address anew, which redirects to a fresh one).
 *
 * `fetch` follows redirects, and drops `Authorization` where they lead to another origin.
 *
 * @returns false when there is no such file
 * @throws IntegrityError when the bytes end too early in each try, or are more than they should be.
 * @throws ModelNotFoundError when the server cannot be reached or refuses.
 */
export async function streamBytes(
  remote: Remote,
  sink: ByteSink,
  policy: TransferPolicy,
  tries: number,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  let best = sink.offset;
  let validator: string | undefined;
  const attempt = async (trial: Trial): Promise<boolean> => {
    if (sink.offset === remote.size) return true;
    const response = await request(remote, sink.offset, trial);
    if (response.status === 416 && sink.offset > 0) {
      await response.body?.cancel();
      return isWhole(remote, sink, response);
    }
    const { status } = response;
    if (!response.ok || remote.isAbsent?.(response)) {
      await response.body?.cancel();
      if (!response.ok && (isTransientStatus(status) || isExpired(response))) {
        throw new Transient(failed(remote, response), serverWait(response));
      }
      const error = remote.refused(response);
      if (error === undefined) return false;
      throw error;
    }
    const range = contentRange(response);
    const current = response.headers.get("etag") ?? response.headers.get("last-modified") ?? undefined;
    if (sink.restart !== undefined && sink.offset > 0 && validator !== undefined && current !== validator) {
      sink.restart();
      // The end of the new content does not follow from the start of the old.
      if (status === 206) throw new Transient(changed(remote));
    }
    validator = current;
    const total = status === 206 ? range?.total : contentLength(response);
    if (status === 206 && remote.size !== undefined && total !== undefined && total !== remote.size) {
      throw wrongSize(remote, total);
    }
    const start = status === 206 ? (range?.start ?? sink.offset) : 0;
    if (start > sink.offset) throw new Transient(changed(remote));
    sink.begin?.(total ?? 0);
    try {
      await readBody(remote, response, sink, sink.offset - start, trial, () => {
        // A server that sends the same bytes again and again makes no progress.
        if (sink.offset > best) trial.progressed = true;
        best = Math.max(best, sink.offset);
      });
    } finally {
      await sink.settle?.();
    }
    const expected = remote.size ?? total ?? 0;
    // From another origin the encoding of a body may be hidden. Compression adds a few bytes at most.
    const hidden = remote.size === undefined && response.type === "cors" ? 64 : 0;
    if (sink.offset < expected - hidden) throw new Transient(truncated(remote.path, sink.offset, expected));
    return true;
  };
  return retry(attempt, policy, tries, signal);
}

async function request(remote: Remote, offset: number, trial: Trial): Promise<Response> {
  // Not as a method: a page's own fetch must be called on the window.
  const { fetch, cache } = remote;
  // This form of a range needs no preflight. No If-Range: that would need one.
  const headers = offset > 0 ? { ...remote.headers, range: `bytes=${offset}-` } : remote.headers;
  try {
    return await trial.wait(fetch(remote.url, { headers, signal: trial.signal, ...(cache && { cache }) }));
  } catch (cause) {
    throw new Transient(unreachable(remote.url, remote.path, cause));
  }
}

async function readBody(
  remote: Remote,
  response: Response,
  sink: ByteSink,
  /** Bytes that are there already, and come again. */
  skip: number,
  trial: Trial,
  arrived: () => void,
): Promise<void> {
  const reader = (response.body as ReadableStream<Uint8Array<ArrayBuffer>> | null)?.getReader();
  if (reader === undefined) return;
  for (;;) {
    const { done, value } = await trial.wait(reader.read()).catch((cause: unknown) => {
      throw new Transient(truncated(remote.path, sink.offset, remote.size ?? contentLength(response) ?? 0, cause));
    });
    if (done) return;
    const chunk = value.subarray(Math.min(skip, value.length));
    skip -= value.length - chunk.length;
    if (chunk.length === 0) continue;
    if (sink.offset + chunk.length > (remote.size ?? Number.POSITIVE_INFINITY)) {
      throw wrongSize(remote, sink.offset + chunk.length);
    }
    await sink.write(chunk);
    arrived();
  }
}

/** There is nothing at the offset: the file ends there, or it has become shorter. */
function isWhole(remote: Remote, sink: ByteSink, response: Response): boolean {
  const total = contentRange(response)?.total;
  if (remote.size !== undefined) throw wrongSize(remote, total ?? sink.offset);
  if (total === sink.offset) return true;
  sink.restart?.();
  throw new Transient(changed(remote));
}

/** Whether it is the signed address behind a redirect that refuses, and not the hub: it names the reason in a header. */
function isExpired(response: Response): boolean {
  return response.redirected && [400, 401, 403, 410].includes(response.status) && !response.headers.has("x-error-code");
}

/** Bytes of the body; undefined where it is not said, or counts compressed bytes. */
function contentLength(response: Response): number | undefined {
  const announced = response.headers.has("content-encoding") ? null : response.headers.get("content-length");
  return announced === null ? undefined : Number(announced);
}

function contentRange(response: Response): { start: number | undefined; total: number | undefined } | undefined {
  const match = /^bytes (?:(\d+)-\d+|\*)\/(\d+|\*)$/.exec(response.headers.get("content-range") ?? "");
  if (match === null) return undefined;
  const [, start, total] = match;
  return {
    start: start === undefined ? undefined : Number(start),
    total: total === "*" ? undefined : Number(total),
  };
}

/** A server that gives no answer. */
export function unreachable(url: string, file: string | undefined, cause: unknown): ModelNotFoundError {
  const message = cause instanceof Error ? cause.message : String(cause);
  return new ModelNotFoundError(
    `${url} could not be reached: ${message.replace(/\.$/, "")}. Check the connection and try again.`,
    file === undefined ? {} : { file },
    { cause },
  );
}

function failed(remote: Remote, response: Response): ModelNotFoundError {
  return new ModelNotFoundError(
    `${remote.url} answered ${`${response.status} ${response.statusText}`.trim()}. Try again later, or check the address.`,
    { file: remote.path, found: `HTTP ${response.status}`, expected: "HTTP 200" },
  );
}

function truncated(path: string, loaded: number, total: number, cause?: unknown): IntegrityError {
  return new IntegrityError(
    `${path} ended after ${loaded} bytes${total > 0 ? ` of ${total}` : ""}: the connection was cut. Load it again.`,
    { file: path, found: `${loaded} bytes`, expected: total > 0 ? `${total} bytes` : "the whole file" },
    { cause },
  );
}

function wrongSize(remote: Remote, found: number): IntegrityError {
  return new IntegrityError(
    `${remote.path} has ${found} bytes or more at ${remote.url}, where ${remote.size} were expected. ` +
      "The server, or a proxy before it, gives another file than the one that is listed.",
    { file: remote.path, found: `${found} bytes`, expected: `${remote.size} bytes` },
  );
}

function changed(remote: Remote): IntegrityError {
  return new IntegrityError(`${remote.path} changed at ${remote.url} while it was loaded. Load it again.`, {
    file: remote.path,
    found: "other content than at the start",
    expected: "one state of the file",
  });
}

/** Gathers a file in one array, allocated once where its size is announced. */
export class MemorySink implements ByteSink {
  offset = 0;
  #bytes: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  #total = 0;

  constructor(
    private readonly path: string,
    private readonly report: (loaded: number, total: number) => void,
  ) {}

  /** What arrived. */
  get bytes(): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(0, this.offset);
  }

  begin(total: number): void {
    this.#total = total;
    if (total > this.#bytes.length) this.#grow(total);
    this.report(this.offset, total);
  }

  write(chunk: Uint8Array): void {
    const end = this.offset + chunk.length;
    if (end > this.#bytes.length) this.#grow(Math.max(end, this.#bytes.length * 2));
    this.#bytes.set(chunk, this.offset);
    this.offset = end;
    this.report(end, this.#total);
  }

  restart(): void {
    this.offset = 0;
  }

  #grow(size: number): void {
    const grown = allocate(size, this.path);
    grown.set(this.bytes);
    this.#bytes = grown;
  }
}

function allocate(size: number, path: string): Uint8Array<ArrayBuffer> {
  try {
    return new Uint8Array(size);
  } catch (cause) {
    throw new IntegrityError(
      `${path} is announced with ${size} bytes, which do not fit into memory.`,
      { file: path, found: `${size} bytes`, expected: "a file that fits into memory" },
      { cause },
    );
  }
}
