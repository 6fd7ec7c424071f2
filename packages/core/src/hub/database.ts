import { createStore, promisifyRequest, type UseStore } from "idb-keyval";
import { DeviceError, UnsupportedModelError } from "../errors.ts";

/** The database that downloads are kept in. */
const databaseName = "diffusers-web-hub";
/** idb-keyval makes one object store in a database. */
const storeName = "hub";
const schemaKey = "schema";
/** When the visitor was asked for persistent storage. */
const persistKey = "persist";
/** The layout of the records (cache_records.ts). */
const schema = 1;

/** From the schema of the index to the next, within one transaction. */
const migrations: readonly ((store: IDBObjectStore) => void)[] = [
  // Records without a schema are of no released version. What they held is downloaded again.
  (store) => store.clear(),
];

/** One connection a page for each database: from_pretrained opens many stores. */
const connections = new Map<string, Promise<Database>>();

/**
 * The connection to a database of downloads, with its records in the layout that this version reads.
 *
 * @throws DeviceError where there is no IndexedDB.
 * @throws UnsupportedModelError when a newer version of this library wrote it.
 */
export function openDatabase(name: string = databaseName): Promise<Database> {
  let connection = connections.get(name);
  if (connection === undefined) {
    connection = connect(name);
    connections.set(name, connection);
    connection.catch(() => connections.delete(name));
  }
  return connection;
}

/** Empties a database, of whatever schema. */
export async function emptyDatabase(name: string = databaseName): Promise<void> {
  const database = await openDatabase(name).catch((error: unknown) => {
    if (error instanceof UnsupportedModelError) return new Database(name);
    throw error;
  });
  await database.writeRaw(async (store) => {
    // Whether the visitor was asked for persistent storage outlives what is stored.
    const asked = await promisifyRequest<unknown>(store.get(persistKey));
    store.clear();
    store.put(schema, schemaKey);
    if (asked !== undefined) store.put(asked, persistKey);
  });
  connections.set(name, Promise.resolve(database));
}

async function connect(name: string): Promise<Database> {
  if (typeof indexedDB === "undefined") {
    throw new DeviceError("There is no IndexedDB here to keep downloads in. Pass { cache: false }.", {
      expected: "IndexedDB",
    });
  }
  const database = new Database(name);
  try {
    await database.writeRaw(async (store) => {
      const found = await promisifyRequest<unknown>(store.get(schemaKey));
      if (found === schema) return;
      if (typeof found === "number" && found > schema) throw wrongSchema(name, found);
      const from = typeof found === "number" ? found : 0;
      for (const migrate of migrations.slice(from)) migrate(store);
      store.put(schema, schemaKey);
    });
  } catch (cause) {
    if (!(cause instanceof DOMException)) throw cause;
    throw new DeviceError(
      `IndexedDB, where downloads are kept, cannot be opened (${cause.name}: ${cause.message}). A private window may ` +
        "refuse it, or the disk be full. Pass { cache: false } to load into memory.",
      { found: cause.name, expected: "IndexedDB" },
      { cause },
    );
  }
  return database;
}

/** A connection whose every transaction makes sure that the records are of this version's schema. */
export class Database {
  readonly name: string;
  #use: UseStore;

  constructor(name: string) {
    this.name = name;
    this.#use = createStore(name, storeName);
  }

  /** Reads within one transaction. */
  read<T>(work: (store: IDBObjectStore) => T | Promise<T>): Promise<T> {
    return this.#run("readonly", (store) => this.#checked(store, work));
  }

  /**
   * Writes within one transaction: all of it, or nothing when `work` throws or there is no room. It may run a second
   * time, after a lost connection. Resolves once the transaction has completed: what it wrote survives a crash of the
   * page and of the browser.
   */
  write<T>(work: (store: IDBObjectStore) => T | Promise<T>): Promise<T> {
    return this.#run("readwrite", (store) => this.#checked(store, work));
  }

