import { cache, differs, keyOf, loadAll, openIndexedDbStore } from "./cache_tools.ts";

const tasks = {
  /** Reads ranges of a kept file; how many bytes each gave, and whether all were right. */
  read: async (path: string, ranges: [begin: number, end: number][]): Promise<unknown> => {
    const file = await (await openIndexedDbStore()).open(keyOf(path));
    if (file === undefined) return undefined;
    const read = ranges.map(([begin, end]) => {
      const bytes = file.readSync(begin, end);
      return [bytes.length, differs(bytes, begin)];
    });
    file.close();
    return { size: file.size, read, afterClose: file.readSync(0, 1).length };
  },
  /** The public API. */
  api: async (repo: string): Promise<unknown> => {
    const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("worker", { create: true });
    return {
      repos: (await cache.list()).map((model) => model.repo),
      size: await cache.size(),
      exported: await cache.export(repo, folder),
      persisted: await cache.persist(),
      freed: await cache.delete({ repo }),
      left: await cache.size(),
    };
  },
  load: (...settings: Parameters<typeof loadAll>): Promise<unknown> => loadAll(...settings),
  begin: async (path: string): Promise<number> =>
    (await (await openIndexedDbStore()).begin(keyOf(path), { path, size: 10 })).offset,
};

export type WorkerTask = keyof typeof tasks;

globalThis.onmessage = async ({ data: [task, values] }: MessageEvent<[WorkerTask, never[]]>) => {
  try {
    postMessage({ result: await (tasks[task] as (...all: never[]) => Promise<unknown>)(...values) });
  } catch (error) {
    postMessage({ error: String(error) });
  }
};
