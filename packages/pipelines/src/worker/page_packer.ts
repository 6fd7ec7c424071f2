import { Generator, type RawImage, serializeError, UnsupportedModelError } from "@diffusers-web/core";
import { describe, encode, isInstance, isScheduler, type Packing, schedulerState, tagged } from "./codec.ts";
import { Frames } from "./frames.ts";
import { Generators } from "./generators.ts";
import type { PageObjects } from "./page_objects.ts";
import type { Payload, Wire, WireError } from "./protocol.ts";
import { remotes } from "./remotes.ts";

type AnyFunction = (...args: unknown[]) => unknown;

/** What the page keeps of a call until it is over. */
export interface PageCall {
  readonly id: number;
  /** Its progress is told for as long as the worker lives: what is loaded goes to the device when it is first called. */
  readonly isLoad: boolean;
  readonly functions: Map<number, AnyFunction>;
  readonly listeners: Set<number>;
  readonly generators: Set<number>;
  /** What the page itself threw, or aborted with. */
  readonly thrown: unknown[];
  readonly stops: (() => void)[];
  /** What a listener threw. */
  failure: { readonly error: unknown } | undefined;
  isOver: boolean;
}

/** The methods of folders and files to write to, which wait for what they do. */
const directoryMethods = ["getDirectoryHandle", "getFileHandle", "createWritable", "write", "close", "abort"];

/** Packs what a page passes to its worker. */
export class PagePacker {
  readonly generators: Generators = new Generators();
  readonly listeners: Map<number, Frames> = new Map();
  private lastId = 0;

  constructor(
    private readonly objects: PageObjects,
    private readonly sendAbort: (call: number, signal: number, reason: WireError) => void,
  ) {}

  /**
   * @param call undefined for an assignment, which may not have what belongs to a call: generators, functions, signals
   * @param pictures what drawables of the page show
   */
  packing(call: PageCall | undefined, pictures: ReadonlyMap<object, RawImage> = new Map()): Packing {
    const packing: Packing = {
      isMoved: false,
      transfer: new Set(),
      encode: (value, where) => {
        const picture = pictures.get(value);
        if (picture !== undefined) return encode(picture, { isMoved: true, transfer: packing.transfer }, where);
        const payload = this.payloadOf(value, where, call);
        return payload && tagged(payload);
      },
    };
    return packing;
  }

  /** Forgets a call that is over. @returns the generators that none uses any more */
  release(call: PageCall): number[] {
    for (const stop of call.stops) stop();
    if (!call.isLoad) for (const id of call.listeners) this.listeners.delete(id);
    return this.generators.release(call.generators);
  }

  private payloadOf(value: object, where: string, call: PageCall | undefined): Payload | undefined {
    const known = this.objects.idOf(value);
    if (known !== undefined) return { kind: "object", id: known };
    if (remotes.has(value)) {
      throw new UnsupportedModelError(`\`${where}\` lives in another worker: load both in one PipelineWorker.`, {
        field: where,
        found: describe(value),
        expected: "one of the same worker",
      });
    }
    if (isScheduler(value)) {
      // Below zero, so that the worker's own numbers are others.
      const id = -this.newId();
      this.objects.keep(id, value);
      return { kind: "scheduler", id, ...schedulerState(value) };
    }
    if (call !== undefined) {
      if (value instanceof Generator) return { kind: "generator", ...this.generators.pack(value, call.generators) };
      if (value instanceof AbortSignal) return { kind: "signal", id: this.follow(value, call) };
      if (value instanceof Function) return this.functionPayload(value as AnyFunction, where, call);
      const methods = isInstance(value) ? this.methodsOf(value as Record<string, AnyFunction>, call) : {};
      if (Object.keys(methods).length > 0) return { kind: "methods", methods };
    }
    if (!isInstance(value)) return undefined;
    throw new UnsupportedModelError(
      `\`${where}\` is ${describe(value)} that lives in the page. Load it where the pipeline is: ` +
        `const worker = new PipelineWorker(); await worker.load(${value.constructor.name}, ...).`,
      { field: where, found: describe(value), expected: "one of the same worker" },
    );
  }

  private functionPayload(value: AnyFunction, where: string, call: PageCall): Payload {
    if (where.endsWith(".fetch")) {
      throw new UnsupportedModelError(
        "A `fetch` of your own cannot be passed to a worker. Leave it out, or put it in place in a worker script of your own.",
        { field: "fetch", found: "a function", expected: "undefined" },
      );
    }
    const id = this.newId();
    const isProgress = /progress[^.]*$/.test(where);
    if (isProgress) {
      const tell = (...args: readonly unknown[]): void => {
        try {
          value(...args.map((arg) => this.objects.decode(arg, new Map())));
        } catch (error) {
          // As in the page, the call is the one to be told; after it, nobody is but the page itself.
          if (call.isOver) throw error;
          call.failure ??= { error };
        }
      };
      this.listeners.set(id, new Frames(tell));
      call.listeners.add(id);
    } else call.functions.set(id, value);
    return { kind: "function", id, isProgress };
  }

  private methodsOf(value: Readonly<Record<string, AnyFunction>>, call: PageCall): Record<string, Wire> {
    const names = directoryMethods.filter((name) => typeof value[name] === "function");
    const bound = names.map((name) => {
      const method: AnyFunction = (...args) => value[name]!(...args);
      return [name, tagged(this.functionPayload(method, name, call))];
    });
    return Object.fromEntries(bound);
  }

  private follow(signal: AbortSignal, call: PageCall): number {
    signal.throwIfAborted();
    const id = this.newId();
    const abort = (): void => {
      const origin = call.thrown.push(signal.reason) - 1;
      this.sendAbort(call.id, id, { error: serializeError(signal.reason), origin });
    };
    signal.addEventListener("abort", abort);
    call.stops.push(() => signal.removeEventListener("abort", abort));
    return id;
  }

  private newId(): number {
    this.lastId += 1;
    return this.lastId;
  }
}
