/** What the device at hand computes right and fast; decided once by the runtime, read by the layers. */
export interface Target {
  /** How pictures and feature maps lie in memory inside the graph. `nhwc` needs the engine's WebGPU kernels. */
  readonly layout: "nhwc" | "nchw";
  /** What weights and intermediate values are; a graph's inputs and outputs are float32 either way. */
  readonly dtype: "float32" | "float16";
  /** `com.microsoft` kernels that may be used; a plain substitute is emitted for a false one. */
  readonly fused: FusedKernels;
}

/** The fused kernels a device may have and compute right. */
export interface FusedKernels {
  /** MultiHeadAttention */
  readonly attention: boolean;
  /** GroupNorm and SkipGroupNorm; `nhwc` only. */
  readonly groupNorm: boolean;
  /** BiasSplitGelu (GEGLU) */
  readonly biasSplitGelu: boolean;
  /** QuickGelu (with alpha 1 it is SiLU) */
  readonly quickGelu: boolean;
  /** SkipLayerNormalization */
  readonly skipLayerNorm: boolean;
}

/** Element types of a safetensors file. */
export type WeightType =
  | "F64"
  | "F32"
  | "F16"
  | "BF16"
  | "I64"
  | "I32"
  | "I16"
  | "I8"
  | "U64"
  | "U32"
  | "U16"
  | "U8"
  | "BOOL"
  | "F8_E4M3"
  | "F8_E5M2";

/** Weights by name, as a safetensors file (or several) has them. */
export interface WeightSource {
  /** The tensor's dims; undefined when there is none of that name. */
  shape(name: string): readonly number[] | undefined;
  dtype(name: string): WeightType;
  names(): Iterable<string>;
  /** The tensor's bytes converted to `as`, read now, synchronously. */
  read(name: string, as: "float32" | "float16" | "int64"): Uint8Array;
  /** For errors. */
  readonly file: string;
  /** Frees what it holds, where it holds anything. Idempotent. */
  close?(): void;
}

/** Element types of values inside a graph. */
export type ElementType = "float32" | "float16" | "int64" | "int32" | "bool";

/** An input or output of a graph. */
export interface GraphIO {
  readonly name: string;
  readonly type: "float32" | "int64";
  readonly dims: readonly number[];
}

/** A weight that the ONNX model names as external data: location = `name`, offset 0. */
export interface ExternalWeight {
  readonly name: string;
  readonly byteLength: number;
  /** The bytes in the element type that the graph declares. */
  read(): Uint8Array;
}

/** What `GraphBuilder.build()` gives: the ONNX model and the weights that it names as external data. */
export interface BuiltGraph {
  readonly bytes: Uint8Array;
  readonly external: readonly ExternalWeight[];
  readonly nodeCount: number;
  readonly inputs: readonly GraphIO[];
  readonly outputs: readonly GraphIO[];
}

/** Where an operator is defined: ONNX itself, the engine's own, or its kernels for channels-last data. */
export type Domain = "" | "com.microsoft" | "com.ms.internal.nhwc";

/** A float attribute; plain numbers are integers in ONNX. */
export interface FloatAttribute {
  readonly float: number;
}

export type Attribute = number | string | readonly number[] | FloatAttribute;

/** One operator. Inputs and outputs are value names; an absent optional one is "". */
export interface GraphNode {
  readonly type: string;
  readonly domain: Domain;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: Readonly<Record<string, Attribute>>;
}

/** A tensor known when the graph is built: its bytes, or (external) where the engine finds them. */
export interface Initializer {
  readonly name: string;
  readonly type: ElementType;
  readonly dims: readonly number[];
  /** Absent for external data. */
  readonly bytes?: Uint8Array;
}

/** A name with element type and dims, for a graph's inputs and outputs. */
export interface ValueInfo {
  readonly name: string;
  readonly type: ElementType;
  readonly dims: readonly number[];
}
