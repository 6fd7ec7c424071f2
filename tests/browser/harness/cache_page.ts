import * as tools from "./cache_tools.ts";
import type { WorkerTask } from "./cache_worker.ts";

declare global {
  interface Window {
    tools: typeof tools;
    /** Runs a task in a worker of its own. */
    inWorker: (task: WorkerTask, ...values: unknown[]) => Promise<unknown>;
  }
}

window.tools = tools;
window.inWorker = (task, ...values) => {
  const worker = new Worker("/tests/browser/harness/cache_worker.ts", { type: "module" });
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => ("error" in data ? reject(new Error(data.error)) : resolve(data.result));
    worker.onerror = (event) => reject(new Error(event.message));
    worker.postMessage([task, values]);
  }).finally(() => worker.terminate());
};
