import { ModelNotFoundError } from "../errors.ts";
import { nodeImport } from "../node.ts";
import { byPath, isBookkeeping, leadsOut } from "./paths.ts";
import type { FileInfo, Source, SourceFile } from "./source.ts";

type FileSystem = typeof import("node:fs");

/**
 * A folder of the local file system (Node).
 *
 * @returns undefined when `path` is no folder and does not look like one either: it may be a hub id then.
 * @throws ModelNotFoundError when `path` can only mean a folder and is none.
 */
export async function openFolder(path: string): Promise<Source | undefined> {
  const fs = await nodeImport<FileSystem>("node:fs");
  const { fileURLToPath } = await nodeImport<typeof import("node:url")>("node:url");
  const folder = path.startsWith("file:") ? fileURLToPath(path) : path;
  if (!fs.statSync(folder, { throwIfNoEntry: false })?.isDirectory()) {
    if (!/^(\.{0,2}[\\/]|file:|[a-zA-Z]:[\\/])/.test(path)) return undefined;
    throw new ModelNotFoundError(
      `There is no folder ${path}. Give a folder in the Diffusers layout, a URL or a hub id.`,
      {
        found: path,
        expected: "a folder",
      },
    );
  }
  return {
    name: folder,
    list: async (options) => {
      options?.signal?.throwIfAborted();
      return listFolder(fs, folder);
    },
    open: async (file, options) => {
      options?.signal?.throwIfAborted();
      return openFile(fs, folder, file);
    },
  };
}

/**
 * All files below a folder with their sizes, without those of git and of download tools. Links are followed (a snapshot
 * of the hub's cache consists of them), but not in a circle.
 *
 * @throws ModelNotFoundError for a folder that may not be read.
 */
export function listFolder(fs: FileSystem, folder: string): FileInfo[] {
  const files: FileInfo[] = [];
  const visit = (full: string, prefix: string, above: readonly string[]): void => {
    const real = fs.realpathSync(full);
    if (above.includes(real)) return;
    for (const name of readable(prefix || folder, () => fs.readdirSync(full))) {
      const path = prefix + name;
      const stat = statIfThere(fs, `${full}/${name}`);
      if (stat?.isFile()) files.push({ path, size: stat.size });
      else if (stat?.isDirectory() && !isBookkeeping(name)) visit(`${full}/${name}`, `${path}/`, [...above, real]);
    }
  };
  visit(folder, "", []);
  return files.sort(byPath);
}

/**
 * A file below a folder; undefined when there is none, or the path leads out.
 *
 * @throws ModelNotFoundError for a file that may not be read.
 */
export function openFile(fs: FileSystem, folder: string, path: string): SourceFile | undefined {
  if (leadsOut(path) || path.includes("\0")) return undefined;
  const full = `${folder}/${path}`;
  const stat = readable(path, () => statIfThere(fs, full));
  if (!stat?.isFile()) return undefined;
  return new LocalFile(
    fs,
    path,
    stat.size,
    readable(path, () => fs.openSync(full, "r")),
  );
}

/** Of a file or folder; undefined where there is none, a link leads nowhere, or the name is none that could exist. */
export function statIfThere(fs: FileSystem, full: string): import("node:fs").Stats | undefined {
  try {
    return fs.statSync(full);
  } catch (error) {
    if (["ENOENT", "ENOTDIR", "ELOOP", "ENAMETOOLONG"].includes(errorCode(error))) return undefined;
    throw error;
  }
}

/** What the operating system calls an error, e.g. ENOENT; empty for any other. */
export function errorCode(error: unknown): string {
  return (error as { code?: string } | null)?.code ?? "";
}

function readable<T>(file: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (errorCode(cause) !== "EACCES" && errorCode(cause) !== "EPERM") throw cause;
    throw new ModelNotFoundError(
      `${file} is there, but may not be read: ${(cause as Error).message}. Give this process the right to.`,
      { file, found: errorCode(cause), expected: "a file or folder that may be read" },
      { cause },
    );
  }
}

/** A file of the local file system, open. */
class LocalFile implements SourceFile {
  #open = true;

  constructor(
    private readonly fs: FileSystem,
    readonly path: string,
    readonly size: number,
    private readonly handle: number,
  ) {}

  readSync(begin: number, end: number): Uint8Array {
    const bytes = new Uint8Array(end - begin);
    let done = 0;
    while (done < bytes.length) {
      const count = this.fs.readSync(this.handle, bytes, done, bytes.length - done, begin + done);
      if (count === 0) break;
      done += count;
    }
    return done < bytes.length ? bytes.subarray(0, done) : bytes;
  }

  close(): void {
    if (this.#open) this.fs.closeSync(this.handle);
    this.#open = false;
  }
}
