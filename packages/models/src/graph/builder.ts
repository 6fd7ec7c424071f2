import { Tensor, WeightsMismatchError } from "@diffusers-web/core";
import { fuseResidualNorm } from "./passes/fuse_residual_norm.ts";
import { encodeModel } from "./protobuf.ts";
import type {
  Attribute,
  BuiltGraph,
  Domain,
  ElementType,
  ExternalWeight,
  GraphIO,
  GraphNode,
  Initializer,
  Target,
  ValueInfo,
  WeightSource,
} from "./types.ts";
import { candidates, sameShape } from "./weight_names.ts";

/** A value inside a graph: every one has a known element type and static dims. */
export interface Value extends ValueInfo {}

/** How an operator differs from ONNX's own, type-preserving ones. */
export interface OpOptions {
  readonly domain?: Domain;
  /** The outputs' element type. Default: that of the first input. */
  readonly type?: ElementType;
}

/** Self-attentions in which a part of the batch sees nothing but itself (perturbed-attention guidance). */
export interface PerturbedLayers {
  readonly names: readonly string[];
  /** The first item of the part; it reaches to the batch's end. */
  readonly from: number;
}

/** A low-rank change of a layer (LoRA), as it is emitted beside the layer. */
export interface LayerAdapter {
  /** Holds `<module>.lora_A.weight`, `<module>.lora_B.weight` and, where there is one, `<module>.lora_B.bias`. */
  readonly weights: WeightSource;
  readonly module: string;
  /** Stands before the tensors' names in the graph. */
  readonly prefix: string;
  readonly rank: number;
  /** What the change is multiplied by, `[1]`. */
  readonly scale: Value;
}

type Attributes = Readonly<Record<string, Attribute>>;

const bytesPerElement: Record<ElementType, number> = { float32: 4, float16: 2, int64: 8, int32: 4, bool: 1 };

/** Options of an operator that the engine defines. */
export const microsoft: OpOptions = { domain: "com.microsoft" };

/** A float attribute of an operator. */
export function float(value: number): Attribute {
  return { float: value };
}

/** How many heads of one batch item attention computes at a time: half of them, one, or as many as a number says. */
export type AttentionSlice = "auto" | "max" | number;

interface Mismatch {
  /** The file that the tensor was looked for in. */
  readonly file: string;
  readonly name: string;
  readonly found: readonly number[] | undefined;
  readonly expected: readonly number[];
}

/**
 * Collects the operators of one model while its forward code runs, and writes them as ONNX.
 *
 * Weights stay where they are: the graph names them as external data, which the engine asks for one by one. The same
 * operator on the same inputs is emitted once.
 */
export class GraphBuilder {
  readonly weights: WeightSource;
  /** The tensors of `weights` that the graph asked for. */
  readonly used: Set<string> = new Set<string>();

  /** A memory option that the attention layer reads; null computes all heads at once. */
  attentionSlice: AttentionSlice | null = null;
  /** The self-attentions emitted so far. */
  readonly selfAttentions: string[] = [];
  /** What of them is perturbed; null: nothing. */
  perturbed: PerturbedLayers | null = null;
  /** The changes of a layer of the model, by the layer's name. */
  layerAdapters: ((name: string) => readonly LayerAdapter[]) | null = null;

  private device: Target;
  // Where tensors are looked for at present, and what stands before their names in the graph.
  private source: { readonly weights: WeightSource; readonly prefix: string };
  private readonly nodes: GraphNode[] = [];
  private readonly initializers = new Map<string, Initializer>();
  private readonly external = new Map<string, ExternalWeight>();
  private readonly dims = new Map<string, readonly number[]>();
  private readonly emitted = new Map<string, readonly Value[]>();
  private readonly mismatches: Mismatch[] = [];
  private readonly inputs: GraphIO[] = [];
  private readonly outputs: GraphIO[] = [];

  constructor(weights: WeightSource, target: Target) {
    this.weights = weights;
    this.source = { weights, prefix: "" };
    this.device = target;
  }

  /** What the graph is lowered to. */
  get target(): Target {
    return this.device;
  }

  /** Computes in float32 from here on, whatever the device prefers: for models that overflow float16. Call it first. */
  upcast(): void {
    this.device = { ...this.device, dtype: "float32" };
  }

  /**
   * Emits with the tensors of another source, such as an adapter's: `weight`, `read` and `has` look for them there.
   *
   * @param prefix stands before their names in the graph and in `used`, where another source may have the same ones
   */
  withWeights<T>(weights: WeightSource, prefix: string, emit: () => T): T {
    const before = this.source;
    this.source = { weights, prefix };
    try {
      return emit();
    } finally {
      this.source = before;
    }
  }

