import { ModelNotFoundError, ValueError } from "../errors.ts";
import { openBlobs } from "./blob_file.ts";
import { byPath, isBookkeeping, leadsOut } from "./paths.ts";
import type { FileInfo, OpenOptions, Source, SourceFile } from "./source.ts";

/** What a person gives a page to load a model from. */
export type GivenFiles = readonly File[] | FileList | FileSystemDirectoryHandle | FileSystemDirectoryEntry;

/**
 * Files that a person chose or dropped, as a source. Nothing is read yet, except for the names of a dropped entry.
 *
 * @throws ModelNotFoundError when there are none, or they may not be read.
 * @throws ValueError when two of them have the same path.
 */
export async function openFiles(from: GivenFiles): Promise<Source> {
  if ("kind" in from) return new HandleSource(from);
  if ("isDirectory" in from) return new FileSource(from.name, await entryFiles(from));
  return chosenFiles([...from]);
}

/** Files by their paths, without the folder that was chosen, where they are all of one. */
function chosenFiles(files: readonly File[]): Source {
  if (files.length === 0) {
    throw new ModelNotFoundError("No files were given: the list of them is empty. Choose a model's folder.", {
      found: "0 files",
      expected: "the files of a model",
    });
  }
  const paths = files.map((file) => file.webkitRelativePath || file.name);
  const top = paths[0]!.replace(/\/.*/s, "");
  const isFolder = paths.every((path) => path.startsWith(`${top}/`));
  const byName = new Map<string, File>();
  for (const [i, file] of files.entries()) {
    const path = isFolder ? paths[i]!.slice(top.length + 1) : paths[i]!;
    if (byName.has(path)) {
      throw new ValueError(
        `Two of the files are called ${path}. Choose the model's folder, so that it is known which lies where.`,
        { file: path, found: "two files of that name", expected: "one" },
      );
    }
    byName.set(path, file);
  }
  return new FileSource(isFolder ? top : "the chosen files", byName);
}

class FileSource implements Source {
  constructor(
    readonly name: string,
    private readonly files: ReadonlyMap<string, File>,
  ) {}

  async list(options: OpenOptions = {}): Promise<readonly FileInfo[]> {
    options.signal?.throwIfAborted();
    return [...this.files]
      .filter(([path]) => !path.split("/").slice(0, -1).some(isBookkeeping))
      .map(([path, { size }]) => ({ path, size }))
      .sort(byPath);
  }

  async open(path: string, options: OpenOptions = {}): Promise<SourceFile | undefined> {
    options.signal?.throwIfAborted();
    const file = this.files.get(path);
    return file && openBlobs(path, [file], options);
  }
}

/** A folder that a person opened (`showDirectoryPicker`, a drop's `getAsFileSystemHandle`), or one of OPFS. */
class HandleSource implements Source {
  readonly name: string;

  constructor(private readonly root: FileSystemDirectoryHandle) {
    // The root of OPFS has no name.
    this.name = root.name === "" ? "the given folder" : root.name;
  }

  async list(options: OpenOptions = {}): Promise<readonly FileInfo[]> {
    const files: FileInfo[] = [];
    const visit = async (folder: FileSystemDirectoryHandle, prefix: string): Promise<void> => {
      for await (const [name, handle] of folder.entries()) {
        options.signal?.throwIfAborted();
        if (handle.kind === "file") {
          const file = await ifThere(`${prefix}${name}`, () => (handle as FileSystemFileHandle).getFile());
          if (file !== undefined) files.push({ path: `${prefix}${name}`, size: file.size });
        } else if (!isBookkeeping(name)) await visit(handle as FileSystemDirectoryHandle, `${prefix}${name}/`);
      }
    };
    options.signal?.throwIfAborted();
    await allowed(this.name, () => visit(this.root, ""));
    return files.sort(byPath);
  }

  async open(path: string, options: OpenOptions = {}): Promise<SourceFile | undefined> {
    options.signal?.throwIfAborted();
    if (leadsOut(path)) return undefined;
    const names = path.split("/");
    const last = names.pop()!;
    const file = await ifThere(path, async () => {
      let folder = this.root;
      for (const name of names) folder = await folder.getDirectoryHandle(name);
      return (await folder.getFileHandle(last)).getFile();
    });
    return file && openBlobs(path, [file], options);
  }
}

/** Undefined where a name is of nothing, of a folder in a file's place or the reverse, or cannot be a name. */
async function ifThere(path: string, get: () => Promise<File>): Promise<File | undefined> {
  try {
    return await allowed(path, get);
  } catch (error) {
    const { name } = error as Error;
    if (name === "NotFoundError" || name === "TypeMismatchError" || name === "TypeError") return undefined;
    throw error;
  }
}

/** @throws ModelNotFoundError when the person has not allowed, or no longer allows, to read there. */
async function allowed<T>(path: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (cause) {
    const { name, message } = cause as Error;
    if (name !== "NotAllowedError" && name !== "SecurityError" && name !== "NotReadableError") throw cause;
    throw new ModelNotFoundError(
      `${path} may not be read: ${message} Ask for the permission with handle.requestPermission(), or let the folder be ` +
        "chosen again.",
      { file: path, found: name, expected: "a folder that may be read" },
      { cause },
    );
  }
}

/** The files of a dropped entry (`webkitGetAsEntry`), which can be listed while it is dropped only. */
async function entryFiles(root: FileSystemDirectoryEntry): Promise<Map<string, File>> {
  const files = new Map<string, File>();
  const visit = async (folder: FileSystemDirectoryEntry, prefix: string): Promise<void> => {
    const reader = folder.createReader();
    for (;;) {
      // A reader gives 100 entries at most, and none at its end.
      const entries = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
      if (entries.length === 0) return;
      for (const entry of entries) {
        const path = prefix + entry.name;
        if (entry.isFile) {
          const get = (entry as FileSystemFileEntry).file.bind(entry);
          files.set(path, await new Promise<File>((resolve, reject) => get(resolve, reject)));
        } else if (!isBookkeeping(entry.name)) await visit(entry as FileSystemDirectoryEntry, `${path}/`);
      }
    }
  };
  await allowed(root.name, () => visit(root, ""));
  return files;
}
