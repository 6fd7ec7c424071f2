import { isNode } from "@diffusers-web/core";
import type { InferenceSession, Tensor } from "onnxruntime-web";

/** The part of onnxruntime-web that this library uses. */
export type Ort = typeof import("onnxruntime-web");
export type OrtSession = InferenceSession;
export type OrtSessionOptions = InferenceSession.SessionOptions;
export type OrtTensor = Tensor;

/** The builds of the engine: with the WebGPU kernels, or the processor's alone (a smaller download). */
export type EngineBuild = "webgpu" | "wasm";

const loaded = new Map<EngineBuild, Promise<Ort>>();

/**
 * The engine, loaded when it is first needed. This is the only place that imports onnxruntime-web.
 *
 * Bundlers find the engine's `.wasm` beside its script by `import.meta.url`, so nothing has to be configured and nothing
 * comes from another origin.
 */
export function loadOrt(build: EngineBuild): Promise<Ort> {
  let engine = loaded.get(build);
  if (engine === undefined) {
    engine = importOrt(build).then((ort) => configure(ort, build));
    loaded.set(build, engine);
    // A failed download may succeed the next time.
    engine.catch(() => loaded.delete(build));
  }
  return engine;
}

function importOrt(build: EngineBuild): Promise<Ort> {
  if (build === "webgpu") {
    // The build over JavaScript promise integration is 10 MB smaller than the one over asyncify.
    return "Suspending" in WebAssembly ? import("onnxruntime-web/jspi") : import("onnxruntime-web/webgpu");
  }
  if (!isNode) return import("onnxruntime-web/wasm");
  // A name that no bundler follows: else every page would be packed with 28 MB that only Node could have asked for.
  const forNode = ["onnxruntime", "web"].join("-");
  return import(/* @vite-ignore */ /* webpackIgnore: true */ forNode) as Promise<Ort>;
}

function configure(ort: Ort, build: EngineBuild): Ort {
  // Threads need a SharedArrayBuffer, which only an isolated page has; in Node they keep the process alive; and beside a
  // GPU they have nothing to do.
  if (build === "webgpu" || isNode || globalThis.crossOriginIsolated !== true) ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "error";
  return ort;
}
