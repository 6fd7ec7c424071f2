/** Several add-ons at once on WASM, elementwise against Diffusers: tests/fixtures/pipelines/make_combined.py. */
import { openSet, testCalls } from "../support/fixture_set.ts";
import * as runner from "./runners/combined.ts";

testCalls(openSet("combined", runner), 1e-4);
