import { type DataType, DeviceError, type LoadStep, Tensor } from "@diffusers-web/core";
import type { BuiltGraph, ExternalWeight, GraphIO } from "../graph/types.ts";
import type { Device } from "./device.ts";
import { holdMemory } from "./memory.ts";
import { loadOrt, type Ort, type OrtSession, type OrtSessionOptions, type OrtTensor } from "./ort.ts";

/** How a session is created. */
export interface SessionOptions {
  /** Checked before and after the engine works: the engine itself cannot be interrupted. */
  readonly signal?: AbortSignal | undefined;
  /** Told of every weight that the engine takes (`upload`) and of the first run (`compile`). */
  readonly progress_callback?: ((progress: LoadStep) => void) | undefined;
  /** What `progress_callback` calls the work. */
  readonly name?: string | undefined;
  /** Fails when a node would run on the processor although the device is a GPU: for tests. */
  readonly forbidCpuNodes?: boolean | undefined;
}

/** What of a device the engine has to know. */
type Place = Pick<Device, "type" | "gpu">;

// Shapes are static, so that buffers of exactly the size asked for come back.
const gpuOptions = { storageBufferCacheMode: "simple" } as const;

// The engine hangs when two of its calls overlap, whatever their sessions: all of them go through one queue.
let lastCall: Promise<unknown> = Promise.resolve();

function exclusive<T>(call: () => Promise<T>): Promise<T> {
  const result = lastCall.then(call);
  // A failed call is reported to its caller; the next one starts all the same.
  lastCall = result.catch(() => undefined);
  return result;
}

/**
 * Uploads a graph's weights to the device and makes it ready to run.
 *
 * @throws DeviceError when the device lacks what the graph needs.
 */
export function createSession(graph: BuiltGraph, device: Place, options: SessionOptions = {}): Promise<Session> {
  checkLimits(graph, device);
  return exclusive(async () => {
    options.signal?.throwIfAborted();
    const ort = await loadOrt(device.type);
    const { files, failure } = uploads(graph.external, options);
    const sessionOptions: OrtSessionOptions = {
      executionProviders: [
        device.gpu === undefined ? "wasm" : { name: "webgpu", device: device.gpu.device, ...gpuOptions },
      ],
      graphOptimizationLevel: "all",
      logSeverityLevel: 3,
      externalData: files,
      ...(options.forbidCpuNodes === true ? { extra: { session: { disable_cpu_ep_fallback: "1" } } } : {}),
    };
    const create = (): Promise<OrtSession> => ort.InferenceSession.create(graph.bytes, sessionOptions);
    const freeMemory = holdMemory(weightBytes(graph.external));
    const inner = await untilLost(device, create).catch((cause: unknown) => {
      freeMemory();
      throw failure() ?? engineError("could not prepare the model", device, cause);
    });
    const session = new Session(ort, inner, graph, device, options, freeMemory);
    if (options.signal?.aborted) {
      await inner.release();
      freeMemory();
      throw options.signal.reason;
    }
    return session;
  });
}

/** A graph on a device, with its weights. Owns the engine's memory: {@link Session.dispose} frees it. */
export class Session {
  private inner: OrtSession | undefined;
  private compiled = false;

  constructor(
    private readonly ort: Ort,
    inner: OrtSession,
    private readonly graph: Pick<BuiltGraph, "inputs" | "outputs">,
    private readonly device: Place,
    private readonly options: SessionOptions,
    private readonly freeMemory: () => void,
  ) {
    this.inner = inner;
  }

  /**
   * Runs the graph. Calls may overlap; the engine takes them one after the other.
   *
   * @param feeds each input of the graph by name, of its dims and type
   * @throws DeviceError when the device was lost or runs out of memory.
   */
  run(feeds: Readonly<Record<string, Tensor | Tensor<"int64">>>): Promise<Record<string, Tensor>> {
    const inputs = Object.fromEntries(this.graph.inputs.map((input) => [input.name, this.input(input, feeds)]));
    const names = this.graph.outputs.map(({ name }) => name);
    return this.call(inputs, names, ({ data, dims }) => new Tensor("float32", data as Float32Array, dims));
  }

  /**
   * Runs a graph of another maker: its inputs are of any type, its outputs come in their own, and dims are the caller's.
   *
   * @param outputs those that are wanted, by name
   */
  runTyped(
    feeds: Readonly<Record<string, Tensor<DataType>>>,
    outputs: readonly string[],
  ): Promise<Record<string, Tensor<DataType>>> {
    const inputs = Object.entries(feeds).map(([name, { type, data, dims }]) => [
      name,
      new this.ort.Tensor(type, data as Float32Array, dims as number[]),
    ]);
    return this.call(
      Object.fromEntries(inputs),
      outputs,
      ({ type, data, dims }) => new Tensor(type as DataType, data as Float32Array, dims),
    );
  }

