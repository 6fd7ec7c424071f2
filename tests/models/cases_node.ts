import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { fixturePath, fixtureTensors } from "../support/fixtures.ts";
import type { CaseTable, ModelCase, TensorShape } from "./cases.ts";
import { runners, stems } from "./runners/index.ts";

function compressed<T>(name: string): T {
  return JSON.parse(gunzipSync(readFileSync(fixturePath(`models/${name}`))).toString()) as T;
}

const tables = stems.map((stem) => compressed<CaseTable>(`cases/${stem}.json.gz`));

/** The cases of make_models.py. */
export const modelCases: readonly ModelCase[] = tables.flatMap((table) => table.cases);

const names = modelCases.map(({ name }) => name);
const twice = names.find((name, i) => names.indexOf(name) !== i);
if (twice !== undefined) throw new Error(`Two tables have a case ${twice}: what they hold would be mixed up.`);

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
