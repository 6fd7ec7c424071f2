import { checkOptions, type LoadOptions, ValueError } from "@diffusers-web/core";
import type { Component, PipelineLoadOptions } from "./pipeline_components.ts";
import { checkComponent } from "./pipeline_loading.ts";
import { isModel } from "./pipeline_loading_utils.ts";
import type { DiffusionPipeline, PipelineClass } from "./pipeline_utils.ts";

/**
 * What `from_pipe` takes: components in place of the other pipeline's (null for none), and what else the class takes, as
 * `requires_safety_checker`. `dtype` is what all models compute in from now on, those of the other pipeline as well;
 * default: as they are.
 */
export type FromPipeOptions = Omit<PipelineLoadOptions, keyof LoadOptions | "device" | "worker">;

type Values = Readonly<Record<string, unknown>>;

/**
 * Builds a pipeline of the components of another, and of its config's fields; those that the class does not know are kept,
 * hidden, so that the way back loses nothing.
 *
 * @see Diffusers `DiffusionPipeline.from_pipe`
 */
export function pipelineFromPipe<T extends DiffusionPipeline>(
  cls: PipelineClass<T>,
  pipeline: DiffusionPipeline,
  options: FromPipeOptions,
): T {
  const { name, component_names, init_options } = cls;
  if (component_names.length === 0) {
    throw new ValueError(
      `${name} has no components: call from_pipe on the class to make, as StableDiffusionImg2ImgPipeline.from_pipe(pipeline).`,
      { className: name, field: "from_pipe", found: name, expected: "a pipeline's class" },
    );
  }
  checkOptions(`${name}.from_pipe`, options, ["dtype", ...component_names, ...init_options]);
  const { _name_or_path, ...original } = pipeline.config as Values;

  const parts = sharedComponents(cls, pipeline, options as Readonly<Record<string, Component | null | undefined>>);

  // A field that another class did not take is hidden in its config, and comes to light again.
  const init: Record<string, unknown> = {};
  const uncovered: string[] = [];
  for (const key of init_options) {
    const hidden = `_${key}`;
    const given = (options as Values)[key];
    if (given !== undefined) init[key] = given;
    else if (Object.hasOwn(original, hidden)) {
      init[key] = original[hidden];
      uncovered.push(hidden);
    } else if (Object.hasOwn(original, key)) init[key] = original[key];
  }

  const made = new cls({ ...parts, ...init } as never);
  const unused = Object.entries(original).filter(
    ([key]) => !Object.hasOwn(parts, key) && !Object.hasOwn(init, key) && !uncovered.includes(key),
  );
  made.register_to_config({
    ...(_name_or_path === undefined ? {} : { _name_or_path }),
    ...Object.fromEntries(unused.map(([key, value]) => [key.startsWith("_") ? key : `_${key}`, value])),
  });
  return made;
}

/** The components to build of: those passed, and of the other pipeline's those that are of a class that fits. */
function sharedComponents(
  { name, component_names, component_types, optional_components }: PipelineClass,
  pipeline: DiffusionPipeline,
  given: Readonly<Record<string, Component | null | undefined>>,
): Record<string, Component | null> {
  const theirs = pipeline.components;
  const parts: Record<string, Component | null> = {};
  for (const key of component_names) {
    const passed = given[key];
    if (passed !== undefined) {
      if (passed !== null) checkComponent(key, pipeline.config[key], passed);
      parts[key] = passed;
      continue;
    }
    const component = theirs[key];
    if (component === undefined) continue;
    const types = component_types[key];
    const found = component?.constructor.name;
    if (found === undefined || types === undefined || !isModel(component) || types.includes(found)) {
      parts[key] = component;
      continue;
    }
    console.warn(
      `The ${key} is not taken over: it is a ${found}, but ${name} takes ${types.join(" or ")}. Pass { ${key} } of that class.`,
    );
  }
  const missing = component_names.filter((key) => !Object.hasOwn(parts, key) && !optional_components.includes(key));
  if (missing.length === 0) return parts;
  throw new ValueError(
    `${name} needs ${component_names.join(", ")}, but only ${Object.keys(parts).join(", ") || "none"} are in the ` +
      `${pipeline.constructor.name}, or were passed. Pass { ${missing.join(", ")} }.`,
    { className: name, field: missing[0]!, found: "nothing", expected: missing.join(", ") },
  );
}
