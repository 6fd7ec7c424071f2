import { IntegrityError } from "./errors.ts";
import { crc32, type Pixels, PNG_SIGNATURE, paeth } from "./png.ts";

/** Whether the bytes begin as a PNG does. */
export function isPng(bytes: Uint8Array): boolean {
  return PNG_SIGNATURE.every((byte, i) => bytes[i] === byte);
}

interface Header {
  readonly width: number;
  readonly height: number;
  /** Bits of one sample. */
  readonly depth: number;
  /** 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGBA. */
  readonly color: number;
  readonly interlaced: boolean;
}

const samplesOf: Record<number, number> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const depthsOf: Record<number, number[]> = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] };

/** The seven passes of an interlaced picture: first column and row, steps between columns and rows. */
const adam7 = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
] as const;

function broken(file: string, what: string): IntegrityError {
  return new IntegrityError(`${file} is a broken PNG: ${what}.`, { file, found: what, expected: "a whole PNG file" });
}

/**
 * Reads a PNG of any kind: every depth (16 bits are cut to 8), palettes, transparent colours, interlaced or not. Gray
 * without transparency stays gray; whatever has transparency becomes RGBA. Browsers' own decoders would lose the
 * colours of transparent pixels and the texts.
 *
 * @param file the name for messages
 * @throws IntegrityError for a file that is cut, damaged or contradicts itself.
 * @see https://www.w3.org/TR/png-3/
 */
export async function decodePng(bytes: Uint8Array, file: string): Promise<Pixels> {
  const metadata: Record<string, string> = {};
  const parts: Uint8Array[] = [];
  let header: Header | undefined;
  let palette: Uint8Array | undefined;
  let transparency: Uint8Array | undefined;
  for (const { type, body } of chunks(bytes, file)) {
    if (type === "IHDR") header = readHeader(body, file);
    else if (type === "PLTE") palette = body;
    else if (type === "tRNS") transparency = body;
    else if (type === "IDAT") parts.push(body);
    else if (type === "tEXt" || type === "zTXt" || type === "iTXt") {
      const text = await readText(type, body);
      if (text !== undefined) metadata[text[0]] = text[1];
    }
  }
  if (header === undefined) throw broken(file, "it has no header");
  if (header.color === 3 && palette === undefined) throw broken(file, "it has no palette");
  const samples = await readSamples(header, parts, file);
  return { ...toPixels(header, samples, palette, transparency), width: header.width, height: header.height, metadata };
}

function* chunks(bytes: Uint8Array, file: string): Generator<{ type: string; body: Uint8Array }> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = PNG_SIGNATURE.length;
  for (;;) {
    if (at + 12 > bytes.length) throw broken(file, `it ends after ${bytes.length} bytes, before its end mark`);
    const length = view.getUint32(at);
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (at + 12 + length > bytes.length) {
      throw broken(file, `it ends after ${bytes.length} bytes, within its chunk ${JSON.stringify(type)}`);
    }
    if (crc32(bytes.subarray(at + 4, at + 8 + length)) !== view.getUint32(at + 8 + length)) {
      throw broken(file, `its chunk ${JSON.stringify(type)} has a wrong checksum`);
    }
    if (type === "IEND") return;
    yield { type, body: bytes.subarray(at + 8, at + 8 + length) };
    at += 12 + length;
  }
}

function readHeader(body: Uint8Array, file: string): Header {
  if (body.length !== 13) throw broken(file, `its header has ${body.length} bytes`);
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  const [width, height] = [view.getUint32(0), view.getUint32(4)];
  const [depth, color, compression, filter, interlace] = body.subarray(8) as unknown as [number, ...number[]];
  if (width === 0 || height === 0) throw broken(file, `its size is ${width} x ${height}`);
  if (depthsOf[color!]?.includes(depth) !== true) throw broken(file, `it has colour type ${color} with ${depth} bits`);
  if (compression !== 0 || filter !== 0 || interlace! > 1) throw broken(file, "its header names an unknown method");
  return { width, height, depth, color: color!, interlaced: interlace === 1 };
}

async function inflate(parts: readonly Uint8Array[], limit: number): Promise<Uint8Array> {
  const stream = new Blob(parts as Uint8Array<ArrayBuffer>[]).stream().pipeThrough(new DecompressionStream("deflate"));
  const reader = stream.getReader();
  const pieces: Uint8Array[] = [];
  let size = 0;
  // What follows the bytes that are needed is of no interest, be it endless.
  while (size < limit) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    size += value.length;
  }
  await reader.cancel().catch(() => undefined);
  const result = new Uint8Array(Math.min(size, limit));
  let at = 0;
  for (const piece of pieces) {
    result.set(piece.subarray(0, result.length - at), at);
    at += piece.length;
  }
  return result;
}

