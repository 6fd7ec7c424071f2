import {
  ModelNotFoundError,
  type ProgressReporter,
  prefetchFiles,
  type Source,
  type SourceFile,
} from "@diffusers-web/core";
import { pickle } from "./address.ts";

interface OpenFileOptions {
  readonly signal: AbortSignal | undefined;
  readonly progress: ProgressReporter | undefined;
  /** See {@link pickle}. */
  readonly within?: string;
}

/**
 * Fetches and opens one safetensors file; its header is not read yet.
 *
 * @internal
 * @throws ModelNotFoundError when there is no such file, UnsupportedModelError for a pickle under its name.
 */
export async function openFile(
  source: Source,
  path: string,
  { signal, progress, within }: OpenFileOptions,
): Promise<SourceFile> {
  if (source.prefetch !== undefined) {
    const info = (await source.list?.({ signal }))?.find((one) => one.path === path);
    if (info !== undefined) await prefetchFiles(source, [info], { signal, progress });
  }
  const file = await source.open(path, { signal, progress_callback: progress });
  if (file === undefined) {
    throw new ModelNotFoundError(`${source.name} has no file ${path}. Check the address.`, {
      file: path,
      found: "no such file",
      expected: path,
    });
  }
  try {
    progress?.({ phase: "verify", file: file.path, loaded: 0, total: 0 });
    // A pickle of torch's is a zip archive.
    if (new TextDecoder().decode(file.readSync(0, 2)) === "PK") throw pickle(path, within);
    return file;
  } catch (error) {
    file.close();
    throw error;
  }
}
