import { isNode, UnsupportedModelError, WorkerError } from "@diffusers-web/core";

/**
 * Starts the worker of `{ worker: true }`. Bundlers know a worker's script by this very expression.
 *
 * @throws UnsupportedModelError where there are no workers, WorkerError where the script may not be started.
 */
export function startWorker(): Worker {
  // onnxruntime-web puts a `Worker` of another kind there in Node.
  if (isNode || typeof Worker === "undefined") {
    throw new UnsupportedModelError(
      "`worker: true` starts a Web Worker, which Node does not have. Leave `worker` out: in Node, the pipeline runs where it is " +
        "loaded.",
      { field: "worker", found: "no Worker", expected: "a page" },
    );
  }
  try {
    return new Worker(new URL("./script.ts", import.meta.url), { type: "module", name: "diffusers-web" });
  } catch (cause) {
    throw new WorkerError(
      `The worker's script cannot be started from here: ${(cause as Error).message}. Start one of your own, whose script ` +
        "calls serveWorker(): { worker: () => new Worker(...) }.",
      { field: "worker", found: (cause as Error).name },
      { cause },
    );
  }
}
