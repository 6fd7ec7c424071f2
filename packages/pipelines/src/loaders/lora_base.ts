import { ValueError } from "@diffusers-web/core";
import type { LoraAdapters, LoraWeight, ModelMixin } from "@diffusers-web/models";
import type { PipelineClass } from "../pipeline_utils.ts";
import { StableDiffusionMixin } from "../stable_diffusion_mixin.ts";
import type { AdapterSource } from "./adapter_file.ts";
import type { LoadLoraOptions } from "./lora_pipeline.ts";

/** A component that LoRAs change. */
export type LoraComponent = "unet" | "text_encoder" | "text_encoder_2";

/** Weights of an adapter in each component, where they differ; 1 in one that is not named. */
export type LoraComponentWeights = Readonly<Partial<Record<LoraComponent, LoraWeight | null>>>;

/** How much an adapter counts: everywhere alike, or by component. null: 1. */
export type AdapterWeights = number | LoraComponentWeights | null;

/** How LoRAs are fused into the weights. */
export interface FuseLoraOptions {
  /** Into which components. Default: all that LoRAs change. */
  readonly components?: readonly string[] | undefined;
  /** A further factor of the active adapters, which they keep when they are unfused. Default 1. */
  readonly lora_scale?: number | undefined;
  /** Whether to look first for weights that would be no numbers. Default false. */
  readonly safe_fusing?: boolean | undefined;
  /** Default: the active ones. */
  readonly adapter_names?: readonly string[] | undefined;
}

/** The static side of a class that takes LoRAs. */
export interface LoraPipelineClass extends PipelineClass {
  readonly lora_loadable_modules: readonly LoraComponent[];
}

/** A model that takes LoRAs. */
export type LoraModel = ModelMixin<object>;

/**
 * LoRAs in pipelines with a UNet and text encoders: small changes of their layers, in files of their own.
 *
 * Models own their adapters: pipelines made by `from_pipe` have the same ones.
 *
 * @see Diffusers `LoraBaseMixin`, `StableDiffusionLoraLoaderMixin`
 */
export abstract class LoraLoaderMixin extends StableDiffusionMixin {
  static override readonly name: string = "LoraLoaderMixin";
  /** The components that LoRAs change. */
  static readonly lora_loadable_modules: readonly LoraComponent[] = ["unet", "text_encoder"];

  /**
   * Loads a LoRA (of Diffusers, PEFT or kohya's scripts) into the UNet and the text encoders, and makes it the active one in
   * those that it changes. The file stays open: it is read when a model is next called.
   *
   * @param source a hub id, a URL, a folder in Node or a {@link Source}, with `weight_name` where it has several files; or the
   * address of a `.safetensors` file, or a `File`
   * @example
   * ```ts
   * await pipeline.load_lora_weights("nerijs/pixel-art-xl", { weight_name: "pixel-art-xl.safetensors", adapter_name: "pixel" });
   * pipeline.set_adapters("pixel", 0.8);
   * ```
   * @throws WeightsMismatchError naming the first tensor that does not fit the pipeline's models, which stay as they were.
   * @throws UnsupportedModelError for other kinds of adapters (DoRA, LoKr, LoHa ...), for a pickle, and for ONNX models.
   * @throws ValueError for an adapter's name that is in use; else what `from_pretrained` throws.
   * @see Diffusers `StableDiffusionLoraLoaderMixin.load_lora_weights`
   */
  async load_lora_weights(source: AdapterSource, options: LoadLoraOptions = {}): Promise<void> {
    const { loadLoraWeights } = await import("./lora_pipeline.ts");
    await loadLoraWeights(this, source, options);
  }

  /**
   * Makes adapters the active ones, each with a weight, in all components. Weights are an input of the models: nothing is built
   * anew.
   *
   * @param adapter_names those that count; others do not from now on
   * @param adapter_weights a number for all, or a list of one for each. By component: `{ unet: 0.8, text_encoder: 0.5 }`; in a
   * UNet by block: `{ unet: { down: 0.5, up: { block_1: [0, 1, 0.3] } } }`, what is not named gets 1. Default 1
   * @throws ValueError for a name that was not loaded, another number of weights, and for a block that the UNet does not have.
   * @see Diffusers `LoraBaseMixin.set_adapters`
   */
  set_adapters(
    adapter_names: string | readonly string[],
    adapter_weights: AdapterWeights | readonly AdapterWeights[] = null,
  ): void {
    const names = typeof adapter_names === "string" ? [adapter_names] : adapter_names;
    const given: readonly AdapterWeights[] = Array.isArray(adapter_weights)
      ? adapter_weights
      : names.map(() => adapter_weights as AdapterWeights);
    if (given.length !== names.length) {
      throw new ValueError(
        `set_adapters: ${names.length} adapters are named, but there are ${given.length} weights: pass as many, or one number.`,
        { field: "adapter_weights", found: `${given.length} weights`, expected: `${names.length} weights` },
      );
    }
    this.checkAdapterNames("set_adapters", names);
    const models = this.loraModels();
    given.forEach((weights, i) => {
      if (typeof weights !== "object" || weights === null) return;
      for (const component of Object.keys(weights)) {
        if (models.get(component as LoraComponent)?.names.includes(names[i]!)) continue;
        console.warn(`The weight of ${names[i]} for the ${component} is not used: the adapter has nothing for it.`);
      }
    });
    const changes = [...models].map(([component, lora]) => {
      const weights = given.map((one) => (typeof one === "object" && one !== null ? (one[component] ?? null) : one));
      return lora.prepare_weights(names, weights);
    });
    for (const change of changes) change();
  }

