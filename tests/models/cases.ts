import { type DataType, type Source, type SourceFile, Tensor } from "@diffusers-web/core";
import type { ModelLoadOptions, ModelMixin } from "@diffusers-web/models";
import { safetensorsBytes, seeded, type TensorShape } from "./formula.ts";
import { runners } from "./runners/index.ts";

export { crc32, formula, safetensorsBytes, type TensorShape } from "./formula.ts";

/*
 * The cases of tests/fixtures/models/make_models.py, for any place a model runs: nothing here needs Node. The weights and
 * the inputs are made from the formula of their names that the script used.
 */

/** A tensor of a case's call, as a table describes it. */
type Spec =
  | null
  | number
  | boolean
  | string
  | { readonly randn: readonly number[] }
  | { readonly values: unknown; readonly dtype: "float32" | "int64" | "bool" }
  | readonly Spec[]
  | { readonly [name: string]: Spec };

/** A case of a table. */
export interface ModelCase {
  readonly name: string;
  readonly className: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly call: Readonly<Record<string, Spec>>;
}

/** What make_models.py writes for a stem. */
export interface CaseTable {
  readonly cases: readonly ModelCase[];
  readonly shapes: Readonly<Record<string, readonly TensorShape[]>>;
  /** Config fields that were seen to change an output, by class. */
  readonly fields: Readonly<Record<string, readonly string[]>>;
}

/** A source of files in memory. */
export function memorySource(name: string, files: Readonly<Record<string, Uint8Array>>): Source {
  return {
    name,
    async open(path): Promise<SourceFile | undefined> {
      const bytes = files[path];
      if (bytes === undefined) return undefined;
      return { path, size: bytes.length, readSync: (begin, end) => bytes.subarray(begin, end), close: () => {} };
    },
  };
}

/** The folder that `save_pretrained` would have made of a case's model. */
export function caseSource({ name, className, config }: ModelCase, shapes: readonly TensorShape[]): Source {
  return memorySource(name, {
    "config.json": new TextEncoder().encode(JSON.stringify(config)),
    [`${runners[className]!.model.weights_name}.safetensors`]: safetensorsBytes(shapes),
  });
}

function evaluate(spec: Spec, name: string): unknown {
  if (typeof spec !== "object" || spec === null) return spec;
  if (Array.isArray(spec)) return spec.map((item: Spec, i) => evaluate(item, `${name}.${i}`));
  const fields = spec as { readonly [name: string]: Spec };
  if ("randn" in fields) return seeded(name, fields["randn"] as readonly number[]);
  if ("values" in fields) return Tensor.from(fields["values"] as never, fields["dtype"] as unknown as DataType);
  return Object.fromEntries(Object.entries(fields).map(([key, item]) => [key, evaluate(item, `${name}.${key}`)]));
}

/** A case's inputs, by name. */
export function caseInputs({ name, call }: ModelCase): Record<string, Tensor> {
  return Object.fromEntries(
    Object.entries(call).map(([key, spec]) => [key, evaluate(spec, `${name}/${key}`)]),
  ) as Record<string, Tensor>;
}

/**
 * Loads a case's model, calls it as the script did, and gives its outputs by name.
 *
 * @param prepare what to do with the model between loading and calling
 */
export async function runCase(
  one: ModelCase,
  shapes: readonly TensorShape[],
  options: ModelLoadOptions,
  prepare: (model: ModelMixin<object>) => void = () => {},
): Promise<Record<string, Tensor>> {
  const runner = runners[one.className]!;
  const model = await runner.model.from_pretrained(caseSource(one, shapes), options);
  try {
    prepare(model);
    return await runner.run(model, caseInputs(one));
  } finally {
    await model.dispose();
  }
}
