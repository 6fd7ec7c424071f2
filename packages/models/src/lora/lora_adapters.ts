import { Tensor, ValueError } from "@diffusers-web/core";
import type { GraphBuilder } from "../graph/builder.ts";
import type { Weights } from "../weights.ts";
import { attach, type LoraPart } from "./attach.ts";
import { blockOf, type LoraWeight, scaleOfLayers } from "./block_scales.ts";
import { checkFit } from "./check_fit.ts";
import { checkBias, checkNumbers, type FusedLora, fusedWeights } from "./fused_weights.ts";
import { LoraAdapter, type LoraSource } from "./lora_adapter.ts";
import type { LoraHost } from "./lora_host.ts";

/** A layer that adapters change. @see PEFT `LoraLayer` */
interface Layer {
  /** By adapter: its weight times alpha / rank. */
  readonly scaling: Map<string, number>;
  active: readonly string[];
  isDisabled: boolean;
}

/** What was added to a layer's weight. */
interface Merged extends FusedLora {
  /** Whether it stays for good: the adapter was unloaded, or deleted and unfused. */
  isFinal: boolean;
}

/** What a session is built of, and what it is fed. */
export interface LoraGraph {
  /** Tells graphs apart. */
  readonly version: number;
  /** Makes `g` emit the adapters beside the layers. */
  attach(g: GraphBuilder): void;
  /** The model's weights, with what is fused. */
  weights(base: Weights): Weights;
  readonly feeds: Readonly<Record<string, Tensor>>;
}

/** Layers whose changes one adapter always scales alike: one entry of the graph's input. */
interface Group {
  readonly name: string;
  readonly layer: Layer;
}

/** What the graph depends on besides the model: which layer is changed by what. */
interface Structure {
  readonly version: number;
  readonly groups: readonly Group[];
  /** By layer. */
  readonly parts: ReadonlyMap<string, readonly LoraPart[]>;
  readonly fused: ReadonlyMap<string, readonly FusedLora[]>;
}

/**
 * The LoRA adapters of one model. Loading, deleting and fusing change its graph, which is then built anew, out of files that
 * are still open; weights of adapters are an input of the graph.
 *
 * As in PEFT, each layer knows which adapters are active in it.
 *
 * @see Diffusers `PeftAdapterMixin`; Hu et al., https://arxiv.org/abs/2106.09685
 */
export class LoraAdapters {
  private readonly adapters = new Map<string, LoraAdapter>();
  private readonly layers = new Map<string, Layer>();
  private readonly merged = new Map<string, Merged[]>();
  /** Those whose files are open: what is fused needs its adapter's. */
  private readonly open = new Set<LoraAdapter>();
  private structure: Structure | undefined;
  private version = 0;
  private loaded = 0;

  constructor(private readonly host: LoraHost) {}

  /** The adapters' names, in the order in which they were loaded. */
  get names(): string[] {
    return [...this.adapters.keys()];
  }

  /** The names of those that are used; of none, when there is no adapter. @see PEFT `BaseTunerLayer.active_adapters` */
  get active_adapters(): string[] {
    const first = [...this.layers.values()].find(({ scaling }) => scaling.size > 0);
    return [...(first?.active ?? [])];
  }

  /** The names of the adapters that are in the model's weights. */
  get fused_loras(): string[] {
    return [...new Set([...this.merged.values()].flat().map(({ name }) => name))];
  }

  /**
   * Checks that an adapter fits the model, which does not change yet.
   *
   * @param name null: `default_0`, `default_1` ...
   * @returns what adds it, and makes it the only active one
   * @throws ValueError for a name that is in use, WeightsMismatchError naming the first tensor that does not fit.
   */
  prepare(name: string | null, source: LoraSource): () => void {
    const chosen = name ?? this.freeName();
    if (this.adapters.has(chosen)) {
      throw new ValueError(
        `Adapter name ${chosen} is already in use in the ${this.host.className}: choose another, or delete it first ` +
          `(its adapters: ${this.names.join(", ")}).`,
        { className: this.host.className, field: "adapter_name", found: chosen, expected: "a name that is not in use" },
      );
    }
    const adapter = new LoraAdapter(source, `lora_${this.loaded++}:`);
    checkFit(adapter, this.host);
    return () => this.add(chosen, adapter);
  }

