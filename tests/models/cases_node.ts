import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { fixturePath, fixtureText } from "../support/fixtures.ts";
import type { ModelCase, TensorShape } from "./cases.ts";

/** The cases of make_models.py. */
export const modelCases: readonly ModelCase[] = JSON.parse(fixtureText("models/cases.json"));

function compressed<T>(name: string): T {
  return JSON.parse(gunzipSync(readFileSync(fixturePath(`models/${name}`))).toString()) as T;
}

/** Each case's state dict. */
export const caseShapes: Readonly<Record<string, readonly TensorShape[]>> = compressed("shapes.json.gz");

/** Configs and state dicts of well-known checkpoints. */
export const architectures: Readonly<
  Record<string, { className: string; config: Record<string, unknown>; shapes: Record<string, number[]> }>
> = compressed("architectures.json.gz");
