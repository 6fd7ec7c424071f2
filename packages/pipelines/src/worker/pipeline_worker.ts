import {
  DeviceError,
  deserializeError,
  type LoadOptions,
  type PictureSource,
  type RawImage,
  type SourceLike,
  serializeError,
  WorkerError,
} from "@diffusers-web/core";
import { type Endpoint, expose, type Remote, transfer, wrap } from "comlink";
import type { DiffusionPipeline, PipelineClass, PipelineRegistry } from "../pipeline_utils.ts";
import { describe, encode, isPlainObject } from "./codec.ts";
import { addressOf, drawablesIn, folderOf, pictureAddress, readDrawables, withAddresses } from "./page_inputs.ts";
import { type ClassLookup, PageObjects } from "./page_objects.ts";
import { type PageCall, PagePacker } from "./page_packer.ts";
import type { Outcome, PageApi, Reply, State, Wire, WireError, WorkerApi } from "./protocol.ts";
import { startWorker } from "./start.ts";

/** A worker whose script calls `serveWorker()`, or a port to one (a SharedWorker's). */
export type WorkerLike = Worker | MessagePort;

/** The connections to workers that the caller started, one each. */
const connections = /* @__PURE__ */ new WeakMap<WorkerLike, PipelineWorker>();

/**
 * A worker that pipelines and models live in. `from_pretrained(id, { worker: true })` starts one of its own, which ends with
 * the pipeline; this is for several in one worker, and for components that are loaded by themselves.
 *
 * @example
 * ```ts
 * const worker = new PipelineWorker();
 * const controlnet = await worker.load(ControlNetModel, "lllyasviel/sd-controlnet-canny");
 * const pipeline = await StableDiffusionControlNetPipeline.from_pretrained(id, { controlnet, worker });
 * ```
 */
export class PipelineWorker {
  private readonly endpoint: WorkerLike;
  private readonly remote: Remote<WorkerApi>;
  private readonly objects: PageObjects;
  private readonly packer: PagePacker;
  /** Whether the worker ends with the last of its pipelines. */
  private isOwned = false;
  /** Whether there are pipelines that are not disposed. */
  private isAlive = true;
  private isGreeted = false;
  /** Why there is nothing to be had from it any more. */
  private ended: Error | undefined;
  private readonly watch = new AbortController();
  private readonly pending = new Set<(reason: Error) => void>();
  /** Until what was asked for before is sent: pictures of the page may have to be read first. */
  private turn: Promise<void> | undefined;
  private readonly calls = new Map<number, PageCall>();
  private lastCall = 0;

  /**
   * @param worker a worker of your own, or what starts one; its script calls `serveWorker()` at once. Default: this
   * package's own script
   * @throws UnsupportedModelError where there are no workers (Node), WorkerError where the script may not be started.
   */
  constructor(worker: WorkerLike | (() => WorkerLike) = startWorker) {
    this.endpoint = typeof worker === "function" ? worker() : worker;
    if (typeof this.endpoint?.postMessage !== "function") {
      throw new TypeError(`\`worker\` is true, a Worker, or a function that starts one; got ${describe(worker)}.`);
    }
    const endpoint = this.endpoint as Endpoint;
    this.remote = wrap<WorkerApi>(endpoint);
    const owner = {
      call: (object: object, method: string | null, args: readonly unknown[]) => this.callObject(object, method, args),
      assign: (object: object, name: string, value: unknown) => this.assign(object, name, value),
      fromPipe: (cls: PipelineClass, pipeline: object, options: object) =>
        this.request(cls.name, "from_pipe", [pipeline, options], async () => cls),
    };
    this.objects = new PageObjects(owner, (id) => this.release("object", id));
    this.packer = new PagePacker(this.objects, (...abort) => void this.remote.abort(...abort));
    const api: PageApi = {
      invoke: (call, id, args, state) => this.invoke(call, id, args, state),
      progress: (id, args) => this.packer.listeners.get(id)?.push(args),
    };
    expose(api, endpoint);
    endpoint.addEventListener("error", (event) => this.failed(event as ErrorEvent));
    endpoint.addEventListener("messageerror", () => {
      this.end(new WorkerError("The worker sent what cannot be read here. Load the pipeline again."));
    });
    this.greet().catch((error: Error) => this.end(error));
  }

  /** The worker that an option `worker` asks for. @internal */
  static of(choice: true | WorkerLike | (() => WorkerLike) | PipelineWorker): PipelineWorker {
    if (choice instanceof PipelineWorker) return choice;
    if (choice === true || typeof choice === "function") {
      const worker = new PipelineWorker(choice === true ? startWorker : choice);
      worker.isOwned = true;
      return worker;
    }
    const known = connections.get(choice);
    if (known !== undefined && known.ended === undefined) return known;
    const worker = new PipelineWorker(choice);
    connections.set(choice, worker);
    return worker;
  }