  /** The names of the active adapters. @see Diffusers `LoraBaseMixin.get_active_adapters` */
  get_active_adapters(): string[] {
    return (
      [...this.loraModels().values()].map((lora) => lora.active_adapters).findLast((names) => names.length > 0) ?? []
    );
  }

  /** The names of all adapters, by component. @see Diffusers `LoraBaseMixin.get_list_adapters` */
  get_list_adapters(): Partial<Record<LoraComponent, string[]>> {
    const lists = [...this.loraModels()].map(([component, lora]) => [component, lora.names] as const);
    return Object.fromEntries(lists.filter(([, names]) => names.length > 0));
  }

  /** Uses no adapter, until {@link enable_lora}. What is fused is unfused. @see Diffusers `LoraBaseMixin.disable_lora` */
  disable_lora(): void {
    for (const lora of this.loraModels().values()) lora.disable_lora();
  }

  /** Uses the active adapters again. @see Diffusers `LoraBaseMixin.enable_lora` */
  enable_lora(): void {
    for (const lora of this.loraModels().values()) lora.enable_lora();
  }

  /**
   * Deletes adapters, and closes their files.
   *
   * @throws ValueError for a name that was not loaded.
   * @see Diffusers `LoraBaseMixin.delete_adapters`
   */
  delete_adapters(adapter_names: string | readonly string[]): void {
    const names = typeof adapter_names === "string" ? [adapter_names] : adapter_names;
    this.checkAdapterNames("delete_adapters", names);
    for (const lora of this.loraModels().values()) lora.delete_adapters(names);
  }

  /**
   * Takes all adapters away, and closes their files. What was fused stays in the weights, for good.
   *
   * @see Diffusers `LoraBaseMixin.unload_lora_weights`
   */
  unload_lora_weights(): void {
    for (const lora of this.loraModels().values()) lora.unload_lora();
  }

  /**
   * Adds adapters to the models' weights as these are read: running them costs nothing more then, and `save_pretrained` writes
   * the sums. Layers with something in their weights use no adapter beside, as in PEFT: weights and `cross_attention_kwargs`
   * count for nothing there.
   *
   * @throws ValueError for a component that takes no LoRA, for an adapter that was not loaded, and with `safe_fusing` for weights
   * that would be no numbers.
   * @see Diffusers `StableDiffusionLoraLoaderMixin.fuse_lora`
   */
  fuse_lora(options: FuseLoraOptions = {}): void {
    const { lora_scale = 1, safe_fusing = false, adapter_names } = options;
    const models = this.loraModels("fuse_lora", options.components);
    if (adapter_names !== undefined) this.checkAdapterNames("fuse_lora", adapter_names);
    for (const lora of models.values()) lora.fuse_lora(lora_scale, safe_fusing, adapter_names);
  }

  /**
   * Gives the weights back as they were before {@link fuse_lora}.
   *
   * @param options `components`: default all that LoRAs change
   * @see Diffusers `StableDiffusionLoraLoaderMixin.unfuse_lora`
   */
  unfuse_lora(options: Pick<FuseLoraOptions, "components"> = {}): void {
    for (const lora of this.loraModels("unfuse_lora", options.components).values()) lora.unfuse_lora();
  }

  /** The names of the adapters that are in some component's weights. @see Diffusers `LoraBaseMixin.fused_loras` */
  get fused_loras(): Set<string> {
    return new Set([...this.loraModels().values()].flatMap((lora) => lora.fused_loras));
  }

  /** How many adapters are in some component's weights. @see Diffusers `LoraBaseMixin.num_fused_loras` */
  get num_fused_loras(): number {
    return this.fused_loras.size;
  }

  /** The adapters of the components that have had any. */
  private loraModels(method = "", components?: readonly string[]): Map<LoraComponent, LoraAdapters> {
    const { lora_loadable_modules } = this.constructor as unknown as LoraPipelineClass;
    if (components?.length === 0) {
      throw new ValueError(
        `${method}: \`components\` is an empty list: name some of ${lora_loadable_modules.join(", ")}.`,
        {
          field: "components",
          found: "[]",
          expected: lora_loadable_modules.join(", "),
        },
      );
    }
    const stranger = components?.find((one) => !(lora_loadable_modules as readonly string[]).includes(one));
    if (stranger !== undefined) throw this.noComponent(method, "components", stranger);
    const models = new Map<LoraComponent, LoraAdapters>();
    for (const component of lora_loadable_modules) {
      const { lora } = (this.components[component] ?? {}) as Partial<LoraModel>;
      if (lora !== undefined && (components?.includes(component) ?? true)) models.set(component, lora);
    }
    return models;
  }

  private noComponent(method: string, field: string, component: string): ValueError {
    const { name, lora_loadable_modules } = this.constructor as unknown as LoraPipelineClass;
    return new ValueError(
      `${method}: \`${field}\` has ${JSON.stringify(component)}, but the components of a ${name} that take LoRAs are ` +
        `${lora_loadable_modules.join(", ")}.`,
      { className: name, field, found: component, expected: lora_loadable_modules.join(", ") },
    );
  }

  private checkAdapterNames(method: string, names: readonly string[]): void {
    const known = new Set(Object.values(this.get_list_adapters()).flat());
    const missing = names.filter((name) => !known.has(name));
    if (missing.length === 0) return;
    const there = known.size === 0 ? "none" : [...known].join(", ");
    throw new ValueError(`${method}: there is no adapter ${missing.join(", ")}. Loaded are: ${there}.`, {
      field: "adapter_names",
      found: missing.join(", "),
      expected: there,
    });
  }
}