/** The samples, one in each element, row by row, of the whole picture. */
async function readSamples(
  header: Header,
  parts: readonly Uint8Array[],
  file: string,
): Promise<Uint8Array | Uint16Array> {
  const { width, height, depth, color, interlaced } = header;
  const samples = samplesOf[color]!;
  const passes = (interlaced ? adam7 : [[0, 0, 1, 1] as const])
    .map(([x, y, dx, dy]) => ({ x, y, dx, dy, w: Math.ceil((width - x) / dx), h: Math.ceil((height - y) / dy) }))
    .filter(({ w, h }) => w > 0 && h > 0);
  const rowBytes = (w: number): number => Math.ceil((w * samples * depth) / 8);
  const size = passes.reduce((sum, { w, h }) => sum + h * (1 + rowBytes(w)), 0);
  let raw: Uint8Array;
  try {
    raw = await inflate(parts, size);
  } catch (cause) {
    throw new IntegrityError(
      `${file} is a broken PNG: its pixels cannot be decompressed (${(cause as Error).message}).`,
      { file, found: "damaged compressed data", expected: "a whole PNG file" },
      { cause },
    );
  }
  if (raw.length < size) throw broken(file, `it holds ${raw.length} of ${size} bytes of pixels`);

  const result = depth === 16 ? new Uint16Array(width * height * samples) : new Uint8Array(width * height * samples);
  let at = 0;
  for (const { x, y, dx, dy, w, h } of passes) {
    const length = rowBytes(w);
    unfilter(raw, at, length, h, Math.max(1, (samples * depth) >> 3), file);
    for (let row = 0; row < h; row++) {
      const line = at + row * (length + 1) + 1;
      const to = ((y + row * dy) * width + x) * samples;
      if (depth === 8 && dx === 1) {
        result.set(raw.subarray(line, line + w * samples), to);
        continue;
      }
      for (let i = 0; i < w * samples; i++) {
        const target = to + Math.floor(i / samples) * dx * samples + (i % samples);
        result[target] = sampleAt(raw, line, i, depth);
      }
    }
    at += h * (length + 1);
  }
  return result;
}

function sampleAt(raw: Uint8Array, line: number, i: number, depth: number): number {
  if (depth === 8) return raw[line + i]!;
  if (depth === 16) return raw[line + 2 * i]! * 256 + raw[line + 2 * i + 1]!;
  const bit = i * depth;
  return (raw[line + (bit >> 3)]! >> (8 - depth - (bit & 7))) & ((1 << depth) - 1);
}

/** Undoes the filters of `rows` rows of `length` bytes, in place; each row is preceded by its filter's number. */
function unfilter(raw: Uint8Array, begin: number, length: number, rows: number, step: number, file: string): void {
  for (let row = 0; row < rows; row++) {
    const at = begin + row * (length + 1) + 1;
    const type = raw[at - 1]!;
    if (type > 4) throw broken(file, `row ${row} has the unknown filter ${type}`);
    if (type === 0) continue;
    for (let i = 0; i < length; i++) {
      const left = i >= step ? raw[at + i - step]! : 0;
      const above = row > 0 ? raw[at + i - length - 1]! : 0;
      const corner = row > 0 && i >= step ? raw[at + i - length - 1 - step]! : 0;
      let predicted = left;
      if (type === 2) predicted = above;
      else if (type === 3) predicted = (left + above) >> 1;
      else if (type === 4) predicted = paeth(left, above, corner);
      raw[at + i] = raw[at + i]! + predicted;
    }
  }
}

/** Samples as 8-bit gray, RGB or RGBA. */
function toPixels(
  { width, height, depth, color }: Header,
  samples: Uint8Array | Uint16Array,
  palette: Uint8Array | undefined,
  transparency: Uint8Array | undefined,
): Pick<Pixels, "channels" | "data"> {
  const count = width * height;
  const scale = depth < 8 ? 255 / (2 ** depth - 1) : 1;
  const to8 = (sample: number): number => (depth === 16 ? sample >> 8 : sample * scale);
  if (color === 3) {
    const channels = transparency === undefined ? 3 : 4;
    const data = new Uint8ClampedArray(count * channels);
    for (let i = 0; i < count; i++) {
      const entry = samples[i]!;
      for (let c = 0; c < 3; c++) data[i * channels + c] = palette![entry * 3 + c] ?? 0;
      if (channels === 4) data[i * 4 + 3] = transparency![entry] ?? 255;
    }
    return { channels, data };
  }
  const stored = samplesOf[color]!;
  const gray = color === 0 || color === 4;
  // One colour of a picture without alpha may be declared transparent.
  const key = (color === 0 || color === 2) && transparency !== undefined ? transparency : undefined;
  const channels = key !== undefined || color === 4 || color === 6 ? 4 : gray ? 1 : 3;
  const data = new Uint8ClampedArray(count * channels);
  for (let i = 0; i < count; i++) {
    const from = i * stored;
    const to = i * channels;
    const colors = Math.min(3, channels);
    for (let c = 0; c < colors; c++) data[to + c] = to8(samples[from + (gray ? 0 : c)]!);
    if (channels !== 4) continue;
    if (key === undefined) data[to + 3] = to8(samples[from + stored - 1]!);
    else {
      let same = true;
      for (let c = 0; c < stored; c++) same &&= samples[from + c] === key[2 * c]! * 256 + key[2 * c + 1]!;
      data[to + 3] = same ? 0 : 255;
    }
  }
  return { channels, data };
}

function latin1(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
}

/** Keyword and text of a text chunk; undefined for one that is malformed, which does not spoil the picture. */
async function readText(type: string, body: Uint8Array): Promise<[string, string] | undefined> {
  const end = body.indexOf(0);
  if (end < 1) return undefined;
  const keyword = latin1(body.subarray(0, end));
  if (type === "tEXt") return [keyword, latin1(body.subarray(end + 1))];
  const limit = 2 ** 24;
  try {
    if (type === "zTXt") return [keyword, latin1(await inflate([body.subarray(end + 2)], limit))];
    const language = body.indexOf(0, end + 3);
    const translated = language < 0 ? -1 : body.indexOf(0, language + 1);
    if (translated < 0) return undefined;
    const text = body.subarray(translated + 1);
    return [keyword, new TextDecoder().decode(body[end + 1] === 1 ? await inflate([text], limit) : text)];
  } catch {
    // A damaged text is left out.
    return undefined;
  }
}
