import type { AnyPipeline, Scheduler } from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { LoadedSet, type Made } from "../pipelines/runners/run.ts";
import type { CallRunner, FixtureCall, FixtureSet } from "../pipelines/runners/types.ts";
import type { Tensors } from "./calls.ts";
import { fixturePath, fixtureTensors, fixtureText } from "./fixtures.ts";
import { expectAsInPython } from "./python_results.ts";

/** A fixture set of tests/fixtures/pipelines, whose pipelines are on WASM while a file's tests run. */
export interface OpenSet<Fixture, Pipeline> {
  readonly fixture: Fixture;
  /** What Python drew and made. */
  readonly expected: Tensors;
  readonly set: LoadedSet;
  /** By name, while tests run. */
  readonly pipelines: Readonly<Record<string, Pipeline>>;
  /** The pipelines' own schedulers. */
  readonly originals: Readonly<Record<string, Scheduler>>;
  /** A pipeline with its own scheduler. */
  fresh(name: string): Pipeline;
}

/** Opens a set before a file's tests. Warnings are not shown: Diffusers warns of long prompts, old configs and the like as well. */
export function openSet<Fixture extends FixtureSet, Pipeline extends object = AnyPipeline>(
  stem: string,
  runner: CallRunner,
): OpenSet<Fixture, Pipeline> {
  const fixture = JSON.parse(fixtureText(`pipelines/${stem}.json`)) as Fixture;
  const expected = fixtureTensors(`pipelines/${stem}.safetensors`);
  const pictures = runner.pictures === undefined ? {} : fixtureTensors(`pipelines/${runner.pictures}.safetensors`);
  const place = { device: "wasm", path: fixturePath } as const;
  const set = new LoadedSet(runner, { place, fixture, tensors: { ...pictures, ...expected } });
  beforeAll(async () => {
    vi.spyOn(console, "warn").mockImplementation(() => undefined);
    await set.open();
  });
  afterAll(() => set.dispose());
  const pipelines = set.pipelines as object as Record<string, Pipeline>;
  return {
    ...{ fixture, expected, set, pipelines, originals: set.originals },
    fresh: (name) => {
      set.pipelines[name]!.scheduler = set.originals[name]!;
      return pipelines[name]!;
    },
  };
}

/**
 * A test of each of a set's calls: latents of the last step within `tolerance` of the scale of Python's, and pictures.
 *
 * @param check what else is to hold after a call
 */
export function testCalls<Fixture extends FixtureSet>(
  { fixture, expected, set }: OpenSet<Fixture, object>,
  tolerance: number,
  check?: (call: Fixture["calls"][number], pipeline: AnyPipeline, made: Made) => void,
): void {
  const named = fixture.calls.map((call: FixtureCall) => [call.name, call] as const);
  describe("calls", () => {
    test.each(named)("%s", async (name, call) => {
      const made = await set.run(call);
      expectAsInPython(name, made, expected, tolerance);
      check?.(call, set.pipelineOf(call), made);
    });
  });
}

/** For {@link testCalls}: that Python's pictures are there wherever a call makes any. */
export function withPictures(expected: Tensors): (call: FixtureCall, pipeline: AnyPipeline, made: Made) => void {
  return ({ name }, _, { images }) => {
    if (images !== undefined) expect(expected[`${name}/image`], "Python's pictures").toBeDefined();
  };
}
