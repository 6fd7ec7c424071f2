import {
  ConfigMixin,
  deserializeError,
  Generator,
  openSource,
  type Scheduler,
  type Source,
  serializeError,
  Tensor,
  UnsupportedModelError,
} from "@diffusers-web/core";
import { type Endpoint, expose, type Remote, transfer, wrap } from "comlink";
import { componentRegistry } from "../component_registry.ts";
import { isModel } from "../pipeline_loading_utils.ts";
import { DiffusionPipeline } from "../registry.ts";
import {
  decode,
  encode,
  isData,
  isInstance,
  isPlainObject,
  isScheduler,
  makeScheduler,
  type Packing,
  schedulerState,
  tagged,
} from "./codec.ts";
import type {
  CallRequest,
  Description,
  Outcome,
  PageApi,
  Payload,
  State,
  Wire,
  WireError,
  WorkerApi,
} from "./protocol.ts";

/**
 * Makes a worker one that pipelines can live in: the whole of a worker script of one's own, for
 * `from_pretrained(id, { worker: () => new Worker(...) })`.
 *
 * @param endpoint where the page is. Default: the worker's own scope
 * @example
 * ```ts
 * import { serveWorker } from "@diffusers-web/pipelines";
 *
 * serveWorker();
 * ```
 */
export function serveWorker(endpoint: Endpoint | MessagePort = globalThis as unknown as Endpoint): void {
  expose(new Host(wrap<PageApi>(endpoint as Endpoint)), endpoint as Endpoint);
}

type Target = Record<string, unknown> & ((...args: unknown[]) => unknown);

/** A call under way. */
interface Call {
  readonly id: number;
  readonly signals: Map<number, AbortController>;
  readonly generators: Map<number, Generator>;
  readonly target: object | undefined;
}

class Host implements WorkerApi {
  private readonly objects = new Map<number, object>();
  private readonly ids = new WeakMap<object, number>();
  private lastId = 0;
  /** The configs as the page has them, by what they are of. */
  private readonly told = new WeakMap<object, object>();
  private readonly generators = new Map<number, Generator>();
  private readonly calls = new Map<number, Call>();
  private assignments = 0;
  /** The page's own errors, with their places in a call's list. */
  private readonly origins = new WeakMap<object, { readonly call: number; readonly origin: number }>();

  constructor(private readonly page: Remote<PageApi>) {}

  async hello(lock: string): Promise<{ readonly isLocked: boolean }> {
    const { locks } = globalThis.navigator ?? {};
    const isLocked = await new Promise<boolean>((resolve) => {
      const held = locks?.request(lock, () => {
        resolve(true);
        return new Promise(() => {});
      });
      // Without locks, as in a sandboxed frame, the page learns of the worker's errors alone.
      if (held === undefined) resolve(false);
      else held.catch(() => resolve(false));
    });
    return { isLocked };
  }

  async call({ call: id, target, method, args }: CallRequest): Promise<Outcome> {
    const object = typeof target === "number" ? this.objects.get(target) : undefined;
    const call: Call = { id, signals: new Map(), generators: new Map(), target: object };
    this.calls.set(id, call);
    const packing = { isMoved: method === null, transfer: new Set<ArrayBuffer>() };
    const objects: Description[] = [];
    let result: Pick<Outcome, "value" | "error">;
    try {
      const receiver = (object ?? (await classNamed(target))) as Target;
      const decoded = args.map((arg) => this.decode(arg, call));
      const value: unknown = await (method === null ? receiver(...decoded) : (receiver[method] as Target)(...decoded));
      // What a class made is there to stay, other results come and go.
      const how = this.packing(packing, objects, typeof target === "string");
      result = { value: encode(value, how, "the result") };
    } catch (error) {
      result = { error: this.wireError(error, id) };
    } finally {
      this.calls.delete(id);
    }
    const outcome = { ...result, ...this.state(call, objects, true), isAlive: this.isAlive() };
    return transfer(outcome, [...packing.transfer]);
  }

  assign(id: number, name: string, value: Wire): void {
    this.assignments += 1;
    (this.objects.get(id) as Target)[name] = this.decode(value, undefined);
  }

  abort(call: number, signal: number, reason: WireError): void {
    this.calls.get(call)?.signals.get(signal)?.abort(this.pageError(reason, call));
  }

  release(what: "generator" | "object", id: number): void {
    (what === "generator" ? this.generators : this.objects).delete(id);
  }

  /** Whether a pipeline has a model that is not disposed. */
  private isAlive(): boolean {
    const pipelines = [...this.objects.values()].filter((one) => one instanceof DiffusionPipeline);
    return pipelines.some(({ components }) =>
      Object.values(components).some((one) => (one as { is_disposed?: boolean } | null)?.is_disposed === false),
    );
  }

  // What goes to the page

  private packing(packing: Packing, objects: Description[], isKept = false): Packing {
    return {
      ...packing,
      encode: (value) => {
        if (!isInstance(value)) return undefined;
        return tagged({
          kind: "object",
          id: this.describe(value, objects, isKept || hasConfig(value) || isModel(value)),
        });
      },
    };
  }