  private call<T>(
    inputs: Readonly<Record<string, OrtTensor>>,
    names: readonly string[],
    convert: (output: OrtTensor) => T,
  ): Promise<Record<string, T>> {
    return exclusive(async () => {
      const { inner } = this;
      if (inner === undefined) throw new DeviceError("The session is disposed: load the model again.");
      if (!this.compiled) this.report("compile");
      const outputs = await untilLost(this.device, () => inner.run(inputs, names)).catch((cause: unknown) => {
        throw engineError("failed while it ran the model", this.device, cause);
      });
      this.compiled = true;
      const result: Record<string, T> = {};
      for (const name of names) {
        const output = outputs[name] as OrtTensor;
        result[name] = convert(output);
        output.dispose();
      }
      return result;
    });
  }

  /** Frees the engine's memory after the runs that were asked for before. Idempotent. */
  dispose(): Promise<void> {
    return exclusive(async () => {
      const inner = this.inner;
      this.inner = undefined;
      try {
        if (inner === undefined || this.device.gpu?.lost !== undefined) return;
        await untilLost(this.device, () => inner.release());
      } finally {
        this.freeMemory();
      }
    });
  }

  private input({ name, type, dims }: GraphIO, feeds: Readonly<Record<string, Tensor | Tensor<"int64">>>): OrtTensor {
    const feed = feeds[name];
    if (feed === undefined || feed.type !== type || String(feed.dims) !== String(dims)) {
      const found = feed === undefined ? "nothing" : `${feed.type} [${feed.dims}]`;
      throw new TypeError(`The graph's input ${name} is ${type} [${dims}], but got ${found}.`);
    }
    return new this.ort.Tensor(type, feed.data as Float32Array, dims as number[]);
  }

  private report(phase: "compile"): void {
    this.options.progress_callback?.({ phase, file: this.options.name ?? "", loaded: 0, total: 0 });
  }
}

function untilLost<T>({ gpu }: Place, call: () => Promise<T>): Promise<T> {
  return gpu === undefined ? call() : gpu.untilLost(call);
}

function weightBytes(weights: readonly ExternalWeight[]): number {
  return weights.reduce((sum, weight) => sum + weight.byteLength, 0);
}

/** The weights as the engine mounts them: each a file of its own, read when the engine asks for it. */
function uploads(
  weights: readonly ExternalWeight[],
  { name: file = "", progress_callback }: SessionOptions,
): { files: { path: string; data: Uint8Array }[]; failure: () => unknown } {
  const total = weightBytes(weights);
  const taken = new Set<string>();
  let loaded = 0;
  let failure: unknown;
  const files = weights.map(({ name, byteLength, read }) => ({
    path: name,
    data: lazyBytes(byteLength, () => {
      try {
        // The optimiser looks at some weights before they are uploaded.
        if (!taken.has(name)) loaded += byteLength;
        taken.add(name);
        progress_callback?.({ phase: "upload", file, loaded, total });
        return read();
      } catch (error) {
        // The engine would report it as a failed memory copy.
        failure = error;
        throw error;
      }
    }),
  }));
  return { files, failure: () => failure };
}

/**
 * An array that reads its bytes when they are asked for. Of external data the engine wants an `instanceof Uint8Array`, its
 * `byteLength`, and one `subarray` per weight: so no more than one weight at a time is in JavaScript's memory.
 */
function lazyBytes(byteLength: number, read: () => Uint8Array): Uint8Array {
  return Object.defineProperties(new Uint8Array(0), {
    byteLength: { value: byteLength },
    length: { value: byteLength },
    subarray: { value: (begin: number, end: number) => read().subarray(begin, end) },
  });
}

/** Refuses what the device cannot hold before any weight is read. */
function checkLimits(graph: BuiltGraph, device: Place): void {
  const limit = device.gpu?.limits["maxBufferSize"];
  if (limit === undefined) return;
  const values = [...graph.inputs, ...graph.outputs].map((io) => ({
    name: io.name,
    byteLength: io.dims.reduce((product, dim) => product * dim, io.type === "int64" ? 8 : 4),
  }));
  for (const { name, byteLength } of [...graph.external, ...values]) {
    if (byteLength <= limit) continue;
    throw new DeviceError(
      `${name} needs a buffer of ${byteLength} bytes, but the GPU's maxBufferSize is ${limit}. ` +
        'Use a smaller picture or model, dtype "fp16", or device "wasm".',
      { found: `maxBufferSize ${limit}`, expected: `at least ${byteLength}`, tensors: [name] },
    );
  }
}

function engineError(what: string, device: Place, cause: unknown): DeviceError {
  if (cause instanceof DeviceError) return cause;
  const text = cause instanceof Error ? cause.message : String(cause);
  const memory = /bad_alloc|out of memory|allocat|memory access out of bounds|OOM/i.test(text);
  const advice = memory
    ? "There is not enough memory: dispose of models that are not needed, or use a smaller picture or model."
    : "See the cause.";
  return new DeviceError(`The engine (${device.type}) ${what}: ${text} ${advice}`, { found: text }, { cause });
}
