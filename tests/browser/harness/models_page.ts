import { type TaskName, tasks } from "./models_tasks.ts";

declare global {
  interface Window {
    runTask(where: "page" | "worker", name: TaskName, argument?: unknown): Promise<unknown>;
  }
}

let worker: Worker | undefined;

window.runTask = (where, name, argument) => {
  if (where === "page") return (tasks[name] as (argument: unknown) => Promise<unknown>)(argument);
  worker ??= new Worker(new URL("./models_worker.ts", import.meta.url), { type: "module" });
  const { port1, port2 } = new MessageChannel();
  worker.postMessage({ name, argument, port: port2 }, [port2]);
  return new Promise((resolve, reject) => {
    port1.onmessage = ({ data }) => ("error" in data ? reject(new Error(data.error)) : resolve(data.result));
    worker!.onerror = (event) => reject(new Error(event.message));
  });
};