  /** The changes of a layer; none for the layers of another source. */
  adaptersOf(name: string): readonly LayerAdapter[] {
    return this.source.weights === this.weights ? (this.layerAdapters?.(name) ?? []) : [];
  }

  /** An input that the session is fed. Float inputs are float32 outside and of the target's element type inside. */
  input(name: string, dims: readonly number[], type: "float32" | "int64" = "float32"): Value {
    this.inputs.push({ name, type, dims });
    const value: Value = { name, type, dims };
    return type === "int64" ? value : this.cast(value, this.target.dtype);
  }

  /** Makes a value an output of the graph, in float32. */
  output(name: string, value: Value): void {
    this.outputs.push({ name, type: "float32", dims: value.dims });
    const type = value.type === "float32" ? "Identity" : "Cast";
    const attributes: Attributes = value.type === "float32" ? {} : { to: 1 };
    this.nodes.push({ type, domain: "", inputs: [value.name], outputs: [name], attributes });
  }

  /**
   * Emits an operator with one output.
   *
   * @param inputs its inputs; null for an optional one that is absent
   * @param dims the output's dims
   */
  op(
    type: string,
    inputs: readonly (Value | null)[],
    dims: readonly number[],
    attributes: Attributes = {},
    options: OpOptions = {},
  ): Value {
    return this.ops(type, inputs, [dims], attributes, options)[0]!;
  }

  /** Emits an operator with as many outputs as there are dims. */
  ops(
    type: string,
    inputs: readonly (Value | null)[],
    outputDims: readonly (readonly number[])[],
    attributes: Attributes = {},
    options: OpOptions = {},
  ): readonly Value[] {
    const names = inputs.map((input) => input?.name ?? "");
    while (names.at(-1) === "") names.pop();
    const elementType = options.type ?? inputs[0]!.type;
    const key = JSON.stringify([type, options.domain, names, attributes, outputDims.length]);
    const earlier = this.emitted.get(key);
    if (earlier !== undefined) return earlier;

    const values = outputDims.map((dims, i) => ({
      name: `${type}_${this.nodes.length}${i === 0 ? "" : `_${i}`}`,
      type: elementType,
      dims,
    }));
    this.nodes.push({
      type,
      domain: options.domain ?? "",
      inputs: names,
      outputs: values.map((value) => value.name),
      attributes,
    });
    this.emitted.set(key, values);
    for (const value of values) this.dims.set(value.name, value.dims);
    return values;
  }

  /** The value in another element type. */
  cast(value: Value, type: ElementType): Value {
    if (value.type === type) return value;
    const to = { float32: 1, int32: 6, int64: 7, bool: 9, float16: 10 }[type];
    return this.op("Cast", [value], value.dims, { to }, { type });
  }

  /** The value with other dims, which must hold as many elements. */
  reshape(value: Value, dims: readonly number[]): Value {
    if (value.dims.length === dims.length && value.dims.every((dim, i) => dim === dims[i])) return value;
    return this.op("Reshape", [value, this.integers(dims)], dims);
  }

