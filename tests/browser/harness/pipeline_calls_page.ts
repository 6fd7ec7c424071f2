import { ModelMixin } from "@diffusers-web/models";
import type { GraphBuilder } from "../../../packages/models/src/graph/builder.ts";
import type { BuiltGraph } from "../../../packages/models/src/graph/types.ts";
import { getDevice } from "../../../packages/models/src/runtime/device.ts";
import { createSession } from "../../../packages/models/src/runtime/session.ts";
import { runners } from "../../pipelines/runners/index.ts";
import { LoadedSet, type Made } from "../../pipelines/runners/run.ts";
import type { FixtureSet, Place } from "../../pipelines/runners/types.ts";
import { type FixtureTensor, parseTensors } from "../../support/fixture_tensors.ts";

/** What a call made, as plain data. */
export interface CallOutputs extends Pick<Made, "images"> {
  readonly latents: { readonly dims: readonly number[]; readonly data: number[] };
  /** How many graphs were new, each of which was created again in an engine that may not leave the GPU. */
  readonly graphs: number;
}

declare global {
  interface Window {
    /** Makes a call of tests/fixtures/pipelines/<stem>.json. What one set's calls share is loaded once. */
    runPipelineCall(stem: string, name: string): Promise<CallOutputs>;
  }
}

const place: Place = { device: "webgpu", path: (name) => new URL(`/tests/fixtures/${name}`, location.href).href };

async function fetched(name: string): Promise<Response> {
  const response = await fetch(place.path(name));
  if (!response.ok) throw new Error(`${name}: ${response.status}`);
  return response;
}

const tensorsOf = async (stem: string): Promise<Record<string, FixtureTensor>> =>
  parseTensors(new Uint8Array(await (await fetched(`pipelines/${stem}.safetensors`)).arrayBuffer()));

let graphs: BuiltGraph[] = [];
recordGraphs();
let current: { stem: string; fixture: FixtureSet; set: LoadedSet } | undefined;

async function open(stem: string): Promise<{ fixture: FixtureSet; set: LoadedSet }> {
  if (current?.stem === stem) return current;
  await current?.set.dispose();
  current = undefined;
  const fixture = (await (await fetched(`pipelines/${stem}.json`)).json()) as FixtureSet;
  const runner = await runners[stem]!();
  const tensors = { ...(runner.pictures && (await tensorsOf(runner.pictures))), ...(await tensorsOf(stem)) };
  const set = new LoadedSet(runner, { place, tensors, fixture });
  await set.open();
  current = { stem, fixture, set };
  return current;
}

window.runPipelineCall = async (stem, name) => {
  const { fixture, set } = await open(stem);
  graphs = [];
  const { latents, images } = await set.run(fixture.calls.find((call) => call.name === name)!);
  const device = await getDevice("webgpu", "fp32");
  const made = graphs;
  for (const graph of made) await (await createSession(graph, device, { forbidCpuNodes: true })).dispose();
  return {
    latents: { dims: latents.dims, data: Array.from(latents.data, Number) },
    images,
    graphs: made.length,
  };
};

/** Keeps the graphs that models build. */
function recordGraphs(): void {
  type Session = (name: string, dims: unknown, build: (g: GraphBuilder) => void, scale?: number) => unknown;
  const shared = ModelMixin.prototype as unknown as { session: Session };
  const session = shared.session;
  shared.session = function (this: unknown, name, dims, build, scale) {
    const recorded = (g: GraphBuilder): void => {
      build(g);
      graphs.push(g.build());
    };
    return session.call(this, name, dims, recorded, scale);
  };
}
