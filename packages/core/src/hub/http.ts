import { ModelNotFoundError } from "../errors.ts";
import { leadsOut } from "./paths.ts";
import { defaultPolicy, type TransferPolicy } from "./retry.ts";
import type { LoadOptions, OpenOptions, Source, SourceFile } from "./source.ts";
import { MemorySink, streamBytes } from "./stream.ts";

/** The address of a path that is relative to the page (or to the worker's script). */
export function pageUrl(path: string): string {
  return new URL(path, globalThis.location.href).href;
}

/** Files below a base URL. Each is fetched whole, once, into memory; what is cut goes on where the server gives ranges. */
export class HttpSource implements Source {
  readonly name: string;
  private readonly base: URL;
  private readonly fetch: typeof fetch;
  private readonly headers: Record<string, string>;

  constructor(
    base: string,
    name: string,
    options: LoadOptions = {},
    private readonly policy: TransferPolicy = defaultPolicy,
  ) {
    this.base = new URL(base);
    if (!this.base.pathname.endsWith("/")) this.base.pathname += "/";
    this.name = name;
    this.fetch = options.fetch ?? globalThis.fetch;
    this.headers = options.token === undefined ? {} : { authorization: `Bearer ${options.token}` };
  }

  /**
   * @throws ModelNotFoundError when the server refuses (401, 403) or goes on failing, with its status and address.
   * @throws IntegrityError when fewer bytes arrive than were announced, however often it is tried.
   */
  async open(path: string, options: OpenOptions = {}): Promise<SourceFile | undefined> {
    if (leadsOut(path)) return undefined;
    options.signal?.throwIfAborted();
    const address = new URL(path.split("/").map(encodeURIComponent).join("/"), this.base);
    // What an address is signed with holds for the files below it.
    address.search = this.base.search;
    const url = address.href;
    const sink = new MemorySink(path, (loaded, total) =>
      options.progress_callback?.({ phase: "download", file: path, loaded, total }),
    );
    const found = await streamBytes(
      {
        url,
        path,
        fetch: this.fetch,
        headers: this.headers,
        refused: (response) => refused(response, url, path),
        // Development servers answer every unknown path with the app's own page.
        isAbsent: ({ headers }) =>
          headers.get("content-type")?.startsWith("text/html") === true && !path.endsWith(".html"),
      },
      sink,
      this.policy,
      this.policy.firstTries,
      options.signal,
    );
    return found ? new MemoryFile(path, sink.bytes) : undefined;
  }
}

function refused(response: Response, url: string, path: string): ModelNotFoundError | undefined {
  if (response.ok || response.status === 404 || response.status === 410) return undefined;
  const gated = response.status === 401 || response.status === 403;
  return new ModelNotFoundError(
    `${url} answered ${`${response.status} ${response.statusText}`.trim()}. ` +
      (gated ? "It may be private: check the address, or pass { token }." : "Check the address."),
    { file: path, found: `HTTP ${response.status}`, expected: "HTTP 200" },
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
