import type { WritableDirectory, WritableFile } from "./directory.ts";

/** A file that has been written. */
interface Entry {
  readonly name: Uint8Array<ArrayBuffer>;
  readonly crc: number;
  readonly size: number;
  /** Where its header begins in the zip. */
  readonly offset: number;
}

/** The size from which on a number of 32 bits does not do. */
const WIDE = 0xffffffff;
/** The version of the format that reads the entries: 4.5 knows wide numbers. */
const [PLAIN_VERSION, WIDE_VERSION] = [20, 45];
/** Names are in UTF-8. */
const FLAGS = 0x0800;
/** 1 January 1980, the earliest date there is: the same files make the same zip. */
const DATE = 0x0021;

/**
 * A folder that becomes a zip file: pass it where a folder is written to, then take the file. Nothing is compressed, which
 * weights hardly are.
 *
 * @example
 * ```ts
 * const zip = new ZipDirectory();
 * await pipeline.save_pretrained(zip);
 * link.href = URL.createObjectURL(zip.toBlob());
 * ```
 */
export class ZipDirectory implements WritableDirectory {
  private readonly parts: Blob[] = [];
  private readonly entries: Entry[] = [];
  private size = 0;

  /** @param wide from which size on wide numbers are written; lower in tests only */
  constructor(private readonly wide: number = WIDE) {}

  async getDirectoryHandle(name: string): Promise<WritableDirectory> {
    return this.below(`${name}/`);
  }

  async getFileHandle(name: string): Promise<WritableFile> {
    return this.below("").getFileHandle(name);
  }

  /** The zip file, of what has been written so far. */
  toBlob(): Blob {
    const directory = this.entries.map((entry) =>
      centralHeader(entry, entry.offset >= this.wide || entry.size >= this.wide),
    );
    const bytes = directory.reduce((sum, header) => sum + header.length, 0);
    const isWide = this.size + bytes >= this.wide || this.entries.length >= 0xffff;
    const end = endOfDirectory(this.entries.length, bytes, this.size, isWide);
    return new Blob([...this.parts, ...directory, end], { type: "application/zip" });
  }

  private below(prefix: string): WritableDirectory & { getFileHandle(name: string): Promise<WritableFile> } {
    return {
      getDirectoryHandle: async (name) => this.below(`${prefix}${name}/`),
      getFileHandle: async (name) => ({
        createWritable: async () => {
          const parts: Blob[] = [];
          let [crc, size] = [WIDE, 0];
          return {
            write: async (piece) => {
              const bytes = typeof piece === "string" ? new TextEncoder().encode(piece) : piece;
              // A blob, which the browser may keep on disk.
              parts.push(new Blob([bytes]));
              crc = crc32(crc, bytes);
              size += bytes.length;
            },
            close: async () => this.add(prefix + name, ~crc >>> 0, size, parts),
            abort: async () => undefined,
          };
        },
      }),
    };
  }

  private add(path: string, crc: number, size: number, parts: readonly Blob[]): void {
    const entry = { name: new TextEncoder().encode(path), crc, size, offset: this.size };
    const header = localHeader(entry, size >= this.wide);
    this.parts.push(new Blob([header]), ...parts);
    this.entries.push(entry);
    this.size += header.length + size;
  }
}

/** Numbers in little-endian order, each with its count of bytes. */
function numbers(...fields: readonly (readonly [value: number, bytes: 2 | 4 | 8])[]): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [, bytes]) => sum + bytes, 0)));
  let at = 0;
  for (const [value, bytes] of fields) {
    if (bytes === 2) view.setUint16(at, value, true);
    else if (bytes === 4) view.setUint32(at, value, true);
    else view.setBigUint64(at, BigInt(value), true);
    at += bytes;
  }
  return new Uint8Array(view.buffer);
}

function joined(...parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** What the headers of an entry share, from its version to the length of its name. */
function common({ name, crc, size }: Entry, isWide: boolean): (readonly [number, 2 | 4])[] {
  const shown = isWide ? WIDE : size;
  return [
    [isWide ? WIDE_VERSION : PLAIN_VERSION, 2],
    [FLAGS, 2],
    [0, 2],
    [0, 2],
    [DATE, 2],
    [crc, 4],
    [shown, 4],
    [shown, 4],
    [name.length, 2],
  ];
}

function localHeader(entry: Entry, isWide: boolean): Uint8Array<ArrayBuffer> {
  const extra = isWide ? numbers([1, 2], [16, 2], [entry.size, 8], [entry.size, 8]) : new Uint8Array();
  return joined(numbers([0x04034b50, 4], ...common(entry, isWide), [extra.length, 2]), entry.name, extra);
}

function centralHeader(entry: Entry, isWide: boolean): Uint8Array<ArrayBuffer> {
  const { size, offset } = entry;
  const extra = isWide ? numbers([1, 2], [24, 2], [size, 8], [size, 8], [offset, 8]) : new Uint8Array();
  const head = numbers(
    [0x02014b50, 4],
    [isWide ? WIDE_VERSION : PLAIN_VERSION, 2],
    ...common(entry, isWide),
    [extra.length, 2],
    // No comment, the first disk, no attributes.
    [0, 2],
    [0, 2],
    [0, 2],
    [0, 4],
    [isWide ? WIDE : offset, 4],
  );
  return joined(head, entry.name, extra);
}

function endOfDirectory(count: number, size: number, offset: number, isWide: boolean): Uint8Array<ArrayBuffer> {
  const [shownCount, shown] = isWide ? [0xffff, WIDE] : [count, undefined];
  const end = numbers(
    [0x06054b50, 4],
    [0, 2],
    [0, 2],
    [shownCount!, 2],
    [shownCount!, 2],
    [shown ?? size, 4],
    [shown ?? offset, 4],
    [0, 2],
  );
  if (!isWide) return end;
  const wide = numbers(
    [0x06064b50, 4],
    [44, 8],
    [WIDE_VERSION, 2],
    [WIDE_VERSION, 2],
    [0, 4],
    [0, 4],
    [count, 8],
    [count, 8],
    [size, 8],
    [offset, 8],
  );
  const locator = numbers([0x07064b50, 4], [0, 4], [offset + size, 8], [1, 4]);
  return joined(wide, locator, end);
}

const crcTable: Uint32Array = /* @__PURE__ */ Uint32Array.from({ length: 256 }, (_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value >>> 0;
});

/** Goes on with a checksum, which begins with all bits set and ends inverted. */
function crc32(crc: number, bytes: Uint8Array): number {
  let state = crc;
  for (let i = 0; i < bytes.length; i++) state = crcTable[(state ^ bytes[i]!) & 0xff]! ^ (state >>> 8);
  return state;
}