  /** How things stand, with what a call has changed. @param isWhole whether models are told of as well */
  private state({ generators, target }: Call, objects: Description[], isWhole: boolean): State {
    if (target instanceof DiffusionPipeline) {
      for (const component of Object.values(target.components)) {
        if (component !== null && (isWhole || isScheduler(component))) this.describe(component, objects, true);
      }
    }
    if (target !== undefined && this.ids.has(target)) this.describe(target, objects, true);
    return {
      generators: [...generators].map(([id, generator]) => [id, generator.get_state().data] as const),
      objects,
      assignments: this.assignments,
    };
  }

  /**
   * Adds what the page has to know of an object.
   *
   * @param isKept whether the object goes by the same number from now on; else it is a result, new each time
   * @returns its number
   */
  private describe(object: object, objects: Description[], isKept: boolean): number {
    const known = this.ids.get(object);
    if (known !== undefined && objects.some(({ id }) => id === known)) return known;
    this.lastId += 1;
    const id = known ?? this.lastId;
    this.objects.set(id, object);
    if (isKept) this.ids.set(object, id);
    const packing: Packing = { isMoved: false, transfer: new Set() };
    const wires = (values: Iterable<readonly [string, unknown]>, how: Packing): Record<string, Wire> =>
      Object.fromEntries([...values].map(([name, value]) => [name, encode(value, how, name)]));
    const { config } = object as { readonly config?: object };
    const changed =
      config === undefined || this.told.get(object) === config ? {} : wires([["config", config]], packing);
    if (config !== undefined) this.told.set(object, config);
    const shared = { id, className: object.constructor.name, ...changed };

    if (isScheduler(object)) {
      objects.push({ kind: "scheduler", ...shared, state: schedulerState(object).state });
    } else if (object instanceof DiffusionPipeline) {
      const { components } = object;
      const own = Object.entries(object).flatMap(([name, value]): [string, unknown][] => {
        if (name === "_config" || Object.hasOwn(components, name)) return [];
        const visible = hasConfig(value) ? value : plainPart(value);
        return visible === undefined ? [] : [[name, visible]];
      });
      const parts = Object.entries(components).map(([name, component]): [string, Wire] => [
        name,
        component && tagged({ kind: "object", id: this.ids.get(component) ?? this.describe(component, objects, true) }),
      ]);
      const fields = wires(own, this.packing(packing, objects));
      objects.push({ kind: "pipeline", ...shared, fields, components: Object.fromEntries(parts) });
    } else {
      const shape = known === undefined ? shapeOf(object) : undefined;
      const fields = wires(fieldsOf(object, isKept), packing);
      objects.push({ kind: "object", ...shared, fields, shape, isTransient: !isKept });
    }
    return id;
  }

  private wireError(error: unknown, call: number): WireError {
    const from = typeof error === "object" && error !== null ? this.origins.get(error) : undefined;
    return { error: serializeError(error), ...(from?.call === call ? { origin: from.origin } : {}) };
  }

  // What comes from the page

  private decode(wire: Wire, call: Call | undefined): unknown {
    return decode(wire, (payload) => this.decodeOwn(payload, call));
  }

  private decodeOwn(payload: Payload, call: Call | undefined): unknown {
    switch (payload.kind) {
      case "object":
        return this.objects.get(payload.id);
      case "scheduler": {
        const scheduler = makeScheduler(payload);
        this.keep(payload.id, scheduler);
        return scheduler;
      }
      case "folder":
        return namedFolder(payload);
      case "function": {
        const { id, isProgress } = payload;
        return isProgress ? this.listener(id) : this.stub(id, call!);
      }
      case "methods":
        return this.decode(payload.methods, call);
      case "generator": {
        const { id, state } = payload;
        const generator = state === undefined ? this.generators.get(id)! : withState(new Generator(), state);
        this.generators.set(id, generator);
        call?.generators.set(id, generator);
        return generator;
      }
      case "signal": {
        const controller = new AbortController();
        call?.signals.set(payload.id, controller);
        return controller.signal;
      }
      default:
        throw new TypeError(`The page sent a ${payload.kind}, which the worker does not expect.`);
    }
  }

  /** Something that the page made, under a number of its own. */
  private keep(id: number, object: Scheduler): void {
    this.objects.set(id, object);
    this.ids.set(object, id);
    this.told.set(object, (object as unknown as ConfigMixin<object>).config);
  }

  private listener(id: number): (...args: unknown[]) => void {
    return (...args) => {
      const packing: Packing = { isMoved: false, transfer: new Set() };
      // The page reports what its listeners throw.
      void this.page.progress(id, encode(args, packing, "progress") as Wire[]);
    };
  }

