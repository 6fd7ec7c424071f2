/** What a file of a repository holds. Files of any size on disk and generated ones are served piece by piece. */
export type HubContent =
  | string
  | Uint8Array
  | { readonly file: string; readonly sha256?: string }
  | {
      readonly size: number;
      /** The bytes from `begin` up to `end`; at most 256 KiB are asked for. */
      readonly read: (begin: number, end: number) => Uint8Array | Promise<Uint8Array>;
      /** Of a large file, to save computing it. */
      readonly sha256?: string;
    };

export interface HubRepo {
  /** Branches and tags: their commits. HEAD is main. */
  readonly revisions: Readonly<Record<string, string>>;
  /** By 40 hexadecimal digits: a folder's path, or what each path holds. A folder is read when the hub starts. */
  readonly commits: Readonly<
    Record<string, string | ReadonlyMap<string, HubContent> | Readonly<Record<string, HubContent>>>
  >;
  /** Can be listed by all; files are for tokens that are granted it (else 401, with another's token 403). */
  readonly gated?: boolean;
  /** Looks missing (401, with another's token 404). */
  readonly private?: boolean;
}

export interface HubOptions {
  readonly repos: Readonly<Record<string, HubRepo>>;
  /** Files above so many bytes are in LFS. Default as on the hub: by suffix (.safetensors, .bin, ...), and from 10 MB. */
  readonly lfsAbove?: number;
  /** Entries of a tree per answer. Default 1000. */
  readonly pageSize?: number;
  /** Seconds that signed URLs hold. Default 3600. */
  readonly signedFor?: number;
  /** Whether small texts are gzipped for those who accept it, and then have no length. Default true. */
  readonly compress?: boolean;
  /** By token, which gated and private repositories it opens. Default { hf_test: true }. */
  readonly tokens?: Readonly<Record<string, true | readonly string[]>>;
  /** Of the hub. Default: a free one. */
  readonly port?: number;
}

/** One of a kind. All offsets are in the file, whatever range is asked for. */
export type HubFault = (
  | /** Closes the connection once the bytes before this one are sent. */ { readonly cut: number }
  | /** Closes the connection after so many bytes of each answer. */ { readonly cut_each: number }
  | /** Stops before this byte, until released. */ { readonly stall: number }
  | /** Inverts this byte. */ { readonly corrupt: number }
  | /** Sends so many bytes per second. Lasting. */ { readonly slow: number }
  | /** Serves the file as if it had so many bytes: cut off, or filled up with zeros. Lasting. */ {
      readonly length: number;
    }
  | /** Knows no ranges: answers 200 with the whole file. Lasting. */ { readonly no_ranges: true }
  | /** The file is not there, nor in listings. Lasting. */ { readonly hide: true }
  | /** A signed URL holds for so many uses, then answers 403. Lasting. */ { readonly expire: number }
  | /** An error, e.g. 503 or 429. */ { readonly status: number; readonly retry_after?: number }
  | /** Closes the connection without an answer. */ { readonly reset: true }
  | /** Answers only when released. */ { readonly hold: true }
) & {
  /** How many answers it befalls. Default 1, or, where it says lasting, all. */
  readonly times?: number;
  /** Where a status, reset or hold happens: at the hub's redirect (default), or where the bytes are. */
  readonly at?: "resolve" | "content";
};

export interface HubFaultHandle {
  /** How often it happened. */
  readonly hits: number;
  /** Resolves when it happens for the first time. */
  readonly hit: Promise<void>;
  /** Lets what stalls or is held go on. */
  release(): void;
  /** Ends it, and releases. */
  remove(): void;
}

export interface HubRequest {
  readonly host: "hub" | "cdn";
  readonly method: string;
  /** As it was sent: path and query. */
  readonly url: string;
  readonly query: URLSearchParams;
  readonly headers: Readonly<Record<string, string | undefined>>;
  /** `cache` is where small files are after their redirect, `cdn` where large ones are. */
  readonly kind:
    | "api:info"
    | "api:revision"
    | "api:tree"
    | "api:paths-info"
    | "api:refs"
    | "api:xet-read-token"
    | "resolve"
    | "cache"
    | "cdn"
    | "preflight"
    | "unknown";
  readonly repo: string | undefined;
  /** As it was asked for. */
  readonly revision: string | undefined;
  /** The path in the repository. */
  readonly file: string | undefined;
  /** 0 while there is no answer. */
  readonly status: number;
  /** Bytes of the body so far. */
  readonly sent: number;
  /** Whether the answer was sent whole. */
  readonly ended: boolean;
}

export interface Hub {
  /** The endpoint, without a slash at its end. */
  readonly url: string;
  /** Where the signed URLs lead: another port, so another origin. */
  readonly cdn: string;
  /** In the order of arrival; each is filled in while it is answered. Set its length to 0 to forget them. */
  readonly requests: HubRequest[];
  /** Requests that took a token to the CDN. */
  readonly leaks: readonly HubRequest[];
  /** Programs a fault for files by path or pattern, or for `api:tree`, `api:revision`, `api:info`, `api:paths-info`. */
  fault(target: string | RegExp, fault: HubFault): HubFaultHandle;
  clearFaults(): void;
  /** Adds a repository or puts another in its place. */
  setRepo(name: string, repo: HubRepo): void;
  /** Moves a branch. */
  setRevision(name: string, revision: string, commit: string): void;
  /** Cuts all connections and refuses new ones. */
  offline(): Promise<void>;
  /** At the same addresses again. */
  online(): Promise<void>;
  close(): Promise<void>;
}

/** Starts a hub on this machine. */
export function startHub(options: HubOptions): Promise<Hub>;
