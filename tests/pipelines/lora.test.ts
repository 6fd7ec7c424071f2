/** LoRAs on WASM, elementwise against Diffusers and PEFT: tests/fixtures/pipelines/make_lora.py. */
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { fixturePath, fixtureTensors, fixtureText } from "../support/fixtures.ts";
import * as runner from "./runners/lora.ts";
import { LoadedSet } from "./runners/run.ts";

const fixture = JSON.parse(fixtureText("pipelines/lora.json")) as { calls: runner.LoraCall[] };
const tensors = fixtureTensors("pipelines/lora.safetensors");

let set: LoadedSet;
beforeAll(async () => {
  // Python warns of a file that does not change a component, and of what becomes of fused weights.
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
  set = await LoadedSet.load(runner, { place: { device: "wasm", path: fixturePath }, fixture, tensors });
});
afterAll(() => set.dispose());

test.each(fixture.calls.map((call) => [call.name, call] as const))("%s", async (name, call) => {
  const { latents } = await set.run(call);
  const pipeline = set.pipelineOf(call);
  expect(pipeline.get_active_adapters()).toEqual(call.active);
  expect(pipeline.get_list_adapters()).toEqual(call.list);
  const expected = tensors[`${name}/latent`]!;
  expect(latents.dims).toEqual(expected.dims);
  expectClose(latents.data, expected.data, 5e-5, name);
});