  /**
   * Loads a model or a pipeline in the worker.
   *
   * @param cls the class whose `from_pretrained` is called there
   * @throws UnsupportedModelError for a source or a `fetch` of the caller's own, which cannot be passed; WorkerError when the
   * worker has ended; else as `from_pretrained` of the class.
   */
  load<T>(
    cls: (abstract new (...args: never) => T) & { readonly name: string },
    from: SourceLike,
    options: LoadOptions & Readonly<Record<string, unknown>> = {},
  ): Promise<T> {
    const { registry = {} } = cls as { readonly registry?: PipelineRegistry };
    const lookUp: ClassLookup = async (name) =>
      name === cls.name ? (cls as unknown as PipelineClass) : registry[name]!();
    return this.make(cls.name, "from_pretrained", from, options, lookUp) as Promise<T>;
  }

  /** Ends the worker, and all that lives in it. Calls under way are rejected. Idempotent. */
  terminate(): void {
    this.end(new WorkerError("The worker was ended by terminate(). Load the pipeline again."));
  }

  /**
   * Calls what makes something of files, as a class's `from_pretrained`.
   *
   * @internal
   */
  async make(
    className: string,
    method: "from_pretrained" | "from_single_file",
    from: unknown,
    options: LoadOptions & Readonly<Record<string, unknown>>,
    lookUp: ClassLookup,
  ): Promise<object> {
    const { signal, progress_callback, ...rest } = options;
    const { token, config } = options;
    const controller = new AbortController();
    const abort = (): void => {
      // A script that does not serve would never hear of it.
      if (!this.isGreeted && this.isOwned) this.end(signal!.reason as Error);
      controller.abort(signal!.reason);
    };
    // What a listener throws ends the load, as in the page; later there is nobody but the page itself to be told.
    let failure: { readonly error: unknown } | undefined;
    let isLoading = true;
    const progress: typeof progress_callback = (event) => {
      try {
        if (failure === undefined) progress_callback!(event);
      } catch (error) {
        if (!isLoading) throw error;
        failure = { error };
        controller.abort(error);
      }
    };
    try {
      signal?.throwIfAborted();
      signal?.addEventListener("abort", abort);
      const source = method === "from_pretrained" ? folderOf(from, token) : addressOf(from);
      const passed = {
        ...rest,
        ...(config === undefined ? {} : { config: addressOf(config) }),
        ...(progress_callback === undefined ? {} : { progress_callback: progress }),
        signal: controller.signal,
      };
      const made = (await this.request(className, method, [source, passed], lookUp)) as DiffusionPipeline;
      if (failure === undefined) return made;
      await made.dispose();
      throw failure.error;
    } catch (error) {
      if (this.isOwned) this.terminate();
      throw error;
    } finally {
      isLoading = false;
      signal?.removeEventListener("abort", abort);
    }
  }

  private async greet(): Promise<void> {
    const lock = `diffusers-web-${Math.random().toString(36).slice(2)}`;
    const { isLocked } = await this.guarded(this.remote.hello(lock));
    this.isGreeted = true;
    if (!isLocked) return;
    // The page gets the lock only when the worker is gone, which no event tells of.
    navigator.locks
      .request(lock, { signal: this.watch.signal }, () => {
        this.end(
          new WorkerError("The worker has ended: it was stopped, or ran out of memory. Load the pipeline again."),
        );
      })
      .catch((error: Error) => {
        if (error.name !== "AbortError") throw error;
      });
  }

  private failed(event: ErrorEvent): void {
    // What goes wrong later in a worker of the caller's own may be another part of it.
    if (this.isGreeted && !this.isOwned) return;
    event.preventDefault();
    const found = event.message ?? "";
    const what =
      found === ""
        ? "The worker's script could not be loaded. Is its address right, and does the page's content security policy allow it?"
        : `The worker failed: ${found}`;
    this.end(
      new WorkerError(what, {
        field: "worker",
        found: found === "" ? "no script" : found,
        expected: "a script that calls serveWorker()",
      }),
    );
  }

  private end(reason: Error): void {
    if (this.ended !== undefined) return;
    this.ended = reason;
    this.watch.abort();
    for (const frames of this.packer.listeners.values()) frames.drop();
    for (const reject of this.pending) reject(reason);
    if ("terminate" in this.endpoint) this.endpoint.terminate();
    else this.endpoint.close();
  }

  private release(what: "generator" | "object", id: number): void {
    if (this.ended === undefined) void this.remote.release(what, id);
  }

