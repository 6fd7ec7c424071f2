import type { ConfigMixin } from "@diffusers-web/core";
import type { DiffusionPipeline, PipelineClass } from "../pipeline_utils.ts";
import { decode, isScheduler, makeScheduler } from "./codec.ts";
import type { State, Wire } from "./protocol.ts";
import { type Owner, refreshComponents, refreshFields, remoteObject, remotePipeline } from "./remote_objects.ts";
import { remotes } from "./remotes.ts";

/** Finds the class of a pipeline. */
export type ClassLookup = (name: string) => Promise<PipelineClass>;

/** What the page has that stands for something in a worker, by the numbers that both know it by. */
export class PageObjects {
  private readonly objects = new Map<number, object>();
  private readonly ids = new WeakMap<object, number>();
  /** The schedulers' configs as the worker has them. */
  private readonly configs = new WeakMap<object, object>();
  private assignments = 0;
  /** The last assignment to an object: what the worker told before it is out of date. */
  private readonly assigned = new Map<number, number>();
  private readonly letGo: FinalizationRegistry<number>;

  /** @param release tells the worker of a result that the page no longer refers to */
  constructor(
    private readonly owner: Owner,
    release: (id: number) => void,
  ) {
    this.letGo = new FinalizationRegistry(release);
  }

  idOf(object: object): number | undefined {
    return this.ids.get(object);
  }

  keep(id: number, object: object): void {
    this.objects.set(id, object);
    this.ids.set(object, id);
    if (isScheduler(object)) this.configs.set(object, configOf(object));
    // Schedulers are the page's own, and may go elsewhere as well.
    else remotes.set(object, this.owner);
  }

  /** Notes that the page assigns to a property of an object. */
  noteAssignment(id: number): void {
    this.assignments += 1;
    this.assigned.set(id, this.assignments);
  }

  /** The schedulers of a pipeline whose configs were changed in the page, with their configs, once. */
  changedConfigs(object: object): (readonly [scheduler: object, config: object])[] {
    const components = "components" in object ? Object.values((object as DiffusionPipeline).components) : [];
    return components.flatMap((one) => {
      if (one === null || !isScheduler(one) || this.configs.get(one) === configOf(one)) return [];
      this.configs.set(one, configOf(one));
      return [[one, configOf(one)] as const];
    });
  }

  decode(wire: Wire, fresh: ReadonlyMap<number, object>): unknown {
    return decode(wire, (payload) => {
      if (payload.kind === "object") return fresh.get(payload.id) ?? this.objects.get(payload.id);
      throw new TypeError(`The worker sent a ${payload.kind}, which the page does not expect.`);
    });
  }

  /**
   * Brings everything up to date.
   *
   * @param lookUp for a call that makes a pipeline
   * @returns the results that were told of, by number
   */
  async update({ objects, assignments }: State, lookUp?: ClassLookup): Promise<Map<number, object>> {
    const classes = new Map<string, PipelineClass>();
    for (const { id, kind, className } of objects) {
      if (kind === "pipeline" && !this.objects.has(id)) classes.set(className, await lookUp!(className));
    }
    const fresh = new Map<number, object>();
    const values = (wires: Wire): Record<string, unknown> => this.decode(wires, fresh) as Record<string, unknown>;
    for (const one of objects) {
      let object = this.objects.get(one.id);
      // An assignment that the worker had not heard of yet.
      const isStale = object !== undefined && (this.assigned.get(one.id) ?? 0) > assignments;
      const config = one.config === undefined ? undefined : values(one.config);
      switch (one.kind) {
        case "scheduler":
          object ??= makeScheduler({ ...one, config: one.config });
          Object.assign(object, values(one.state));
          break;
        case "pipeline":
          object ??= remotePipeline(classes.get(one.className)!, this.owner);
          if (!isStale) refreshComponents(object as DiffusionPipeline, values(one.components));
          else if (config !== undefined) for (const name of Object.keys(one.components)) delete config[name];
          if (!isStale) refreshFields(object, values(one.fields));
          break;
        case "object":
          object ??= remoteObject(one, this.owner);
          if (!isStale) refreshFields(object, values(one.fields));
      }
      if (config !== undefined) (object as ConfigMixin<object>).register_to_config(config);
      if (one.kind === "object" && one.isTransient) {
        fresh.set(one.id, object);
        this.ids.set(object, one.id);
        remotes.set(object, this.owner);
        this.letGo.register(object, one.id);
      } else this.keep(one.id, object);
    }
    return fresh;
  }
}

function configOf(object: object): object {
  return (object as ConfigMixin<object>).config;
}