  /** As {@link write}, whatever the schema. */
  writeRaw<T>(work: (store: IDBObjectStore) => T | Promise<T>): Promise<T> {
    return this.#run("readwrite", work);
  }

  async #checked<T>(store: IDBObjectStore, work: (store: IDBObjectStore) => T | Promise<T>): Promise<T> {
    // Another tab, with another version of this library, may have changed the records since they were opened.
    const found = await promisifyRequest<unknown>(store.get(schemaKey));
    if (found === undefined) {
      // The database was deleted, and is a new one.
      if (store.transaction.mode === "readwrite") store.put(schema, schemaKey);
    } else if (found !== schema) throw wrongSchema(this.name, found);
    return work(store);
  }

  async #run<T>(mode: IDBTransactionMode, work: (store: IDBObjectStore) => T | Promise<T>): Promise<T> {
    const use = this.#use;
    try {
      return await use(mode, (store) => transact(store, work));
    } catch (error) {
      if (!isConnectionLost(error)) throw error;
      // Safari on iOS loses connections when the page was in the background. Once: a second loss has another cause.
      if (this.#use === use) this.#use = createStore(this.name, storeName);
      return await this.#use(mode, (store) => transact(store, work));
    }
  }
}

async function transact<T>(store: IDBObjectStore, work: (store: IDBObjectStore) => T | Promise<T>): Promise<T> {
  const { transaction } = store;
  // Else another tab that deletes or upgrades the database would wait for this one to be closed.
  transaction.db.onversionchange = () => transaction.db.close();
  // Not idb-keyval's: at a transaction's `error` event its own error, which names the quota, is not set yet.
  const finished = new Promise<void>((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error ?? new DOMException("The transaction ended.", "AbortError"));
  });
  // It may end before it is awaited.
  finished.catch(() => undefined);
  let result: T;
  try {
    result = await work(store);
  } catch (error) {
    try {
      transaction.abort();
    } catch (alreadyEnded) {
      if (!isNamed(alreadyEnded, "InvalidStateError")) throw alreadyEnded;
    }
    await finished.catch(() => undefined);
    throw transaction.error ?? error;
  }
  await finished;
  return result;
}

function wrongSchema(name: string, found: unknown): UnsupportedModelError {
  return new UnsupportedModelError(
    `The downloads kept in IndexedDB (${name}) are in layout ${found}, this page reads layout ${schema}: another ` +
      "version of the library wrote them, perhaps in another tab. Reload the page, or empty them with cache.clear().",
    { found: `layout ${found}`, expected: `layout ${schema}` },
  );
}

function isNamed(error: unknown, ...names: string[]): boolean {
  return typeof error === "object" && error !== null && names.includes((error as { name?: string }).name ?? "");
}

function isConnectionLost(error: unknown): boolean {
  // Chromium says UnknownError when it cannot write to the disk: that is for the caller.
  return (
    error instanceof DOMException && isNamed(error, "InvalidStateError", "UnknownError", "AbortError") && !isFull(error)
  );
}

/** Whether a write failed for lack of room: of the origin's quota, or of the disk. */
export function isFull(error: unknown): boolean {
  return (
    isNamed(error, "QuotaExceededError") ||
    (isNamed(error, "UnknownError", "DataError") && /write blob/i.test(String(error)))
  );
}

/**
 * Asks the browser, once in a database's life, to keep what this origin stores when the disk gets full. Only a window
 * can ask; Firefox shows the visitor a question, the others decide silently.
 *
 * @returns whether it is kept
 */
export async function askToPersist(database: Database): Promise<boolean> {
  const storage = typeof window === "undefined" ? undefined : globalThis.navigator?.storage;
  // Storage is there in secure contexts only.
  if (storage?.persist === undefined) return false;
  if (await storage.persisted()) return true;
  // Of two pages at once, one gets to ask.
  const first = await database.write(async (store) => {
    const asked = await promisifyRequest<unknown>(store.get(persistKey));
    if (asked === undefined) store.put(Date.now(), persistKey);
    return asked === undefined;
  });
  return first ? storage.persist() : false;
}
