import { type LoadOptions, openSource } from "@diffusers-web/core";

declare global {
  interface Window {
    loadFromHub(settings: LoadOptions & { readonly id: string }): Promise<[number, number]>;
  }
}

/** Loads a repository's two files; the weights' size and the sum of their bytes. */
window.loadFromHub = async ({ id, ...options }) => {
  const source = await openSource(id, options);
  const paths = (await source.list!()).map(({ path }) => path);
  await source.prefetch!(paths);
  const file = (await source.open(paths.find((path) => path.endsWith(".safetensors"))!))!;
  const bytes = file.size > 0 ? file.readSync(0, file.size) : new Uint8Array(0);
  file.close();
  return [bytes.length, bytes.reduce((total, byte) => total + byte, 0)];
};
