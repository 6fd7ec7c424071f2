import { checkOptions, type Directory, subDirectory, UnsupportedModelError } from "@diffusers-web/core";
import { MultiModel } from "@diffusers-web/models";
import type { Component } from "./pipeline_components.ts";
import { isModel } from "./pipeline_loading_utils.ts";
import type { DiffusionPipeline } from "./pipeline_utils.ts";

/** How a pipeline is saved. */
export interface SavePipelineOptions {
  /** Goes into the names of the weights' files, e.g. "fp16": `from_pretrained` is asked for it then. */
  readonly variant?: string | undefined;
}

/** A component, as one that may know how it is saved. */
interface Saveable {
  save_pretrained?(directory: Directory, options?: SavePipelineOptions): Promise<void>;
  /** Of what is all config. */
  save_config?(directory: Directory): Promise<void>;
}

/** Writes model_index.json, and each component into a folder of its name. @see Diffusers `DiffusionPipeline.save_pretrained` */
export async function savePipeline(
  pipeline: DiffusionPipeline,
  directory: Directory,
  options: SavePipelineOptions,
): Promise<void> {
  checkOptions(`${pipeline.constructor.name}.save_pretrained`, options, ["variant"]);
  const saves: ((directory: Directory) => Promise<void>)[] = [];
  // Refused before anything is written.
  for (const [key, component] of Object.entries(pipeline.components)) {
    if (component !== null) saves.push(saveOf(key, component, options));
  }
  await pipeline.save_config(directory);
  for (const save of saves) await save(directory);
}

/** How a component is saved into a pipeline's folder. @throws UnsupportedModelError for one that cannot be. */
function saveOf(
  key: string,
  component: Component,
  options: SavePipelineOptions,
): (directory: Directory) => Promise<void> {
  const one = component as Saveable;
  const { name: className } = (component as object).constructor;
  const isKnown = one.save_pretrained !== undefined || (!isModel(component) && one.save_config !== undefined);
  if (!isKnown) {
    throw new UnsupportedModelError(`The ${key}, a ${className}, cannot be saved.`, {
      className,
      field: key,
      found: className,
      expected: "a component in the layout of Diffusers",
    });
  }
  return async (directory) => {
    if (component instanceof MultiModel) {
      return component.save_pretrained((suffix) => subDirectory(directory, key + suffix), options);
    }
    const folder = await subDirectory(directory, key);
    if (isModel(component)) await one.save_pretrained!(folder, options);
    else if (one.save_pretrained !== undefined) await one.save_pretrained(folder);
    else await one.save_config!(folder);
  };
}
