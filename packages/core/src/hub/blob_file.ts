import { DeviceError, IntegrityError } from "../errors.ts";
import type { OpenOptions, SourceFile } from "./source.ts";

/** How much is read at once where a file goes into memory. */
const sliceSize = 64 * 2 ** 20;

/**
 * A file whose bytes lie in Blobs, one after another.
 *
 * In a worker it is read from them piece by piece, and takes no memory. A window has no synchronous read of a Blob: there
 * the whole file is read into memory, in slices of 64 MiB, before this resolves.
 *
 * @throws DeviceError in a window, when the file is larger than what one ArrayBuffer holds.
 * @throws IntegrityError when the browser has lost a Blob's bytes.
 */
export async function openBlobs(
  path: string,
  blobs: readonly Blob[],
  options: Pick<OpenOptions, "signal"> = {},
): Promise<SourceFile> {
  if (typeof FileReaderSync !== "undefined") return new BlobFile(path, blobs);
  const size = blobs.reduce((sum, blob) => sum + blob.size, 0);
  let bytes: Uint8Array;
  try {
    bytes = new Uint8Array(size);
  } catch (cause) {
    throw new DeviceError(
      `${path} has ${size} bytes, more than one ArrayBuffer holds here. Load the model in a Worker: there its files are ` +
        "read piece by piece from where they are stored.",
      { file: path, found: `${size} bytes in a window`, expected: "a worker" },
      { cause },
    );
  }
  let done = 0;
  for (const blob of blobs) {
    for (let begin = 0; begin < blob.size; begin += sliceSize) {
      options.signal?.throwIfAborted();
      const slice = blob.slice(begin, begin + sliceSize);
      const read = await slice.arrayBuffer().catch((cause: unknown) => {
        throw lost(path, cause);
      });
      bytes.set(new Uint8Array(read), done);
      done += read.byteLength;
    }
  }
  return new WindowFile(path, bytes);
}

/** Reads slices of Blobs as they are asked for: of the whole file, nothing is held. */
class BlobFile implements SourceFile {
  readonly path: string;
  readonly size: number;
  readonly #reader: FileReaderSync = new FileReaderSync();
  #parts: { readonly begin: number; readonly blob: Blob }[] = [];

  constructor(path: string, blobs: readonly Blob[]) {
    this.path = path;
    let begin = 0;
    for (const blob of blobs) {
      if (blob.size > 0) this.#parts.push({ begin, blob });
      begin += blob.size;
    }
    this.size = begin;
  }

  readSync(begin: number, end: number): Uint8Array {
    const last = Math.min(end, this.size);
    const pieces: Blob[] = [];
    for (const part of this.#parts) {
      if (part.begin >= last) break;
      if (part.begin + part.blob.size <= begin) continue;
      pieces.push(part.blob.slice(Math.max(0, begin - part.begin), last - part.begin));
    }
    try {
      if (pieces.length === 1) return new Uint8Array(this.#reader.readAsArrayBuffer(pieces[0]!));
      const bytes = new Uint8Array(pieces.reduce((sum, { size }) => sum + size, 0));
      let done = 0;
      for (const piece of pieces) {
        bytes.set(new Uint8Array(this.#reader.readAsArrayBuffer(piece)), done);
        done += piece.size;
      }
      return bytes;
    } catch (cause) {
      throw lost(this.path, cause);
    }
  }

  close(): void {
    this.#parts = [];
  }
}

class WindowFile implements SourceFile {
  readonly path: string;
  readonly size: number;
  #bytes: Uint8Array;

  constructor(path: string, bytes: Uint8Array) {
    this.path = path;
    this.size = bytes.length;
    this.#bytes = bytes;
  }

  readSync(begin: number, end: number): Uint8Array {
    return this.#bytes.subarray(begin, end);
  }

  close(): void {
    this.#bytes = new Uint8Array(0);
  }
}

function lost(path: string, cause: unknown): Error {
  // Out of memory, say: not the Blob's fault.
  if (!(cause instanceof DOMException)) return cause as Error;
  return new IntegrityError(
    `The browser does not give ${path} back as it was stored (${cause.message}). Delete the model with cache.delete(), ` +
      "or choose the file again, and load it anew.",
    { file: path, found: cause.name, expected: "the stored bytes" },
    { cause },
  );
}
