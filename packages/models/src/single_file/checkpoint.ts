import {
  type ConfigDict,
  type LoadOptions,
  openSource,
  reportProgress,
  type SourceFile,
  UnsupportedModelError,
  WeightsMismatchError,
} from "@diffusers-web/core";
import { Weights } from "../weights.ts";
import { parseAddress, type SingleFileSource } from "./address.ts";
import { type SingleFileComponent, singleFileComponents, strangers } from "./components.ts";
import { singleFileConfigs } from "./configs/index.ts";
import { detectKind, type SingleFileKind } from "./detect.ts";
import { mapTensors } from "./key_map.ts";
import { openFile } from "./open_file.ts";

/** A checkpoint in one file, open: its models are views of it. Nothing but its header is read until a model runs. */
export class SingleFileCheckpoint {
  /** The file's name. */
  readonly file: string;
  /** What it was recognised as. */
  readonly kind: SingleFileKind;
  readonly #share: () => SourceFile;
  readonly #own: SourceFile;
  readonly #names: readonly string[];

  private constructor(file: SourceFile) {
    this.file = file.path;
    this.#share = sharing(file);
    this.#own = this.#share();
    const weights = new Weights([this.#own]);
    this.kind = detectKind(weights);
    this.#names = [...weights.names()];
  }

  /**
   * @throws ModelNotFoundError when there is no such file.
   * @param options how to load it
   * @throws UnsupportedModelError for a pickle, and for a checkpoint of another design.
   * @throws IntegrityError for a damaged file.
   */
  static async open(
    from: SingleFileSource,
    options: Omit<LoadOptions, "subfolder" | "variant"> = {},
  ): Promise<SingleFileCheckpoint> {
    refuseOriginalConfig(options);
    const address = await parseAddress(from, options.endpoint);
    const source = await openSource(address.source, { ...options, revision: options.revision ?? address.revision });
    const { signal } = options;
    const progress = reportProgress(options.progress_callback);
    const file = await openFile(source, address.file, { signal, progress });
    try {
      const checkpoint = new SingleFileCheckpoint(file);
      checkpoint.#nameStrangers();
      return checkpoint;
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /**
   * The config that a component has in checkpoints of this kind.
   *
   * @param folder the component's, in the Diffusers layout: unet, vae, text_encoder or scheduler
   * @throws UnsupportedModelError where none is written down.
   */
  config(folder: string): ConfigDict {
    const configs = singleFileConfigs[this.kind] as Readonly<Record<string, ConfigDict>> | undefined;
    const config = configs?.[folder];
    if (config !== undefined) return config;
    throw new UnsupportedModelError(
      `${this.file} is a checkpoint of the kind ${this.kind}, for whose ${folder} no config is written down here. Pass ` +
        "{ config }: a repository or folder in the Diffusers layout, of the same kind.",
      { file: this.file, field: folder, found: this.kind, expected: "{ config }" },
    );
  }

  /**
   * A class's weights under Diffusers' names, as its config orders them. They keep the file open until they are closed.
   *
   * @throws WeightsMismatchError when the file has none of that class.
   */
  weights(className: string, config: object): Weights {
    const { folder, layouts } = component(className);
    const layout = layouts.find(({ prefix, telltale }) =>
      this.#names.some((name) => name.startsWith(prefix) && telltale.test(name.slice(prefix.length))),
    );
    if (layout === undefined) {
      const expected = layouts.flatMap(({ prefix }) => (prefix === "" ? [] : [`${prefix}*`])).join(", ");
      throw new WeightsMismatchError(
        `${this.file} has no weights of ${className} (looked for ${expected}). Load it from where it is, and pass it: ` +
          `{ ${folder}: await ${className}.from_pretrained(...) }.`,
        { file: this.file, className, field: folder, found: "no such tensors", expected },
      );
    }
    const handle = this.#share();
    try {
      const keys = layout.keys(config as never);
      return new Weights([handle], `${this.file} (${folder})`).view((all) => mapTensors(all, layout.prefix, keys));
    } catch (error) {
      handle.close();
      throw error;
    }
  }

  /** Frees the file, once the models that were loaded from it are disposed as well. Idempotent. */
  close(): void {
    this.#own.close();
  }

  #nameStrangers(): void {
    const found = strangers(this.#names);
    if (found.length === 0) return;
    const more = found.length > 5 ? ` and ${found.length - 5} more` : "";
    console.warn(`${this.file}: ${found.slice(0, 5).join(", ")}${more} belong to no model that is read; left out.`);
  }
}

/** @throws UnsupportedModelError for a class that is not read from single files. */
export function component(className: string): SingleFileComponent {
  const found = singleFileComponents[className];
  if (found !== undefined) return found;
  const expected = Object.keys(singleFileComponents).join(", ");
  throw new UnsupportedModelError(
    `${className} is not read from a checkpoint in one file; ${expected} are. Use ${className}.from_pretrained.`,
    { className, found: className, expected },
  );
}

/** @throws UnsupportedModelError when there is an `original_config`, which Python reads. */
export function refuseOriginalConfig(options: object): void {
  if (!("original_config" in options)) return;
  throw new UnsupportedModelError(
    "`original_config` (a YAML file of the original code) is not read: pass { config }, a repository or folder in the " +
      "Diffusers layout, or single config fields to the model.",
    { field: "original_config", expected: "config" },
  );
}

/** Several readers of one file: each closes its own handle, and the last one closes the file. */
function sharing(file: SourceFile): () => SourceFile {
  let open = 0;
  return () => {
    open++;
    let isOpen = true;
    return {
      path: file.path,
      size: file.size,
      readSync: (begin, end) => file.readSync(begin, end),
      close: () => {
        if (!isOpen) return;
        isOpen = false;
        open--;
        if (open === 0) file.close();
      },
    };
  };
}
