import type { DataType, SerializedError } from "@diffusers-web/core";

/**
 * What a page and the worker that its pipelines live in say to each other, over Comlink, in both directions on one port:
 * so everything arrives in the order in which it was sent.
 */

/** A value as `postMessage` takes it: plain data, with a {@link Tagged} in place of everything else. See codec.ts. */
export type Wire = unknown;

/** The key by which a {@link Tagged} is known. */
export const TAG = "@diffusers-web/worker";

/** Stands for a value that is no plain data. */
export type Tagged = { readonly [TAG]: Payload["kind"] } & { readonly payload: Payload };

export type Payload =
  | {
      readonly kind: "tensor";
      readonly type: DataType;
      readonly data: ArrayBufferView;
      readonly dims: readonly number[];
    }
  | {
      readonly kind: "image";
      readonly data: Uint8ClampedArray;
      readonly width: number;
      readonly height: number;
      readonly channels: 1 | 3 | 4;
      readonly metadata: Record<string, string>;
    }
  /** A list or an object of which it is known which numbers are Python floats. */
  | { readonly kind: "floats"; readonly value: Wire; readonly floats: readonly string[] }
  /** A scheduler that the other end has not seen yet. */
  | ({ readonly kind: "scheduler"; readonly id: number } & SchedulerState)
  /** Something that both ends know by this number. */
  | { readonly kind: "object"; readonly id: number }
  /** `state`: where it stands; left out while the worker knows it better than the page. */
  | { readonly kind: "generator"; readonly id: number; readonly state?: Uint8Array }
  /** Of the page. `isProgress`: told, and not awaited. */
  | { readonly kind: "function"; readonly id: number; readonly isProgress: boolean }
  /** An object of the page's with asynchronous methods, such as a folder to write to. */
  | { readonly kind: "methods"; readonly methods: Readonly<Record<string, Wire>> }
  | { readonly kind: "signal"; readonly id: number }
  | { readonly kind: "error"; readonly error: SerializedError }
  | { readonly kind: "url"; readonly href: string }
  /** An address below the page, under the name that it was written with. */
  | { readonly kind: "folder"; readonly href: string; readonly name: string; readonly token?: string | undefined };

export interface SchedulerState {
  readonly className: string;
  readonly config: Wire;
  /** Its own properties, as far as they are data. */
  readonly state: Readonly<Record<string, Wire>>;
}

/** A thrown value. */
export interface WireError {
  readonly error: SerializedError;
  /** The place in the call's list of what the page itself threw or aborted with: the page throws that very value again. */
  readonly origin?: number | undefined;
}

/** What is told of an object in the worker that the page has a counterpart of. */
export type Description = PipelineDescription | SchedulerDescription | ObjectDescription;

interface Described {
  readonly id: number;
  readonly className: string;
  /** Left out while it is as it was. */
  readonly config?: Wire;
}

export interface PipelineDescription extends Described {
  readonly kind: "pipeline";
  /** Its own properties, as far as they are data. */
  readonly fields: Readonly<Record<string, Wire>>;
  readonly components: Readonly<Record<string, Wire>>;
}

export interface SchedulerDescription extends Described {
  readonly kind: "scheduler";
  readonly state: Readonly<Record<string, Wire>>;
}

/** A model, a tokenizer, and what else has methods. */
export interface ObjectDescription extends Described {
  readonly kind: "object";
  /** Its own properties and getters, as far as they are data. */
  readonly fields: Readonly<Record<string, Wire>>;
  /** Told once. */
  readonly shape?: { readonly isCallable: boolean; readonly methods: readonly string[] } | undefined;
  /** A result, which the worker keeps until the page lets go of it. */
  readonly isTransient: boolean;
}

/** How things stand in the worker. */
export interface State {
  readonly generators: readonly (readonly [id: number, state: Uint8Array])[];
  readonly objects: readonly Description[];
  /** How many of the page's assignments it takes account of. */
  readonly assignments: number;
}

export interface CallRequest {
  readonly call: number;
  /** A class's name, or the number of an object. */
  readonly target: string | number;
  /** null: the target itself is called. */
  readonly method: string | null;
  readonly args: readonly Wire[];
}

/** How a call ended. */
export interface Outcome extends State {
  readonly value?: Wire;
  readonly error?: WireError;
  /** Whether a pipeline has a model that is not disposed. */
  readonly isAlive: boolean;
}

/** What a function of the page gave. */
export interface Reply {
  readonly value?: Wire;
  readonly error?: WireError;
  /** Those that the function drew from. */
  readonly generators: readonly (readonly [id: number, state: Uint8Array])[];
}

/** What the worker does for the page. */
export interface WorkerApi {
  /** @param lock held for as long as the worker lives, where there are locks */
  hello(lock: string): Promise<{ readonly isLocked: boolean }>;
  call(request: CallRequest): Promise<Outcome>;
  /** Assigns to a property of an object. */
  assign(id: number, name: string, value: Wire): void;
  abort(call: number, signal: number, reason: WireError): void;
  /** Lets go of what the page no longer refers to. */
  release(what: "generator" | "object", id: number): void;
}

/** What the page does for the worker. */
export interface PageApi {
  invoke(call: number, id: number, args: readonly Wire[], state: State): Promise<Reply>;
  progress(id: number, args: readonly Wire[]): void;
}
