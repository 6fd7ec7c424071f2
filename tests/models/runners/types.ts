import type { SourceLike, Tensor } from "@diffusers-web/core";
import type { ModelLoadOptions, ModelMixin } from "@diffusers-web/models";

/** A model class under test: the static side of it that the cases use. */
export interface TestedClass {
  readonly name: string;
  readonly weights_name: string;
  readonly config_defaults: object;
  from_pretrained(source: SourceLike, options?: ModelLoadOptions): Promise<ModelMixin<object>>;
}

/** How the cases of a class are run: the counterpart of a table's `run` in Python. */
export interface CaseRunner {
  /** The files of tests/fixtures/models/cases that have them, without ending. */
  readonly stems: readonly string[];
  readonly model: TestedClass;
  /** Config fields that change no output (training only, or read by pipelines): the table's `inert`. */
  readonly inert: readonly string[];
  /** Outputs that jump where something is rounded on the way to them: half precision may fall on the other side. */
  readonly jumps?: readonly string[];
  /** Calls the model, and gives its outputs by name. */
  run(model: ModelMixin<object>, inputs: Record<string, Tensor>): Promise<Record<string, Tensor>>;
}

/** A runner whose `run` sees the model as its own class. */
export function runner<T extends ModelMixin<object>>(
  stems: string | readonly string[],
  model: TestedClass & (new (...args: never[]) => T),
  inert: readonly string[],
  run: (model: T, inputs: Record<string, Tensor>) => Promise<Record<string, Tensor>>,
): CaseRunner {
  return { stems: [stems].flat(), model, inert, run: (loaded, inputs) => run(loaded as T, inputs) };
}
