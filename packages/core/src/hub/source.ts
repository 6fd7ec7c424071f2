import { IntegrityError } from "../errors.ts";
import { isNode } from "../node.ts";
import type { GivenFiles } from "./files.ts";
import type { ProgressReporter } from "./progress.ts";

/** What a load does, in order. */
export type LoadPhase = "resolve" | "download" | "verify" | "build" | "upload" | "compile";

/** What a source or an engine tells of one file. Bytes, except where the phase has none (`loaded` and `total` are then 0 and 0). */
export interface LoadStep {
  readonly phase: LoadPhase;
  /** The file at hand, relative to the source, or the component's name. */
  readonly file: string;
  readonly loaded: number;
  /** 0 while it is not known. */
  readonly total: number;
}

/**
 * One event of a load: the file at hand, and the load as a whole. Its counts never go back: when what came of a file was
 * wrong and it is fetched anew, they stand still until it is further than it was.
 *
 * Two things are counted: what is fetched (up to `build`), and what goes to the device (`upload`, `compile`). The latter
 * happens when a model is first called, and is counted anew when it happens again, as for another size.
 */
export interface LoadProgress extends LoadStep {
  /** Bytes that are there, over all files. */
  readonly loaded_bytes: number;
  /** Bytes of all files that are known of. Where the source can list its files: of the whole load, from its start. */
  readonly total_bytes: number;
  /** Files that are there, whole. */
  readonly loaded_files: number;
  readonly total_files: number;
  /** While files are downloaded: bytes per second over the last seconds; undefined before there are enough to tell. */
  readonly speed: number | undefined;
  /** While files are downloaded: seconds to the last one's end; undefined where it is not known how much is to come. */
  readonly seconds_left: number | undefined;
}

/** Options that every `from_pretrained` takes, named as in Diffusers and transformers.js. */
export interface LoadOptions {
  /** The folder of the repository to load from. */
  readonly subfolder?: string | undefined;
  /** Branch, tag or commit, for a hub id. Default "main". */
  readonly revision?: string | undefined;
  /** The weights' variant, e.g. "fp16" for `diffusion_pytorch_model.fp16.safetensors`. */
  readonly variant?: string | undefined;
  /** The hub's address, for a hub id. Default https://huggingface.co. */
  readonly endpoint?: string | undefined;
  /** A hub access token. */
  readonly token?: string | undefined;
  /** Load from the cache (or, in Node, the hub's cache folder) without any request. Default false. */
  readonly local_files_only?: boolean | undefined;
  /** Ask the hub anew which commit a branch is at, and download what is cached again. Default false. */
  readonly force_download?: boolean | undefined;
  /**
   * Where downloads of a hub repository are kept: `true` (default) in IndexedDB, or in Node in the hub's cache folder;
   * `"or-memory"` the same, but in memory what does not fit; `false` in memory only.
   */
  readonly cache?: boolean | "or-memory" | undefined;
  /** In Node: the hub's cache folder. Default as Python's: `HF_HUB_CACHE`, `HF_HOME`/hub, ~/.cache/huggingface/hub. */
  readonly cache_dir?: string | undefined;
  /** In place of the global `fetch`. */
  readonly fetch?: typeof fetch | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Told how the load goes on: at most about 30 times a second, besides the start and end of each file and phase. */
  readonly progress_callback?: ((progress: LoadProgress) => void) | undefined;
}

/** The names of {@link LoadOptions}. */
export const loadOptionNames: readonly (keyof LoadOptions)[] = [
  "subfolder",
  "revision",
  "variant",
  "endpoint",
  "token",
  "local_files_only",
  "force_download",
  "cache",
  "cache_dir",
  "fetch",
  "signal",
  "progress_callback",
];

/** A file of known size whose bytes can be read in ranges. */
export interface SourceFile {
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  /** The bytes from `begin` up to `end`, now: the engine asks for weights synchronously. May be a view: do not write to it. */
  readSync(begin: number, end: number): Uint8Array;
  /** Frees what the file holds (memory or a handle). Idempotent. */
  close(): void;
}

/** What is known of a file before it is opened. */
export interface FileInfo {
  /** Relative to the source, with slashes. */
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  /** Of the hub's large files, in hexadecimal. */
  readonly sha256?: string | undefined;
  /** The git object's id, on the hub. */
  readonly oid?: string | undefined;
}

/** Where a model's files come from. */
export interface Source {
  /** As shown in errors and kept in `_name_or_path`. */
  readonly name: string;
  /** All files there are, where the source can say: a hub repository, a folder, dropped files. */
  list?(options?: OpenOptions): Promise<readonly FileInfo[]>;
  /** Gets files ready to be opened, several at once: what is not there yet is downloaded, as one whole for progress. */
  prefetch?(paths: readonly string[], options?: OpenOptions): Promise<void>;
  /** Opens a file; undefined when there is none of that path. */
  open(path: string, options?: OpenOptions): Promise<SourceFile | undefined>;
}

