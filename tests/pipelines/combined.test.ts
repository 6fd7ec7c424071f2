/** Several add-ons at once on WASM, elementwise against Diffusers: tests/fixtures/pipelines/make_combined.py. */
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { fixturePath, fixtureTensors, fixtureText } from "../support/fixtures.ts";
import * as runner from "./runners/combined.ts";
import { LoadedSet } from "./runners/run.ts";
import type { FixtureSet } from "./runners/types.ts";

const fixture = JSON.parse(fixtureText("pipelines/combined.json")) as FixtureSet;
const tensors = fixtureTensors("pipelines/combined.safetensors");

let set: LoadedSet;
beforeAll(async () => {
  // As in Python, of a LoRA's file that does not change a component.
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
  set = await LoadedSet.load(runner, { place: { device: "wasm", path: fixturePath }, fixture, tensors });
});
afterAll(() => set.dispose());

test.each(fixture.calls.map((call) => [call.name, call] as const))("%s", async (name, call) => {
  const { latents } = await set.run(call);
  const expected = tensors[`${name}/latent`]!;
  expect(latents.dims).toEqual(expected.dims);
  expectClose(latents.data, expected.data, 1e-4, name);
});
