import { ValueError } from "./errors.ts";
import { nodeImport } from "./node.ts";

/** A file that can be written piece by piece: a page's `FileSystemFileHandle` is one. */
export interface WritableFile {
  createWritable(): Promise<{
    write(piece: string | Uint8Array<ArrayBuffer>): Promise<void>;
    close(): Promise<void>;
    abort(): Promise<void>;
  }>;
}

/** A folder that can be written to: a page's `FileSystemDirectoryHandle` is one, and so is a `ZipDirectory`. */
export interface WritableDirectory {
  getDirectoryHandle(name: string, options: { readonly create: true }): Promise<WritableDirectory>;
  getFileHandle(name: string, options: { readonly create: true }): Promise<WritableFile>;
}

/** A folder to write to: a path in Node (made when absent), a directory handle in a page, or a `ZipDirectory`. */
export type Directory = string | WritableDirectory;

/** The folder `name` in a folder. */
export async function subDirectory(directory: Directory, name: string): Promise<Directory> {
  if (typeof directory !== "string") return directory.getDirectoryHandle(name, { create: true });
  const path = await nodeImport<typeof import("node:path")>("node:path");
  return path.join(directory, name);
}

/**
 * Writes a file into a folder, piece by piece. One of that name is replaced when all is written, so that it can be read
 * from meanwhile.
 *
 * @throws ValueError for a path that is a file.
 */
export async function writeFile(
  directory: Directory,
  name: string,
  pieces: Iterable<string | Uint8Array>,
): Promise<void> {
  if (typeof directory !== "string") {
    const writable = await (await directory.getFileHandle(name, { create: true })).createWritable();
    try {
      // A view of memory that is shared, as WASM's with threads, cannot be written.
      for (const piece of pieces) await writable.write(typeof piece === "string" ? piece : new Uint8Array(piece));
    } catch (error) {
      await writable.abort();
      throw error;
    }
    return writable.close();
  }
  const fs = await nodeImport<typeof import("node:fs/promises")>("node:fs/promises");
  const path = await nodeImport<typeof import("node:path")>("node:path");
  const stat = await fs.stat(directory).catch(() => undefined);
  if (stat?.isFile() === true) {
    throw new ValueError(`${directory} should be a folder, it is a file.`, {
      field: "directory",
      found: "a file",
      expected: "a folder",
    });
  }
  await fs.mkdir(directory, { recursive: true });
  const full = path.join(directory, name);
  const part = `${full}.part`;
  const file = await fs.open(part, "w");
  try {
    for (const piece of pieces) await file.writeFile(piece);
    await file.close();
    await fs.rename(part, full);
  } catch (error) {
    await file.close().catch(() => undefined);
    await fs.rm(part, { force: true });
    throw error;
  }
}