/** How a file is opened. */
export interface OpenOptions {
  readonly signal?: AbortSignal | undefined;
  readonly progress_callback?: ((step: LoadStep) => void) | undefined;
}

/**
 * What `from_pretrained` takes: a hub id, a URL, a folder's path in Node, files that a person chose or dropped in a page
 * (with `<input webkitdirectory>`, `showDirectoryPicker()`, or a drop's items), or a source of the caller's own.
 */
export type SourceLike = string | URL | Source | GivenFiles;

/** Decides what a `from_pretrained` argument is, without reading anything but (in Node) whether a folder exists. */
export async function openSource(from: SourceLike, options: LoadOptions = {}): Promise<Source> {
  if (typeof from === "object" && from !== null && "open" in from) return from;
  if (isGivenFiles(from)) {
    const { openFiles } = await import("./files.ts");
    return openFiles(from);
  }
  if (typeof from !== "string" && !(from instanceof URL)) {
    throw new TypeError(
      "A model is loaded from a hub id, a URL, a folder, or a folder's files; got " +
        `${from === null ? "null" : typeof from}.`,
    );
  }
  const text = String(from);
  const isUrl = /^https?:/.test(text);
  if (isNode && !isUrl) {
    const { openFolder } = await import("./local.ts");
    const folder = await openFolder(text);
    if (folder !== undefined) return folder;
  }
  const isPath = !isNode && /^\.{0,2}\//.test(text);
  if (isUrl || isPath) {
    const { HttpSource, pageUrl } = await import("./http.ts");
    return new HttpSource(isPath ? pageUrl(text) : text, text, options);
  }
  const { hubSource } = await import("./hub_source.ts");
  return hubSource(text, options);
}

function isGivenFiles(from: unknown): from is GivenFiles {
  if (typeof from !== "object" || from === null) return false;
  if (Array.isArray(from)) return from.every((file) => file instanceof Blob && "name" in file);
  if (typeof FileList !== "undefined" && from instanceof FileList) return true;
  return ("kind" in from && from.kind === "directory") || ("isDirectory" in from && from.isDirectory === true);
}

/** A folder of another source. */
interface SubSource extends Source {
  readonly parent: Source;
  readonly prefix: string;
}

/** What Diffusers keeps as `_name_or_path`: what was asked for as it was written, or what the source calls itself. */
export function sourceName(from: SourceLike, opened: Source): string {
  return typeof from === "string" || from instanceof URL ? String(from) : opened.name;
}

/** The folder `subfolder` of a source, as a source. */
export function subSource(source: Source, subfolder: string | undefined): Source {
  if (subfolder === undefined || subfolder === "") return source;
  const prefix = `${subfolder.replace(/\/+$/, "")}/`;
  const sub: SubSource = {
    parent: source,
    prefix,
    name: `${source.name.replace(/\/+$/, "")}/${prefix.slice(0, -1)}`,
    open: (path, options) => source.open(prefix + path, options),
    ...(source.list && {
      list: async (options) =>
        (await source.list!(options))
          .filter(({ path }) => path.startsWith(prefix))
          .map((file) => ({ ...file, path: file.path.slice(prefix.length) })),
    }),
    ...(source.prefetch && {
      prefetch: (paths, options) =>
        source.prefetch!(
          paths.map((path) => prefix + path),
          options,
        ),
    }),
  };
  return sub;
}

/**
 * Gets the files of a load ready to be opened, where the source has to fetch them: all at once, and announced first, so
 * that the total is known before the first byte comes.
 */
export async function prefetchFiles(
  source: Source,
  files: readonly Pick<FileInfo, "path" | "size">[],
  options: { readonly signal?: AbortSignal | undefined; readonly progress?: ProgressReporter | undefined } = {},
): Promise<void> {
  if (source.prefetch === undefined) return;
  if ("parent" in source) {
    // What is told of a file calls it by its path in the outermost source.
    const { parent, prefix } = source as SubSource;
    return prefetchFiles(
      parent,
      files.map(({ path, size }) => ({ path: prefix + path, size })),
      options,
    );
  }
  const { signal, progress } = options;
  progress?.announce(files);
  await source.prefetch(
    files.map(({ path }) => path),
    { signal, progress_callback: progress },
  );
  progress?.arrived();
}

/**
 * A small text file, whole; undefined when there is none.
 *
 * @throws IntegrityError for bytes that are not UTF-8.
 */
export async function readText(
  source: Source,
  path: string,
  options?: Pick<OpenOptions, "signal">,
): Promise<string | undefined> {
  const file = await source.open(path, { signal: options?.signal });
  if (file === undefined) return undefined;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(file.readSync(0, file.size));
  } catch (cause) {
    throw new IntegrityError(
      `${path} of ${source.name} is not UTF-8 text. Download it again.`,
      { file: path, found: "bytes that are not UTF-8", expected: "text" },
      { cause },
    );
  } finally {
    file.close();
  }
}
