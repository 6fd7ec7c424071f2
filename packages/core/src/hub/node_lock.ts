import { errorCode } from "./local.ts";

/** The modules of Node that the hub's cache folder needs. */
export interface NodeModules {
  readonly fs: typeof import("node:fs");
  readonly path: typeof import("node:path");
  readonly os: typeof import("node:os");
  readonly crypto: typeof import("node:crypto");
}

interface Owner {
  readonly token: string;
  readonly host: string;
  readonly pid: number;
}

const pollMs = 50;
const beatMs = 2_000;
/** How long a lock may go without a heartbeat: of a process that is gone, that cannot be asked for, that is there. */
const staleMs = { gone: 10_000, unknown: 60_000, alive: 600_000 };

/**
 * Runs `task` while this process holds a lock file. Node has no `flock`, so the file's existence is the lock: its owner
 * touches it while it works, and a lock whose owner died is taken over.
 */
export async function withLockFile<T>(
  node: NodeModules,
  file: string,
  task: () => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  const { promises } = node.fs;
  const owner: Owner = { token: node.crypto.randomUUID(), host: node.os.hostname(), pid: process.pid };
  await promises.mkdir(node.path.dirname(file), { recursive: true });
  for (;;) {
    signal?.throwIfAborted();
    if (await create(node, file, owner)) break;
    if (!(await removeIfStale(node, file, owner))) await pause(signal);
  }
  // It goes on without the process being kept alive for it, and without the file if that was removed.
  const beat = setInterval(() => void promises.utimes(file, new Date(), new Date()).catch(() => undefined), beatMs);
  beat.unref();
  try {
    return await task();
  } finally {
    clearInterval(beat);
    if ((await readOwner(node, file))?.token === owner.token) await promises.rm(file, { force: true });
  }
}

async function create({ fs }: NodeModules, file: string, owner: Owner): Promise<boolean> {
  try {
    await fs.promises.writeFile(file, JSON.stringify(owner), { flag: "wx" });
    return true;
  } catch (error) {
    if (errorCode(error) === "EEXIST") return false;
    throw error;
  }
}

/** The lock's owner; undefined where there is no lock, or its owner has not written down yet who it is. */
async function readOwner({ fs }: NodeModules, file: string): Promise<Owner | undefined> {
  try {
    return JSON.parse(await fs.promises.readFile(file, "utf8")) as Owner;
  } catch (error) {
    if (error instanceof SyntaxError || errorCode(error) === "ENOENT") return undefined;
    throw error;
  }
}

/** @returns whether there may be no lock any more */
async function removeIfStale(node: NodeModules, file: string, self: Owner): Promise<boolean> {
  const { promises } = node.fs;
  const stale = await readOwner(node, file);
  const stat = await promises.stat(file).catch(() => undefined);
  if (stat === undefined) return true;
  const limit = stale?.host === self.host ? staleMs[isAlive(stale.pid) ? "alive" : "gone"] : staleMs.unknown;
  if (Date.now() - stat.mtimeMs < limit) return false;
  // Of several that see it, one renames it. The name tells whose it is until it is gone.
  const aside = `${file}.${self.token}`;
  try {
    await promises.rename(file, aside);
  } catch (error) {
    if (errorCode(error) === "ENOENT") return true;
    throw error;
  }
  // Between reading and renaming another may have taken it over: then that lock is put back.
  if ((await readOwner(node, aside))?.token !== stale?.token) {
    await promises.link(aside, file).catch(() => undefined);
  }
  await promises.rm(aside, { force: true });
  return true;
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return errorCode(error) === "EPERM";
  }
}

function pause(signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      clearTimeout(timer);
      reject(signal!.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, pollMs);
    signal?.addEventListener("abort", abort, { once: true });
  });
}