  private stub(id: number, call: Call): (...args: unknown[]) => Promise<unknown> {
    return async (...args) => {
      const objects: Description[] = [];
      const packing: Packing = { isMoved: false, transfer: new Set() };
      const packed = encode(args, this.packing(packing, objects), "the callback's arguments") as Wire[];
      const state = this.state(call, objects, false);
      const reply = await this.page.invoke(call.id, id, transfer(packed, [...packing.transfer]), state);
      for (const [one, bytes] of reply.generators) {
        withState(call.generators.get(one)!, bytes);
      }
      if (reply.error !== undefined) throw this.pageError(reply.error, call.id);
      return this.decode(reply.value, call);
    };
  }

  private pageError({ error, origin }: WireError, call: number): Error {
    const rebuilt = deserializeError(error);
    if (origin !== undefined) this.origins.set(rebuilt, { call, origin });
    return rebuilt;
  }
}

function withState(generator: Generator, state: Uint8Array): Generator {
  return generator.set_state(new Tensor("uint8", state, [state.length]));
}

function hasConfig(value: unknown): boolean {
  return typeof (value as { readonly to_json_string?: unknown } | null)?.to_json_string === "function";
}

/** The class that a page asks for. @throws UnsupportedModelError for one that is not known here. */
async function classNamed(name: string | number): Promise<object> {
  if (typeof name === "number") throw new UnsupportedModelError("What the page refers to is no longer in the worker.");
  if (name === DiffusionPipeline.name) return DiffusionPipeline;
  if (Object.hasOwn(DiffusionPipeline.registry, name)) return DiffusionPipeline.registry[name]!();
  if (Object.hasOwn(componentRegistry, name)) return componentRegistry[name]!.load();
  const autoPipelines: Readonly<Record<string, object>> = await import("../auto_pipeline.ts");
  if (Object.hasOwn(autoPipelines, name)) return autoPipelines[name]!;
  throw new UnsupportedModelError(
    `The worker knows no class ${name}. One of your own is put into DiffusionPipeline.registry by a worker script of your own: ` +
      "{ worker: () => new Worker(...) }, and serveWorker() in it.",
    { className: name, field: "worker", found: name, expected: Object.keys(DiffusionPipeline.registry).join(", ") },
  );
}

/** A folder below the page, which calls itself as it was written there. */
function namedFolder({ href, name, token }: Extract<Payload, { kind: "folder" }>): Source {
  const opened = openSource(href, token === undefined ? {} : { token });
  return { name, open: async (path, options) => (await opened).open(path, options) };
}

/** What of a value is plain data: numbers, texts, lists and objects of them; undefined when nothing is. */
function plainPart(value: unknown): unknown {
  if (Array.isArray(value)) return value.every((item) => plainPart(item) !== undefined) ? value : undefined;
  if (!isPlainObject(value)) return isData(value) && (typeof value !== "object" || value === null) ? value : undefined;
  const entries = Object.entries(value).map(([name, item]) => [name, plainPart(item)] as const);
  const plain = entries.filter(([, item]) => item !== undefined);
  return plain.length === 0 && entries.length > 0 ? undefined : Object.fromEntries(plain);
}

/** What is there to see of an object: its own properties and its getters, as far as they are data. */
function fieldsOf(object: object, isKept: boolean): [string, unknown][] {
  // Of a model or a tokenizer, tables are its own affair; a result is all there is of it.
  const ofOwn = (value: unknown): unknown => {
    if (!isKept) return isData(value) ? value : undefined;
    return typeof value === "object" && value !== null ? undefined : plainPart(value);
  };
  const own = Object.entries(object).map(([name, value]) => [name, ofOwn(value)] as const);
  const getters = chainOf(object).flatMap((prototype) =>
    Object.entries(Object.getOwnPropertyDescriptors(prototype)).filter(([, { get }]) => get !== undefined),
  );
  const got = getters.map(([name]): [string, unknown] => {
    try {
      return [name, plainPart((object as Record<string, unknown>)[name])];
    } catch {
      // A getter that throws, as a disposed model's device does, has nothing to show.
      return [name, undefined];
    }
  });
  return [...new Map([...own, ...got])].filter(([, value]) => value !== undefined);
}

/** Whether an object is called, and the names of its methods. */
function shapeOf(object: object): { readonly isCallable: boolean; readonly methods: readonly string[] } {
  const methods = chainOf(object).flatMap((prototype) =>
    Object.entries(Object.getOwnPropertyDescriptors(prototype)).flatMap(([name, { value }]) =>
      typeof value === "function" && name !== "constructor" ? [name] : [],
    ),
  );
  return { isCallable: typeof object === "function", methods: [...new Set(methods)] };
}

/** The prototypes of an object's classes, up to what the page has itself. */
function chainOf(object: object): object[] {
  const chain: object[] = [];
  for (
    let prototype: object = Object.getPrototypeOf(object);
    prototype !== null && prototype !== ConfigMixin.prototype && prototype !== Object.prototype;
    prototype = Object.getPrototypeOf(prototype)
  ) {
    chain.push(prototype);
  }
  return chain;
}
