import { type FilesTaskName, filesTasks, type Given } from "./files_tasks.ts";

interface Request {
  readonly name: FilesTaskName;
  readonly from: Given;
  readonly argument: unknown;
  readonly port: MessagePort;
}

globalThis.onmessage = async ({ data: { name, from, argument, port } }: MessageEvent<Request>) => {
  try {
    const task = filesTasks[name] as (from: Given, argument: unknown) => Promise<unknown>;
    port.postMessage({ result: await task(from, argument) });
  } catch (error) {
    port.postMessage({ error: String(error) });
  }
};
