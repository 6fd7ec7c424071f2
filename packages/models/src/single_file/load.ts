import {
  type ConfigDict,
  ModelNotFoundError,
  openSource,
  parseConfig,
  readText,
  type SourceLike,
  subSource,
} from "@diffusers-web/core";
import type { ModelLoadOptions } from "../modeling_utils.ts";
import type { Weights } from "../weights.ts";
import type { SingleFileSource } from "./address.ts";
import { component, refuseOriginalConfig, SingleFileCheckpoint } from "./checkpoint.ts";

/** Options of a model's `from_single_file`, besides its config fields, which override the config's. */
export interface SingleFileOptions extends Omit<ModelLoadOptions, "variant"> {
  /**
   * A repository, folder or source in the Diffusers layout whose config is taken. Default: that of the best known model of
   * the file's kind, which is written down in this library.
   */
  readonly config?: SourceLike | undefined;
}

/** A model of a checkpoint in one file, before it is built. */
export interface SingleFilePart {
  readonly config: ConfigDict;
  /** @param config as the model has it */
  weights(config: object): Weights;
  /** Frees the file, unless it was open before or a model uses it. */
  close(): void;
}

/**
 * Opens a file for one of its models.
 *
 * @param from where it is, or the file opened before, which then stays open
 */
export async function openPart(
  className: string,
  from: SingleFileSource | SingleFileCheckpoint,
  options: SingleFileOptions,
): Promise<SingleFilePart> {
  const { folder } = component(className);
  refuseOriginalConfig(options);
  const isOpen = from instanceof SingleFileCheckpoint;
  const checkpoint = isOpen ? from : await SingleFileCheckpoint.open(from, options);
  const close = (): void => {
    if (!isOpen) checkpoint.close();
  };
  try {
    const config =
      options.config === undefined
        ? checkpoint.config(folder)
        : await readConfig(options.config, options.subfolder, folder, options);
    return { config, weights: (full) => checkpoint.weights(className, full), close };
  } catch (error) {
    close();
    throw error;
  }
}

/** The `config.json` of `subfolder`; without one, of the folder itself or of the component's folder in it. */
async function readConfig(
  from: SourceLike,
  subfolder: string | undefined,
  folder: string,
  options: SingleFileOptions,
): Promise<ConfigDict> {
  // The revision is the checkpoint's.
  const opened = await openSource(from, { ...options, revision: undefined });
  for (const place of subfolder === undefined ? [undefined, folder] : [subfolder]) {
    const source = subSource(opened, place);
    const text = await readText(source, "config.json", options);
    if (text !== undefined) return parseConfig(text, "config.json", source.name);
  }
  const expected = `${subfolder ?? folder}/config.json`;
  throw new ModelNotFoundError(`${opened.name} has no ${expected}, which { config } is read from.`, {
    file: expected,
    found: "no such file",
    expected,
  });
}
