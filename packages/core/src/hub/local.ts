import { ModelNotFoundError } from "../errors.ts";
import { nodeImport } from "../node.ts";
import { leadsOut } from "./paths.ts";
import type { Source, SourceFile } from "./source.ts";

/**
 * A folder of the local file system (Node).
 *
 * @returns undefined when `path` is no folder and does not look like one either: it may be a hub id then.
 * @throws ModelNotFoundError when `path` can only mean a folder and is none.
 */
export async function openFolder(path: string): Promise<Source | undefined> {
  const fs = await nodeImport<typeof import("node:fs")>("node:fs");
  const { fileURLToPath } = await nodeImport<typeof import("node:url")>("node:url");
  const { join } = await nodeImport<typeof import("node:path")>("node:path");
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
    open: async (file, options) => {
      options?.signal?.throwIfAborted();
      if (leadsOut(file)) return undefined;
      const full = join(folder, file);
      const stat = fs.statSync(full, { throwIfNoEntry: false });
      return stat?.isFile() ? new LocalFile(fs, file, stat.size, fs.openSync(full, "r")) : undefined;
    },
  };
}

class LocalFile implements SourceFile {
  #open = true;

  constructor(
    private readonly fs: typeof import("node:fs"),
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
