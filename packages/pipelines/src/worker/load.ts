import type { PipelineClass } from "../pipeline_utils.ts";
import type { PipelineWorker, WorkerLike } from "./pipeline_worker.ts";

/** Where a pipeline is to live: true for a worker of its own, false for where it is loaded. */
export type WorkerChoice = boolean | WorkerLike | (() => WorkerLike) | PipelineWorker;

/**
 * Loads a pipeline in a worker where the options ask for one, else here.
 *
 * @param lookUp finds the class of what was loaded
 * @param here loads it with the options that are left
 */
export async function loadWhere<Options extends { readonly worker?: WorkerChoice }, T>(
  [className, method]: readonly [string, "from_pretrained" | "from_single_file"],
  from: unknown,
  { worker, ...options }: Options,
  lookUp: (name: string) => Promise<PipelineClass>,
  here: (options: Omit<Options, "worker">) => Promise<T>,
): Promise<T> {
  if (worker === undefined || worker === false) return here(options);
  const { PipelineWorker } = await import("./pipeline_worker.ts");
  return PipelineWorker.of(worker).make(className, method, from, options, lookUp) as Promise<T>;
}
