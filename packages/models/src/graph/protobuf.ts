import type { Attribute, ElementType, GraphNode, Initializer, ValueInfo } from "./types.ts";

/** The operator set of every graph, for ONNX's own domain and the channels-last one. */
const OPSET = 21;
/** The ONNX file format version that goes with it. */
const IR_VERSION = 10;

const elementTypes: Record<ElementType, number> = { float32: 1, int32: 6, int64: 7, bool: 9, float16: 10 };

/** Appends protobuf fields. Only what an ONNX model needs: varints, floats, bytes, strings and messages. */
export class Writer {
  private buffer = new Uint8Array(256);
  private length = 0;

  finish(): Uint8Array {
    return this.buffer.subarray(0, this.length);
  }

  int(field: number, value: number): this {
    this.varint(field << 3);
    this.varint(value);
    return this;
  }

  float(field: number, value: number): this {
    this.varint((field << 3) | 5);
    this.reserve(4);
    new DataView(this.buffer.buffer).setFloat32(this.length, value, true);
    this.length += 4;
    return this;
  }

  bytes(field: number, value: Uint8Array): this {
    this.varint((field << 3) | 2);
    this.varint(value.length);
    this.reserve(value.length);
    this.buffer.set(value, this.length);
    this.length += value.length;
    return this;
  }

  string(field: number, value: string): this {
    return this.bytes(field, encoder.encode(value));
  }

  message(field: number, value: Writer): this {
    return this.bytes(field, value.finish());
  }

  private varint(value: number): void {
    this.reserve(10);
    // Negative int64: two's complement in 64 bits, ten bytes.
    if (value < 0) {
      let rest = BigInt.asUintN(64, BigInt(value));
      while (rest > 127n) {
        this.buffer[this.length++] = Number(rest & 127n) | 128;
        rest >>= 7n;
      }
      this.buffer[this.length++] = Number(rest);
      return;
    }
    let rest = value;
    while (rest > 127) {
      this.buffer[this.length++] = (rest % 128) | 128;
      rest = Math.floor(rest / 128);
    }
    this.buffer[this.length++] = rest;
  }

  private reserve(count: number): void {
    if (this.length + count <= this.buffer.length) return;
    const grown = new Uint8Array(Math.max(this.buffer.length * 2, this.length + count));
    grown.set(this.buffer);
    this.buffer = grown;
  }
}

const encoder = new TextEncoder();

/** The parts of a model, as {@link encodeModel} writes them. */
export interface Model {
  readonly nodes: readonly GraphNode[];
  readonly initializers: Iterable<Initializer>;
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
}

/**
 * Writes an ONNX model. Initializers without bytes become external data: location = their name, offset 0.
 *
 * @see https://github.com/onnx/onnx/blob/main/onnx/onnx.proto for the field numbers
 */
export function encodeModel({ nodes, initializers, inputs, outputs }: Model): Uint8Array {
  const graph = new Writer().string(2, "graph");
  const domains = new Set<string>([""]);
  for (const node of nodes) {
    graph.message(1, encodeNode(node));
    domains.add(node.domain);
  }
  for (const initializer of initializers) graph.message(5, encodeInitializer(initializer));
  for (const input of inputs) graph.message(11, encodeValueInfo(input));
  for (const output of outputs) graph.message(12, encodeValueInfo(output));

  const model = new Writer().int(1, IR_VERSION).string(2, "diffusers-web").message(7, graph);
  for (const domain of domains) {
    const version = domain === "com.microsoft" ? 1 : OPSET;
    model.message(8, new Writer().string(1, domain).int(2, version));
  }
  return model.finish();
}

function encodeNode(node: GraphNode): Writer {
  const writer = new Writer();
  for (const input of node.inputs) writer.string(1, input);
  for (const output of node.outputs) writer.string(2, output);
  writer.string(3, node.outputs[0]!).string(4, node.type);
  for (const [name, value] of Object.entries(node.attributes)) writer.message(5, encodeAttribute(name, value));
  if (node.domain !== "") writer.string(7, node.domain);
  return writer;
}

function encodeAttribute(name: string, value: Attribute): Writer {
  const writer = new Writer().string(1, name);
  if (typeof value === "number") return writer.int(3, value).int(20, 2);
  if (typeof value === "string") return writer.string(4, value).int(20, 3);
  if ("float" in value) return writer.float(2, value.float).int(20, 1);
  for (const item of value) writer.int(8, item);
  return writer.int(20, 7);
}

function encodeInitializer({ name, type, dims, bytes }: Initializer): Writer {
  const writer = new Writer();
  for (const dim of dims) writer.int(1, dim);
  writer.int(2, elementTypes[type]).string(8, name);
  if (bytes !== undefined) return writer.bytes(9, bytes);
  return writer.message(13, new Writer().string(1, "location").string(2, name)).int(14, 1);
}

function encodeValueInfo({ name, type, dims }: ValueInfo): Writer {
  const shape = new Writer();
  for (const dim of dims) shape.message(1, new Writer().int(1, dim));
  const tensorType = new Writer().int(1, elementTypes[type]).message(2, shape);
  return new Writer().string(1, name).message(2, new Writer().message(1, tensorType));
}
