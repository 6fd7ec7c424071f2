import { Writer } from "../graph/protobuf.ts";
import type { Field, ProtobufReader } from "./protobuf_reader.ts";

/** Bytes of one element, by ONNX's number of the type. */
const elementBytes: Readonly<Record<number, number>> = {
  1: 4,
  2: 1,
  3: 1,
  4: 2,
  5: 2,
  6: 4,
  7: 8,
  9: 1,
  10: 2,
  11: 8,
  12: 4,
  13: 8,
  16: 2,
};

/** A weight of an ONNX graph, and where its bytes lie. */
export interface StoredTensor {
  readonly name: string;
  /** ONNX's number of the element type. */
  readonly type: number;
  readonly dims: readonly number[];
  /** The message without what says where its bytes are. */
  readonly rest: Uint8Array;
  /** Absent when the bytes are in `rest`, as lists of numbers. */
  readonly data?: StoredData;
}

/** A range of a file. */
export interface StoredData {
  /** The file beside the model; absent for the model itself. */
  readonly location?: string | undefined;
  readonly begin: number;
  /** Absent: to the end of the file. */
  readonly end?: number | undefined;
}

/**
 * Reads a TensorProto without its data.
 *
 * @throws IntegrityError for data of another length than its dims imply.
 */
export function readTensor(reader: ProtobufReader, message: Field): StoredTensor {
  const dims: number[] = [];
  const rest: Uint8Array[] = [];
  const entries: Record<string, string> = {};
  let name = "";
  let type = 0;
  let raw: Field | undefined;
  let isExternal = false;
  for (const field of reader.fields(message.begin, message.end)) {
    if (field.number === 9) raw = field;
    else if (field.number === 13) Object.assign(entries, readEntry(reader, field));
    else if (field.number === 14) isExternal = field.value === 1;
    else rest.push(reader.bytes(field.start, field.end));
    if (field.number === 1) dims.push(...reader.varints(field));
    if (field.number === 2) type = field.value;
    if (field.number === 8) name = reader.text(field);
  }
  const tensor = { name, type, dims, rest: joined(rest) };
  const bytes = elementBytes[type];
  const implied = bytes === undefined ? undefined : dims.reduce((product, dim) => product * dim, bytes);
  const check = (found: number): void => {
    if (implied === undefined || found === implied) return;
    reader.fail(`${found} bytes for the weight ${name} of dims [${dims}]`, `${implied}`);
  };
  if (isExternal) {
    const { location, offset = "0", length = implied } = entries;
    const begin = Number(offset);
    const size = length === undefined ? undefined : Number(length);
    const isRange = [begin, size ?? 0].every((value) => Number.isSafeInteger(value) && value >= 0);
    if (location === undefined || !isRange) {
      reader.fail(
        `${JSON.stringify(entries)} as the place of the weight ${name}`,
        "a location, an offset and a length",
      );
    }
    if (size !== undefined) check(size);
    return { ...tensor, data: { location, begin, end: size === undefined ? undefined : begin + size } };
  }
  if (raw === undefined) return tensor;
  check(raw.end - raw.begin);
  return { ...tensor, data: { begin: raw.begin, end: raw.end } };
}

/** A StringStringEntryProto. */
function readEntry(reader: ProtobufReader, { begin, end }: Field): Record<string, string> {
  let key = "";
  let value = "";
  for (const field of reader.fields(begin, end)) {
    if (field.number === 1) key = reader.text(field);
    if (field.number === 2) value = reader.text(field);
  }
  return { [key]: value };
}

/** The message with its data in it. */
export function inlineTensor(rest: Uint8Array, data: Uint8Array): Uint8Array {
  return joined([rest, new Writer().bytes(9, data).finish()]);
}

/** The message with its data in the file `location`, from the start. */
export function externalTensor(rest: Uint8Array, location: string): Uint8Array {
  const entry = new Writer().string(1, "location").string(2, location);
  return joined([rest, new Writer().message(13, entry).int(14, 1).finish()]);
}

export function joined(parts: readonly Uint8Array[]): Uint8Array {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}