  /**
   * Checks weights of adapters.
   *
   * @param names those that count from then on; those that the model does not have are left out
   * @param weights one for each name, null for 1
   * @returns what makes these the active ones
   * @throws ValueError for weights of blocks that the model does not have, and for what is no number.
   * @see Diffusers `PeftAdapterMixin.set_adapters`
   */
  prepare_weights(names: readonly string[], weights: readonly (LoraWeight | null)[]): () => void {
    const scales = weights.map((weight) => scaleOfLayers(weight ?? 1, this.host));
    return () => {
      for (const [module, layer] of this.layers) {
        layer.active = names;
        names.forEach((name, i) => {
          if (!layer.scaling.has(name)) return;
          layer.scaling.set(name, scales[i]!(module) * this.adapters.get(name)!.factor(module));
        });
      }
    };
  }

  /** @see Diffusers `PeftAdapterMixin.enable_lora` */
  enable_lora(): void {
    for (const layer of this.layers.values()) layer.isDisabled = false;
  }

  /**
   * What is fused is taken out of the weights as well, when the model is next called: as PEFT does.
   *
   * @see Diffusers `PeftAdapterMixin.disable_lora`
   */
  disable_lora(): void {
    for (const layer of this.layers.values()) layer.isDisabled = true;
  }

  /**
   * Deletes adapters. What they have in fused weights stays. Layers without an active one left use another of theirs.
   *
   * @see Diffusers `PeftAdapterMixin.delete_adapters`
   */
  delete_adapters(names: readonly string[]): void {
    for (const name of names) {
      // One that the model does not have may be what its layers were told to use.
      this.adapters.delete(name);
      const successors = new Set<string>();
      for (const layer of this.layers.values()) {
        layer.scaling.delete(name);
        if (!layer.active.includes(name)) continue;
        layer.active = layer.active.filter((one) => one !== name);
        if (layer.active.length > 0) continue;
        const [next] = [...layer.scaling.keys()].sort();
        if (next === undefined) continue;
        layer.active = [next];
        successors.add(next);
      }
      if (successors.size > 0) {
        console.warn(
          `Adapter ${name}, which is deleted, was active: ${[...successors].join(", ")} of the ${this.host.className} is now.`,
        );
      }
    }
    this.change();
  }

  /** Takes all adapters away. What is fused stays in the weights, for good. @see Diffusers `PeftAdapterMixin.unload_lora` */
  unload_lora(): void {
    this.adapters.clear();
    this.layers.clear();
    for (const one of [...this.merged.values()].flat()) one.isFinal = true;
    this.change();
  }

  /**
   * Adds adapters to the model's weights, as these are read: running them costs nothing more then. A layer with something in
   * its weight uses no adapter beside it, as in PEFT.
   *
   * @param lora_scale a further factor of the active adapters, which they keep
   * @param safe_fusing whether to look for what is no number first
   * @param adapter_names default: the active ones
   * @throws ValueError when the sum is no number somewhere (with `safe_fusing`), or for a bias that a layer has no place for.
   * @see Diffusers `PeftAdapterMixin.fuse_lora`
   */
  fuse_lora(lora_scale: number, safe_fusing: boolean, adapter_names: readonly string[] | undefined): void {
    const additions: [module: string, parts: Merged[]][] = [];
    for (const [module, layer] of this.layers) {
      const before = this.mergedIn(module).map(({ name }) => name);
      const parts = (adapter_names ?? layer.active)
        .filter((name) => layer.scaling.has(name) && !before.includes(name))
        .map((name) => {
          const by = layer.active.includes(name) ? lora_scale : 1;
          const factor = layer.scaling.get(name)! * by;
          return { name, adapter: this.adapters.get(name)!, factor, isFinal: false };
        });
      if (parts.length > 0) additions.push([module, parts]);
    }
    for (const [module, parts] of additions) checkBias(this.host, module, parts);
    if (safe_fusing) {
      for (const [module, parts] of additions) {
        checkNumbers(this.host, module, [...(this.merged.get(module) ?? []), ...parts]);
      }
    }

    for (const { active, scaling } of this.layers.values()) {
      for (const name of active) {
        if (scaling.has(name)) scaling.set(name, scaling.get(name)! * lora_scale);
      }
    }
    for (const [module, parts] of additions) this.merged.set(module, [...(this.merged.get(module) ?? []), ...parts]);
    this.change();
  }

  /** Gives the weights back as they were, but for what deleted adapters left. @see Diffusers `PeftAdapterMixin.unfuse_lora` */
  unfuse_lora(): void {
    this.unfuse(() => true);
  }

