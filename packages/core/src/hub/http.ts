import { IntegrityError, ModelNotFoundError } from "../errors.ts";
import { leadsOut } from "./paths.ts";
import type { LoadOptions, OpenOptions, Source, SourceFile } from "./source.ts";

/** The address of a path that is relative to the page (or to the worker's script). */
export function pageUrl(path: string): string {
  return new URL(path, globalThis.location.href).href;
}

/**
 * A repository of the Hugging Face hub, file by file over `/resolve`.
 *
 * @throws ModelNotFoundError for a name that cannot be a repository's.
 */
export function hubSource(id: string, options: LoadOptions): Source {
  if (!/^[\w.-]+(\/[\w.-]+)?$/.test(id) || leadsOut(id)) {
    throw new ModelNotFoundError(`${JSON.stringify(id)} is no folder, no URL and no hub id (owner/name).`, {
      found: id,
    });
  }
  const endpoint = (options.endpoint ?? "https://huggingface.co").replace(/\/+$/, "");
  const revision = encodeURIComponent(options.revision ?? "main");
  return new HttpSource(`${endpoint}/${id}/resolve/${revision}/`, id, options);
}

/** Files below a base URL. Each is fetched whole, once, into memory. */
export class HttpSource implements Source {
  readonly name: string;
  private readonly base: URL;
  private readonly fetch: typeof fetch;
  private readonly headers: Record<string, string>;

  constructor(base: string, name: string, options: LoadOptions = {}) {
    this.base = new URL(base);
    if (!this.base.pathname.endsWith("/")) this.base.pathname += "/";
    this.name = name;
    this.fetch = options.fetch ?? globalThis.fetch;
    this.headers = options.token === undefined ? {} : { authorization: `Bearer ${options.token}` };
  }

  /**
   * @throws ModelNotFoundError when the server refuses (401, 403) or fails, with its status and address.
   * @throws IntegrityError when fewer bytes arrive than were announced.
   */
  async open(path: string, options: OpenOptions = {}): Promise<SourceFile | undefined> {
    if (leadsOut(path)) return undefined;
    options.signal?.throwIfAborted();
    const address = new URL(path.split("/").map(encodeURIComponent).join("/"), this.base);
    // What an address is signed with holds for the files below it.
    address.search = this.base.search;
    const url = address.href;
    let response: Response;
    try {
      // Not as a method: a page's own fetch must be called on the window.
      const { fetch } = this;
      response = await fetch(url, {
        headers: this.headers,
        ...(options.signal ? { signal: options.signal } : {}),
      });
    } catch (cause) {
      if (options.signal?.aborted) throw options.signal.reason;
      throw new ModelNotFoundError(
        `${url} could not be reached: ${(cause as Error).message}.`,
        { file: path },
        { cause },
      );
    }
    // Development servers answer every unknown path with the app's own page.
    const isPage = response.headers.get("content-type")?.startsWith("text/html") === true && !path.endsWith(".html");
    if (response.status === 404 || response.status === 410 || (response.ok && isPage)) {
      await response.body?.cancel();
      return undefined;
    }
    if (!response.ok) {
      await response.body?.cancel();
      const gated = response.status === 401 || response.status === 403;
      throw new ModelNotFoundError(
        `${url} answered ${response.status} ${response.statusText}. ` +
          (gated
            ? "The repository does not exist, or it is gated or private: check its name, or pass { token }."
            : "Try again, or check the address."),
        { file: path, found: `HTTP ${response.status}`, expected: "HTTP 200" },
      );
    }
    return new MemoryFile(path, await readBody(response, path, options));
  }
}

/** The body in one array, allocated once where the length is announced. */
async function readBody(response: Response, path: string, options: OpenOptions): Promise<Uint8Array> {
  // Behind a content encoding, Content-Length counts the compressed bytes.
  const announced = response.headers.has("content-encoding") ? null : response.headers.get("content-length");
  const total = Number(announced ?? 0);
  let bytes = allocate(total, path);
  let loaded = 0;
  const report = (): void => options.progress_callback?.({ phase: "download", file: path, loaded, total });
  report();
  if (response.body !== null) {
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read().catch((cause: unknown) => {
        if (options.signal?.aborted) throw options.signal.reason;
        throw truncated(path, loaded, total, cause);
      });
      if (done) break;
      if (loaded + value.length > bytes.length) {
        const grown = allocate(Math.max(loaded + value.length, bytes.length * 2), path);
        grown.set(bytes.subarray(0, loaded));
        bytes = grown;
      }
      bytes.set(value, loaded);
      loaded += value.length;
      report();
    }
  }
  // From another origin the encoding of a body may be hidden. Compression adds a few bytes at most.
  const hidden = response.type === "cors" ? 64 : 0;
  if (announced !== null && loaded < total - hidden) throw truncated(path, loaded, total);
  return bytes.subarray(0, loaded);
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

function truncated(path: string, loaded: number, total: number, cause?: unknown): IntegrityError {
  return new IntegrityError(
    `${path} ended after ${loaded} bytes${total > 0 ? ` of ${total}` : ""}: the connection was cut. Load it again.`,
    { file: path, found: `${loaded} bytes`, expected: `${total} bytes` },
    { cause },
  );
}

/** A file that is in memory. */
export class MemoryFile implements SourceFile {
  private bytes: Uint8Array;
  readonly size: number;

  constructor(
    readonly path: string,
    bytes: Uint8Array,
  ) {
    this.bytes = bytes;
    this.size = bytes.length;
  }

  readSync(begin: number, end: number): Uint8Array {
    return this.bytes.subarray(begin, end);
  }

  close(): void {
    this.bytes = new Uint8Array(0);
  }
}
