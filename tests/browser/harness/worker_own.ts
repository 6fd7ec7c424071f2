import { serveWorker } from "@diffusers-web/pipelines";

// Tells what is given away with a message, and whether it is gone after.
const channel = new BroadcastChannel("own");
const post = postMessage as (message: unknown, transfer: Transferable[]) => void;
globalThis.postMessage = ((message: unknown, transfer: Transferable[] = []) => {
  post(message, transfer);
  const sizes = new Set(transfer.map((buffer) => (buffer as ArrayBuffer).byteLength));
  if (transfer.length > 0) channel.postMessage({ given: transfer.length, left: [...sizes] });
}) as typeof postMessage;

// What may happen to a worker.
addEventListener("message", ({ data }) => {
  if (data === "throw") {
    setTimeout(() => {
      throw new Error("out of order");
    });
  }
  if (data === "close") close();
});

serveWorker();
