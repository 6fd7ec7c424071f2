import { ValueError } from "./errors.ts";

/** Pixels as a picture file holds them: 8 bits, row by row, and the texts stored beside them. */
export interface Pixels {
  readonly width: number;
  readonly height: number;
  /** 1 (gray), 3 (RGB) or 4 (RGBA). */
  readonly channels: 1 | 3 | 4;
  readonly data: Uint8ClampedArray;
  readonly metadata: Record<string, string>;
}

export const PNG_SIGNATURE: readonly number[] = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

let crcTable: Uint32Array | undefined;

/** The checksum that ends each chunk. */
export function crc32(bytes: Uint8Array): number {
  crcTable ??= Uint32Array.from({ length: 256 }, (_, n) => {
    let c = n;
    for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1;
    return c;
  });
  let crc = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) crc = crcTable[(crc ^ bytes[i]!) & 0xff]! ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** The Paeth predictor: of left, above and above left, the one nearest to left + above - above left. */
export function paeth(left: number, above: number, corner: number): number {
  const toLeft = Math.abs(above - corner);
  const toAbove = Math.abs(left - corner);
  const toCorner = Math.abs(left + above - 2 * corner);
  if (toLeft <= toAbove && toLeft <= toCorner) return left;
  return toAbove <= toCorner ? above : corner;
}

/** Writes one row's difference from what filter `type` predicts; returns the sum of the differences' sizes. */
function filterRow(
  type: number,
  data: Uint8ClampedArray,
  at: number,
  length: number,
  step: number,
  first: boolean,
  out: Uint8Array,
): number {
  let sum = 0;
  for (let i = 0; i < length; i++) {
    const left = i >= step ? data[at + i - step]! : 0;
    const above = first ? 0 : data[at + i - length]!;
    const corner = first || i < step ? 0 : data[at + i - length - step]!;
    let predicted = 0;
    if (type === 1) predicted = left;
    else if (type === 2) predicted = above;
    else if (type === 3) predicted = (left + above) >> 1;
    else if (type === 4) predicted = paeth(left, above, corner);
    const difference = (data[at + i]! - predicted) & 0xff;
    out[i] = difference;
    sum += difference < 128 ? difference : 256 - difference;
  }
  return sum;
}

/** All rows, each by the filter with the smallest differences, which usually compresses best. */
function filterRows({ width, height, channels, data }: Pixels): Uint8Array {
  const length = width * channels;
  const result = new Uint8Array(height * (length + 1));
  let best = new Uint8Array(length);
  let candidate = new Uint8Array(length);
  for (let y = 0; y < height; y++) {
    let bestType = 0;
    let bestSum = Number.POSITIVE_INFINITY;
    for (let type = 0; type < 5; type++) {
      const sum = filterRow(type, data, y * length, length, channels, y === 0, candidate);
      if (sum >= bestSum) continue;
      bestSum = sum;
      bestType = type;
      [best, candidate] = [candidate, best];
    }
    result[y * (length + 1)] = bestType;
    result.set(best, y * (length + 1) + 1);
  }
  return result;
}

async function deflate(bytes: Uint8Array): Promise<Uint8Array> {
  const stream = new Blob([bytes as Uint8Array<ArrayBuffer>]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function chunk(type: string, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(12 + body.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, body.length);
  for (let i = 0; i < 4; i++) bytes[4 + i] = type.charCodeAt(i);
  bytes.set(body, 8);
  view.setUint32(8 + body.length, crc32(bytes.subarray(4, 8 + body.length)));
  return bytes;
}

const latin1 = /^[\n\u0020-\u007e\u00a0-\u00ff]*$/;

/** A text chunk: tEXt where the text is Latin-1, else iTXt, which holds UTF-8. */
function textChunk(keyword: string, text: string): Uint8Array {
  if (!latin1.test(keyword) || keyword.length < 1 || keyword.length > 79 || /^ | $|\n| {2}/.test(keyword)) {
    throw new ValueError(`${JSON.stringify(keyword)} cannot be a key of a PNG's metadata.`, {
      field: "metadata",
      found: keyword,
      expected: "1 to 79 Latin-1 characters without spaces at the ends",
    });
  }
  if (text.includes("\0")) {
    throw new ValueError(`The metadata ${JSON.stringify(keyword)} holds a zero character, which a PNG cannot store.`, {
      field: "metadata",
    });
  }
  const key = Uint8Array.from(keyword, (c) => c.charCodeAt(0));
  const plain = latin1.test(text);
  const value = plain ? Uint8Array.from(text, (c) => c.charCodeAt(0)) : new TextEncoder().encode(text);
  // iTXt: not compressed, no language, no translated keyword.
  const separator = plain ? [0] : [0, 0, 0, 0, 0];
  return chunk(plain ? "tEXt" : "iTXt", join([key, Uint8Array.from(separator), value]));
}

function join(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/**
 * A PNG file: 8 bits a channel, the metadata in text chunks.
 *
 * @throws ValueError for metadata that a PNG cannot store.
 * @see https://www.w3.org/TR/png-3/
 */
export async function encodePng(pixels: Pixels): Promise<Uint8Array> {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, pixels.width);
  view.setUint32(4, pixels.height);
  header[8] = 8;
  header[9] = { 1: 0, 3: 2, 4: 6 }[pixels.channels];
  const texts = Object.entries(pixels.metadata).map(([key, text]) => textChunk(key, text));
  const body = await deflate(filterRows(pixels));
  return join([
    Uint8Array.from(PNG_SIGNATURE),
    chunk("IHDR", header),
    ...texts,
    chunk("IDAT", body),
    chunk("IEND", new Uint8Array(0)),
  ]);
}