  /** Waits for the worker, but no longer than it lives. */
  private guarded<T>(reply: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.pending.add(reject);
      reply
        .then(resolve, (error: Error) => {
          const isRefused = error.name === "DataCloneError";
          reject(isRefused ? new TypeError(`Something cannot be passed to the worker: ${error.message}`) : error);
        })
        .finally(() => this.pending.delete(reject));
    });
  }

  private async callObject(object: object, method: string | null, args: readonly unknown[]): Promise<unknown> {
    const isDisposal = method === "dispose" && "components" in object;
    if (isDisposal && this.ended !== undefined) return undefined;
    const id = this.objects.idOf(object)!;
    const changes = this.objects
      .changedConfigs(object)
      .map(([scheduler, config]) => this.request(this.objects.idOf(scheduler)!, "register_to_config", [config]));
    const [first, ...rest] = args;
    const { first_argument } = object.constructor as Partial<typeof DiffusionPipeline>;
    let given = args;
    // As load_lora_weights: what is first says where from.
    if (method?.startsWith("load_") === true) given = [addressOf(first), ...rest];
    else if (method === null && first_argument === "image") given = [pictureAddress(first), ...rest];
    const [result] = await Promise.all([this.request(id, method, given), ...changes]);
    if (isDisposal && this.isOwned && !this.isAlive) {
      const { name } = object.constructor;
      this.end(new DeviceError(`This ${name} is disposed: load it again with ${name}.from_pretrained.`));
    }
    return result;
  }

  private async request(
    target: string | number,
    method: string | null,
    args: readonly unknown[],
    lookUp?: ClassLookup,
  ): Promise<unknown> {
    if (this.ended !== undefined) throw this.ended;
    this.lastCall += 1;
    const call: PageCall = {
      ...{ id: this.lastCall, isLoad: typeof target === "string", functions: new Map(), listeners: new Set() },
      ...{ generators: new Set(), thrown: [], stops: [], failure: undefined, isOver: false },
    };
    this.calls.set(call.id, call);
    try {
      const given = withAddresses(args);
      const outcome = await this.inTurn(drawablesIn(given), (pictures) => {
        const packing = this.packer.packing(call, pictures);
        const wires = given.map((arg, i) => encode(arg, packing, isPlainObject(arg) ? "options" : `argument ${i + 1}`));
        const request = { call: call.id, target, method, args: wires };
        return this.guarded<Outcome>(this.remote.call(transfer(request, [...packing.transfer])));
      });
      const fresh = await this.update(outcome, lookUp);
      this.isAlive = outcome.isAlive;
      for (const frames of this.packer.listeners.values()) frames.flush();
      if (call.failure !== undefined) throw call.failure.error;
      if (outcome.error !== undefined) throw ownError(outcome.error, call);
      return this.objects.decode(outcome.value, fresh);
    } finally {
      call.isOver = true;
      this.calls.delete(call.id);
      for (const id of this.packer.release(call)) this.release("generator", id);
    }
  }

  /** Sends what was asked for, in the order in which it was asked for. */
  private inTurn<T>(
    drawables: readonly PictureSource[],
    send: (pictures: ReadonlyMap<object, RawImage>) => Promise<T>,
  ): Promise<T> {
    if (drawables.length === 0 && this.turn === undefined) return send(new Map());
    const sent = (this.turn ?? Promise.resolve())
      .then(() => readDrawables(drawables))
      .then((pictures) => ({ reply: send(pictures) }));
    // Whoever asked is told of a failure; those behind have their turn all the same.
    const turn = sent.then(
      () => undefined,
      () => undefined,
    );
    this.turn = turn;
    void turn.then(() => {
      if (this.turn === turn) this.turn = undefined;
    });
    return sent.then(({ reply }) => reply);
  }

  private assign(object: object, name: string, value: unknown): void {
    if (this.ended !== undefined) throw this.ended;
    const id = this.objects.idOf(object)!;
    const wire = encode(value, this.packer.packing(undefined), name);
    this.objects.noteAssignment(id);
    void this.inTurn([], () => this.remote.assign(id, name, wire));
  }

  private async invoke(callId: number, id: number, args: readonly Wire[], state: State): Promise<Reply> {
    const call = this.calls.get(callId);
    if (call === undefined) {
      return { error: { error: serializeError(new WorkerError("The call is over.")) }, generators: [] };
    }
    const { generators } = this.packer;
    try {
      const fresh = await this.update(state);
      const value = await call.functions.get(id)!(...args.map((arg) => this.objects.decode(arg, fresh)));
      const packing = this.packer.packing(call);
      const reply = { value: encode(value, packing, "the callback's result") };
      return transfer({ ...reply, generators: generators.drawn(call.generators) }, [...packing.transfer]);
    } catch (error) {
      const origin = call.thrown.push(error) - 1;
      return { error: { error: serializeError(error), origin }, generators: generators.drawn(call.generators) };
    }
  }

  private update(state: State, lookUp?: ClassLookup): Promise<Map<number, object>> {
    this.packer.generators.advance(state.generators);
    return this.objects.update(state, lookUp);
  }
}

/** A call's error: what the page itself threw comes back as what it was. */
function ownError({ error, origin }: WireError, { thrown }: PageCall): unknown {
  return origin === undefined ? deserializeError(error) : thrown[origin];
}