  /** A constant of the target's element type, inside the model file: for small ones. */
  constant(
    values: readonly number[] | Float32Array,
    dims: readonly number[],
    type: "float32" | "float16" = this.target.dtype,
  ): Value {
    const numbers = new Tensor("float32", Float32Array.from(values), [values.length]);
    const { data } = numbers.to(type);
    return this.inline(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), dims, type);
  }

  /** A one-dimensional int64 constant: dims, axes, sizes. */
  integers(values: readonly number[]): Value {
    return this.inline(new Uint8Array(BigInt64Array.from(values, BigInt).buffer), [values.length], "int64");
  }

  private inline(bytes: Uint8Array, dims: readonly number[], type: ElementType): Value {
    const key = `${type}:${dims.join("x")}:${bytes.join()}`;
    const earlier = this.emitted.get(key);
    if (earlier !== undefined) return earlier[0]!;
    const value: Value = { name: `constant_${this.initializers.size}`, type, dims };
    this.initializers.set(value.name, { ...value, bytes });
    this.emitted.set(key, [value]);
    return value;
  }

  /**
   * A tensor of the checkpoint, under its present or an earlier name. What is missing or of another shape is reported
   * by `build`, all of it at once.
   *
   * @param shape the shape that the config implies; a checkpoint's `[C, C, 1, 1]` passes for `[C, C]` and the reverse
   * @param type the element type inside the graph
   * @param dims the dims inside the graph, where they differ from the file's
   */
  weight(
    name: string,
    shape: readonly number[],
    type: "float32" | "float16" = this.target.dtype,
    dims: readonly number[] = shape,
  ): Value {
    const { weights, prefix } = this.source;
    const source = this.find(name, shape) ?? name;
    const inGraph = prefix + (type === this.target.dtype ? source : `${source}:${type}`);
    const key = `${inGraph}|${dims.join("x")}`;
    const earlier = this.emitted.get(key);
    if (earlier !== undefined) return earlier[0]!;
    const unique = this.initializers.has(inGraph) ? key : inGraph;
    const value: Value = { name: unique, type, dims };
    this.initializers.set(unique, value);
    this.external.set(unique, {
      name: unique,
      byteLength: dims.reduce((product, dim) => product * dim, bytesPerElement[type]),
      read: () => weights.read(source, type),
    });
    this.emitted.set(key, [value]);
    return value;
  }

  /**
   * A tensor that TypeScript makes of one of the checkpoint's, when the engine asks for its bytes.
   *
   * @param shape the shape that the config implies in the file
   * @param label says what is made of it, and which of its forms this is
   * @param dims the dims of what `change` gives
   */
  derived(
    name: string,
    shape: readonly number[],
    label: string,
    dims: readonly number[],
    change: (values: Float32Array) => Float32Array,
  ): Value {
    const { weights, prefix } = this.source;
    const source = this.find(name, shape) ?? name;
    const type = this.target.dtype;
    const unique = `${prefix}${source}~${label}|${dims.join("x")}`;
    const value: Value = { name: unique, type, dims };
    if (this.initializers.has(unique)) return value;
    this.initializers.set(unique, value);
    this.external.set(unique, {
      name: unique,
      byteLength: dims.reduce((product, dim) => product * dim, bytesPerElement[type]),
      read: () => {
        const bytes = weights.read(source, "float32");
        const values = change(new Float32Array(bytes.slice().buffer));
        const { data } = new Tensor("float32", values, [values.length]).to(type);
        return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      },
    });
    return value;
  }

  /**
   * A tensor of the checkpoint that TypeScript itself computes with, in float32. All zeros when it is missing or of
   * another shape, which `build` then reports.
   */
  read(name: string, dims: readonly number[]): Float32Array {
    const source = this.find(name, dims);
    const length = dims.reduce((product, dim) => product * dim, 1);
    if (source === undefined) return new Float32Array(length);
    const bytes = this.source.weights.read(source, "float32");
    return new Float32Array(bytes.slice().buffer, 0, length);
  }

  /** Whether the checkpoint has the tensor, under its present or an earlier name. */
  has(name: string): boolean {
    return candidates(name).some((candidate) => this.source.weights.shape(candidate) !== undefined);
  }

  private find(name: string, dims: readonly number[]): string | undefined {
    const { weights, prefix } = this.source;
    let found: readonly number[] | undefined;
    for (const candidate of candidates(name)) {
      const shape = weights.shape(candidate);
      if (shape === undefined) continue;
      this.used.add(prefix + candidate);
      if (sameShape(shape, dims)) return candidate;
      found ??= shape;
    }
    this.mismatches.push({ file: weights.file, name, found, expected: dims });
    return undefined;
  }

  /**
   * The model, and the weights it names.
   *
   * @throws WeightsMismatchError naming every tensor that is missing or of another shape than the config implies.
   */
  build(): BuiltGraph {
    this.checkWeights();
    const nodes = fuseResidualNorm(this.nodes, (name) => this.dims.get(name), this.target.fused);
    return {
      bytes: encodeModel({
        nodes,
        initializers: [...this.initializers.values()],
        inputs: this.inputs,
        outputs: this.outputs,
      }),
      external: [...this.external.values()],
      nodeCount: nodes.length,
      inputs: this.inputs,
      outputs: this.outputs,
    };
  }

  private checkWeights(): void {
    const [first] = this.mismatches;
    if (first === undefined) return;
    const names = [...new Set(this.mismatches.map(({ name }) => name))];
    const shown = [...new Map(this.mismatches.map((mismatch) => [mismatch.name, mismatch])).values()]
      .slice(0, 5)
      .map(({ name, found, expected }) => `${name}: found ${shapeText(found)}, expected ${shapeText(expected)}`);
    const more = names.length > shown.length ? `; and ${names.length - shown.length} more` : "";
    throw new WeightsMismatchError(
      `${first.file} does not fit ${first.file === this.weights.file ? "its config.json" : "the model"}. ${shown.join("; ")}${more}. ` +
        "Check that the weights and the config are of the same model and revision.",
      {
        file: first.file,
        tensors: names,
        found: shapeText(first.found),
        expected: shapeText(first.expected),
      },
    );
  }
}

function shapeText(shape: readonly number[] | undefined): string {
  return shape === undefined ? "no such tensor" : `[${shape.join(", ")}]`;
}
