import {
  type ConfigDict,
  checkOptions,
  openSource,
  reportProgress,
  type Source,
  type SourceLike,
  schedulerRegistry,
  subSource,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/core";
import {
  modelLoadOptionNames,
  SingleFileCheckpoint,
  type SingleFileKind,
  type SingleFileOptions,
  type SingleFileSource,
} from "@diffusers-web/models";
import type { Component, PipelineLoadOptions } from "../pipeline_components.ts";
import { checkComponent } from "../pipeline_loading.ts";
import { componentEntry, disposeModels, readModelIndex } from "../pipeline_loading_utils.ts";
import type { DiffusionPipeline, PipelineClass } from "../pipeline_utils.ts";

/** What a pipeline's `from_single_file` takes. A component that is passed is not loaded; null leaves it out. */
export interface SingleFilePipelineOptions extends Omit<PipelineLoadOptions, "subfolder" | "variant"> {
  /**
   * A repository, folder or source in the Diffusers layout, of which the configs, the scheduler and the tokenizer are
   * taken, and no weights. Default: what is written down in this library of the best known model of the file's kind; such a
   * checkpoint has no tokenizer, which must be passed then.
   */
  readonly config?: SourceLike | undefined;
}

/** The part of a model that `from_single_file` is. */
interface SingleFileClass {
  from_single_file(from: SingleFileCheckpoint, options: SingleFileOptions): Promise<Component>;
}

const components = {
  unet: ["diffusers", "UNet2DConditionModel"],
  vae: ["diffusers", "AutoencoderKL"],
  text_encoder: ["transformers", "CLIPTextModel"],
  text_encoder_2: ["transformers", "CLIPTextModelWithProjection"],
};

/** What encodes text: optional in XL, because the refiner has but one encoder. */
const textComponents = ["tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2"];

/**
 * Loads a pipeline from a checkpoint in one file. What is small comes first; the file is opened once, for all models.
 *
 * @param kinds the checkpoints that the class can be made of
 * @see Diffusers `FromSingleFileMixin.from_single_file`
 */
export async function loadSingleFile<T extends DiffusionPipeline>(
  cls: PipelineClass<T>,
  kinds: readonly SingleFileKind[],
  from: SingleFileSource,
  options: SingleFilePipelineOptions,
): Promise<T> {
  const { component_names, optional_components, init_options, name } = cls;
  if (kinds.length === 0) {
    throw new UnsupportedModelError(
      `No ${name} can be made of a checkpoint in one file, as in Diffusers: use from_pretrained.`,
      { className: name, field: "from_single_file", expected: "from_pretrained" },
    );
  }
  const known = modelLoadOptionNames.filter((one) => one !== "variant" && one !== "subfolder");
  const own = ["config", "original_config", ...component_names, ...init_options];
  checkOptions(`${name}.from_single_file`, options, [...known, ...own]);
  const progress = reportProgress(options.progress_callback);
  const given = options as Readonly<Record<string, Component | null | undefined>>;
  const { signal, device, dtype } = options;

  // The revision is the checkpoint's.
  const config =
    options.config === undefined ? undefined : await openSource(options.config, { ...options, revision: undefined });
  const index: ConfigDict = config === undefined ? components : await readModelIndex(config, options);
  for (const key of component_names) {
    if (given[key] != null) checkComponent(key, index[key], given[key]);
  }
  // Optional ones are not in such files, as in Diffusers; only what prepares pictures for a checker that is passed is read.
  const isThere = (key: string): boolean => {
    if (config === undefined && textComponents.includes(key)) return true;
    const read = key === "feature_extractor" || textComponents.includes(key);
    return read && Array.isArray(index[key]) && index[key][0] !== null;
  };
  const wanted = component_names.filter(
    (key) => given[key] === undefined && (!optional_components.includes(key) || isThere(key)),
  );
  const tokenizer = wanted.find((key) => key.startsWith("tokenizer"));
  if (config === undefined && tokenizer !== undefined) throw noTokenizer(name, tokenizer, kinds);

  const lacking = wanted.find((key) => key !== "scheduler" && index[key] === undefined);
  if (lacking !== undefined) {
    throw new ValueError(`${name}.from_single_file: a checkpoint in one file has no ${lacking}: pass { ${lacking} }.`, {
      className: name,
      field: lacking,
      found: "nothing",
      expected: `a ${lacking}`,
    });
  }

  const loaded: Record<string, unknown> = {};
  let checkpoint: SingleFileCheckpoint | undefined;
  try {
    if (config !== undefined) await loadSmall(config, index, wanted, loaded, signal);
    checkpoint = await SingleFileCheckpoint.open(from, { ...options, progress_callback: progress });
    checkKind(checkpoint, kinds, name);
    for (const key of wanted) {
      signal?.throwIfAborted();
      if (key in loaded) continue;
      if (key === "text_encoder" && config === undefined && checkpoint.kind === "xl_refiner") continue;
      if (key === "scheduler") {
        const written = checkpoint.config(key);
        loaded[key] = schedulerRegistry[String(written["_class_name"])]!.from_config(written);
        continue;
      }
      const entry = componentEntry(key, index[key], false);
      const componentClass = (await entry.load()) as unknown as SingleFileClass;
      loaded[key] = await componentClass.from_single_file(checkpoint, {
        config: config === undefined ? undefined : subSource(config, key),
        device,
        dtype,
        signal,
        progress_callback: progress,
      });
    }
    signal?.throwIfAborted();

    const init = init_options.map((key) => [key, (options as Record<string, unknown>)[key] ?? index[key]]);
    const passed = component_names.map((key) => [key, given[key] ?? null]);
    const pipeline = new cls({ ...Object.fromEntries(init), ...Object.fromEntries(passed), ...loaded } as never);
    pipeline.register_to_config({ _name_or_path: checkpoint.file });
    return pipeline;
  } catch (error) {
    await disposeModels(Object.values(loaded));
    throw error;
  } finally {
    checkpoint?.close();
  }
}

/** What has no weights: from the Diffusers layout. */
async function loadSmall(
  config: Source,
  index: ConfigDict,
  wanted: readonly string[],
  loaded: Record<string, unknown>,
  signal: AbortSignal | undefined,
): Promise<void> {
  for (const key of wanted) {
    const entry = componentEntry(key, index[key], false);
    if (entry.is_model) continue;
    const componentClass = await entry.load();
    loaded[key] = await componentClass.from_pretrained(subSource(config, key), signal === undefined ? {} : { signal });
  }
}

function noTokenizer(name: string, tokenizer: string, kinds: readonly SingleFileKind[]): ValueError {
  const config = kinds.includes("xl_base")
    ? "stabilityai/stable-diffusion-xl-base-1.0"
    : kinds.includes("upscale")
      ? "stabilityai/stable-diffusion-x4-upscaler"
      : "stable-diffusion-v1-5/stable-diffusion-v1-5";
  return new ValueError(
    `${name}.from_single_file: a checkpoint in one file has no ${tokenizer}. Pass a repository or folder that has one, as ` +
      `{ config: "${config}" }; or { ${tokenizer}: await CLIPTokenizer.from_pretrained(` +
      `"openai/clip-vit-large-patch14") }; or { ${tokenizer}: null }, to call it with prompt_embeds only.`,
    { className: name, field: tokenizer, found: `neither config nor ${tokenizer}`, expected: `config or ${tokenizer}` },
  );
}

function checkKind({ file, kind }: SingleFileCheckpoint, kinds: readonly SingleFileKind[], name: string): void {
  if (kinds.includes(kind)) return;
  throw new UnsupportedModelError(
    `${file} is a checkpoint of the kind ${kind}, of which no ${name} can be made; it takes ${kinds.join(", ")}. Its models ` +
      "can be loaded one by one, with their from_single_file.",
    { file, className: name, found: kind, expected: kinds.join(", ") },
  );
}
