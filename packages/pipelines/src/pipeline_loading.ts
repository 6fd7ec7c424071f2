import {
  type ConfigDict,
  checkOptions,
  openSource,
  reportProgress,
  type Scheduler,
  type SourceLike,
  schedulerRegistry,
  subSource,
  ValueError,
} from "@diffusers-web/core";
import { modelLoadOptionNames } from "@diffusers-web/models";
import type { Component, PipelineLoadOptions } from "./pipeline_components.ts";
import {
  componentEntry,
  disposeModels,
  isModel,
  loadComponents,
  MODEL_INDEX,
  readModelIndex,
} from "./pipeline_loading_utils.ts";
import type { DiffusionPipeline, PipelineClass } from "./pipeline_utils.ts";

/**
 * Loads a pipeline in the Diffusers layout.
 *
 * @param choose the class to make, given what model_index.json says
 * @see Diffusers `DiffusionPipeline.from_pretrained`
 */
export async function loadPipeline<T extends DiffusionPipeline>(
  choose: (index: ConfigDict) => Promise<PipelineClass<T>>,
  from: SourceLike,
  options: PipelineLoadOptions,
): Promise<T> {
  const progress = reportProgress(options.progress_callback);
  const source = subSource(await openSource(from, options), options.subfolder);
  progress?.({ phase: "resolve", file: MODEL_INDEX, loaded: 0, total: 0 });
  const index = await readModelIndex(source, options);
  const cls = await choose(index);
  const { component_names, optional_components, init_options, name } = cls;
  checkOptions(`${name}.from_pretrained`, options, [...modelLoadOptionNames, ...component_names, ...init_options]);

  // What the checkpoint has that this class does not take.
  for (const key of Object.keys(index)) {
    if (key.startsWith("_") || component_names.includes(key) || init_options.includes(key)) continue;
    console.warn(`${source.name}, model_index.json: ${name} takes no \`${key}\`; it is left out.`);
  }

  const given = options as Readonly<Record<string, Component | null | undefined>>;
  const written = (key: string): unknown => (isNullPair(index[key]) ? undefined : index[key]);
  const missing = component_names.filter(
    (key) => given[key] === undefined && written(key) === undefined && !optional_components.includes(key),
  );
  if (missing.length > 0) {
    const there = component_names.filter((key) => given[key] !== undefined || written(key) !== undefined);
    throw new ValueError(
      `${name} needs ${component_names.join(", ")}, but only ${there.join(", ") || "none"} are in ` +
        `${source.name}, model_index.json, or were passed. Pass { ${missing[0]} }, or null to do without.`,
      {
        file: "model_index.json",
        className: name,
        field: missing[0]!,
        found: "nothing",
        expected: missing.join(", "),
      },
    );
  }
  // Refused before anything is fetched.
  const wanted = component_names
    .filter((key) => given[key] === undefined && written(key) !== undefined)
    .map((key) => ({ key, entry: componentEntry(key, index[key], optional_components.includes(key)) }));
  const passed = Object.fromEntries(component_names.map((key) => [key, given[key] ?? null]));
  for (const [key, component] of Object.entries(passed)) {
    if (component !== null) checkComponent(key, index[key], component);
  }

  const loaded = await loadComponents(source, wanted, { ...options, progress_callback: progress });
  try {
    const init = init_options.map((key) => [key, (options as Record<string, unknown>)[key] ?? index[key]]);
    const pipeline = new cls({ ...Object.fromEntries(init), ...passed, ...loaded } as never);
    pipeline.register_to_config({ _name_or_path: source.name });
    return pipeline;
  } catch (error) {
    await disposeModels(Object.values(loaded));
    throw error;
  }
}

function isNullPair(value: unknown): boolean {
  return value === undefined || value === null || (Array.isArray(value) && value[0] === null);
}

/** @throws ValueError for a component of another kind than model_index.json asks for. */
export function checkComponent(key: string, written: unknown, component: Component): void {
  const isScheduler = typeof (component as Partial<Scheduler>).set_timesteps === "function";
  const expected = Array.isArray(written) ? String(written[1]) : key;
  const wantsScheduler = expected in schedulerRegistry || key.endsWith("scheduler");
  const wantsFunction = key.startsWith("tokenizer") || key === "feature_extractor";
  // Of these a list is several models.
  const isList = (key === "controlnet" || key === "adapter") && Array.isArray(component) && component.length > 0;
  const isOfModels = isList ? component.every(isModel) : isModel(component);
  const fits = wantsScheduler ? isScheduler : wantsFunction ? typeof component === "function" : isOfModels;
  if (fits && isOfModels === !(wantsScheduler || wantsFunction)) return;
  const found = (component as object).constructor?.name ?? typeof component;
  throw new ValueError(`The ${key} that was passed is ${found}, expected ${expected} or one like it.`, {
    field: key,
    found,
    expected,
  });
}
