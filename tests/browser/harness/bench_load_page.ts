import type { BenchStep, StepResult } from "./bench_load_worker.ts";

/** What a step took, and what there is after it. */
export interface BenchResult extends StepResult {
  /** Bytes of JavaScript in the page and its worker, with their buffers; undefined where the browser does not tell. */
  readonly js: number | undefined;
}

declare global {
  interface Window {
    /** Runs a step in the worker: tests/bench/bench_load.mjs calls them in their order. */
    runBenchStep(step: BenchStep): Promise<BenchResult>;
  }
  interface Performance {
    measureUserAgentSpecificMemory?(): Promise<{ bytes: number }>;
  }
}

const worker = new Worker(new URL("./bench_load_worker.ts", import.meta.url), { type: "module" });

window.runBenchStep = async (step) => {
  const { port1, port2 } = new MessageChannel();
  worker.postMessage({ step, port: port2 }, [port2]);
  const result = await new Promise<StepResult>((resolve, reject) => {
    port1.onmessage = ({ data }) => ("error" in data ? reject(new Error(data.error)) : resolve(data));
    worker.onerror = (event) => reject(new Error(event.message));
  });
  port1.close();
  const js = globalThis.crossOriginIsolated ? await performance.measureUserAgentSpecificMemory?.() : undefined;
  return { ...result, js: js?.bytes };
};
