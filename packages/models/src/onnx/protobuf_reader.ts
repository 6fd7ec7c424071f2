import { IntegrityError, type SourceFile } from "@diffusers-web/core";

/** Bytes that are read at once: a graph's nodes are far smaller, and each read may be a request to the disk. */
const WINDOW = 1 << 16;

/** One field of a protobuf message. */
export interface Field {
  readonly number: number;
  /** Of a varint, the value; of anything else, 0. */
  readonly value: number;
  /** Where the field with its tag begins. */
  readonly start: number;
  /** Where its content begins and ends: of a message, a string or bytes what they hold. */
  readonly begin: number;
  readonly end: number;
}

/** Reads protobuf messages out of a file, in small pieces: what is skipped is not read. */
export class ProtobufReader {
  private window = new Uint8Array(0);
  private windowBegin = 0;

  constructor(readonly file: SourceFile) {}

  /**
   * The fields of a message.
   *
   * @throws IntegrityError for bytes that are no protobuf, and for a field that goes on after its message's end.
   */
  *fields(begin: number, end: number): Generator<Field> {
    let at = begin;
    while (at < end) {
      const start = at;
      const [tag, content] = this.varint(at, end);
      const wireType = tag % 8;
      let value = 0;
      let first = content;
      let after = content;
      if (wireType === 0) [value, after] = this.varint(content, end);
      else if (wireType === 1) after = content + 8;
      else if (wireType === 5) after = content + 4;
      else if (wireType === 2) {
        const [length, data] = this.varint(content, end);
        first = data;
        after = data + length;
      } else this.fail(`wire type ${wireType} at byte ${start}`, "an ONNX model");
      if (after > end) {
        const of = end === this.file.size ? `a file of ${end} bytes (truncated?)` : `a part that ends at byte ${end}`;
        this.fail(of, `at least ${after} bytes for what begins at byte ${start}`);
      }
      yield { number: Math.floor(tag / 8), value, start, begin: first, end: after };
      at = after;
    }
  }

  /** The numbers of a repeated varint, be they packed or one to a field. */
  *varints({ value, begin, end, start }: Field): Generator<number> {
    const [tag] = this.varint(start, end);
    if (tag % 8 === 0) yield value;
    else {
      let at = begin;
      while (at < end) {
        const [number, after] = this.varint(at, end);
        yield number;
        at = after;
      }
    }
  }

  text({ begin, end }: Field): string {
    return new TextDecoder().decode(this.bytes(begin, end));
  }

  /** A copy. @throws IntegrityError when the file ends before. */
  bytes(begin: number, end: number): Uint8Array<ArrayBuffer> {
    if (end - begin > WINDOW) return this.read(begin, end);
    this.look(begin, end);
    return this.window.slice(begin - this.windowBegin, end - this.windowBegin) as Uint8Array<ArrayBuffer>;
  }

  /** @throws IntegrityError always. */
  fail(found: string, expected: string): never {
    const file = this.file.path;
    throw new IntegrityError(`${file}: found ${found}, expected ${expected}. Download the file again.`, {
      file,
      found,
      expected,
    });
  }

  /** A number and where it ends. One above 2^53 (negative numbers are) is not exact. */
  private varint(begin: number, end: number): [value: number, after: number] {
    let value = 0;
    let factor = 1;
    for (let at = begin; at < Math.min(end, begin + 10); at++) {
      this.look(at, at + 1);
      const byte = this.window[at - this.windowBegin]!;
      value += (byte & 127) * factor;
      if (byte < 128) return [value, at + 1];
      factor *= 128;
    }
    return this.fail(`no end of the number at byte ${begin}`, "an ONNX model");
  }

  /** Brings a range into the window. */
  private look(begin: number, end: number): void {
    if (begin >= this.windowBegin && end <= this.windowBegin + this.window.length) return;
    this.window = this.read(begin, Math.min(this.file.size, Math.max(end, begin + WINDOW)));
    this.windowBegin = begin;
  }

  private read(begin: number, end: number): Uint8Array<ArrayBuffer> {
    const bytes = this.file.readSync(begin, end);
    if (bytes.length !== end - begin) this.fail(`${bytes.length} bytes from byte ${begin} on`, `${end - begin}`);
    return bytes.slice();
  }
}
