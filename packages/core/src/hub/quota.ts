import { QuotaError } from "../errors.ts";
import { allManifests, type CachedModel, firstOf, modelsOf } from "./cache_records.ts";
import type { Database } from "./database.ts";
import type { FileKey } from "./store.ts";

/**
 * The error for a download that does not fit.
 *
 * @param needed bytes of the file that are still to be kept
 */
export async function quotaError(
  database: Database,
  key: FileKey,
  needed: number,
  cause: unknown,
): Promise<QuotaError> {
  const { usage: used, quota: told } = (await globalThis.navigator?.storage?.estimate?.()) ?? {};
  // Chromium tells pages a quota of 10 GiB above what is used, whatever it really gives: then it is not known.
  const quota = used !== undefined && told !== undefined && told - used < needed ? told : undefined;
  const missing = used === undefined || quota === undefined ? needed : needed - (quota - used);
  const others = modelsOf(await database.read(allManifests)).filter(
    ({ endpoint, repo, commit }) => endpoint !== key.endpoint || repo !== key.repo || commit !== key.commit,
  );
  const evictable = firstOf(others, missing).map(({ endpoint, repo, commit, bytes }) => ({
    ...{ endpoint, repo, commit, bytes },
  }));
  const inUse =
    used === undefined ? "" : `, ${megabytes(used)}${quota === undefined ? "" : ` of ${megabytes(quota)}`} are used`;
  const advice =
    evictable.length === 0
      ? "Free disk space"
      : `Delete the models that were not used for longest (cache.delete: ${evictable.map(listed).join(", ")}), free disk space`;
  return new QuotaError(
    `${key.path} of ${key.repo} needs ${megabytes(needed)} more in the browser's storage${inUse}: at least ` +
      `${megabytes(missing)} are missing. ${advice}, or pass { cache: "or-memory" }. What was stored before is kept.`,
    {
      file: key.path,
      found: used === undefined || quota === undefined ? "no room" : `${quota - used} bytes free`,
      expected: `${needed} bytes free`,
      storage: { needed, used, quota, missing, evictable },
    },
    { cause },
  );
}

function listed({ repo, bytes }: Pick<CachedModel, "repo" | "bytes">): string {
  return `${repo}, ${megabytes(bytes)}`;
}

function megabytes(bytes: number): string {
  if (bytes < 1e6) return `${Math.ceil(bytes / 1e3)} kB`;
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}
