import { existsSync, readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { fixturePath, fixtureTensors } from "../support/fixtures.ts";
import type { CaseTable, ModelCase, TensorShape } from "./cases.ts";
import { stems as allStems, runners } from "./runners/index.ts";

function compressed<T>(name: string): T {
  return JSON.parse(gunzipSync(readFileSync(fixturePath(`models/${name}`))).toString()) as T;
}

// TEMPORARY (lead removes it): while several people add stems.
const stems = allStems.filter((stem) => existsSync(fixturePath(`models/cases/${stem}.safetensors`)));
const tables = stems.map((stem) => compressed<CaseTable>(`cases/${stem}.json.gz`));

/** The cases of make_models.py. */
export const modelCases: readonly ModelCase[] = tables.flatMap((table) => table.cases);

/** Each case's state dict. */
export const caseShapes: Readonly<Record<string, readonly TensorShape[]>> = Object.assign(
  {},
  ...tables.map((table) => table.shapes),
);

/** Config fields that were seen to change an output, by class. */
export const changingFields: CaseTable["fields"] = Object.fromEntries(
  Object.keys(runners).map((name) => [name, tables.flatMap((table) => table.fields[name] ?? [])]),
);

/** What Python computed: "case/output". */
export const caseOutputs: ReturnType<typeof fixtureTensors> = Object.assign(
  {},
  ...stems.map((stem) => fixtureTensors(`models/cases/${stem}.safetensors`)),
);

/** Configs and state dicts of well-known checkpoints: make_architectures.py. */
export const architectures: Readonly<
  Record<string, { className: string; config: Record<string, unknown>; shapes: Record<string, number[]> }>
> = compressed("architectures.json.gz");
