import { type FileInfo, openSource, type SourceLike, Tensor } from "@diffusers-web/core";
import { UNet2DConditionModel } from "@diffusers-web/models";

/** What a person gives a page. */
export type Given = FileList | FileSystemDirectoryHandle | FileSystemDirectoryEntry;

/** What the spec may ask of the page or of its worker. Arguments and results are plain data. */
export const filesTasks = {
  async list(from: Given): Promise<{ name: string; files: readonly FileInfo[] }> {
    const source = await openSource(from);
    return { name: source.name, files: await source.list!() };
  },

  /** The sizes and first bytes of files, null for those that are not there. */
  async open(from: Given, paths: readonly string[]): Promise<Record<string, [number, string] | null>> {
    const source = await openSource(from);
    const results: Record<string, [number, string] | null> = {};
    for (const path of paths) {
      const file = await source.open(path);
      results[path] = file === undefined ? null : [file.size, new TextDecoder().decode(file.readSync(0, 8))];
      file?.close();
    }
    return results;
  },

  /** What the denoising model in `unet` makes of ones. */
  unet(from: Given): Promise<number[]> {
    return runUnet(from);
  },

  /** The same over HTTP. */
  unetFrom(_: Given, url: string): Promise<number[]> {
    return runUnet(new URL(url, location.href));
  },
};

export type FilesTaskName = keyof typeof filesTasks;

async function runUnet(from: SourceLike): Promise<number[]> {
  await using model = await UNet2DConditionModel.from_pretrained(from, { subfolder: "unet", device: "wasm" });
  const { in_channels, cross_attention_dim } = model.config;
  const { sample } = await model(
    Tensor.ones([1, in_channels, 8, 8]),
    10,
    Tensor.ones([1, 4, Number(cross_attention_dim)]),
  );
  return [...sample.data];
}
