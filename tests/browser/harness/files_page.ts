import { type FilesTaskName, filesTasks, type Given } from "./files_tasks.ts";

type Kind = "folder" | "files" | "opfs" | "dropped entry" | "dropped handle";

declare global {
  interface Window {
    /** Runs a task on what was given in this way. */
    runFilesTask(where: "page" | "worker", kind: Kind, name: FilesTaskName, argument?: unknown): Promise<unknown>;
    /** Copies files of this server into a folder of OPFS. */
    fillOpfs(files: Readonly<Record<string, string>>): Promise<void>;
    /** Resolves once a folder was dropped. */
    awaitDrop(): Promise<void>;
  }
}

const dropped: { entry?: FileSystemDirectoryEntry; handle?: FileSystemDirectoryHandle } = {};
let worker: Worker | undefined;

function given(kind: Kind): Given | Promise<Given> {
  if (kind === "folder" || kind === "files") return document.querySelector<HTMLInputElement>(`#${kind}`)!.files!;
  if (kind === "opfs") return navigator.storage.getDirectory().then((root) => root.getDirectoryHandle("model"));
  return kind === "dropped entry" ? dropped.entry! : dropped.handle!;
}

window.runFilesTask = async (where, kind, name, argument) => {
  const from = await given(kind);
  if (where === "page")
    return (filesTasks[name] as (from: Given, argument: unknown) => Promise<unknown>)(from, argument);
  worker ??= new Worker(new URL("./files_worker.ts", import.meta.url), { type: "module" });
  const { port1, port2 } = new MessageChannel();
  worker.postMessage({ name, from, argument, port: port2 }, [port2]);
  return new Promise((resolve, reject) => {
    port1.onmessage = ({ data }) => ("error" in data ? reject(new Error(data.error)) : resolve(data.result));
    worker!.onerror = (event) => reject(new Error(event.message));
  });
};

window.fillOpfs = async (files) => {
  const root = await navigator.storage.getDirectory();
  for (const [path, from] of Object.entries(files)) {
    const names = `model/${path}`.split("/");
    const last = names.pop()!;
    let folder = root;
    for (const name of names) folder = await folder.getDirectoryHandle(name, { create: true });
    const writable = await (await folder.getFileHandle(last, { create: true })).createWritable();
    await (await fetch(from)).body!.pipeTo(writable);
  }
};

window.awaitDrop = () =>
  new Promise((resolve, reject) => {
    const target = document.querySelector("#drop")!;
    target.addEventListener("dragover", (event) => event.preventDefault());
    target.addEventListener(
      "drop",
      (event) => {
        event.preventDefault();
        const item = (event as DragEvent).dataTransfer!.items[0]! as DataTransferItem & {
          getAsFileSystemHandle(): Promise<FileSystemHandle>;
        };
        dropped.entry = item.webkitGetAsEntry() as FileSystemDirectoryEntry;
        item.getAsFileSystemHandle().then((handle) => {
          dropped.handle = handle as FileSystemDirectoryHandle;
          resolve();
        }, reject);
      },
      { once: true },
    );
  });
