import {
  IntegrityError,
  ModelNotFoundError,
  type OpenOptions,
  type Source,
  type SourceFile,
  UnsupportedModelError,
} from "@diffusers-web/core";
import { Writer } from "../graph/protobuf.ts";
import type { BuiltGraph, ExternalWeight } from "../graph/types.ts";
import { type Field, ProtobufReader } from "./protobuf_reader.ts";
import { externalTensor, inlineTensor, joined, readTensor, type StoredTensor } from "./tensor_proto.ts";

/** Element types of ONNX, by their number, as tensors name them. */
const elementTypes = {
  1: "float32",
  2: "uint8",
  6: "int32",
  7: "int64",
  9: "bool",
  10: "float16",
  11: "float64",
} as const;

/** The element type of an input or output; of those that no tensor here has, the number in the file. */
export type OnnxType = (typeof elementTypes)[keyof typeof elementTypes] | `type ${number}`;

/** An input or output of an ONNX graph. */
export interface OnnxValue {
  readonly name: string;
  readonly type: OnnxType;
  /** undefined where any size does; the whole is undefined where even the rank is open. */
  readonly dims: readonly (number | undefined)[] | undefined;
}

/** Weights up to this many bytes stay in the graph: the engine looks into them while it infers shapes. */
const INLINE_BYTES = 1024;

const HALF = 10;

/**
 * An ONNX model whose weights stay in its files until the engine asks for them.
 *
 * The engine takes a graph whole, with the weights that it holds. So it gets a copy of the graph, without them: each
 * larger weight, in the file itself or in one beside it, becomes external data of its own, and is read when it is uploaded.
 */
export interface OnnxFile {
  /** As its source calls it. */
  readonly path: string;
  readonly inputs: readonly OnnxValue[];
  readonly outputs: readonly OnnxValue[];
  /** Dims of the graph's weights, by name. */
  readonly weights: ReadonlyMap<string, readonly number[]>;
  /** Whether any weight, input or output is float16. */
  readonly isHalf: boolean;
  readonly graph: BuiltGraph;
  close(): void;
}

/**
 * Opens an ONNX model and the files that hold its weights.
 *
 * @returns undefined when there is no such file
 * @throws IntegrityError for a file that is no ONNX model or shorter than it says, UnsupportedModelError for weights
 * that lie outside of the model's folder, ModelNotFoundError for a missing file with weights.
 */
export async function openOnnx(source: Source, path: string, options: OpenOptions): Promise<OnnxFile | undefined> {
  const file = await source.open(path, options);
  if (file === undefined) return undefined;
  const files = [file];
  try {
    const parsed = parse(new ProtobufReader(file));
    const places = new Map<string, SourceFile>();
    for (const location of new Set(parsed.tensors.map(({ data }) => data?.location))) {
      if (location === undefined) continue;
      const opened = await openBeside(source, path, location, options);
      files.push(opened);
      places.set(location, opened);
    }
    const close = (): void => {
      for (const one of files) one.close();
    };
    return { path: file.path, ...assemble(parsed, file, places), close };
  } catch (error) {
    for (const one of files) one.close();
    throw error;
  }
}

async function openBeside(source: Source, path: string, location: string, options: OpenOptions): Promise<SourceFile> {
  const name = location.replace(/^(\.\/)+/, "");
  if (name === "" || name.startsWith("/") || name.includes("\\") || name.split("/").includes("..")) {
    throw new UnsupportedModelError(`${path} puts weights in ${location}, which is not a file in its folder.`, {
      file: path,
      found: location,
      expected: "a file in the model's folder",
    });
  }
  const wanted = path.slice(0, path.lastIndexOf("/") + 1) + name;
  const file = await source.open(wanted, options);
  if (file !== undefined) return file;
  throw new ModelNotFoundError(`${source.name} has no ${wanted}, which holds weights of its ${path}.`, {
    file: wanted,
    found: "no such file",
    expected: wanted,
  });
}

/** A piece of the model: bytes to copy, or a weight. */
type Piece = Uint8Array | StoredTensor;

interface Parsed {
  readonly before: readonly Uint8Array[];
  readonly graph: readonly Piece[];
  readonly after: readonly Uint8Array[];
  readonly tensors: readonly StoredTensor[];
  readonly inputs: readonly OnnxValue[];
  readonly outputs: readonly OnnxValue[];
}

