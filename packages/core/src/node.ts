/** True in Node (and what stands in for it): there are a file system and Node's modules. */
export const isNode: boolean =
  typeof process !== "undefined" && typeof process.versions === "object" && process.versions.node !== undefined;

/**
 * Imports a module that exists in Node only, in a way that no bundler follows.
 *
 * @throws Error when called outside Node.
 */
export async function nodeImport<T>(specifier: string): Promise<T> {
  if (!isNode) throw new Error(`\`${specifier}\` can be used in Node only.`);
  return (await import(/* @vite-ignore */ /* webpackIgnore: true */ specifier)) as T;
}