  /**
   * The model's graph as it is now.
   *
   * @param scale a further factor of all adapters that are active
   */
  graph(scale: number): LoraGraph {
    const isOff = (module: string): boolean => this.layers.get(module)?.isDisabled === true;
    if ([...this.layers.keys()].some((module) => isOff(module) && this.mergedIn(module).length > 0)) this.unfuse(isOff);
    const { version, groups, parts, fused } = this.current;
    const values = groups.map(({ name, layer: { active, isDisabled, scaling } }) =>
      isDisabled || !active.includes(name) ? 0 : scaling.get(name)! * scale,
    );
    return {
      version,
      attach: (g) => attach(g, parts, groups.length),
      weights: (base) => (fused.size === 0 ? base : fusedWeights(base, fused)),
      feeds: { lora_scales: new Tensor("float32", values, [values.length]) },
    };
  }

  /** The model's weights with what is fused, in the types of the file. */
  saved(base: Weights): Weights {
    return this.merged.size === 0 ? base : fusedWeights(base, this.merged, true);
  }

  /** Closes the adapters' files. */
  close(): void {
    for (const adapter of this.open) adapter.close();
    this.open.clear();
    this.adapters.clear();
    this.layers.clear();
    this.merged.clear();
    this.change();
  }

  private add(name: string, adapter: LoraAdapter): void {
    // PEFT's model as a whole is set to the new adapter, and that takes what is fused out of the weights.
    if ([...this.merged.values()].flat().some(({ isFinal }) => !isFinal)) {
      console.warn(
        `The fused adapters of the ${this.host.className} are unfused, as ${name} is loaded. Call unload_lora_weights() ` +
          "before, to keep them in the weights, or fuse_lora({ adapter_names }) again.",
      );
      this.unfuse_lora();
    }
    this.adapters.set(name, adapter);
    this.open.add(adapter);
    for (const module of adapter.modules.keys()) {
      const layer = this.layers.get(module) ?? { scaling: new Map(), active: [], isDisabled: false };
      this.layers.set(module, layer);
      layer.scaling.set(name, adapter.factor(module));
    }
    for (const layer of this.layers.values()) layer.active = [name];
    this.change();
  }

  private unfuse(isMeant: (module: string) => boolean): void {
    for (const [module, parts] of this.merged) {
      if (!isMeant(module)) continue;
      const left = parts.filter(({ name, adapter, isFinal }) => isFinal || this.adapters.get(name) !== adapter);
      for (const one of left) one.isFinal = true;
      if (left.length > 0) this.merged.set(module, left);
      else this.merged.delete(module);
    }
    this.change();
  }

  /** What is in the weight of a layer and can be taken out again. */
  private mergedIn(module: string): readonly Merged[] {
    return (this.merged.get(module) ?? []).filter(({ isFinal }) => !isFinal);
  }

  private freeName(): string {
    let number = this.adapters.size;
    while (this.adapters.has(`default_${number}`)) number++;
    return `default_${number}`;
  }

  /** Notes that the graph is another one now, and closes files that it does not need. */
  private change(): void {
    this.version++;
    this.structure = undefined;
    const needed = new Set(this.adapters.values());
    for (const { adapter } of [...this.merged.values()].flat()) needed.add(adapter);
    for (const adapter of this.open) {
      if (needed.has(adapter)) continue;
      this.open.delete(adapter);
      this.host.afterCalls(() => adapter.close());
    }
  }

  private get current(): Structure {
    if (this.structure !== undefined) return this.structure;
    const groups = new Map<string, Group & { readonly index: number }>();
    const parts = new Map<string, LoraPart[]>();
    for (const [module, layer] of this.layers) {
      if (this.mergedIn(module).length > 0) continue;
      for (const [name, scaling] of layer.scaling) {
        const adapter = this.adapters.get(name)!;
        // All that a later scale depends on.
        const state = [blockOf(module), adapter.factor(module), scaling, layer.active, layer.isDisabled];
        const key = JSON.stringify([name, ...state]);
        const group = groups.get(key) ?? { name, layer, index: groups.size };
        groups.set(key, group);
        parts.set(module, [...(parts.get(module) ?? []), { adapter, group: group.index }]);
      }
    }
    this.structure = {
      version: this.version,
      groups: [...groups.values()],
      parts,
      fused: new Map([...this.merged].map(([module, list]) => [module, [...list]])),
    };
    return this.structure;
  }
}
