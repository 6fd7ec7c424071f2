/** Whether a path leads out of its source: files that name other files could ask for that. */
export function leadsOut(path: string): boolean {
  return path.split(/[\\/]/).includes("..") || path.startsWith("/");
}

/** Whether a folder of that name holds the bookkeeping of git or of a download tool, not a model's files. */
export function isBookkeeping(folder: string): boolean {
  return folder === ".git" || folder === ".cache";
}

/** The order in which folders are listed: by code unit, as git lists a commit. */
export function byPath(a: { readonly path: string }, b: { readonly path: string }): number {
  return a.path < b.path ? -1 : a.path > b.path ? 1 : 0;
}
