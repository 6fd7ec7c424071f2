import { Generator, serveWorker } from "@diffusers-web/pipelines";
import { fixturePath } from "./fixtures.ts";

/** A checkpoint, and how it is loaded. */
export const folder: string = fixturePath("pipelines/sd1-tiny");
export const on: { readonly device: "wasm"; readonly safety_checker: null; readonly requires_safety_checker: false } = {
  device: "wasm",
  safety_checker: null,
  requires_safety_checker: false,
};

/** What `worker: () => new Worker(...)` gives in a page. */
export function start(): MessagePort {
  const { port1, port2 } = new MessageChannel();
  serveWorker(port2);
  return port1;
}

export const seeded = (seed: number): Generator => new Generator().manual_seed(seed);

/** Of a short call. */
export const sizes: { readonly height: number; readonly width: number; readonly num_inference_steps: number } = {
  height: 32,
  width: 32,
  num_inference_steps: 2,
};
