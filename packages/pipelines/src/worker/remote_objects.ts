import { ConfigMixin, makeCallable } from "@diffusers-web/core";
import type { Component } from "../pipeline_components.ts";
import type { DiffusionPipeline, PipelineClass } from "../pipeline_utils.ts";
import type { ObjectDescription } from "./protocol.ts";
import { remotes } from "./remotes.ts";

/** What stands for something in a worker tells this what is done to it. */
export interface Owner {
  call(object: object, method: string | null, args: readonly unknown[]): Promise<unknown>;
  /** @throws TypeError at once for a value that cannot be passed */
  assign(object: object, name: string, value: unknown): void;
  /** A pipeline of another one's components, in its worker. */
  fromPipe(cls: PipelineClass, pipeline: object, options: object): Promise<unknown>;
}

type Values = Readonly<Record<string, unknown>>;

/** A pipeline as its own class sees it, private parts included. */
interface Internals {
  register_modules(modules: Readonly<Record<string, Component | null>>): void;
}

/** What is data of an object, by name, and how its components are set without telling the worker. */
interface Mirror {
  readonly fields: Map<string, unknown>;
  readonly setComponent: Map<string, (value: Component | null) => void>;
}

const mirrors = /* @__PURE__ */ new WeakMap<object, Mirror>();
const facades = /* @__PURE__ */ new WeakMap<PipelineClass, object>();

/** Run here: they only concern what is mirrored. */
const localMethods: readonly string[] = ["constructor", "register_modules"];

/**
 * A pipeline that stands for one in a worker: an instance of its class, whose getters run here, over what is mirrored, and
 * whose methods run there.
 */
export function remotePipeline(cls: PipelineClass, owner: Owner): DiffusionPipeline {
  let facade = facades.get(cls);
  if (facade === undefined) {
    facade = Object.create(cls.prototype as object) as object;
    for (const name of methodsOf(cls.prototype as object)) {
      if (!localMethods.includes(name)) defineMethod(facade, name);
    }
    facades.set(cls, facade);
  }
  const pipeline = makeCallable(Object.create(facade) as DiffusionPipeline, (self, args) =>
    owner.call(self, null, args),
  );
  remotes.set(pipeline, owner);
  mirrors.set(pipeline, { fields: new Map(), setComponent: new Map() });
  return pipeline;
}

/** Something else that stands for its like in a worker: it has the methods of its class, and its config, but not its class. */
export function remoteObject({ className, config, shape }: ObjectDescription, owner: Owner): object {
  const { isCallable = false, methods = [] } = shape ?? {};
  const prototype = Object.create(config === undefined ? Object.prototype : ConfigMixin.prototype, {
    constructor: { value: { name: className } },
  }) as object;
  for (const name of methods) defineMethod(prototype, name);
  if (methods.includes("dispose")) {
    const dispose = function (this: { dispose(): Promise<void> }): Promise<void> {
      return this.dispose();
    };
    Object.defineProperty(prototype, Symbol.asyncDispose, { value: dispose });
  }
  const bare = Object.create(prototype) as object;
  const object = isCallable ? makeCallable(bare, (self, args) => owner.call(self, null, args)) : bare;
  remotes.set(object, owner);
  mirrors.set(object, { fields: new Map(), setComponent: new Map() });
  return object;
}

/** Brings the mirrored data up to date. Assigning to it is told to the worker. */
export function refreshFields(object: object, values: Values): void {
  const { fields } = mirrors.get(object)!;
  for (const [name, value] of Object.entries(values)) {
    const isNew = !fields.has(name);
    fields.set(name, value);
    if (!isNew) continue;
    Object.defineProperty(object, name, {
      enumerable: true,
      configurable: true,
      get: () => fields.get(name),
      set: (assigned: unknown) => {
        remotes.get(object)!.assign(object, name, assigned);
        fields.set(name, assigned);
      },
    });
  }
}

/** Brings a pipeline's components up to date. Assigning to one is told to the worker. */
export function refreshComponents(pipeline: DiffusionPipeline, components: Values): void {
  const { setComponent } = mirrors.get(pipeline)!;
  for (const [name, value] of Object.entries(components) as [string, Component | null][]) {
    const set = setComponent.get(name);
    if (set !== undefined) {
      if (pipeline.components[name] !== value) set(value);
      continue;
    }
    (pipeline as unknown as Internals).register_modules({ [name]: value });
    const own = Object.getOwnPropertyDescriptor(pipeline, name)!;
    setComponent.set(name, own.set as (value: Component | null) => void);
    Object.defineProperty(pipeline, name, {
      ...own,
      set: (assigned: Component | null) => {
        remotes.get(pipeline)!.assign(pipeline, name, assigned);
        own.set!(assigned);
      },
    });
  }
}

function defineMethod(target: object, name: string): void {
  const method = function (this: object, ...args: unknown[]): Promise<unknown> {
    return remotes.get(this)!.call(this, name, args);
  };
  Object.defineProperty(target, name, { value: method, writable: true, configurable: true });
}

/** The names of the methods of a pipeline's class, and of those above it that are pipelines' as well. */
function methodsOf(prototype: object): Set<string> {
  const names = new Set<string>();
  for (let one = prototype; one !== ConfigMixin.prototype; one = Object.getPrototypeOf(one) as object) {
    for (const [name, { value }] of Object.entries(Object.getOwnPropertyDescriptors(one))) {
      if (typeof value === "function") names.add(name);
    }
  }
  return names;
}
