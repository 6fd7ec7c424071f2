import type { ModelRequest, Picture, Reply, Request, Settings } from "./protocol.ts";

/** What a run tells while it goes on. */
export type Listener = (reply: Reply) => void;

/** Why a run gave no picture: the worker's error as it came, by code and message. */
export class RunError extends Error {
  readonly code: string | undefined;

  constructor(error: { readonly name: string; readonly message: string; readonly code?: string | undefined }) {
    super(error.message);
    this.name = error.name;
    this.code = error.code;
  }

  get cancelled(): boolean {
    return this.name === "AbortError";
  }
}

/** A run under way. */
export interface Run<T> {
  /** @throws RunError */
  readonly result: Promise<T>;
  cancel(): void;
}

interface Waiting {
  resolve(value: Picture | undefined): void;
  reject(error: RunError): void;
}

/** The page's end of the worker that loads models and draws. */
export class Engine {
  private readonly listen: Listener;
  private worker: Worker | undefined;
  private readonly waiting = new Map<number, Waiting>();
  private lastRun = 0;

  constructor(listen: Listener) {
    this.listen = listen;
  }

  /** Starts the worker without loading a model: it says what it offers. */
  start(): void {
    if (this.worker !== undefined) return;
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: "diffusers-web" });
    worker.onmessage = (event: MessageEvent<Reply>) => this.receive(event.data);
    // The script could not be fetched, or threw outside of any run. The next request starts another worker.
    worker.onerror = (event) => {
      event.preventDefault();
      worker.terminate();
      this.worker = undefined;
      const message = event.message || "The worker's script could not be loaded.";
      for (const { reject } of this.waiting.values()) reject(new RunError({ name: "Error", message, code: "WORKER" }));
      this.waiting.clear();
    };
    this.worker = worker;
  }

  load(request: ModelRequest): Run<undefined> {
    return this.send<undefined>((run) => ({ type: "load", run, ...request }));
  }

  generate(request: ModelRequest, settings: Settings): Run<Picture> {
    return this.send<Picture>((run) => ({ type: "generate", run, ...request, settings }));
  }

  private send<T extends Picture | undefined>(request: (run: number) => Request): Run<T> {
    this.start();
    this.lastRun += 1;
    const run = this.lastRun;
    const result = new Promise<T>((resolve, reject) => {
      this.waiting.set(run, { resolve: (value) => resolve(value as T), reject });
    });
    this.worker?.postMessage(request(run));
    return { result, cancel: () => this.worker?.postMessage({ type: "abort", run } satisfies Request) };
  }

  private receive(reply: Reply): void {
    if (reply.type === "hello" || reply.type === "progress") {
      this.listen(reply);
      return;
    }
    const waiting = this.waiting.get(reply.run);
    if (waiting === undefined) return;
    this.listen(reply);
    if (reply.type === "failed") {
      this.waiting.delete(reply.run);
      waiting.reject(new RunError(reply.error));
    } else if (reply.type === "picture") {
      this.waiting.delete(reply.run);
      waiting.resolve(reply.picture);
    } else if (reply.type === "ready") {
      this.waiting.delete(reply.run);
      waiting.resolve(undefined);
    }
  }
}
