import { checkOptions, loadOptionNames, UnsupportedModelError, WeightsMismatchError } from "@diffusers-web/core";
import type { Weights } from "@diffusers-web/models";
import { type AdapterFileKind, type AdapterFileOptions, type AdapterSource, openAdapterFile } from "./adapter_file.ts";
import type { LoraComponent, LoraLoaderMixin, LoraModel, LoraPipelineClass } from "./lora_base.ts";
import { convertLora, type LoraState } from "./lora_conversion_utils.ts";

/** How a LoRA is loaded. */
export interface LoadLoraOptions extends AdapterFileOptions {
  /** What the adapter is called from then on. Default: `default_0`, `default_1` and so on, in each component. */
  readonly adapter_name?: string | null | undefined;
}

const fileKind: AdapterFileKind = { default_name: "pytorch_lora_weights.safetensors", isGuessed: true };

const optionNames: readonly string[] = [
  ...loadOptionNames.filter((name) => name !== "variant"),
  "weight_name",
  "adapter_name",
];

/**
 * Loads a LoRA into a pipeline's components: all of them, or none when something does not fit.
 *
 * @see Diffusers `StableDiffusionLoraLoaderMixin.load_lora_weights`
 */
export async function loadLoraWeights(
  pipeline: LoraLoaderMixin,
  source: AdapterSource,
  { adapter_name = null, ...options }: LoadLoraOptions,
): Promise<void> {
  const { name: className, lora_loadable_modules } = pipeline.constructor as unknown as LoraPipelineClass;
  checkOptions(`${className}.load_lora_weights`, options, optionNames);
  const models = loraModels(pipeline, lora_loadable_modules);

  // 1. the file, and what it changes
  const weights = await openAdapterFile(source, fileKind, options);
  try {
    const state = convertLora(weights, layersPerBlock(models.get("unet")));
    checkComponents(weights, state, className, lora_loadable_modules);

    // 2. whether it fits all components, before the first of them changes
    const additions: (() => void)[] = [];
    // The file is closed when the last of them needs it no more.
    const close = (): void => {
      additions.pop();
      if (additions.length === 0) weights.close();
    };
    for (const component of lora_loadable_modules) {
      const layers = state.get(component);
      const model = models.get(component);
      if (layers !== undefined && model !== undefined) {
        additions.push(await model.prepare_lora_adapter(adapter_name, { weights, layers, close }));
      } else {
        const why = model === undefined ? `the pipeline has no ${component}` : "it has nothing for it";
        console.warn(`${weights.file} does not change the ${component}: ${why}.`);
      }
    }
    options.signal?.throwIfAborted();

    // 3. the components change
    for (const add of additions) add();
    if (additions.length === 0) weights.close();
  } catch (error) {
    weights.close();
    throw error;
  }
}

/** The models that LoRAs change, of those that are there. @throws UnsupportedModelError for one whose graph is fixed. */
function loraModels(
  pipeline: LoraLoaderMixin,
  components: readonly LoraComponent[],
): ReadonlyMap<LoraComponent, LoraModel> {
  const models = new Map<LoraComponent, LoraModel>();
  for (const component of components) {
    const model = pipeline.components[component] as Partial<LoraModel> | null | undefined;
    if (model == null) continue;
    if (model.prepare_lora_adapter === undefined) {
      const className = model.constructor!.name;
      throw new UnsupportedModelError(
        `This pipeline's ${component} is an ${className}, whose graph is fixed: LoRAs cannot be loaded into it. ` +
          "Use the checkpoint in the layout of Diffusers.",
        { className, field: "load_lora_weights", found: className, expected: "a model in the layout of Diffusers" },
      );
    }
    models.set(component, model as LoraModel);
  }
  return models;
}

/** What a file in the original code's block numbering is counted by. */
function layersPerBlock(unet: LoraModel | undefined): number | undefined {
  const { layers_per_block } = (unet?.config ?? {}) as { readonly layers_per_block?: unknown };
  return typeof layers_per_block === "number" ? layers_per_block : undefined;
}

/** @throws WeightsMismatchError for a file that changes what this kind of pipeline does not have. */
function checkComponents(
  { file }: Weights,
  state: LoraState,
  className: string,
  components: readonly LoraComponent[],
): void {
  for (const [component, layers] of state) {
    if ((components as readonly string[]).includes(component)) continue;
    const [{ down } = { down: component }] = layers.values();
    throw new WeightsMismatchError(
      `${file} is for a model with a ${component} (${down}), which a ${className} does not have: the LoRA is for another model.`,
      { className, file, tensors: [down], found: component, expected: components.join(", ") },
    );
  }
}
