import type { ModelMixin } from "@diffusers-web/models";
import type { GraphBuilder } from "../../../packages/models/src/graph/builder.ts";
import type { BuiltGraph, FusedKernels } from "../../../packages/models/src/graph/types.ts";
import { type Device, getDevice } from "../../../packages/models/src/runtime/device.ts";
import { createSession } from "../../../packages/models/src/runtime/session.ts";
import { type CaseTable, runCase } from "../../models/cases.ts";
import { stems } from "../../models/runners/index.ts";
import { fetchGzipJson } from "./gzip.ts";

/** Outputs by name. */
export type CaseOutputs = Record<string, { dims: readonly number[]; data: number[] }>;

declare global {
  interface Window {
    /**
     * Runs a case, and creates every graph of its model again in an engine that may not leave the GPU.
     *
     * @param isPlain whether to lower to ONNX's own operators in place of the engine's fused ones
     */
    runModelCase(name: string, isPlain: boolean): Promise<CaseOutputs>;
  }
}

const tables = await Promise.all(
  stems.map(async (stem) => (await fetchGzipJson(`/tests/fixtures/models/cases/${stem}.json.gz`)) as CaseTable),
);

window.runModelCase = async (name, isPlain) => {
  const table = tables.find(({ shapes }) => Object.hasOwn(shapes, name))!;
  const one = table.cases.find((candidate) => candidate.name === name)!;
  const graphs: BuiltGraph[] = [];
  const outputs = await runCase(one, table.shapes[name]!, { device: "webgpu", dtype: "fp32" }, (model) => {
    record(model, graphs);
    if (isPlain) lowerPlainly(model);
  });
  const device = await getDevice("webgpu", "fp32");
  for (const graph of graphs) await (await createSession(graph, device, { forbidCpuNodes: true })).dispose();
  return Object.fromEntries(
    Object.entries(outputs).map(([label, { dims, data }]) => [label, { dims, data: Array.from(data) }]),
  );
};

/** Keeps the graphs that a model builds. */
function record(model: ModelMixin<object>, graphs: BuiltGraph[]): void {
  type Session = (name: string, dims: unknown, build: (g: GraphBuilder) => void) => unknown;
  const inner = model as unknown as { session: Session };
  const session = inner.session.bind(model);
  inner.session = (name, dims, build) =>
    session(name, dims, (g) => {
      build(g);
      graphs.push(g.build());
    });
}

/** Pretends that the device's fused kernels all failed their check. */
function lowerPlainly(model: ModelMixin<object>): void {
  const { loaded } = model as unknown as { loaded: { device: Device } };
  const { target } = loaded.device;
  const fused = Object.fromEntries(
    Object.keys(target.fused).map((kernel) => [kernel, false]),
  ) as unknown as FusedKernels;
  loaded.device = { ...loaded.device, target: { ...target, fused } };
}
