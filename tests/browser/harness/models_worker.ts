import { type TaskName, tasks } from "./models_tasks.ts";

interface Request {
  readonly name: TaskName;
  readonly argument: unknown;
  readonly port: MessagePort;
}

globalThis.onmessage = async ({ data: { name, argument, port } }: MessageEvent<Request>) => {
  try {
    port.postMessage({ result: await (tasks[name] as (argument: unknown) => Promise<unknown>)(argument) });
  } catch (error) {
    port.postMessage({ error: String(error) });
  }
};
