/** Whether a path leads out of its source: files that name other files could ask for that. */
export function leadsOut(path: string): boolean {
  return path.split(/[\\/]/).includes("..") || path.startsWith("/");
}
