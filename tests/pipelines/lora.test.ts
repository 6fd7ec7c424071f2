/** LoRAs on WASM, elementwise against Diffusers and PEFT: tests/fixtures/pipelines/make_lora.py. */
import { expect } from "vitest";
import { openSet, testCalls } from "../support/fixture_set.ts";
import * as runner from "./runners/lora.ts";

const opened = openSet<{ calls: runner.LoraCall[] }>("lora", runner);

testCalls(opened, 5e-5, ({ active, list }, pipeline) => {
  expect(pipeline.get_active_adapters()).toEqual(active);
  expect(pipeline.get_list_adapters()).toEqual(list);
});
