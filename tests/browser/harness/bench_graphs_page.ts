import type { Source } from "@diffusers-web/core";
import type { ModelMixin } from "@diffusers-web/models";
import { GraphBuilder, type Value } from "../../../packages/models/src/graph/builder.ts";
import type { BuiltGraph, Target } from "../../../packages/models/src/graph/types.ts";
import { getDevice } from "../../../packages/models/src/runtime/device.ts";
import { runners } from "../../models/runners/index.ts";
import { callModel, narrowed } from "./bench_graphs_models.ts";
import { fetchGzipJson } from "./gzip.ts";

/** What a model's graphs cost, by graph. */
export type GraphCosts = Record<string, { nodes: number; dispatches: number }>;

declare global {
  interface Window {
    /** The checkpoints there are. */
    checkpoints: readonly string[];
    /** Builds a checkpoint's model with fewer channels, but all its blocks, runs it twice, and counts in the second run. */
    measureGraphs(name: string): Promise<GraphCosts>;
  }
}

type Config = Record<string, unknown>;
type Emit = (g: GraphBuilder) => void;
/** What is private of a model. */
interface Inside {
  check(build: (emit: Emit) => void): void;
  session(name: string, dims: unknown, build: Emit): { run(feeds: object): Promise<unknown> } | Promise<unknown>;
}

const architectures = (await fetchGzipJson("/tests/fixtures/models/architectures.json.gz")) as Record<
  string,
  { className: string; config: Config }
>;

let dispatches = 0;
for (const name of ["dispatchWorkgroups", "dispatchWorkgroupsIndirect"] as const) {
  const original = GPUComputePassEncoder.prototype[name] as (...args: unknown[]) => void;
  GPUComputePassEncoder.prototype[name] = function (this: GPUComputePassEncoder, ...args: unknown[]) {
    dispatches++;
    original.apply(this, args);
  } as never;
}

/** A builder that has every weight, and remembers its shape. */
class ShapeBuilder extends GraphBuilder {
  constructor(
    target: Target,
    private readonly shapes: Map<string, readonly number[]>,
  ) {
    super(
      {
        file: "shapes",
        names: () => shapes.keys(),
        shape: (name) => shapes.get(name),
        dtype: () => "F32",
        read: (name) => new Uint8Array(shapes.get(name)!.reduce((product, dim) => product * dim, 4)),
      },
      target,
    );
  }

  override weight(...args: Parameters<GraphBuilder["weight"]>): Value {
    this.remember(args[0], args[1]);
    return super.weight(...args);
  }

  override derived(...args: Parameters<GraphBuilder["derived"]>): Value {
    this.remember(args[0], args[1]);
    return super.derived(...args);
  }

  override read(...args: Parameters<GraphBuilder["read"]>): Float32Array {
    this.remember(args[0], args[1]);
    return super.read(...args);
  }

  private remember(name: string, shape: readonly number[]): void {
    if (!this.shapes.has(name)) this.shapes.set(name, shape);
  }
}

/** A checkpoint of zeros. */
function zeros(name: string, config: Config, shapes: ReadonlyMap<string, readonly number[]>, stem: string): Source {
  let offset = 0;
  const entries = [...shapes].map(([tensor, shape]) => {
    const begin = offset;
    offset += shape.reduce((product, dim) => product * dim, 4);
    return [tensor, { dtype: "F32", shape, data_offsets: [begin, offset] }];
  });
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  const head = new Uint8Array(8 + json.length);
  new DataView(head.buffer).setBigUint64(0, BigInt(json.length), true);
  head.set(json, 8);
  const files: Record<string, { size: number; readSync(begin: number, end: number): Uint8Array }> = {
    "config.json": bytesFile(new TextEncoder().encode(JSON.stringify(config))),
    [`${stem}.safetensors`]: {
      size: head.length + offset,
      readSync: (begin, end) => (end <= head.length ? head.subarray(begin, end) : new Uint8Array(end - begin)),
    },
  };
  return {
    name,
    open: async (path) => files[path] && { path, ...files[path], close: () => {} },
  };
}

function bytesFile(bytes: Uint8Array): { size: number; readSync(begin: number, end: number): Uint8Array } {
  return { size: bytes.length, readSync: (begin, end) => bytes.subarray(begin, end) };
}

window.checkpoints = Object.keys(architectures).filter((name) => runners[architectures[name]!.className]);

window.measureGraphs = async (name) => {
  const { className, config } = architectures[name]!;
  const cls = runners[className]!.model as unknown as typeof ModelMixin & {
    from_config(config: Config): ModelMixin<object>;
  };
  const narrow = narrowed(className, config);
  const { target } = await getDevice("webgpu", "fp32");
  const shapes = new Map<string, readonly number[]>();
  const pattern = cls.from_config(cls.prepare_config(narrow) as Config) as unknown as Inside;
  pattern.check((emit) => emit(new ShapeBuilder(target, shapes)));

  const source = zeros(name, narrow, shapes, runners[className]!.model.weights_name);
  const model = await runners[className]!.model.from_pretrained(source, { device: "webgpu", dtype: "fp32" });
  const costs: GraphCosts = {};
  const inside = model as unknown as Inside;
  const session = inside.session.bind(model);
  inside.session = async (graph, dims, build) => {
    let built: BuiltGraph | undefined;
    const ready = (await session(graph, dims, (g) => {
      build(g);
      built = g.build();
    })) as { run(feeds: object): Promise<unknown> };
    return {
      run: async (feeds: object) => {
        const before = dispatches;
        const outputs = await ready.run(feeds);
        costs[graph] = { nodes: built?.nodeCount ?? costs[graph]!.nodes, dispatches: dispatches - before };
        return outputs;
      },
    };
  };
  await callModel(className, model, narrow);
  await callModel(className, model, narrow);
  await model.dispose();
  return costs;
};
