import type { WritableDirectory, WritableFile } from "./directory.ts";

/** The earliest date that a zip knows: the same files make the same zip. */
const lastModified = new Date(1980, 0, 1);

/**
 * A folder that becomes a zip file: pass it where a folder is written to, then take the file. Nothing is compressed, which
 * weights hardly are.
 *
 * @example
 * ```ts
 * const zip = new ZipDirectory();
 * await pipeline.save_pretrained(zip);
 * link.href = URL.createObjectURL(await zip.toBlob());
 * ```
 */
export class ZipDirectory implements WritableDirectory {
  private readonly files: { readonly name: string; readonly input: Blob; readonly lastModified: Date }[] = [];

  async getDirectoryHandle(name: string): Promise<WritableDirectory> {
    return this.below(`${name}/`);
  }

  async getFileHandle(name: string): Promise<WritableFile> {
    return this.below("").getFileHandle(name);
  }

  /** The zip file, of what has been written so far. */
  async toBlob(): Promise<Blob> {
    const { downloadZip } = await import("client-zip");
    return downloadZip(this.files).blob();
  }

  private below(prefix: string): WritableDirectory & { getFileHandle(name: string): Promise<WritableFile> } {
    return {
      getDirectoryHandle: async (name) => this.below(`${prefix}${name}/`),
      getFileHandle: async (name) => ({
        createWritable: async () => {
          const parts: Blob[] = [];
          return {
            // A blob, which the browser may keep on disk.
            write: async (piece) => void parts.push(new Blob([piece])),
            close: async () => void this.files.push({ name: prefix + name, input: new Blob(parts), lastModified }),
            abort: async () => undefined,
          };
        },
      }),
    };
  }
}
