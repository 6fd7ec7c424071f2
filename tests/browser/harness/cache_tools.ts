import { cache, type LoadOptions, serializeError } from "@diffusers-web/core";
import { openBlobs } from "../../../packages/core/src/hub/blob_file.ts";
import { openDatabase } from "../../../packages/core/src/hub/database.ts";
import { hubSource } from "../../../packages/core/src/hub/hub_source.ts";
import { openIndexedDbStore } from "../../../packages/core/src/hub/indexeddb_store.ts";
import { quotaError } from "../../../packages/core/src/hub/quota.ts";
import { defaultPolicy } from "../../../packages/core/src/hub/retry.ts";
import type { FileKey, HubStore, PartialFile } from "../../../packages/core/src/hub/store.ts";
import { bytesOf } from "./cache_bytes.ts";

export { bytesOf, cache, openBlobs, openDatabase, openIndexedDbStore, quotaError, serializeError };

export const MB: number = 2 ** 20;

/** A file of a model. */
export function keyOf(path: string, repo: string = "owner/model", commit: string = "c1"): FileKey {
  return { endpoint: "https://hub.test", repo, commit, path };
}

/** The first position at which bytes are not those of {@link bytesOf}; -1 when all are right. */
export function differs(bytes: Uint8Array, begin: number): number {
  const expected = bytesOf(begin, begin + bytes.length);
  let i = 0;
  while (i < bytes.length && bytes[i] === expected[i]) i++;
  return i < bytes.length ? i : -1;
}

/** Appends from where a file is up to `end`, in parts of `part` bytes. Its hash state is its offset as a byte. */
export async function appendUntil(file: PartialFile, end: number, part: number): Promise<void> {
  while (file.offset < end) {
    const next = Math.min(file.offset + part, end);
    await file.append([bytesOf(file.offset, next)], new Uint8Array([(next / part) & 255]));
  }
}

/** Keeps a whole file. */
export async function keep(store: HubStore, key: FileKey, size: number, part: number = size): Promise<void> {
  const file = await store.begin(key, { path: key.path, size });
  await appendUntil(file, size, part);
  await file.complete();
}

/** A kept file's size and whether its bytes are right; undefined where it is not whole. */
export async function check(store: HubStore, key: FileKey): Promise<[size: number, wrong: number] | undefined> {
  const file = await store.open(key);
  if (file === undefined) return undefined;
  const result: [number, number] = [file.size, differs(file.readSync(0, file.size), 0)];
  file.close();
  return result;
}

/** What a promise is rejected with, as plain data. */
export async function failure(promise: Promise<unknown>): Promise<ReturnType<typeof serializeError>> {
  try {
    await promise;
  } catch (error) {
    const { stack, ...rest } = serializeError(error);
    return rest;
  }
  return { name: "none", message: "It was not rejected." };
}

/**
 * Loads all files of a repository from a hub, in parts of 4 MiB: of each its path, size, and the first wrong byte.
 * Texts are right when they are of the right size.
 */
export async function loadAll(
  repo: string,
  options: LoadOptions,
): Promise<[path: string, size: number, wrong: number][]> {
  const source = hubSource(repo, options, { ...defaultPolicy, partSize: 4 * MB, delay: 50, tries: 3 });
  const paths = (await source.list!()).map(({ path }) => path);
  await source.prefetch!(paths);
  const files: [string, number, number][] = [];
  for (const path of paths) {
    const file = (await source.open(path))!;
    let wrong = -1;
    for (let at = 0; at < file.size && wrong < 0 && path.endsWith(".safetensors"); at += MB) {
      const found = differs(file.readSync(at, Math.min(at + MB, file.size)), at);
      if (found >= 0) wrong = at + found;
    }
    files.push([path, file.size, wrong]);
    file.close();
  }
  return files;
}

/** All records of a database as they are, by their keys' first element and last. */
export async function records(name: string = "diffusers-web-hub"): Promise<[key: unknown, value: unknown][]> {
  const store = await rawStore(name, "readonly");
  const [keys, values] = await Promise.all([result(store.getAllKeys()), result(store.getAll())]);
  store.transaction.db.close();
  return keys.map((key, i) => [key, values[i] instanceof Blob ? values[i].size : values[i]]);
}

/** Writes records past the library. */
export async function putRaw(
  entries: [key: IDBValidKey, value: unknown][],
  name: string = "diffusers-web-hub",
): Promise<void> {
  const store = await rawStore(name, "readwrite");
  for (const [key, value] of entries) store.put(value, key);
  await new Promise<void>((resolve) => {
    store.transaction.oncomplete = () => resolve();
  });
  store.transaction.db.close();
}

/** Deletes the database, as another tab or the browser's settings would. */
export function deleteDatabase(name: string = "diffusers-web-hub"): Promise<unknown> {
  return result(indexedDB.deleteDatabase(name));
}

async function rawStore(name: string, mode: IDBTransactionMode): Promise<IDBObjectStore> {
  const request = indexedDB.open(name);
  request.onupgradeneeded = () => request.result.createObjectStore("hub");
  return (await result(request)).transaction("hub", mode).objectStore("hub");
}

function result<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