/** @see https://github.com/onnx/onnx/blob/main/onnx/onnx.proto for the field numbers */
function parse(reader: ProtobufReader): Parsed {
  const { file } = reader;
  const head = new TextDecoder().decode(reader.bytes(0, Math.min(8, file.size)));
  if (head === "version ") reader.fail("a Git LFS pointer", "the ONNX file that it points to");
  if (/^\s*</.test(head)) reader.fail("a web page", "an ONNX file");
  const before: Uint8Array[] = [];
  const after: Uint8Array[] = [];
  let graph: Field | undefined;
  for (const field of reader.fields(0, file.size)) {
    if (field.number === 7) graph = field;
    else (graph === undefined ? before : after).push(reader.bytes(field.start, field.end));
  }
  if (graph === undefined) reader.fail("no graph", "an ONNX model");

  const pieces: Piece[] = [];
  const inputs: OnnxValue[] = [];
  const outputs: OnnxValue[] = [];
  for (const field of reader.fields(graph.begin, graph.end)) {
    if (field.number === 5) pieces.push(readTensor(reader, field));
    else pieces.push(reader.bytes(field.start, field.end));
    if (field.number === 11) inputs.push(readValue(reader, field));
    if (field.number === 12) outputs.push(readValue(reader, field));
  }
  if (outputs.length === 0) reader.fail("a graph without outputs", "an ONNX model");
  const tensors = pieces.filter((piece): piece is StoredTensor => !(piece instanceof Uint8Array));
  // Old files list weights as inputs, too.
  const names = new Set(tensors.map(({ name }) => name));
  return { before, graph: pieces, after, tensors, inputs: inputs.filter(({ name }) => !names.has(name)), outputs };
}

function readValue(reader: ProtobufReader, { begin, end }: Field): OnnxValue {
  const only = (within: Pick<Field, "begin" | "end"> | undefined, number: number): Field | undefined =>
    within && [...reader.fields(within.begin, within.end)].find((field) => field.number === number);
  const message = { begin, end };
  const name = only(message, 1);
  const tensorType = only(only(message, 2), 1);
  const type = only(tensorType, 1)?.value ?? 0;
  const shape = only(tensorType, 2);
  const dims = shape && [...reader.fields(shape.begin, shape.end)].map((dim) => sizeOf(only(dim, 1)?.value));
  return {
    name: name === undefined ? "" : reader.text(name),
    type: elementTypes[type as keyof typeof elementTypes] ?? `type ${type}`,
    dims,
  };
}

/** Exporters write 0, -1 or a name for a size that is open. */
function sizeOf(value: number | undefined): number | undefined {
  return value !== undefined && value > 0 && Number.isSafeInteger(value) ? value : undefined;
}

/** The graph as the engine gets it. */
function assemble(
  parsed: Parsed,
  file: SourceFile,
  places: ReadonlyMap<string, SourceFile>,
): Omit<OnnxFile, "path" | "close"> {
  const external: ExternalWeight[] = [];
  const place = ({ name, rest, data }: StoredTensor): Uint8Array => {
    if (data === undefined) return rest;
    const holder = data.location === undefined ? file : places.get(data.location)!;
    const { begin, end = holder.size } = data;
    if (end > holder.size) {
      const found = `a file of ${holder.size} bytes (truncated?)`;
      throw new IntegrityError(`${holder.path}, tensor ${name}: found ${found}, expected at least ${end}.`, {
        file: holder.path,
        tensors: [name],
        found,
        expected: `at least ${end} bytes`,
      });
    }
    const read = (): Uint8Array => readWhole(holder, begin, end, name);
    if (end - begin <= INLINE_BYTES) return inlineTensor(rest, read());
    const location = `weight${external.length}`;
    external.push({ name: location, byteLength: end - begin, read });
    return externalTensor(rest, location);
  };
  const pieces = parsed.graph.map((piece) => (piece instanceof Uint8Array ? piece : field(5, place(piece))));
  const bytes = joined([...parsed.before, field(7, joined(pieces)), ...parsed.after]);
  const values = [...parsed.inputs, ...parsed.outputs];
  return {
    inputs: parsed.inputs,
    outputs: parsed.outputs,
    weights: new Map(parsed.tensors.map(({ name, dims }) => [name, dims])),
    isHalf: parsed.tensors.some(({ type }) => type === HALF) || values.some(({ type }) => type === "float16"),
    graph: { bytes, external, nodeCount: 0, inputs: [], outputs: [] },
  };
}

function readWhole(file: SourceFile, begin: number, end: number, tensor: string): Uint8Array {
  const bytes = file.readSync(begin, end);
  if (bytes.length === end - begin) return bytes;
  throw new IntegrityError(
    `${file.path}, tensor ${tensor}: only ${bytes.length} of ${end - begin} bytes could be read. ` +
      "The file changed or was closed after it was opened.",
    { file: file.path, tensors: [tensor], found: `${bytes.length} bytes`, expected: `${end - begin} bytes` },
  );
}

function field(number: number, content: Uint8Array): Uint8Array {
  return new Writer().bytes(number, content).finish();
}
