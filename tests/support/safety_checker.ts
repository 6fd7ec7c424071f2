import type { Source } from "@diffusers-web/core";
import type { TensorShape } from "../models/cases.ts";
import { formula, memorySource } from "../models/cases.ts";
import { fixtureGzip } from "./fixtures.ts";
import { safetensors } from "./safetensors.ts";

/** What tests/fixtures/safety_checker/make_safety_checker.py writes. */
export interface SafetyCheckerFixture {
  readonly models: Readonly<
    Record<string, { readonly config: Record<string, unknown>; readonly shapes: readonly TensorShape[] }>
  >;
  readonly cases: readonly SafetyCheckerCase[];
  /** The feature extractor's config. */
  readonly preprocessor: object;
  readonly calls: readonly {
    readonly name: string;
    readonly prompt: string[];
    readonly seeds: number[];
    readonly options: object;
    readonly thresholds: number[];
    readonly flags: boolean[];
  }[];
  readonly printed: { readonly checked: string; readonly unchecked: string };
}

export interface SafetyCheckerCase {
  readonly name: string;
  readonly model: string;
  /** What the pictures are drawn from, and their dims. */
  readonly input: readonly [name: string, dims: readonly number[]];
  readonly thresholds: readonly number[];
  readonly special: readonly number[];
  readonly flags: readonly boolean[];
}

export const safetyCheckerFixture: SafetyCheckerFixture = JSON.parse(
  fixtureGzip("safety_checker/safety_checker.json.gz"),
) as SafetyCheckerFixture;

/** How a checker differs from the fixture's model. */
export interface CheckerChanges {
  readonly thresholds?: readonly number[];
  readonly special?: readonly number[];
  readonly config?: (config: Record<string, unknown>) => object;
  /** Renames, drops (undefined) or reshapes a tensor. */
  readonly tensor?: (one: TensorShape) => TensorShape | undefined;
  readonly more?: readonly TensorShape[];
}

const never = (count: number): number[] => new Array<number>(count).fill(1.5);

/** The files of a checker with the formula's weights, and thresholds that nothing comes near to where none are given. */
export function checkerFiles(model: string, changes: CheckerChanges = {}): Record<string, Uint8Array> {
  const { config, shapes } = safetyCheckerFixture.models[model]!;
  const { thresholds = never(17), special = never(3), tensor = (one) => one, more = [] } = changes;
  const given: Record<string, readonly number[]> = {
    concept_embeds_weights: thresholds,
    special_care_embeds_weights: special,
  };
  const entries: Record<string, [string, readonly number[], number]> = {};
  const parts: Float32Array[] = [];
  for (const one of [...shapes, ...more]) {
    const changed = tensor(one);
    if (changed === undefined) continue;
    const [name, shape, formulaName] = changed;
    const data = given[name] === undefined ? formula(formulaName, shape).data : Float32Array.from(given[name]);
    entries[name] = ["F32", shape, data.byteLength];
    parts.push(data);
  }
  const data = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    data.set(new Uint8Array(part.buffer, part.byteOffset, part.byteLength), at);
    at += part.byteLength;
  }
  return {
    "config.json": new TextEncoder().encode(JSON.stringify(changes.config?.(config) ?? config)),
    "model.safetensors": safetensors(entries, { data }),
  };
}

/** The folder that has them. */
export function checkerSource(model: string, changes: CheckerChanges = {}): Source {
  return memorySource("safety_checker", checkerFiles(model, changes));
}
